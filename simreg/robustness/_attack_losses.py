"""Losses that white-box attacks raise, one value per image, and their gradients with respect to the images."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from simreg.robustness._input_gradient import loss_and_gradient
from simreg.robustness.classifier import Classifier

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Iterates (n, C, H, W), their logits (n, K) and their rows in the batch (n,) -> one value per image (n,)."""


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each row, (n,)."""
    return F.cross_entropy(logits, labels, reduction="none")


def logit_ratio(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    r"""Difference of logits ratio: how far a wrong class is ahead, in units of the spread of the largest logits.

    .. math:: \mathrm{DLR} = -\frac{z_y - \max_{k \ne y} z_k}{z_{\pi_1} - z_{\pi_3}}, \qquad
              \mathrm{DLR}_t = -\frac{z_y - z_t}{z_{\pi_1} - (z_{\pi_3} + z_{\pi_4}) / 2}

    Neither the scale of the logits nor a shift changes it, so that it keeps its gradient where that of cross-entropy
    vanishes. With too few classes for a denominator (two, or three in the targeted form, where a ratio can be constant)
    the plain difference remains.

    Args:
        logits: Shape (n, K).
        labels: Shape (n,).
        targets: Shape (n,), the class t to reach; None takes the best wrong one.

    Returns:
        Shape (n,), positive where the class is wrong.

    Source: Croce, Hein, 2020, equations 6 and 7 (https://arxiv.org/abs/2003.01690).
    """
    ordered = logits.sort(dim=1, descending=True).values
    rival = best_rival(logits, labels) if targets is None else targets
    behind = logits.gather(1, labels[:, None])[:, 0] - logits.gather(1, rival[:, None])[:, 0]
    if logits.shape[1] < (3 if targets is None else 4):
        return -behind
    third = ordered[:, 2] if targets is None else (ordered[:, 2] + ordered[:, 3]) / 2
    spread = ordered[:, 0] - third
    return -behind / spread.clamp_min(1e-12)


def best_rival(logits: Tensor, labels: Tensor) -> Tensor:
    """The wrong class with the largest logit, (n,)."""
    return ranked_rivals(logits, labels)[:, 0]


def ranked_rivals(logits: Tensor, labels: Tensor) -> Tensor:
    """All wrong classes, the largest logit first, (n, K - 1)."""
    others = logits.detach().scatter(1, labels[:, None], -torch.inf)
    return others.argsort(dim=1, descending=True, stable=True)[:, :-1]


def gradient_of(classifier: Classifier, images: Tensor, rows: Tensor, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
    """Loss (n,), its gradient (n, C, H, W) and logits (n, K), all detached; works where gradients are switched off."""
    return loss_and_gradient(classifier, images, lambda pixels, logits: loss(pixels, logits, rows))
