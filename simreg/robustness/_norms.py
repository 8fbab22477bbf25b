"""Norms of perturbations, and steps of unit length in them."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.linalg import vector_norm

Norm = Literal["linf", "l2"]
NORMS = ("linf", "l2")


def perturbation_norm(difference: Tensor, norm: Norm) -> float:
    """Largest norm among the rows of ``difference`` (N, C, H, W)."""
    return float(row_norms(difference, norm).max())


def row_norms(difference: Tensor, norm: Norm) -> Tensor:
    """Largest absolute value ("linf") or Euclidean norm ("l2") of each row of (N, C, H, W), (N,)."""
    rows = difference.flatten(1)
    return rows.abs().amax(dim=1) if norm == "linf" else vector_norm(rows, dim=1)


def ascent_direction(gradient: Tensor, norm: Norm) -> Tensor:
    """Direction of steepest ascent of length 1 in ``norm``: the sign, or each row over its Euclidean norm."""
    return gradient.sign() if norm == "linf" else unit(gradient)


def unit(values: Tensor) -> Tensor:
    """Each row of (N, C, H, W) divided by its Euclidean norm; zero rows stay zero."""
    rows = values.flatten(1)
    # by the largest value first: squares of tiny gradients vanish in float32
    scaled = rows / rows.abs().amax(dim=1, keepdim=True).clamp_min(1e-38)
    directions: Tensor = scaled / vector_norm(scaled, dim=1, keepdim=True).clamp_min(1e-30)
    return directions.view_as(values)


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """Values (N,) in a shape that broadcasts over ``like`` (N, ...)."""
    return values.view(-1, *[1] * (like.ndim - 1))
