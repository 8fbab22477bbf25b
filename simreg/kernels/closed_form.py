r"""From inner products of centred rows to the penalty and its derivative, in closed form.

With :math:`G_{ij} = \langle x_i, x_j \rangle` of centred rows,

.. math::
    S_{ij} = \frac{G_{ij}}{\sqrt{G_{ii} G_{jj}}}, \qquad
    \frac{\partial S_{ij}}{\partial x_i} = \frac{x_j}{\sqrt{G_{ii} G_{jj}}} - \frac{S_{ij}}{G_{ii}} x_i,

so the gradient of any function of similarities is :math:`A\,x` with small coefficients :math:`A`, and backward needs
the features and :math:`A` alone. These tensors are small: everything here is in float64, where the device has it.

Products come as (L, 3, k) for pairs (k + i with i): inner product, squared norm of the first, of the second; or as
Gram matrices (L, N, N). Coefficients have the same shapes: cross, own of the first, own of the second; or A.
"""

from __future__ import annotations

import torch
from torch import Tensor

FISHER_EPS = 1e-5  # the authors' constant
_ROUNDING = {torch.float64: 1.5e-14}
_ROUNDING_SINGLE = 4.8e-7  # 4 units in the last place of float32


def wide(values: Tensor) -> torch.dtype:
    """The dtype of small sums: float64, or float32 on devices that have none."""
    return torch.float32 if values.device.type == "mps" else torch.float64


def bounded(similarity: Tensor, slack: float = 0.0) -> Tensor:
    """Similarities clamped to [-1, 1], with slope 1 throughout.

    Only rounding takes a cosine out of bounds, and whether the slope of ``clamp`` at a bound is 0 or 1 depends on the
    version of torch.

    Args:
        similarity: Any shape.
        slack: Values this close to ±1 become ±1: equal rows, whose products may differ in their last bits.
    """
    with torch.no_grad():
        value = similarity.clamp(-1.0, 1.0)
        if slack:
            value = torch.where(value.abs() > 1.0 - slack, value.sign(), value)
        change = value - similarity
    return similarity + change


def rounding(dtype: torch.dtype) -> float:
    """How far the similarity of equal rows of ``dtype`` may be from 1 through rounding."""
    return _ROUNDING.get(dtype, _ROUNDING_SINGLE)


def pair_products(products: Tensor, pairs: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Inner product and both squared norms of every pair, (L, P) each."""
    if pairs is None:
        dot, first, second = products.unbind(1)
        return dot, first, second
    i, j = pairs.unbind(1)
    squares = products.diagonal(dim1=1, dim2=2)  # (L, N)
    return products[:, i, j], squares[:, i], squares[:, j]


def cosines(products: Tensor, pairs: Tensor | None, eps: float, slack: float) -> Tensor:
    """Similarity of the pairs in every layer, (L, P), differentiable by autograd."""
    dot, first, second = pair_products(products, pairs)
    return _cosine(dot, first, second, eps, slack)


def cosine_matrices(products: Tensor, eps: float, slack: float) -> Tensor:
    """Similarity matrices (L, N, N) of Gram matrices, differentiable by autograd."""
    squares = products.diagonal(dim1=1, dim2=2)
    return _cosine(products, squares.unsqueeze(1), squares.unsqueeze(2), eps, slack)


def _cosine(dot: Tensor, first: Tensor, second: Tensor, eps: float, slack: float) -> Tensor:
    floor = eps * eps
    alive = (first > floor) & (second > floor)
    norms = (first.clamp_min(floor) * second.clamp_min(floor)).sqrt()
    value = dot / norms
    return bounded(torch.where(alive, value, value.detach()), slack)


def penalty(
    products: Tensor,
    logits: Tensor,
    targets: Tensor,
    pairs: Tensor | None,
    *,
    eps: float,
    slack: float,
    convention: str,
    transform: str,
    target_clamp: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """L_sim and all that its backward needs.

    Args:
        products: Shape (L, 3, k) with ``pairs`` None, or (L, N, N).
        logits: Shape (L,).
        targets: Shape (P,).
        pairs: Shape (P, 2), of Gram matrices.
        eps: Floor on norms.
        slack: See `bounded`.
        convention: See `simreg.functional.similarity_loss`.
        transform: As above.
        target_clamp: Bound on targets; 1 leaves them.

    Returns:
        Loss (), mixed similarity (P,), layer similarities (L, P), coefficients of the features' gradient in the shape
        of ``products``, and the gradient (L,) of the logits, for an upstream gradient of 1. A row whose norm is below
        ``eps`` has no direction to change in: its similarities carry no gradient.
    """
    dot, first, second = pair_products(products, pairs)  # (L, P) each
    floor = eps * eps
    norms = (first.clamp_min(floor) * second.clamp_min(floor)).sqrt()
    raw = dot / norms
    similarities = bounded(raw, slack)
    weights = torch.softmax(logits.to(products.dtype), dim=0)
    mixed = weights @ similarities
    loss, slope = loss_and_slope(
        mixed, targets.to(products.dtype).clamp(-target_clamp, target_clamp), convention, transform
    )
    layer_slope = weights.unsqueeze(1) * slope  # (L, P): dL/dS
    toward = similarities @ slope
    logit_gradient = weights * (toward - weights @ toward)
    if pairs is None:
        alive = (first > floor) & (second > floor)
        cross = layer_slope / norms
        own_first, own_second = -layer_slope * raw / first, -layer_slope * raw / second
        coefficients = torch.stack([cross, own_first, own_second], dim=1)
        coefficients = torch.where(alive.unsqueeze(1), coefficients, 0.0)
    else:
        coefficients = matrix_coefficients(products, pairs, layer_slope, eps)
    return loss, mixed, similarities, coefficients, logit_gradient


def matrix_coefficients(products: Tensor, pairs: Tensor, slope: Tensor, eps: float) -> Tensor:
    """A (L, N, N), symmetric, for the derivative ``slope`` (L, P) of similarities of ``pairs``."""
    n = products.shape[1]
    i, j = pairs.unbind(1)
    weight = torch.zeros_like(products).flatten(1)  # accumulation in place: deterministic on every device
    layer = torch.arange(products.shape[0], device=products.device).unsqueeze(1)
    weight.index_put_((layer, (i * n + j).unsqueeze(0)), slope, accumulate=True)
    weight = weight.view(-1, n, n)
    weight = weight + weight.mT
    squares = products.diagonal(dim1=1, dim2=2)  # (L, N)
    dead = squares <= eps * eps
    cross = weight / (squares.unsqueeze(1) * squares.unsqueeze(2)).sqrt()
    cross = torch.where(dead.unsqueeze(1) | dead.unsqueeze(2), 0.0, cross)
    own = -(cross * products).sum(dim=2) / squares
    cross.diagonal(dim1=1, dim2=2).add_(torch.where(dead, 0.0, own))
    return cross


def loss_and_slope(mixed: Tensor, targets: Tensor, convention: str, transform: str) -> tuple[Tensor, Tensor]:
    """Loss () and its derivative (P,) with respect to the mixed similarity."""
    if transform == "arctanh":
        factor = 1.0 if convention == "official" else 0.5
        difference = factor * (_fisher(mixed) - _fisher(targets))
        slope = factor * (1.0 / (1.0 + mixed + FISHER_EPS) + 1.0 / (1.0 - mixed + FISHER_EPS))
    else:
        difference, slope = mixed - targets, torch.ones_like(mixed)
    weight = 2.0 if convention == "paper" else 1.0 / mixed.shape[0]
    return weight * (difference * difference).sum(), 2.0 * weight * difference * slope


def _fisher(s: Tensor) -> Tensor:
    return torch.log1p(s + FISHER_EPS) - torch.log1p(FISHER_EPS - s)
