"""Gradient of the loss with respect to the image, and signs that such a gradient is not to be trusted."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from simreg._checks import warn
from simreg.robustness.classifier import Classifier, check_labels_fit, evaluation_mode

_MASKED_SHARE = 0.1  # share of images without any gradient from which on the user is told
_INSIDE = 1e-6  # in pixel units, far below one of 255 gray levels


def input_gradient(classifier: Classifier, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    r"""A gradient along each image's cross-entropy, and the logits.

    .. math:: g = \frac{\nabla_x \mathrm{CE}(f(x), y)}{1 - p_y}
                = \nabla_x \Big(\ln \sum_{k \ne y} e^{f_k(x)} - f_y(x)\Big)

    It has the direction of the gradient of the cross-entropy, which is all that attacks take from it, and does not
    vanish where a confident model rounds p_y to 1. Parameters collect no ``.grad``, and it works under
    ``torch.no_grad`` and ``torch.inference_mode``.

    Args:
        classifier: Differentiable model on images in [0, 1].
        images: Shape (N, C, H, W), floating point.
        labels: Shape (N,).

    Returns:
        Gradient (N, C, H, W) and logits (N, K), both detached.

    Raises:
        ValueError: If the logits carry no gradient or the gradient is not finite.
    """

    def odds(pixels: Tensor, logits: Tensor) -> Tensor:
        # the copy of the labels may be saved for backward, an inference tensor may not
        return log_odds_of_error(logits, check_labels_fit(labels, logits).clone())

    _, gradient, logits = loss_and_gradient(classifier, images, odds)
    return gradient, logits


def loss_and_gradient(
    classifier: Classifier, images: Tensor, loss: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss of each image, its gradient with respect to the image, and the logits.

    Pixels of 0 and 1 lie where a model that clamps its input has a slope of zero to both sides. Where all pixels of an
    image at one end have no gradient, it is taken a millionth inside [0, 1].

    Args:
        classifier: Differentiable model on images in [0, 1].
        images: Shape (N, C, H, W), floating point.
        loss: Images and logits (N, K), at least float32, to one value per image (N,).

    Returns:
        Loss (N,), gradient (N, C, H, W) and logits (N, K) in the model's type, all detached.

    Raises:
        ValueError: If the logits carry no gradient or the gradient is not finite.
    """
    values, gradient, logits = _one_pass(classifier, images, loss)
    blind = _blind_at_the_ends(images, gradient)
    if bool(blind.any()):
        least = max(_INSIDE, torch.finfo(images.dtype).eps)
        _, moved, _ = _one_pass(classifier, images.clamp(least, 1 - least), loss)
        gradient = torch.where(blind[:, None, None, None], moved, gradient)
    if not bool(gradient.isfinite().all()):
        raise ValueError("the model's gradient with respect to the images is not finite: check its weights.")
    return values, gradient, logits


def _one_pass(
    classifier: Classifier, images: Tensor, loss: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    with torch.inference_mode(False), torch.enable_grad(), evaluation_mode(classifier.model):
        pixels = images.detach().clone().requires_grad_()
        logits = classifier(pixels)
        if not logits.requires_grad:
            raise ValueError(
                "the model's logits carry no gradient with respect to the images, which a gradient attack needs. "
                "Remove torch.no_grad(), detach() or NumPy from the model, or use boundary_attack."
            )
        values = loss(pixels, logits.to(torch.promote_types(logits.dtype, torch.float32)))
        (gradient,) = torch.autograd.grad(values.sum(), pixels)  # the sum keeps each image independent of the batch
    return values.detach(), gradient, logits.detach()


def _blind_at_the_ends(images: Tensor, gradient: Tensor) -> Tensor:
    """Images (N,) with pixels at 0, or at 1, none of which has a gradient."""
    dead = gradient == 0
    ends = ((images <= 0).flatten(1), (images >= 1).flatten(1))
    found = [end.any(dim=1) & (dead.flatten(1) | ~end).all(dim=1) for end in ends]
    return found[0] | found[1]


def log_odds_of_error(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Log-odds of any wrong class, :math:`\ln((1 - p_y) / p_y)`: shape (n, K) and (n,) -> (n,)."""
    right = logits.gather(1, labels[:, None])[:, 0]
    return logits.scatter(1, labels[:, None], -torch.inf).logsumexp(dim=1) - right


class GradientHealth:
    """Watches for what makes gradient attacks look weak: probabilities, zero gradients, saturated cross-entropy."""

    def __init__(self, role: str) -> None:
        self.role = role
        self.images = self.without_gradient = self.saturated = 0
        self.probabilities = True

    def add(self, gradient: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Look at one batch."""
        self.images += len(logits)
        self.without_gradient += int((gradient.flatten(1).abs().amax(dim=1) == 0).sum())
        rows = logits.float()
        self.saturated += int((F.cross_entropy(rows, labels.to(rows.device, torch.int64), reduction="none") == 0).sum())
        sums_to_one = ((rows.sum(dim=1) - 1).abs() < 1e-3).all()
        self.probabilities = self.probabilities and bool(sums_to_one) and bool((rows >= 0).all())

    @property
    def zero_share(self) -> float:
        """Share of images whose gradient was zero in every pixel."""
        return self.without_gradient / max(self.images, 1)

    @property
    def shares(self) -> dict[str, float]:
        """For settings: images without gradient, and with p_y rounded to 1, where cross-entropy's would mislead."""
        return {
            "zero_gradient_share": self.zero_share,
            "saturated_share": self.saturated / max(self.images, 1),
        }

    def report(self) -> None:
        """Warn about what was seen."""
        if self.probabilities:
            warn(
                f"the {self.role} seems to return probabilities (rows are positive and sum to 1): the attack's "
                "gradient is then too weak and the model looks too robust. Return logits, before the softmax."
            )
        elif self.zero_share > _MASKED_SHARE:
            warn(
                f"the {self.role}'s gradient is exactly zero for {self.zero_share:.0%} of the images: the attack "
                "cannot move them, so the accuracy is only an upper bound. Check with boundary_attack."
            )
