"""FGSM: accuracy when each image takes one step along a gradient, or along its sign."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from simreg._checks import check_choice, check_positive
from simreg.robustness._input_gradient import GradientHealth, input_gradient
from simreg.robustness._norms import NORMS, Norm, ascent_direction, perturbation_norm
from simreg.robustness._progress import progress as show_progress
from simreg.robustness._tally import Tally, check_epsilons
from simreg.robustness.classifier import (
    Classifier,
    Model,
    as_classifier,
    batches,
    check_count,
    check_evaluation_set,
    count_correct,
    unit_float,
)
from simreg.robustness.results import Sweep

FGSM_EPSILONS: tuple[float, ...] = tuple(i / 500 for i in range(11))
"""Strengths of FGSM for CIFAR-10: ten steps from 0 to 0.02."""

FGSM_L2_EPSILONS: tuple[float, ...] = tuple(i / 10 for i in range(11))
"""Euclidean strengths of FGSM for CIFAR-10: ten steps from 0 to 1."""


def fgsm(
    model: Model, images: Tensor, labels: Tensor, epsilon: float, *, norm: Norm = "linf", batch_size: int = 256
) -> Tensor:
    r"""Fast gradient sign method: one step of size epsilon on the model's own gradient.

    .. math:: x' = \mathrm{clamp}(x + \epsilon d, 0, 1), \qquad
              d = \mathrm{sign}\, g \text{ ("linf") or } g / \|g\|_2 \text{ ("l2")}, \qquad
              g = \nabla_x \mathrm{CE}(f(x), y)

    The gradient is that of the log-odds of a wrong class, which has the direction of g and is not rounded away
    where a confident model has a cross-entropy of 0.

    Args:
        model: ``Classifier``, module or differentiable callable: images in [0, 1] to logits (N, K).
        images: Shape (N, C, H, W), uint8 or floating point in [0, 1].
        labels: Shape (N,), integers in [0, K).
        epsilon: Size of the step in pixel units: the largest change of a value ("linf") or the Euclidean norm ("l2").
        norm: "linf" or "l2".
        batch_size: Images per call of the model.

    Returns:
        Adversarial images (N, C, H, W), floating point, on the device of ``images``.

    Raises:
        TypeError: If images, labels or the model's output are not tensors of the right kind.
        ValueError: If images leave [0, 1], labels do not fit, epsilon is negative, ``norm`` is unknown, or the model
            has no gradient.

    Source: Goodfellow, Shlens, Szegedy, 2015, section 4 (https://arxiv.org/abs/1412.6572).

    Example:
        >>> brightness = lambda x: torch.stack([-x.mean(dim=(1, 2, 3)), x.mean(dim=(1, 2, 3))], dim=1)
        >>> fgsm(brightness, torch.full((1, 1, 1, 2), 0.5), torch.tensor([1]), 0.25)
        tensor([[[[0.2500, 0.2500]]]])
    """
    classifier = as_classifier(model)
    check_evaluation_set(images, labels, batch_size)
    check_positive("epsilon", epsilon, zero=True)
    check_choice("norm", norm, NORMS)
    attacked = []
    for part in batches(len(images), batch_size):
        clean = unit_float(images[part])
        gradient, _ = input_gradient(classifier, clean, labels[part])
        attacked.append(clamped_step(clean, ascent_direction(gradient, norm), epsilon))
    return torch.cat(attacked)


def clamped_step(images: Tensor, direction: Tensor, epsilon: float) -> Tensor:
    """Images moved by ``epsilon`` along ``direction``, clamped to [0, 1]."""
    return (images + epsilon * direction).clamp(0, 1)


def fgsm_sweep(
    model: Model,
    images: Tensor,
    labels: Tensor,
    epsilons: Iterable[float] | Tensor | None = None,
    *,
    norm: Norm = "linf",
    batch_size: int = 256,
    first_index: int = 0,
    progress: bool = False,
) -> Sweep:
    """Accuracy under white-box FGSM at several strengths; the gradient is computed once for all of them.

    Args:
        model: ``Classifier``, module or differentiable callable: images in [0, 1] to logits (N, K).
        images: Shape (N, C, H, W), uint8 or floating point in [0, 1].
        labels: Shape (N,), integers in [0, K).
        epsilons: Sizes of the step in pixel units; None takes ``FGSM_EPSILONS``, ten steps from 0 to 0.02, or for "l2"
            ``FGSM_L2_EPSILONS``, ten steps from 0 to 1.
        norm: "linf" steps along the sign of the gradient, "l2" along the gradient over its Euclidean norm.
        batch_size: Images per call of the model.
        first_index: Index of the first image, for parts of a larger set; see ``Sweep.join``.
        progress: Show progress on standard error.

    Returns:
        Accuracies by epsilon; ``settings`` has the largest measured change in ``norm`` and the share of zero gradients.

    Raises:
        TypeError: If images, labels or the model's output are not tensors of the right kind.
        ValueError: If images leave [0, 1], labels do not fit, epsilons are negative, or the model has no gradient.

    Source: Goodfellow, Shlens, Szegedy, 2015, section 4 (https://arxiv.org/abs/1412.6572).

    Example:
        >>> brightness = lambda x: torch.stack([0.5 - x.mean(dim=(1, 2, 3)), x.mean(dim=(1, 2, 3)) - 0.5], dim=1)
        >>> images = torch.tensor([0.40, 0.49]).view(2, 1, 1, 1).expand(2, 1, 4, 4)
        >>> fgsm_sweep(brightness, images, torch.tensor([0, 0]), [0.0, 0.02]).accuracies
        (1.0, 0.5)
    """
    classifier = as_classifier(model)
    strengths = fgsm_epsilons(epsilons, norm)
    check_count("first_index", first_index, minimum=0)
    tally, settings = sweep_steps(
        classifier, classifier, images, labels, strengths, norm, batch_size, "white-box FGSM" if progress else None
    )
    return tally.sweep("fgsm", len(images), None, {**settings, "norm": norm, "first_index": first_index})


def fgsm_epsilons(epsilons: Iterable[float] | Tensor | None, norm: Norm) -> tuple[float, ...]:
    """Checked strengths; None takes the ten steps of this norm."""
    check_choice("norm", norm, NORMS)
    defaults = FGSM_EPSILONS if norm == "linf" else FGSM_L2_EPSILONS
    return check_epsilons(defaults if epsilons is None else epsilons)


def sweep_steps(
    target: Classifier,
    source: Classifier,
    images: Tensor,
    labels: Tensor,
    epsilons: tuple[float, ...],
    norm: Norm,
    batch_size: int,
    description: str | None,
) -> tuple[Tally, dict[str, Any]]:
    """Count what ``target`` gets right when images follow the gradient of ``source``; None shows no progress."""
    check_evaluation_set(images, labels, batch_size)
    tally, health, source_correct = Tally(epsilons), GradientHealth("attacked model"), 0
    parts = batches(len(images), batch_size)
    for part in show_progress(parts, description=description or "", enabled=description is not None):
        clean = unit_float(images[part])
        gradient, logits = input_gradient(source, clean, labels[part])
        health.add(gradient, logits, labels[part])
        source_correct += int((logits.argmax(dim=1) == labels[part].to(logits.device)).sum())
        direction = ascent_direction(gradient, norm).to(clean.device)
        for i, epsilon in enumerate(epsilons):
            attacked = clamped_step(clean, direction, epsilon)
            tally.add(i, count_correct(target, attacked, labels[part]), perturbation_norm(attacked - clean, norm))
    tally.check_budgets()
    health.report()
    return tally, {**health.shares, "source_accuracy": source_correct / len(images)}
