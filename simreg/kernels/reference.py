"""The definition of correct: centred cosine similarity of feature rows, eager and differentiable.

Norms are taken as the root of a sum of squares: ``torch.linalg.vector_norm`` along a dimension is only good to 3e-5
relative on CPU in float32, a sum of squares to 1e-7.
"""

from __future__ import annotations

import torch
from torch import Tensor


def unit_rows(features: Tensor, eps: float) -> Tensor:
    """Rows of ``features`` (N, D) over their norm, at least ``eps``; a zero row stays zero, with zero gradient."""
    squares = (features * features).sum(dim=1, keepdim=True)  # (N, 1)
    # The clamp is under the root: sqrt has an infinite slope at 0.
    return features / squares.clamp_min(eps * eps).sqrt()


def pairwise_cosine(features: Tensor, eps: float) -> Tensor:
    """Cosine of every pair of rows of ``features`` (N, D), shape (N, N), clamped to [-1, 1]."""
    unit = unit_rows(features, eps)
    return bounded(unit @ unit.T)


def paired_cosine(first: Tensor, second: Tensor, eps: float) -> Tensor:
    """Cosine of row i of ``first`` with row i of ``second``, both (P, D), shape (P,), clamped to [-1, 1]."""
    return bounded((unit_rows(first, eps) * unit_rows(second, eps)).sum(dim=1))


def bounded(similarity: Tensor) -> Tensor:
    """Similarities clamped to [-1, 1], with slope 1 throughout.

    Only rounding takes a cosine out of bounds, and whether the slope of ``clamp`` at a bound is 0 or 1 depends on the
    version of torch.
    """
    return similarity + (similarity.clamp(-1.0, 1.0) - similarity).detach()


def as_float(features: Tensor) -> Tensor:
    """``features`` in float32, or in float64 if they already are."""
    return features if features.dtype == torch.float64 else features.float()
