"""Kernels of pairs (p, k + p): products and gradients of the centrings that need no other image than the pair's two.

One program works on one chunk of one pair; all layers share a launch.
"""

# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202, RUF059

from __future__ import annotations

import triton
import triton.language as tl

from simreg.kernels.triton_tiles import find, pick, rectangle, row_of, sums_of


@triton.jit
def _channel_means(mean, o, i, bottom, right, AXIS: tl.constexpr):
    if AXIS == 1:
        values = tl.load(mean + o, mask=o < bottom, other=0.0)  # (TALL, 1)
    else:
        values = tl.load(mean + i, mask=i < right, other=0.0)  # (1, WIDE)
    return values


@triton.jit
def _products_chunk(
    rows, means, partial, sums, chunk, chunks, pair, pairs, LAYERS: tl.constexpr, START: tl.constexpr,
    STOP: tl.constexpr, TALL: tl.constexpr, WIDE: tl.constexpr, AXIS: tl.constexpr, CENTERING: tl.constexpr,
    UPDATE: tl.constexpr,
):  # fmt: skip
    layer = find(chunk, LAYERS, START, STOP)
    top, bottom, left, right, inner, split = rectangle(chunk, layer, LAYERS, START, STOP)
    first = row_of(rows, pair, layer, LAYERS[3], START, STOP)
    second = row_of(rows, pair + pairs, layer, LAYERS[3], START, STOP)
    zero = tl.zeros([TALL, WIDE], tl.float32)
    cross, own_first, own_second, sum_first, sum_second = zero, zero, zero, zero, zero
    if CENTERING == "image":  # a pilot near the mean keeps the sums of squares free of cancellation
        sample = left + tl.arange(0, 256)
        size = tl.minimum(right - left, 256).to(tl.float32)
        pilot_first = tl.sum(tl.load(first + sample, mask=sample < right, other=0.0).to(tl.float32), 0) / size
        pilot_second = tl.sum(tl.load(second + sample, mask=sample < right, other=0.0).to(tl.float32), 0) / size
    if UPDATE:
        start, step, count = sums_of(sums, pairs * 2, layer, split, LAYERS, AXIS, START, STOP)
        sums_first = start + pair * step
        sums_second = start + (pair + pairs) * step
    for y in range(top, bottom, TALL):
        o = y + tl.arange(0, TALL)[:, None]  # (TALL, 1)
        if UPDATE and AXIS == 1:
            sum_first, sum_second = zero, zero
        for x in range(left, right, WIDE):
            i = x + tl.arange(0, WIDE)[None, :]  # (1, WIDE)
            inside = (o < bottom) & (i < right)
            a = tl.load(first + (o * inner + i), mask=inside, other=0.0).to(tl.float32)
            b = tl.load(second + (o * inner + i), mask=inside, other=0.0).to(tl.float32)
            if CENTERING == "channel":
                mean = _channel_means(pick(means, layer, START, STOP), o, i, bottom, right, AXIS)
                a = tl.where(inside, a - mean, 0.0)
                b = tl.where(inside, b - mean, 0.0)
            if CENTERING == "image":
                a = tl.where(inside, a - pilot_first, 0.0)
                b = tl.where(inside, b - pilot_second, 0.0)
            cross += a * b
            own_first += a * a
            own_second += b * b
            if UPDATE or CENTERING == "image":
                sum_first += a
                sum_second += b
        if UPDATE and AXIS == 1:
            c = y + tl.arange(0, TALL)
            tl.store(sums_first + c, tl.sum(sum_first, 1), mask=c < bottom)
            tl.store(sums_second + c, tl.sum(sum_second, 1), mask=c < bottom)
    if UPDATE and AXIS == 2:
        c = left + tl.arange(0, WIDE)
        tl.store(sums_first + c, tl.sum(sum_first, 0), mask=c < right)
        tl.store(sums_second + c, tl.sum(sum_second, 0), mask=c < right)
    dot = tl.sum(tl.sum(cross, 1), 0).to(tl.float64)
    square_first = tl.sum(tl.sum(own_first, 1), 0).to(tl.float64)
    square_second = tl.sum(tl.sum(own_second, 1), 0).to(tl.float64)
    field = chunks.to(tl.int64) * pairs
    out = partial + (chunk.to(tl.int64) * pairs + pair)
    if CENTERING == "image":  # moments about the chunk's own mean
        units = (right - left).to(tl.float64)
        mean_first = tl.sum(tl.sum(sum_first, 1), 0).to(tl.float64) / units
        mean_second = tl.sum(tl.sum(sum_second, 1), 0).to(tl.float64) / units
        dot -= units * mean_first * mean_second
        square_first -= units * mean_first * mean_first
        square_second -= units * mean_second * mean_second
        tl.store(out + 3 * field, mean_first + pilot_first)
        tl.store(out + 4 * field, mean_second + pilot_second)
    tl.store(out, dot)
    tl.store(out + field, square_first)
    tl.store(out + 2 * field, square_second)


@triton.jit(do_not_specialize=["pairs"])
def paired_products_kernel(
    rows, means, partial, sums, counter, pairs, LAYERS: tl.constexpr, GROUPS: tl.constexpr, CENTERING: tl.constexpr,
    UPDATE: tl.constexpr,
):  # fmt: skip
    """Products of one chunk of one pair: grid (chunks, pairs)."""
    chunk, pair = tl.program_id(0), tl.program_id(1)
    if chunk + pair == 0:
        tl.store(counter, 0)
    for g in tl.static_range(len(GROUPS)):
        if (chunk >= GROUPS[g][0]) & (chunk < GROUPS[g][1]):
            _products_chunk(
                rows, means, partial, sums, chunk, tl.num_programs(0), pair, pairs, LAYERS, GROUPS[g][2], GROUPS[g][3],
                GROUPS[g][4], GROUPS[g][5], GROUPS[g][6], CENTERING, UPDATE,
            )  # fmt: skip


@triton.jit
def _gradients_chunk(
    rows, coefficients, scale, centers, add, out, chunk, pair, pairs, LAYERS: tl.constexpr, ADD_STRIDES: tl.constexpr,
    START: tl.constexpr, STOP: tl.constexpr, TALL: tl.constexpr, WIDE: tl.constexpr, AXIS: tl.constexpr,
    ADD: tl.constexpr, CENTERING: tl.constexpr, SCALE: tl.constexpr,
):  # fmt: skip
    layer = find(chunk, LAYERS, START, STOP)
    top, bottom, left, right, inner, split = rectangle(chunk, layer, LAYERS, START, STOP)
    other = pair + pairs
    first = row_of(rows, pair, layer, LAYERS[3], START, STOP)
    second = row_of(rows, other, layer, LAYERS[3], START, STOP)
    size = tl.cast(pick(LAYERS[1], layer, START, STOP), tl.int64) * inner
    target_first = pick(out, layer, START, STOP) + pair * size
    target_second = pick(out, layer, START, STOP) + other * size
    if ADD:
        add_first = row_of(add, pair, layer, ADD_STRIDES, START, STOP)
        add_second = row_of(add, other, layer, ADD_STRIDES, START, STOP)
    factor = 1.0
    if SCALE:
        factor = tl.load(scale).to(tl.float32)
    place = coefficients + layer * 3 * pairs + pair
    cross = factor * tl.load(place).to(tl.float32)
    own_first = factor * tl.load(place + pairs).to(tl.float32)
    own_second = factor * tl.load(place + 2 * pairs).to(tl.float32)
    if CENTERING == "image":
        mean_first = tl.load(pick(centers, layer, START, STOP) + pair)
        mean_second = tl.load(pick(centers, layer, START, STOP) + other)
    for y in range(top, bottom, TALL):
        o = y + tl.arange(0, TALL)[:, None]  # (TALL, 1)
        for x in range(left, right, WIDE):
            i = x + tl.arange(0, WIDE)[None, :]  # (1, WIDE)
            inside = (o < bottom) & (i < right)
            units = o * inner + i
            a = tl.load(first + units, mask=inside, other=0.0).to(tl.float32)
            b = tl.load(second + units, mask=inside, other=0.0).to(tl.float32)
            if CENTERING == "channel":
                mean = _channel_means(pick(centers, layer, START, STOP), o, i, bottom, right, AXIS)
                a -= mean
                b -= mean
            if CENTERING == "image":
                a -= mean_first
                b -= mean_second
            grad_first = own_first * a + cross * b
            grad_second = own_second * b + cross * a
            if ADD:
                grad_first += tl.load(add_first + units, mask=inside, other=0.0).to(tl.float32)
                grad_second += tl.load(add_second + units, mask=inside, other=0.0).to(tl.float32)
            tl.store(target_first + units, grad_first, mask=inside)
            tl.store(target_second + units, grad_second, mask=inside)


@triton.jit(do_not_specialize=["pairs"])
def paired_gradients_kernel(
    rows, coefficients, scale, centers, add, out, pairs, LAYERS: tl.constexpr, GROUPS: tl.constexpr,
    ADD_STRIDES: tl.constexpr, CENTERING: tl.constexpr, SCALE: tl.constexpr,
):  # fmt: skip
    """Gradient of one chunk of one pair: grid (chunks, pairs)."""
    chunk, pair = tl.program_id(0), tl.program_id(1)
    for g in tl.static_range(len(GROUPS)):
        if (chunk >= GROUPS[g][0]) & (chunk < GROUPS[g][1]):
            _gradients_chunk(
                rows, coefficients, scale, centers, add, out, chunk, pair, pairs, LAYERS, ADD_STRIDES, GROUPS[g][2],
                GROUPS[g][3], GROUPS[g][4], GROUPS[g][5], GROUPS[g][6], GROUPS[g][7], CENTERING, SCALE,
            )  # fmt: skip
