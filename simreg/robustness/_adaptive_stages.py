"""The attacks behind ``adaptive_pgd``: on the logits alone, and on logits and features together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from simreg._checks import check_choice, describe
from simreg.robustness._attack_losses import Loss
from simreg.robustness._auto_attack_stages import Budgets, apgd_stage, logit_loss
from simreg.robustness._auto_pgd import auto_pgd, random_start
from simreg.robustness._layer_features import Features
from simreg.robustness._norms import NORMS, Norm
from simreg.robustness._random import derive_seed
from simreg.robustness._worst_case import Stage
from simreg.robustness.classifier import Classifier, check_attack_images, evaluation_mode, unit_float
from simreg.robustness.projected_gradient import PGD


class AdaptiveStages:
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
