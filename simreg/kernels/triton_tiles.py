"""Pieces that the Triton kernels share: from a chunk number to the layer, its tensors and a rectangle of its units.

``LAYERS`` and ``GROUPS`` are those of `simreg.kernels.triton_plan.Plan`; layers [START, STOP) are one group. A layer's
numbers and pointers are chosen by selects, so the body of a group is compiled once, and what the compiler knows of
their alignment holds for all of its layers.
"""

# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def pick(values, layer, START: tl.constexpr, STOP: tl.constexpr):
    """``values[layer]`` for a layer known only at run time."""
    value = values[START]
    for index in tl.static_range(START + 1, STOP):
        value = tl.where(layer == index, values[index], value)
    return value


@triton.jit
def find(chunk, LAYERS: tl.constexpr, START: tl.constexpr, STOP: tl.constexpr):
    """Layer of a chunk."""
    layer = tl.full([], START, tl.int32)
    for index in tl.static_range(START + 1, STOP):
        layer += (chunk >= LAYERS[0][index]).to(tl.int32)
    return layer


@triton.jit
def rectangle(chunk, layer, LAYERS: tl.constexpr, START: tl.constexpr, STOP: tl.constexpr):
    """Rows [top, bottom) and columns [left, right) of a chunk in its (O, I) matrix; I; the chunk's row of chunks."""
    outer = pick(LAYERS[1], layer, START, STOP)
    inner = pick(LAYERS[2], layer, START, STOP)
    tall = pick(LAYERS[4], layer, START, STOP)
    broad = pick(LAYERS[5], layer, START, STOP)
    local = chunk - pick(LAYERS[0], layer, START, STOP)
    across = (inner + broad - 1) // broad
    split = local // across
    top = split * tall
    left = (local % across) * broad
    return top, tl.minimum(top + tall, outer), left, tl.minimum(left + broad, inner), inner, split


@triton.jit
def row_of(pointers, row, layer, STRIDES: tl.constexpr, START: tl.constexpr, STOP: tl.constexpr):
    """Pointer to a row of a layer; ``row`` is one number or a block of them."""
    return pick(pointers, layer, START, STOP) + row.to(tl.int64) * pick(STRIDES, layer, START, STOP)


@triton.jit
def sums_of(sums, n, layer, split, LAYERS: tl.constexpr, AXIS: tl.constexpr, START: tl.constexpr, STOP: tl.constexpr):
    """Where a layer's channel sums (N, splits, C) begin for one split, the step from image to image, and C."""
    splits = pick(LAYERS[7], layer, START, STOP)
    count = pick(LAYERS[AXIS], layer, START, STOP)
    start = sums + tl.cast(n, tl.int64) * pick(LAYERS[6], layer, START, STOP)
    if AXIS == 2:
        start += split * count
    return start, splits * count, count
