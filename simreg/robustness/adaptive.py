"""An attack that knows the regularizer: it raises the loss and breaks the similarities that training kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from simreg._checks import check_choice, check_positive, describe
from simreg.robustness._attack_losses import Loss
from simreg.robustness._auto_attack_stages import Budgets, apgd_stage, logit_loss
from simreg.robustness._auto_pgd import auto_pgd, random_start
from simreg.robustness._layer_features import Features, LayerFeatures, layer_features
from simreg.robustness._norms import NORMS, Norm
from simreg.robustness._random import derive_seed
from simreg.robustness._tally import check_epsilons
from simreg.robustness._worst_case import Stage, Survivors, worst_case_sweep
from simreg.robustness.classifier import (
    Classifier,
    Model,
    as_classifier,
    check_attack_images,
    evaluation_mode,
    unit_float,
)
from simreg.robustness.projected_gradient import PGD
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
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
        >>> images, labels = torch.rand(6, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1, 2])
        >>> attacked = adaptive_pgd(model, images, labels, 0.1, features=layer_features(model, ["1"]), steps=5)
        >>> attacked.shape, bool((attacked - images).abs().max() <= 0.1 + 1e-6)
        (torch.Size([6, 1, 2, 2]), True)
    """
    check_positive("epsilon", epsilon, zero=True)
    attack = _Adaptive(
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
        >>> brightness = lambda x: torch.stack([0.5 - x.mean(dim=(1, 2, 3)), x.mean(dim=(1, 2, 3)) - 0.5], dim=1)
        >>> images = torch.tensor([0.47, 0.49]).view(2, 1, 1, 1).expand(2, 1, 4, 4)
        >>> adaptive_accuracy(brightness, images, torch.tensor([0, 0]), [0.0, 0.02, 0.04], steps=5).accuracies
        (1.0, 0.5, 0.0)
    """
    strengths = check_epsilons((epsilon,) if isinstance(epsilon, (int, float)) else epsilon)
    attack = _Adaptive(
        as_classifier(model), features, weights, guides, norm, Budgets(steps, restarts, targets, 1, seed)
    )
    survivors = Survivors(attack.classifier, images, labels, norm, first_index, batch_size)
    attack.look_at_guides(survivors.device, batch_size)
    stages = attack.stages(survivors.classes)
    description = "adaptive attack" if progress else None
    return worst_case_sweep("adaptive", survivors, stages, strengths, seed, attack.settings(), description)


class _Adaptive:
    """Checked options of ``adaptive_pgd``, and its stages."""

    def __init__(
        self,
        classifier: Classifier,
        features: Features | None,
        weights: Sequence[float],
        guides: Tensor | None,
        norm: Norm,
        budgets: Budgets,
    ) -> None:
        check_choice("norm", norm, NORMS)
        if features is not None and not callable(features):
            raise TypeError(f"features must be a callable of images or None, got {describe(features)}.")
        if not weights or not all(isinstance(w, (int, float)) and abs(w) < float("inf") for w in weights):
            raise ValueError(f"weights must be finite numbers, at least one, got {weights!r}.")
        if min(weights) < 0 and guides is None and features is not None:
            raise ValueError(
                f"weights={tuple(weights)} has a negative one, which needs guides: images to pull towards."
            )
        self.classifier, self.features, self.guides = classifier, features, guides
        self.weights = tuple(float(w) for w in weights if w != 0) if features is not None else ()
        self.norm, self.budgets = norm, budgets
        self.guide_classes, self.guide_features = torch.empty(0), list[Tensor]()

    def settings(self) -> dict[str, Any]:
        """The options as data."""
        return {
            "norm": self.norm,
            "steps": self.budgets.steps,
            "restarts": self.budgets.restarts,
            "targets": self.budgets.targets,
            "weights": [0.0, *self.weights],
            "losses": ["cross-entropy", "difference of logits ratio"],
            "features": None if self.features is None else list(getattr(self.features, "layers", ("given",))),
            "guides": 0 if self.guides is None else len(self.guides),
        }

    @torch.no_grad()
    def look_at_guides(self, device: torch.device, batch_size: int) -> None:
        """Classes and features of the guides, once."""
        if self.guides is None or self.features is None:
            return
        pixels = check_attack_images("guides", self.guides, batch_size)
        parts = [part.to(device) for part in torch.split(unit_float(pixels), batch_size)]
        self.guide_classes = torch.cat([self.classifier.predict(part) for part in parts])
        rows = [self._rows(part) for part in parts]
        self.guide_features = [torch.cat(layer) for layer in zip(*rows, strict=True)]

    def stages(self, classes: int) -> list[Stage]:
        """PGD, then Auto-PGD on the logits, then on logits and features."""
        budgets, restarts = self.budgets, range(self.budgets.restarts)
        stages = [self._pgd_stage()]
        stages += [apgd_stage("apgd-ce", self.classifier, self.norm, budgets, "ce", restart=r) for r in restarts]
        for rank in range(min(budgets.targets, classes - 1)):
            stages.append(apgd_stage("apgd-t", self.classifier, self.norm, budgets, "dlr", rank=rank))
        for weight in self.weights:
            stages += [self._feature_stage(weight, loss, restart) for loss in ("ce", "dlr") for restart in restarts]
        return stages

    def _pgd_stage(self) -> Stage:
        # the indices give each image the start that ``pgd`` gives it
        pgd = PGD(self.classifier, self.budgets.steps, None, self.norm, self.budgets.restarts, True, self.budgets.seed)

        def attack(images: Tensor, labels: Tensor, indices: Sequence[int], epsilon: float) -> Tensor:
            return pgd(images, labels, epsilon, cast("range", indices))

        return Stage("pgd", attack)

    def _feature_stage(self, weight: float, loss: Literal["ce", "dlr"], restart: int) -> Stage:
        name = f"{loss} {weight:+g} features"

        def attack(images: Tensor, labels: Tensor, indices: Sequence[int], epsilon: float) -> Tensor:
            seed = derive_seed("adaptive", self.budgets.seed, name, restart, round(epsilon * 1e6))
            return auto_pgd(
                self.classifier,
                images,
                labels,
                self._with_features(logit_loss(loss, labels), weight, self._anchors(images, labels, weight)),
                epsilon=epsilon,
                norm=self.norm,
                steps=self.budgets.steps,
                start=random_start(images, epsilon, self.norm, indices, seed),
            )

        return Stage(name, attack)

    @torch.no_grad()
    def _anchors(self, images: Tensor, labels: Tensor, weight: float) -> list[Tensor]:
        """Features (n, D) of each layer to get away from (the images' own) or towards (each image's guide)."""
        own = self._rows(images)
        if weight > 0:
            return own
        near = sum(a @ b.T for a, b in zip(own, self.guide_features, strict=True))  # (n, M)
        same = self.guide_classes[None] == labels[:, None]
        if bool(same.all(dim=1).any()):
            raise ValueError("guides must hold images that the model puts in at least two classes.")
        chosen = torch.as_tensor(near).masked_fill(same, -torch.inf).argmax(dim=1)
        return [layer[chosen] for layer in self.guide_features]

    def _with_features(self, loss: Loss, weight: float, anchors: list[Tensor]) -> Loss:
        def combined(pixels: Tensor, logits: Tensor, rows: Tensor) -> Tensor:
            layers = zip(self._rows(pixels), anchors, strict=True)
            distance = torch.stack([1 - (now * anchor[rows]).sum(dim=1) for now, anchor in layers])  # (L, n)
            return loss(pixels, logits, rows) + weight * distance.sum(dim=0)

        return combined

    def _rows(self, images: Tensor) -> list[Tensor]:
        """Features of each layer as centred rows of length 1, (n, D)."""
        assert self.features is not None
        with evaluation_mode(self.classifier.model):  # the callable may run the bare model
            layers = list(self.features(images))
        for layer in layers:
            if not isinstance(layer, Tensor) or len(layer) != len(images):
                raise ValueError(f"features must return tensors with one row per image, got {describe(layer)}.")
            if torch.is_grad_enabled() and images.requires_grad and not layer.requires_grad:
                raise ValueError("features carry no gradient with respect to the images: remove detach() or no_grad().")
        rows = [layer.flatten(1).to(torch.promote_types(layer.dtype, torch.float32)) for layer in layers]
        return [F.normalize(row - row.mean(dim=1, keepdim=True), dim=1, eps=1e-12) for row in rows]
