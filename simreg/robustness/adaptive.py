"""An attack that knows the regularizer: it raises the loss and breaks the similarities that training kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from simreg._checks import check_positive
from simreg.robustness._adaptive_stages import AdaptiveStages
from simreg.robustness._auto_attack_stages import Budgets
from simreg.robustness._layer_features import Features, LayerFeatures, layer_features
from simreg.robustness._norms import Norm
from simreg.robustness._tally import check_epsilons
from simreg.robustness._worst_case import Survivors, worst_case_sweep
from simreg.robustness.classifier import Model, as_classifier
from simreg.robustness.results import Sweep

__all__ = ["ADAPTIVE_WEIGHTS", "LayerFeatures", "adaptive_accuracy", "adaptive_pgd", "layer_features"]

ADAPTIVE_WEIGHTS: tuple[float, ...] = (0.0, 1.0, 10.0)
"""Weights of the feature term: none, of the order of the loss, and dominant."""


def adaptive_pgd(
    model: Model,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    *,
    features: Features | None = None,
    weights: Sequence[float] = ADAPTIVE_WEIGHTS,
    guides: Tensor | None = None,
    steps: int = 50,
    restarts: int = 1,
    targets: int = 9,
    norm: Norm = "linf",
    seed: int = 0,
    first_index: int = 0,
    batch_size: int = 256,
) -> Tensor:
    r"""The worst that several gradient attacks find, some of which work on the features that the regularizer shaped.

    .. math:: \max_{x' \in B(x, \epsilon) \cap [0, 1]} L(f(x'), y)
              + w \sum_l \left(1 - \cos(\tilde\phi_l(x'), \tilde\phi_l(x))\right)

    with phi_l the features of layer l, each image's own mean over units removed. In turn, each on the images that
    resisted: ``pgd`` with the same steps, restarts and seed, so that accuracy is never above that of ``pgd``; Auto-PGD
    on the cross-entropy and, for each of the best wrong classes, on the targeted difference of logits ratio; then, for
    each weight but 0, Auto-PGD on the sum above with both losses. Auto-PGD rather than plain steps: its step length
    adapts to a loss of any scale, so that weights need no step size of their own.

    A positive weight pushes the image away from where training tied it, whatever the class. It needs no other image
    and is the default. A negative weight -v pulls towards an image of another class instead: the term is then
    -v (1 - cos) to the features of the one of ``guides`` which the model puts in another class and whose features are
    nearest to those of the image: the shortest way out of its class that is known to exist.

    Args:
        model: ``Classifier``, module or differentiable callable: images in [0, 1] to logits (N, K).
        images: Shape (N, C, H, W), uint8 or floating point in [0, 1].
        labels: Shape (N,), integers in [0, K).
        epsilon: Radius in pixel units: of the largest change ("linf") or of the Euclidean norm ("l2").
        features: Images to a list of tensors (N, ...), differentiable; see ``layer_features``. None leaves the several
            losses on the logits.
        weights: Weights w of the feature term, one attack with each loss for each.
        guides: Shape (M, C, H, W), images of several classes, for negative weights.
        steps: Steps of each attack.
        restarts: Random starts of each untargeted attack.
        targets: Classes tried by the targeted attack, K - 1 at most.
        norm: "linf" or "l2".
        seed: Seed of the random starts.
        first_index: Index of the first image, for parts of a larger set.
        batch_size: Images per call of the model.

    Returns:
        Images (N, C, H, W), floating point, on the device of ``images``: adversarial where an attack succeeded, else
        the image itself.

    Raises:
        TypeError: If an argument is not of the right kind.
        ValueError: If images leave [0, 1], labels do not fit, an option is out of range, or a gradient is missing.

    Source: Tramer, Carlini, Brendel, Madry, 2020, on attacks that fit the defence (https://arxiv.org/abs/2002.08347).

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
        >>> images, labels = torch.rand(6, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1, 2])
        >>> attacked = adaptive_pgd(model, images, labels, 0.1, features=layer_features(model, ["1"]), steps=5)
        >>> attacked.shape, bool((attacked - images).abs().max() <= 0.1 + 1e-6)
        (torch.Size([6, 1, 2, 2]), True)
    """
    check_positive("epsilon", epsilon, zero=True)
    attack = AdaptiveStages(
        as_classifier(model), features, weights, guides, norm, Budgets(steps, restarts, targets, 1, seed)
    )
    survivors = Survivors(attack.classifier, images, labels, norm, first_index, batch_size)
    attack.look_at_guides(survivors.device, batch_size)
    if epsilon > 0:
        survivors.attack(attack.stages(survivors.classes), epsilon)
        survivors.health.report()
    return survivors.attacked


def adaptive_accuracy(
    model: Model,
    images: Tensor,
    labels: Tensor,
    epsilon: float | Iterable[float],
    *,
    features: Features | None = None,
    weights: Sequence[float] = ADAPTIVE_WEIGHTS,
    guides: Tensor | None = None,
    steps: int = 50,
    restarts: int = 1,
    targets: int = 9,
    norm: Norm = "linf",
    seed: int = 0,
    first_index: int = 0,
    batch_size: int = 256,
    progress: bool = False,
) -> Sweep:
    """Accuracy under ``adaptive_pgd`` at one or several budgets: an image counts if it survives every attack.

    Budgets are taken in rising order, and an image taken at one is not attacked again at the larger ones.

    Args:
        model: ``Classifier``, module or differentiable callable: images in [0, 1] to logits (N, K).
        images: Shape (N, C, H, W), uint8 or floating point in [0, 1].
        labels: Shape (N,), integers in [0, K).
        epsilon: One radius or several, in pixel units; 0 gives the clean accuracy.
        features: Images to a list of tensors (N, ...), differentiable; see ``layer_features``.
        weights: Weights of the feature term.
        guides: Shape (M, C, H, W), images of several classes, for negative weights.
        steps: Steps of each attack.
        restarts: Random starts of each untargeted attack.
        targets: Classes tried by the targeted attack.
        norm: "linf" or "l2".
        seed: Seed of the random starts.
        first_index: Index of the first image, for parts of a larger set.
        batch_size: Images per call of the model.
        progress: Show progress on standard error.

    Returns:
        Sweep "adaptive": accuracies by epsilon; ``settings["stage_accuracies"]`` has what each attack left over.

    Raises:
        TypeError: If an argument is not of the right kind.
        ValueError: If images leave [0, 1], labels do not fit, an option is out of range, or a gradient is missing.

    Source: Tramer, Carlini, Brendel, Madry, 2020 (https://arxiv.org/abs/2002.08347).

    Example:
        >>> import torch
        >>> brightness = lambda x: torch.stack([0.5 - x.mean(dim=(1, 2, 3)), x.mean(dim=(1, 2, 3)) - 0.5], dim=1)
        >>> images = torch.tensor([0.47, 0.49]).view(2, 1, 1, 1).expand(2, 1, 4, 4)
        >>> adaptive_accuracy(brightness, images, torch.tensor([0, 0]), [0.0, 0.02, 0.04], steps=5).accuracies
        (1.0, 0.5, 0.0)
    """
    strengths = check_epsilons(epsilon)
    attack = AdaptiveStages(
        as_classifier(model), features, weights, guides, norm, Budgets(steps, restarts, targets, 1, seed)
    )
    survivors = Survivors(attack.classifier, images, labels, norm, first_index, batch_size)
    attack.look_at_guides(survivors.device, batch_size)
    stages = attack.stages(survivors.classes)
    description = "adaptive attack" if progress else None
    return worst_case_sweep("adaptive", survivors, stages, strengths, seed, attack.settings(), description)
