"""Transferred FGSM and PGD: images attacked on a managed surrogate, shown to the model under test."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from simreg._checks import describe, warn
from simreg.robustness._norms import Norm
from simreg.robustness._surrogate import Surrogate
from simreg.robustness.classifier import (
    Classifier,
    Model,
    accuracy,
    as_classifier,
    check_count,
    check_evaluation_set,
)
from simreg.robustness.gradient_sign import fgsm_epsilons, sweep_steps
from simreg.robustness.projected_gradient import PGD
from simreg.robustness.results import Sweep

__all__ = ["Surrogate", "transfer_pgd_sweep", "transfer_sweep"]


def transfer_sweep(
    model: Model,
    surrogate: Surrogate,
    images: Tensor,
    labels: Tensor,
    epsilons: Iterable[float] | Tensor | None = None,
    *,
    norm: Norm = "linf",
    batch_size: int = 256,
    first_index: int = 0,
    progress: bool = False,
) -> Sweep:
    r"""Accuracy on images that FGSM changed on the surrogate; its gradient is computed once for all strengths.

    .. math:: x' = \mathrm{clamp}(x + \epsilon d, 0, 1), \qquad
              d = \mathrm{sign}\, g \text{ ("linf") or } g / \|g\|_2 \text{ ("l2")}, \qquad
              g = \nabla_x \mathrm{CE}(f_\text{surrogate}(x), y)

    Args:
        model: Model under test: ``Classifier``, module or callable, images in [0, 1] to logits (N, K).
        surrogate: Unregularized model that the attack is made on.
        images: Shape (N, C, H, W), uint8 or floating point in [0, 1].
        labels: Shape (N,), integers in [0, K).
        epsilons: Sizes of the step in pixel units; None takes ``FGSM_EPSILONS``, ten steps from 0 to 0.02, or for "l2"
            ``FGSM_L2_EPSILONS``, ten steps from 0 to 1.
        norm: "linf" steps along the sign of the gradient, "l2" along the gradient over its Euclidean norm.
        batch_size: Images per call of the models.
        first_index: Index of the first image, for parts of a larger set; see ``Sweep.join``.
        progress: Show progress on standard error.

    Returns:
        Accuracies of ``model`` by epsilon; ``settings`` has the surrogate's name, info, fingerprint and clean accuracy,
        the largest measured change and the share of images without gradient.

    Raises:
        TypeError: If ``surrogate`` is no ``Surrogate`` or a tensor is of the wrong kind.
        ValueError: If images leave [0, 1], labels do not fit, or epsilons are negative.

    Source: evaluation protocol of Attias, Pehlevan, Obeid, 2024 (https://arxiv.org/abs/2410.03952).

    Example:
        >>> import torch
        >>> from torch import nn
        >>> linear = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> surrogate = Surrogate(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), name="linear")
        >>> sweep = transfer_sweep(linear, surrogate, torch.rand(8, 1, 2, 2), torch.zeros(8).long(), [0.0, 0.02])
        >>> sweep.name, sweep.n, sweep.settings["surrogate"]
        ('transferred_fgsm', 8, 'linear')
    """
    target = _target(model, surrogate, "fgsm_sweep")
    strengths = fgsm_epsilons(epsilons, norm)
    check_count("first_index", first_index, minimum=0)
    source, title = surrogate.classifier, "transferred FGSM" if progress else None
    tally, measured = sweep_steps(target, source, images, labels, strengths, norm, batch_size, title)
    settings = {
        **_record_of(surrogate, measured["source_accuracy"]),
        "zero_gradient_share": measured["zero_gradient_share"],
        "norm": norm,
        "first_index": first_index,
    }
    return tally.sweep("transferred_fgsm", len(images), None, settings)


def transfer_pgd_sweep(
    model: Model,
    surrogate: Surrogate,
    images: Tensor,
    labels: Tensor,
    epsilons: Iterable[float] | Tensor | None = None,
    *,
    steps: int = 10,
    step_size: float | None = None,
    norm: Norm = "linf",
    restarts: int = 1,
    random_start: bool = True,
    seed: int = 0,
    batch_size: int = 256,
    first_index: int = 0,
    progress: bool = False,
) -> Sweep:
    r"""Accuracy on images that PGD changed on the surrogate.

    .. math:: x' = x_{t^*}, \qquad t^* = \arg\max_t \mathrm{CE}(f_\text{surrogate}(x_t), y)

    over the iterates :math:`x_t` of ``pgd`` on the surrogate, all restarts together, the last one of equals. White-box
    PGD stops at the first iterate that fools the model; here that would be the surrogate's decision boundary, beyond
    which the model under test has its own.

    Args:
        model: Model under test: ``Classifier``, module or callable, images in [0, 1] to logits (N, K).
        surrogate: Unregularized model that the attack is made on.
        images: Shape (N, C, H, W), uint8 or floating point in [0, 1].
        labels: Shape (N,), integers in [0, K).
        epsilons: Radii in pixel units; None takes ``FGSM_EPSILONS``, ten steps from 0 to 0.02, or for "l2"
            ``FGSM_L2_EPSILONS``, ten steps from 0 to 1.
        steps: Gradient steps of each restart.
        step_size: Length of a step in the same units; None takes 2.5 * epsilon / steps.
        norm: "linf" or "l2".
        restarts: Independent runs; more than one needs ``random_start``.
        random_start: Start at a random point of the ball instead of the image.
        seed: Seed of the random starts, which do not depend on the batch size.
        batch_size: Images per call of the models.
        first_index: Index of the first image, for parts of a larger set; see ``Sweep.join``.
        progress: Show progress on standard error.

    Returns:
        Accuracies of ``model`` by epsilon; ``settings`` has the options, the surrogate's name, info, fingerprint and
        clean accuracy, the largest measured change in ``norm`` and the share of images without gradient.

    Raises:
        TypeError: If ``surrogate`` is no ``Surrogate`` or another argument is of the wrong kind.
        ValueError: If images leave [0, 1], labels do not fit, or an option is out of range.

    Source: Madry et al., 2018, section 2.1 (https://arxiv.org/abs/1706.06083), with the surrogate's gradient.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> linear = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> surrogate = Surrogate(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), name="linear")
        >>> images, labels = torch.rand(8, 1, 2, 2), torch.zeros(8).long()
        >>> sweep = transfer_pgd_sweep(linear, surrogate, images, labels, [0.0, 0.02], steps=3)
        >>> sweep.name, sweep.n, sweep.settings["surrogate"]
        ('transferred_pgd', 8, 'linear')
    """
    target = _target(model, surrogate, "pgd_accuracy")
    strengths = fgsm_epsilons(epsilons, norm)
    check_evaluation_set(images, labels, batch_size)
    source, role = surrogate.classifier, "surrogate"
    attack = PGD(source, steps, step_size, norm, restarts, random_start, seed, keep="largest_loss", role=role)
    title = "transferred PGD" if progress else None
    tally = attack.tally(target, images, labels, strengths, first_index, batch_size, title)
    share = accuracy(source, images, labels, batch_size=batch_size)
    settings = {**_record_of(surrogate, share), **attack.settings(), "first_index": first_index}
    return tally.sweep("transferred_pgd", len(images), seed, settings)


def _target(model: Model, surrogate: object, white_box: str) -> Classifier:
    """The model under test; raises unless ``surrogate`` is one, warns if the two are the same module."""
    if not isinstance(surrogate, Surrogate):
        raise TypeError(f"surrogate must be a Surrogate, got {describe(surrogate)}. Use Surrogate(model, name='...').")
    target = as_classifier(model)
    if target.model is surrogate.module:
        warn(f"the surrogate is the model under test: this is a white-box attack. Use {white_box} for that.")
    return target


def _record_of(surrogate: Surrogate, clean: float) -> dict[str, Any]:
    return {
        "surrogate": surrogate.name,
        "surrogate_fingerprint": surrogate.fingerprint,
        "surrogate_info": surrogate.info,
        "surrogate_accuracy": clean,
    }
