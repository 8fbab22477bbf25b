"""Adversarial examples and losses of adversarial training, for images in [0, 1] and L-inf balls.

Examples are made in evaluation mode, as Madry's and the TRADES authors' code do and as Pang et al., 2021
(https://arxiv.org/abs/2010.00467) found better: the running statistics of batch norm are used and not changed. The loss
is then taken in training mode.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simreg._checks import check_positive
from simreg.comparison.recipe import Draws, normalise
from simreg.robustness.classifier import check_count, evaluation_mode

Predict = Callable[[Tensor], Tensor]
"""Images in [0, 1], (N, C, H, W), to logits (N, K)."""


def project(iterate: Tensor, images: Tensor, epsilon: float) -> Tensor:
    """The nearest point to ``iterate`` within ``epsilon`` of ``images`` and within [0, 1], all (N, C, H, W)."""
    return (images + (iterate - images).clamp(-epsilon, epsilon)).clamp(0, 1)


def ascend(
    loss: Callable[[Tensor], Tensor], start: Tensor, images: Tensor, epsilon: float, *, steps: int, step_size: float
) -> Tensor:
    r"""Projected signed gradient ascent within the ball.

    .. math:: x_{t+1} = \Pi_{B_\infty(x, \epsilon) \cap [0, 1]} (x_t + s\, \mathrm{sign} \nabla \ell(x_t))

    Args:
        loss: Images (N, C, H, W) to a scalar that sums over images.
        start: First iterate, (N, C, H, W), within the ball.
        images: Centres of the balls.
        epsilon: Radius in pixel units.
        steps: Gradient steps.
        step_size: s, in pixel units.

    Returns:
        The last iterate, detached; parameters collect no gradient.

    Source: Madry et al., 2018 (https://arxiv.org/abs/1706.06083).

    Example:
        >>> images = torch.full((1, 1, 1, 2), 0.5)
        >>> ascend(lambda x: x.sum(), images, images, 0.25, steps=3, step_size=0.1).flatten()
        tensor([0.7500, 0.7500])
    """
    iterate = start.detach()
    for _ in range(steps):
        iterate.requires_grad_()
        (gradient,) = torch.autograd.grad(loss(iterate), iterate)
        iterate = project(iterate.detach() + step_size * gradient.sign(), images, epsilon)
    return iterate


def pgd_examples(
    predict: Predict,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    *,
    steps: int,
    start: Tensor,
    step_size: float | None = None,
) -> Tensor:
    """Examples that raise the cross entropy.

    Args:
        predict: Images in [0, 1] to logits.
        images: Shape (N, C, H, W).
        labels: Shape (N,).
        epsilon: Radius in pixel units.
        steps: Gradient steps; one step of 1.25 epsilon from a random start is FGSM-RS.
        start: Uniform random values in [0, 1), in the shape of ``images``: the start within the ball.
        step_size: In pixel units; None takes ``max(0.25, 1.25 / steps) * epsilon``: 2/255 at 8/255 and 7 steps.

    Returns:
        Shape (N, C, H, W), within epsilon and [0, 1].
    """
    size = max(0.25, 1.25 / steps) * epsilon if step_size is None else step_size
    first = project(images + epsilon * (2 * start - 1), images, epsilon)
    return ascend(
        lambda x: F.cross_entropy(predict(x), labels, reduction="sum"),
        first,
        images,
        epsilon,
        steps=steps,
        step_size=size,
    )


def trades_examples(predict: Predict, images: Tensor, epsilon: float, *, steps: int, noise: Tensor) -> Tensor:
    """Examples whose predictions are far from those of the clean images.

    Args:
        predict: Images in [0, 1] to logits.
        images: Shape (N, C, H, W).
        epsilon: Radius in pixel units.
        steps: Gradient steps of epsilon / 4.
        noise: Standard normal values in the shape of ``images``; a thousandth of them is the start.

    Returns:
        Shape (N, C, H, W), within epsilon and [0, 1].
    """
    with torch.no_grad():
        wanted = F.softmax(predict(images), dim=1)
    return ascend(
        lambda x: F.kl_div(F.log_softmax(predict(x), dim=1), wanted, reduction="sum"),
        project(images + 0.001 * noise, images, epsilon),
        images,
        epsilon,
        steps=steps,
        step_size=epsilon / 4,
    )


def trades_loss(clean: Tensor, attacked: Tensor, labels: Tensor, beta: float) -> Tensor:
    r"""Cross entropy of clean images, and divergence of the predictions for attacked ones.

    .. math:: \frac{1}{N} \sum_i \mathrm{CE}(f(x_i), y_i) + \beta\, \mathrm{KL}(p(x_i) \,\|\, p(x'_i))

    Args:
        clean: Logits (N, K) of the clean images.
        attacked: Logits (N, K) of the attacked ones.
        labels: Shape (N,).
        beta: Weight of the divergence.

    Returns:
        A scalar, differentiable in both logits.

    Source: Zhang et al., 2019 (https://arxiv.org/abs/1901.08573), with the Kullback-Leibler divergence of the authors'
    code.

    Example:
        >>> logits, labels = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
        >>> torch.allclose(trades_loss(logits, logits, labels, 6.0), F.cross_entropy(logits, labels))
        True
    """
    divergence = F.kl_div(F.log_softmax(attacked, dim=1), F.softmax(clean, dim=1), reduction="batchmean")
    return F.cross_entropy(clean, labels) + beta * divergence


class PGDTraining:
    """Input stage of adversarial training: each image is replaced by its adversarial example.

    Args:
        epsilon: L-inf radius in pixel units.
        steps: Gradient steps; 1 is FGSM-RS (Wong, Rice, Kolter, 2020, https://arxiv.org/abs/2001.03994).
        relative_step: Length of a step over epsilon; None takes ``max(0.25, 1.25 / steps)``.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(self, epsilon: float, steps: int, relative_step: float | None = None) -> None:
        check_positive("epsilon", epsilon)
        check_count("steps", steps)
        if relative_step is not None:
            check_positive("step", relative_step)
        self.epsilon, self.steps = epsilon, steps
        self.step_size = None if relative_step is None else relative_step * epsilon

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """Adversarial examples (N, C, H, W) for the model as it stands, in evaluation mode."""
        with evaluation_mode(model):
            return pgd_examples(
                lambda x: model(normalise(x)),
                images,
                labels,
                self.epsilon,
                steps=self.steps,
                start=draws.uniform("start", images),
                step_size=self.step_size,
            )
