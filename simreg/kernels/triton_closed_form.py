"""The closed form of the penalty on blocks of float64 numbers: cosines, Fisher transform, difference and slope."""

# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

import triton
import triton.language as tl

FISHER_EPS = tl.constexpr(1e-5)  # the authors' constant
BOUND = tl.constexpr(1.0 - 4 * 1.1920929e-7)  # cosines of equal rows are at least this after rounding


@triton.jit
def snapped(raw):
    """Cosines, with those within rounding of ±1 made ±1; NaN stays."""
    return tl.where(raw > BOUND, 1.0, tl.where(raw < -BOUND, -1.0, raw))


@triton.jit
def layer_weights(logits, layer, layers):
    """Softmax of the layer logits, 0 for padding."""
    values = tl.load(logits + layer, mask=layer < layers, other=float("-inf")).to(tl.float64)
    weights = tl.exp(values - tl.max(values, 0))
    return weights / tl.sum(weights, 0)


@triton.jit
def _fisher(s, TRANSFORM: tl.constexpr, CONVENTION: tl.constexpr):
    if TRANSFORM == "arctanh":
        s = tl.log(1.0 + s + FISHER_EPS) - tl.log(1.0 - s + FISHER_EPS)
        if CONVENTION != "official":
            s *= 0.5
    return s


@triton.jit
def difference_and_slope(mixed, target, clamp, inside, count, TRANSFORM: tl.constexpr, CONVENTION: tl.constexpr):
    """Terms of the loss and its derivative by the mixed similarities; 0 outside."""
    target = tl.minimum(tl.maximum(target, -clamp), clamp, propagate_nan=tl.PropagateNan.ALL)
    difference = _fisher(mixed, TRANSFORM, CONVENTION) - _fisher(target, TRANSFORM, CONVENTION)
    weight = 2.0 if CONVENTION == "paper" else 1.0 / count
    slope = 2.0 * weight * difference
    if TRANSFORM == "arctanh":
        rise = 1.0 / (1.0 + mixed + FISHER_EPS) + 1.0 / (1.0 - mixed + FISHER_EPS)
        slope *= rise if CONVENTION == "official" else 0.5 * rise
    return tl.where(inside, weight * difference * difference, 0.0), tl.where(inside, slope, 0.0)
