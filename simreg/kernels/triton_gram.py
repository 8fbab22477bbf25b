"""Kernels of all pairs: partial Gram matrices of centred rows, and gradients as products with the coefficients.

One program works on one chunk of units of all N images; many images make blocks, and one program takes two of them.
float32 is shifted in the tile, near its mean, before it is multiplied. Half precision is multiplied as it is, exactly,
and its mean taken off the products: shifting would round.
"""

# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202, RUF059

from __future__ import annotations

import triton
import triton.language as tl

from simreg.kernels.triton_tiles import find, pick, rectangle, sums_of


@triton.jit
def _tile(number, top, bottom, left, right, inner, TALL: tl.constexpr, WIDE: tl.constexpr):
    """Units of a tile, TALL * WIDE of them: their row, column and place in the (O, I) matrix, and which are inside."""
    across = (right - left + WIDE - 1) // WIDE
    unit = tl.arange(0, TALL * WIDE)
    o = top + (number // across) * TALL + unit // WIDE
    i = left + (number % across) * WIDE + unit % WIDE
    return o, i, o * inner + i, (o < bottom) & (i < right)


@triton.jit
def _tiles(top, bottom, left, right, TALL: tl.constexpr, WIDE: tl.constexpr):
    return ((bottom - top + TALL - 1) // TALL) * ((right - left + WIDE - 1) // WIDE)


@triton.jit
def _load(base, stride, block, n, place, inside, HIGH: tl.constexpr):
    row = block * HIGH + tl.arange(0, HIGH)
    inside = (row < n)[:, None] & inside[None, :]
    return tl.load(base + row.to(tl.int64)[:, None] * stride + place[None, :], mask=inside, other=0.0), inside


@triton.jit
def _pilot(base, stride, block, n, left, right, HIGH: tl.constexpr, WIDE: tl.constexpr):
    unit = left + tl.arange(0, WIDE)
    x, present = _load(base, stride, block, n, unit, unit < right, HIGH)
    return tl.sum(x.to(tl.float32), 1) / tl.minimum(right - left, WIDE).to(tl.float32)


@triton.jit
def _products_chunk(
    rows, means, partial, moments, sums, chunk, block_a, block_b, n, LAYERS: tl.constexpr, START: tl.constexpr,
    STOP: tl.constexpr, TALL: tl.constexpr, WIDE: tl.constexpr, AXIS: tl.constexpr, CENTERING: tl.constexpr,
    SHIFT: tl.constexpr, SUMS: tl.constexpr, HIGH: tl.constexpr, BLOCKS: tl.constexpr, PRECISION: tl.constexpr,
    CAST: tl.constexpr,
):  # fmt: skip
    layer = find(chunk, LAYERS, START, STOP)
    top, bottom, left, right, inner, split = rectangle(chunk, layer, LAYERS, START, STOP)
    base = pick(rows, layer, START, STOP)
    stride = tl.cast(pick(LAYERS[3], layer, START, STOP), tl.int64)
    row_a = block_a * HIGH + tl.arange(0, HIGH)
    row_b = block_b * HIGH + tl.arange(0, HIGH)
    alone = tl.where(block_a == block_b, n, 0)  # what belongs to one block is left to the program of its square
    product = tl.zeros([HIGH, HIGH], tl.float32)
    sum_a = tl.zeros([HIGH], tl.float32)
    sum_b = tl.zeros([HIGH], tl.float32)
    pilot_a = tl.zeros([HIGH], tl.float32)
    pilot_b = tl.zeros([HIGH], tl.float32)
    if SUMS:
        start, step, count = sums_of(sums, n, layer, split, LAYERS, AXIS, START, STOP)
        if AXIS == 2:
            total = tl.zeros([HIGH, TALL * WIDE], tl.float32)
    if SHIFT and CENTERING == "image":
        pilot_a = _pilot(base, stride, block_a, n, left, right, HIGH, WIDE)
        pilot_b = pilot_a if BLOCKS == 1 else _pilot(base, stride, block_b, n, left, right, HIGH, WIDE)
    for number in range(_tiles(top, bottom, left, right, TALL, WIDE)):
        o, i, place, inside = _tile(number, top, bottom, left, right, inner, TALL, WIDE)
        a, inside_a = _load(base, stride, block_a, n, place, inside, HIGH)
        if CAST:
            a = a.to(tl.float32)
        if SHIFT:
            if CENTERING == "channel":
                shift = tl.load(pick(means, layer, START, STOP) + (o if AXIS == 1 else i), mask=inside, other=0.0)
                a = tl.where(inside_a, a - shift[None, :], 0.0)
            if CENTERING == "image":
                a = tl.where(inside_a, a - pilot_a[:, None], 0.0)
            if CENTERING == "batch":  # the mean of the first block, which for one block is that of all images
                lead = a if BLOCKS == 1 else _load(base, stride, 0, n, place, inside, HIGH)[0]
                shift = tl.sum(lead, 0) / tl.minimum(n, HIGH)
                a = tl.where(inside_a, a - shift[None, :], 0.0)
        b = a
        if BLOCKS > 1:
            b, inside_b = _load(base, stride, block_b, n, place, inside, HIGH)
            if CAST:
                b = b.to(tl.float32)
            if SHIFT:
                if CENTERING == "image":
                    b = tl.where(inside_b, b - pilot_b[:, None], 0.0)
                elif CENTERING != "none":
                    b = tl.where(inside_b, b - shift[None, :], 0.0)
        if CENTERING == "image":
            sum_a += tl.sum(a.to(tl.float32), 1)
            sum_b += tl.sum(b.to(tl.float32), 1)
        if SUMS:
            if AXIS == 1:  # one sum per tile
                channel = top + (number // ((right - left + WIDE - 1) // WIDE)) * TALL + tl.arange(0, TALL)
                here = start + row_a.to(tl.int64)[:, None] * step + channel[None, :]
                here += (left // WIDE + number % ((right - left + WIDE - 1) // WIDE)) * count
                each = tl.sum(tl.reshape(a.to(tl.float32), [HIGH, TALL, WIDE]), 2)
                tl.store(here, each, mask=(row_a < alone)[:, None] & (channel < bottom)[None, :])
            else:
                total += a.to(tl.float32)
        product = tl.dot(a, tl.trans(b), product, input_precision=PRECISION)
    if SUMS and AXIS == 2:
        channel = left + tl.arange(0, WIDE)
        here = start + row_a.to(tl.int64)[:, None] * step + channel[None, :]
        each = tl.sum(tl.reshape(total, [HIGH, TALL, WIDE]), 1)
        tl.store(here, each, mask=(row_a < alone)[:, None] & (channel < right)[None, :])
    first = chunk.to(tl.int64) * n
    if CENTERING == "image":  # moments about the chunk's own mean
        units = (right - left).to(tl.float32)
        product -= sum_a[:, None] * (sum_b / units)[None, :]
        mean = pilot_a.to(tl.float64) + sum_a.to(tl.float64) / units
        tl.store(moments + first + row_a, mean, mask=row_a < alone)
    if CENTERING == "batch":
        here = moments + first * BLOCKS
        tl.store(here + block_b * n + row_a, tl.sum(product, 1).to(tl.float64), mask=row_a < n)
        if BLOCKS > 1:
            tl.store(here + block_a * n + row_b, tl.sum(product, 0).to(tl.float64), mask=row_b < n - alone)
    inside = (row_a < n)[:, None] & (row_b < n)[None, :]
    tl.store(partial + first * n + row_a[:, None] * n + row_b[None, :], product, mask=inside)


@triton.jit(do_not_specialize=["n"])
def gram_products_kernel(
    rows, means, partial, moments, sums, counter, n, LAYERS: tl.constexpr, GROUPS: tl.constexpr,
    CENTERING: tl.constexpr, HIGH: tl.constexpr, BLOCKS: tl.constexpr, HALF: tl.constexpr, SUMS: tl.constexpr,
    PRECISION: tl.constexpr, CAST: tl.constexpr,
):  # fmt: skip
    """Products of all pairs of images over one chunk of units: grid (couples of blocks a <= b, chunks)."""
    couple, chunk = tl.program_id(0), tl.program_id(1)  # programs that read the same units run together
    if chunk + couple == 0:
        tl.store(counter, 0)
        tl.store(counter + 1, 0)
    block_b = tl.full([], 0, tl.int32)
    for block in tl.static_range(1, BLOCKS):
        block_b += (couple >= block * (block + 1) // 2).to(tl.int32)
    block_a = couple - block_b * (block_b + 1) // 2  # (0, 0), (0, 1), (1, 1), (0, 2), ...
    for g in tl.static_range(len(GROUPS)):
        if (chunk >= GROUPS[g][0]) & (chunk < GROUPS[g][1]):
            _products_chunk(
                rows, means, partial, moments, sums, chunk, block_a, block_b, n, LAYERS, GROUPS[g][2], GROUPS[g][3],
                GROUPS[g][4], GROUPS[g][5], GROUPS[g][6], CENTERING, not HALF[g], SUMS, HIGH, BLOCKS, PRECISION, CAST,
            )  # fmt: skip


@triton.jit
def _coefficients(coefficients, layer, block_a, block_b, n, HIGH: tl.constexpr):
    row = block_a * HIGH + tl.arange(0, HIGH)[:, None]
    column = block_b * HIGH + tl.arange(0, HIGH)[None, :]
    place = coefficients + layer * n * n + row * n + column
    return tl.load(place, mask=(row < n) & (column < n), other=0.0).to(tl.float32)


@triton.jit
def _centred(x, shift, centers, block, n, CENTERING: tl.constexpr, HIGH: tl.constexpr):
    x = x.to(tl.float32)
    if CENTERING == "image":
        row = block * HIGH + tl.arange(0, HIGH)
        x -= tl.load(centers + row, mask=row < n, other=0.0)[:, None]
    elif CENTERING != "none":
        x -= shift[None, :]
    return x


@triton.jit
def _gradients_chunk(
    rows, coefficients, scale, centers, add, out, chunk, mine, n, LAYERS: tl.constexpr, ADD_STRIDES: tl.constexpr,
    START: tl.constexpr, STOP: tl.constexpr, TALL: tl.constexpr, WIDE: tl.constexpr, AXIS: tl.constexpr,
    ADD: tl.constexpr, CENTERING: tl.constexpr, SCALE: tl.constexpr, HIGH: tl.constexpr, BLOCKS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    layer = find(chunk, LAYERS, START, STOP)
    top, bottom, left, right, inner, split = rectangle(chunk, layer, LAYERS, START, STOP)
    base = pick(rows, layer, START, STOP)
    stride = tl.cast(pick(LAYERS[3], layer, START, STOP), tl.int64)
    size = tl.cast(pick(LAYERS[1], layer, START, STOP), tl.int64) * inner
    row = mine * HIGH + tl.arange(0, HIGH)
    target = pick(out, layer, START, STOP) + row.to(tl.int64)[:, None] * size
    factor = 1.0
    if SCALE:
        factor = tl.load(scale).to(tl.float32)
    center = pick(centers, layer, START, STOP)
    if BLOCKS == 1:
        matrix = _coefficients(coefficients, layer, 0, 0, n, HIGH)
        if CENTERING == "batch":
            matrix -= (tl.sum(matrix, 0) / n)[None, :]
    for number in range(_tiles(top, bottom, left, right, TALL, WIDE)):
        o, i, place, inside = _tile(number, top, bottom, left, right, inner, TALL, WIDE)
        gradient = tl.zeros([HIGH, TALL * WIDE], tl.float32)
        shift = tl.zeros([TALL * WIDE], tl.float32)
        if CENTERING == "channel":
            shift = tl.load(center + (o if AXIS == 1 else i), mask=inside, other=0.0)
        if BLOCKS == 1:
            x, present = _load(base, stride, 0, n, place, inside, HIGH)
            if CENTERING == "batch":
                shift = tl.sum(x.to(tl.float32), 0) / n
            x = _centred(x, shift, center, 0, n, CENTERING, HIGH)
            gradient = tl.dot(matrix, x, gradient, input_precision=PRECISION)
        else:
            if CENTERING == "batch":
                for block in range(BLOCKS):
                    x, present = _load(base, stride, block, n, place, inside, HIGH)
                    shift += tl.sum(x.to(tl.float32), 0) / n
            for block in range(BLOCKS):
                part = _coefficients(coefficients, layer, mine, block, n, HIGH)
                x, present = _load(base, stride, block, n, place, inside, HIGH)
                x = _centred(x, shift, center, block, n, CENTERING, HIGH)
                gradient = tl.dot(part, x, gradient, input_precision=PRECISION)
        gradient *= factor
        here = (row < n)[:, None] & inside[None, :]
        if ADD:
            more = tl.cast(pick(ADD_STRIDES, layer, START, STOP), tl.int64)
            g, present = _load(pick(add, layer, START, STOP), more, mine, n, place, inside, HIGH)
            gradient += g.to(tl.float32)
        tl.store(target + place[None, :], gradient, mask=here)


@triton.jit
def gram_gradients_kernel(
    rows, coefficients, scale, centers, add, out, n, LAYERS: tl.constexpr, GROUPS: tl.constexpr,
    ADD_STRIDES: tl.constexpr, CENTERING: tl.constexpr, SCALE: tl.constexpr, HIGH: tl.constexpr,
    BLOCKS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of one block of images over one chunk of units: grid (blocks, chunks).

    Centring by the batch takes the column means off the coefficients here for one block, beforehand for more.
    """
    mine, chunk = tl.program_id(0), tl.program_id(1)
    for g in tl.static_range(len(GROUPS)):
        if (chunk >= GROUPS[g][0]) & (chunk < GROUPS[g][1]):
            _gradients_chunk(
                rows, coefficients, scale, centers, add, out, chunk, mine, n, LAYERS, ADD_STRIDES, GROUPS[g][2],
                GROUPS[g][3], GROUPS[g][4], GROUPS[g][5], GROUPS[g][6], GROUPS[g][7], CENTERING, SCALE, HIGH, BLOCKS,
                PRECISION[g],
            )  # fmt: skip
