"""Kernels of pairs (p, k + p) centred by the column means: a program holds a range of units of all images.

Up to 128 pairs stay in registers from the mean to the products or gradients; more are read again, from cache.
"""

# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202, RUF059

from __future__ import annotations

import triton
import triton.language as tl

from simreg.kernels.triton_tiles import find, pick, rectangle


@triton.jit
def _load_pairs(base, stride, block, pairs, units, right, HIGH: tl.constexpr):
    pair = block * HIGH + tl.arange(0, HIGH)  # (HIGH,)
    inside = (pair < pairs)[:, None] & (units < right)[None, :]
    first = base + pair.to(tl.int64)[:, None] * stride + units[None, :]
    second = base + (pair + pairs).to(tl.int64)[:, None] * stride + units[None, :]
    a = tl.load(first, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(second, mask=inside, other=0.0).to(tl.float32)
    return a, b, inside


@triton.jit
def _column_mean(a, b, base, stride, pairs, units, right, HIGH: tl.constexpr, BLOCKS: tl.constexpr):
    total = tl.sum(a, 0) + tl.sum(b, 0)  # (WIDE,)
    for block in range(1, BLOCKS):
        c, d, present = _load_pairs(base, stride, block, pairs, units, right, HIGH)
        total += tl.sum(c, 0) + tl.sum(d, 0)
    return (total / (2.0 * pairs))[None, :]


@triton.jit
def _products_chunk(
    rows, partial, chunk, chunks, pairs, LAYERS: tl.constexpr, START: tl.constexpr, STOP: tl.constexpr,
    WIDE: tl.constexpr, HIGH: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    layer = find(chunk, LAYERS, START, STOP)
    top, bottom, left, right, inner, split = rectangle(chunk, layer, LAYERS, START, STOP)
    base = pick(rows, layer, START, STOP)
    stride = tl.cast(pick(LAYERS[3], layer, START, STOP), tl.int64)
    for mine in range(BLOCKS):
        cross = tl.zeros([HIGH, WIDE], tl.float32)
        own_first = tl.zeros([HIGH, WIDE], tl.float32)
        own_second = tl.zeros([HIGH, WIDE], tl.float32)
        for x in range(left, right, WIDE):
            units = x + tl.arange(0, WIDE)
            a, b, inside = _load_pairs(base, stride, 0, pairs, units, right, HIGH)
            mean = _column_mean(a, b, base, stride, pairs, units, right, HIGH, BLOCKS)
            if BLOCKS > 1:
                a, b, inside = _load_pairs(base, stride, mine, pairs, units, right, HIGH)
            a = tl.where(inside, a - mean, 0.0)
            b = tl.where(inside, b - mean, 0.0)
            cross += a * b
            own_first += a * a
            own_second += b * b
        pair = mine * HIGH + tl.arange(0, HIGH)
        field = chunks.to(tl.int64) * pairs
        out = partial + (chunk.to(tl.int64) * pairs + pair)
        tl.store(out, tl.sum(cross, 1).to(tl.float64), mask=pair < pairs)
        tl.store(out + field, tl.sum(own_first, 1).to(tl.float64), mask=pair < pairs)
        tl.store(out + 2 * field, tl.sum(own_second, 1).to(tl.float64), mask=pair < pairs)


@triton.jit(do_not_specialize=["pairs"])
def batch_products_kernel(
    rows, partial, counter, pairs, LAYERS: tl.constexpr, GROUPS: tl.constexpr, HIGH: tl.constexpr, BLOCKS: tl.constexpr
):
    """Products of all pairs over one chunk of units: grid (chunks,)."""
    chunk = tl.program_id(0)
    if chunk == 0:
        tl.store(counter, 0)
    for g in tl.static_range(len(GROUPS)):
        if (chunk >= GROUPS[g][0]) & (chunk < GROUPS[g][1]):
            _products_chunk(
                rows, partial, chunk, tl.num_programs(0), pairs, LAYERS, GROUPS[g][2], GROUPS[g][3], GROUPS[g][5],
                HIGH, BLOCKS,
            )  # fmt: skip


@triton.jit
def _pair_gradients(a, b, mean, coefficients, factor, block, pairs, HIGH: tl.constexpr):
    pair = block * HIGH + tl.arange(0, HIGH)
    here = pair < pairs  # the coefficients of padding are 0
    cross = factor * tl.load(coefficients + pair, mask=here, other=0.0).to(tl.float32)[:, None]  # (HIGH, 1)
    own_first = factor * tl.load(coefficients + pairs + pair, mask=here, other=0.0).to(tl.float32)[:, None]
    own_second = factor * tl.load(coefficients + 2 * pairs + pair, mask=here, other=0.0).to(tl.float32)[:, None]
    a -= mean
    b -= mean
    return own_first * a + cross * b, own_second * b + cross * a


@triton.jit
def _gradients_chunk(
    rows, coefficients, scale, add, out, chunk, pairs, LAYERS: tl.constexpr, ADD_STRIDES: tl.constexpr,
    START: tl.constexpr, STOP: tl.constexpr, WIDE: tl.constexpr, ADD: tl.constexpr, SCALE: tl.constexpr,
    HIGH: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    layer = find(chunk, LAYERS, START, STOP)
    top, bottom, left, right, inner, split = rectangle(chunk, layer, LAYERS, START, STOP)
    base = pick(rows, layer, START, STOP)
    stride = tl.cast(pick(LAYERS[3], layer, START, STOP), tl.int64)
    target = pick(out, layer, START, STOP)
    size = tl.cast(inner, tl.int64)
    place = coefficients + layer * 3 * pairs
    factor = 1.0
    if SCALE:
        factor = tl.load(scale).to(tl.float32)
    for x in range(left, right, WIDE):
        units = x + tl.arange(0, WIDE)
        a, b, inside = _load_pairs(base, stride, 0, pairs, units, right, HIGH)
        mean = _column_mean(a, b, base, stride, pairs, units, right, HIGH, BLOCKS)
        grad_first, grad_second = _pair_gradients(a, b, mean, place, factor, 0, pairs, HIGH)
        total = tl.sum(grad_first, 0) + tl.sum(grad_second, 0)
        for block in range(1, BLOCKS):
            a, b, inside = _load_pairs(base, stride, block, pairs, units, right, HIGH)
            c, d = _pair_gradients(a, b, mean, place, factor, block, pairs, HIGH)
            total += tl.sum(c, 0) + tl.sum(d, 0)
        average = (total / (2.0 * pairs))[None, :]
        for block in range(BLOCKS):
            if BLOCKS > 1:
                a, b, inside = _load_pairs(base, stride, block, pairs, units, right, HIGH)
                grad_first, grad_second = _pair_gradients(a, b, mean, place, factor, block, pairs, HIGH)
            grad_first -= average
            grad_second -= average
            if ADD:
                more = tl.cast(pick(ADD_STRIDES, layer, START, STOP), tl.int64)
                source = pick(add, layer, START, STOP)
                c, d, present = _load_pairs(source, more, block, pairs, units, right, HIGH)
                grad_first += c
                grad_second += d
            pair = (block * HIGH + tl.arange(0, HIGH)).to(tl.int64)[:, None]
            tl.store(target + (pair * size + units[None, :]), grad_first, mask=inside)
            tl.store(target + ((pair + pairs) * size + units[None, :]), grad_second, mask=inside)


@triton.jit(do_not_specialize=["pairs"])
def batch_gradients_kernel(
    rows, coefficients, scale, add, out, pairs, LAYERS: tl.constexpr, GROUPS: tl.constexpr, ADD_STRIDES: tl.constexpr,
    SCALE: tl.constexpr, HIGH: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """Gradients of all pairs over one chunk of units: grid (chunks,)."""
    chunk = tl.program_id(0)
    for g in tl.static_range(len(GROUPS)):
        if (chunk >= GROUPS[g][0]) & (chunk < GROUPS[g][1]):
            _gradients_chunk(
                rows, coefficients, scale, add, out, chunk, pairs, LAYERS, ADD_STRIDES, GROUPS[g][2], GROUPS[g][3],
                GROUPS[g][5], GROUPS[g][7], SCALE, HIGH, BLOCKS,
            )  # fmt: skip
