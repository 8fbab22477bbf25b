"""The definition of correct: centred cosine similarity of feature rows, eager and differentiable.

Norms are taken as the root of a sum of squares: ``torch.linalg.vector_norm`` along a dimension is only good to 3e-5
relative on CPU in float32, a sum of squares to 1e-7.
"""

from __future__ import annotations

import torch
from torch import Tensor

from simreg.kernels.closed_form import bounded, rounding


def centred(features: Tensor, centering: str, mean: Tensor | None = None, channel_dim: int = 1) -> Tensor:
    """Rows (N, D) of ``features`` (N, ...) minus a mean; see `simreg.functional.center_features`.

    Args:
        features: Any floating dtype.
        centering: ``"channel"``, ``"batch"``, ``"image"`` or ``"none"``.
        mean: Shape (C,), for ``"channel"``; by default that of ``features``.
        channel_dim: Dimension of the channels.
    """
    values = as_float(features)
    if centering == "none":
        return values.flatten(1)
    if centering == "batch":
        return (values - values.mean(dim=0, keepdim=True)).flatten(1)
    if centering == "image":
        rows = values.flatten(1)
        return rows - rows.mean(dim=1, keepdim=True)
    if mean is None:
        mean = channel_mean(values, channel_dim)
    channel_dim %= values.ndim
    return (values - mean.to(values).reshape([-1 if d == channel_dim else 1 for d in range(values.ndim)])).flatten(1)


def channel_mean(features: Tensor, channel_dim: int = 1) -> Tensor:
    """Mean of each channel over images and positions, (C,)."""
    channel_dim %= features.ndim
    return as_float(features).mean(dim=[d for d in range(features.ndim) if d != channel_dim])


def unit_rows(features: Tensor, eps: float) -> Tensor:
    """Rows of ``features`` (N, D) over their norm, at least ``eps``; a zero row stays zero."""
    squares = (features * features).sum(dim=1, keepdim=True)  # (N, 1)
    # The clamp is under the root: sqrt has an infinite slope at 0.
    return features / squares.clamp_min(eps * eps).sqrt()


def pairwise_cosine(rows: Tensor, eps: float) -> Tensor:
    """Cosine of every pair of ``rows`` (N, D), shape (N, N), clamped to [-1, 1].

    A row whose norm is below ``eps`` has no direction to change in: its similarities carry no gradient.
    """
    with torch.autocast(rows.device.type, enabled=False):  # a half-precision product cannot hold 1 - S
        unit, alive = unit_rows(rows, eps), _alive(rows, eps)
        products = unit @ unit.T
        products = torch.where(alive.unsqueeze(1) & alive, products, products.detach())
        return bounded(products, rounding(rows.dtype))


def paired_cosine(first: Tensor, second: Tensor, eps: float) -> Tensor:
    """Cosine of row i of ``first`` with row i of ``second``, both (P, D), shape (P,), clamped to [-1, 1]."""
    with torch.autocast(first.device.type, enabled=False):
        products = (unit_rows(first, eps) * unit_rows(second, eps)).sum(dim=1)
        products = torch.where(_alive(first, eps) & _alive(second, eps), products, products.detach())
        return bounded(products, rounding(first.dtype))


def _alive(rows: Tensor, eps: float) -> Tensor:
    """Which rows (N, D) have a norm above ``eps``, (N,)."""
    return (rows * rows).sum(dim=1) > eps * eps


def as_float(features: Tensor) -> Tensor:
    """``features`` in float32, or in float64 if they already are."""
    return features if features.dtype == torch.float64 else features.float()
