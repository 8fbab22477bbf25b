"""From partial Gram matrices to the penalty and the coefficients of its gradient.

First the sums over chunks and channels, shared out among programs; then the closed form, one program for each tile of
the matrix over all layers, and the small rest by the last program to finish. Up to one tile of images both are one
launch. Every sum has a fixed order, so results do not depend on which program is last.
"""

# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202, SIM102

from __future__ import annotations

import triton
import triton.language as tl

from simreg.kernels.triton_channels import channels_task
from simreg.kernels.triton_closed_form import difference_and_slope, layer_weights, snapped
from simreg.kernels.triton_tiles import pick


@triton.jit
def _reduce_task(
    partial, moments, products, centers, task, n, LAYERS: tl.constexpr, FIRST: tl.constexpr, CENTERING: tl.constexpr,
    HIGH: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sum over chunks of WIDE entries of one layer's matrix."""
    STOP: tl.constexpr = len(FIRST) - 1
    blocks = (n * n + WIDE - 1) // WIDE
    layer = task // blocks
    entry = (task % blocks) * WIDE + tl.arange(0, WIDE)[None, :]  # (1, WIDE)
    row, column = entry // n, entry % n
    inside = entry < n * n
    swap = row // BLOCK > column // BLOCK  # only blocks a <= b were computed
    source = tl.where(swap, column * n + row, entry)
    start = pick(FIRST, layer, 0, STOP)
    stop = pick(FIRST, layer + 1, 0, STOP + 1)
    units = pick(LAYERS[2], layer, 0, STOP)
    broad = pick(LAYERS[5], layer, 0, STOP)
    mean_row, mean_column = 0.0, 0.0
    if CENTERING == "image":
        sum_row = tl.zeros([HIGH, WIDE], tl.float64)
        sum_column = tl.zeros([HIGH, WIDE], tl.float64)
        for c in range(start, stop, HIGH):
            chunk = c + tl.arange(0, HIGH)[:, None]  # (HIGH, 1)
            here = (chunk < stop) & inside
            size = tl.minimum(broad, units - (chunk - start) * broad).to(tl.float64)
            sum_row += size * tl.load(moments + chunk * n + row, mask=here, other=0.0)
            sum_column += size * tl.load(moments + chunk * n + column, mask=here, other=0.0)
        mean_row = (tl.sum(sum_row, 0) / units)[None, :]
        mean_column = (tl.sum(sum_column, 0) / units)[None, :]
        tl.store(pick(centers, layer, 0, STOP) + row, mean_row.to(tl.float32), mask=inside & (column == 0))
    total = tl.zeros([HIGH, WIDE], tl.float64)
    for c in range(start, stop, HIGH):
        chunk = c + tl.arange(0, HIGH)[:, None]  # (HIGH, 1)
        here = (chunk < stop) & inside
        total += tl.load(partial + chunk.to(tl.int64) * n * n + source, mask=here, other=0.0).to(tl.float64)
        if CENTERING == "image":
            size = tl.where(here, tl.minimum(broad, units - (chunk - start) * broad), 0).to(tl.float64)
            a = tl.load(moments + chunk * n + row, mask=here, other=0.0) - mean_row
            b = tl.load(moments + chunk * n + column, mask=here, other=0.0) - mean_column
            total += size * a * b
    tl.store(products + layer * n * n + entry, tl.sum(total, 0)[None, :], mask=inside)


@triton.jit
def _row_means_task(
    moments, corrections, squares, layer, n, FIRST: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr,
    BLOCKS: tl.constexpr,
):  # fmt: skip
    """Mean of each row of one layer's matrix and of all, which centre it on both sides: H G H."""
    STOP: tl.constexpr = len(FIRST) - 1
    start = pick(FIRST, layer, 0, STOP) * BLOCKS
    stop = pick(FIRST, layer + 1, 0, STOP + 1) * BLOCKS
    row = tl.arange(0, WIDE)
    total = tl.zeros([HIGH, WIDE], tl.float64)
    for c in range(start, stop, HIGH):
        part = c + tl.arange(0, HIGH)[:, None]
        total += tl.load(moments + part * n + row[None, :], mask=(part < stop) & (row < n)[None, :], other=0.0)
    mean = tl.sum(total, 0) / n
    tl.store(corrections + layer * n + row, mean, mask=row < n)
    tl.store(squares + layer, tl.sum(mean, 0) / n)


@triton.jit
def _of_rows(products, corrections, squares, layer, row, n, ADJUST: tl.constexpr):
    """Squared norms of rows, what to take from the products with them, and what to add to all products."""
    square = tl.load(products + layer * n * n + row * n + row, mask=row < n, other=0.0)
    take = tl.zeros_like(square)
    give = tl.full([], 0.0, tl.float64)
    for block in range(ADJUST):
        take += tl.load(corrections + (layer * ADJUST + block) * n + row, mask=row < n, other=0.0)
        give += tl.load(squares + layer * ADJUST + block)
    return square - 2.0 * take + give, take, give


@triton.jit
def _cosines(products, corrections, squares, layer, i, j, n, floor, TILE: tl.constexpr, ADJUST: tl.constexpr):
    square_i, take_i, give = _of_rows(products, corrections, squares, layer, i, n, ADJUST)
    square_j, take_j, give = _of_rows(products, corrections, squares, layer, j, n, ADJUST)
    inside = (i < n)[:, None] & (j < n)[None, :]
    dot = tl.load(products + layer * n * n + i[:, None] * n + j[None, :], mask=inside, other=0.0)
    dot = dot - take_i[:, None] - take_j[None, :] + give
    norm = tl.sqrt(tl.maximum(square_i, floor))[:, None] * tl.sqrt(tl.maximum(square_j, floor))[None, :]
    dead = (square_i <= floor)[:, None] | (square_j <= floor)[None, :]  # a zero row has no gradient; NaN is not dead
    return dot / norm, norm, square_i, dead


@triton.jit
def tile_task(
    products, corrections, squares, logits, targets, mixed_out, similarities, coefficients, shares, row_sums, task, n,
    eps, clamp, L: tl.constexpr, TILE: tl.constexpr, ADJUST: tl.constexpr, LAYERS_PADDED: tl.constexpr,
    TRANSFORM: tl.constexpr, CONVENTION: tl.constexpr,
):  # fmt: skip
    """Closed form of one tile of image pairs over all layers, but for the diagonal of the coefficients."""
    tiles = (n + TILE - 1) // TILE
    across = task % tiles
    i = (task // tiles) * TILE + tl.arange(0, TILE)
    j = across * TILE + tl.arange(0, TILE)
    floor = tl.cast(eps, tl.float64) * eps
    inside = (i < n)[:, None] & (j < n)[None, :]
    apart = inside & (i[:, None] != j[None, :])
    upper = inside & (i[:, None] < j[None, :])
    low = tl.minimum(i[:, None], j[None, :])
    pair = low * n - low * (low + 1) // 2 + tl.maximum(i[:, None], j[None, :]) - low - 1
    row = tl.arange(0, LAYERS_PADDED)
    weights = layer_weights(logits, row, L)
    count = n * (n - 1) // 2
    mixed = tl.zeros([TILE, TILE], tl.float64)
    for layer in range(L):
        raw, norm, square, dead = _cosines(products, corrections, squares, layer, i, j, n, floor, TILE, ADJUST)
        similarity = snapped(raw)
        mixed += tl.sum(tl.where(row == layer, weights, 0.0), 0) * similarity
        tl.store(similarities + layer * count + pair, similarity, mask=upper)
    tl.store(mixed_out + pair, mixed, mask=upper)
    target = tl.load(targets + pair, mask=apart, other=0.0).to(tl.float64)
    loss, slope = difference_and_slope(mixed, target, clamp, apart, count, TRANSFORM, CONVENTION)
    here = shares + task * (L + 1)
    tl.store(here + L, tl.sum(tl.sum(tl.where(upper, loss, 0.0), 1), 0))
    for layer in range(L):
        raw, norm, square, dead = _cosines(products, corrections, squares, layer, i, j, n, floor, TILE, ADJUST)
        tl.store(here + layer, tl.sum(tl.sum(tl.where(upper, slope * snapped(raw), 0.0), 1), 0))
        each = tl.where(dead, 0.0, tl.sum(tl.where(row == layer, weights, 0.0), 0) * slope)
        out = coefficients + layer * n * n + i[:, None] * n + j[None, :]
        tl.store(out, each / norm, mask=apart)
        own = -tl.sum(tl.where(apart, each * raw, 0.0), 1) / tl.maximum(square, floor)
        tl.store(row_sums + (layer * tiles + across) * n + i, own, mask=i < n)


@triton.jit
def closing_task(
    logits, loss_out, coefficients, logit_gradient, shares, row_sums, n, L: tl.constexpr, TILE: tl.constexpr,
    LAYERS_PADDED: tl.constexpr, HIGH: tl.constexpr,
):  # fmt: skip
    """Diagonals of the coefficients, loss and gradient of the logits, from what the tiles left."""
    tiles = (n + TILE - 1) // TILE
    i = tl.arange(0, HIGH)
    for layer in range(L):
        own = tl.zeros([HIGH], tl.float64)
        for across in range(tiles):
            own += tl.load(row_sums + (layer * tiles + across) * n + i, mask=i < n, other=0.0)
        tl.store(coefficients + layer * n * n + i * (n + 1), own, mask=i < n)
    row = tl.arange(0, LAYERS_PADDED)
    weights = layer_weights(logits, row, L)
    share = tl.zeros([LAYERS_PADDED], tl.float64)
    loss = tl.full([], 0.0, tl.float64)
    for task in range(tiles * tiles):
        share += tl.load(shares + task * (L + 1) + row, mask=row < L, other=0.0)
        loss += tl.load(shares + task * (L + 1) + L)
    tl.store(loss_out, loss)
    gradient = weights * (share - tl.sum(weights * share, 0))
    tl.store(logit_gradient + row, gradient, mask=row < L)


@triton.jit(do_not_specialize=["n"])
def gram_reduce_kernel(
    partial, moments, sums, means, counter, products, corrections, squares, centers, logits, targets, loss_out,
    mixed_out, similarities, coefficients, logit_gradient, shares, row_sums, n, momentum, eps, clamp,
    LAYERS: tl.constexpr, FIRST: tl.constexpr, COUNTS: tl.constexpr, POSITIONS: tl.constexpr, SHIFTED: tl.constexpr,
    CENTERING: tl.constexpr, UPDATE: tl.constexpr, FUSED: tl.constexpr, TRANSFORM: tl.constexpr,
    CONVENTION: tl.constexpr, ADJUST: tl.constexpr, REDUCE: tl.constexpr, HIGH: tl.constexpr, BLOCKS: tl.constexpr,
    TILE: tl.constexpr, LAYERS_PADDED: tl.constexpr,
):  # fmt: skip
    """Sums over chunks, then channels or row means, and FUSED the rest: grid (L * blocks of entries + L * ADJUST,)."""
    L: tl.constexpr = len(FIRST) - 1
    task = tl.program_id(0)
    reduce_tasks = L * ((n * n + REDUCE[1] - 1) // REDUCE[1])
    if task < reduce_tasks:
        _reduce_task(partial, moments, products, centers, task, n, LAYERS, FIRST, CENTERING, REDUCE[0], REDUCE[1], HIGH)
    if UPDATE:
        if task >= reduce_tasks:
            channels_task(
                sums, means, centers, corrections, squares, task - reduce_tasks, n, momentum, LAYERS, COUNTS,
                POSITIONS, ADJUST, 32, 64, SHIFTED,
            )  # fmt: skip
    if CENTERING == "batch":
        if task >= reduce_tasks:
            _row_means_task(moments, corrections, squares, task - reduce_tasks, n, FIRST, REDUCE[2], REDUCE[3], BLOCKS)
    if FUSED:
        tl.debug_barrier()  # all of this program's stores come before its ticket
        if tl.atomic_add(counter, 1, sem="acq_rel") == tl.num_programs(0) - 1:
            tile_task(
                products, corrections, squares, logits, targets, mixed_out, similarities, coefficients, shares,
                row_sums, 0, n, eps, clamp, L, TILE, ADJUST, LAYERS_PADDED, TRANSFORM, CONVENTION,
            )  # fmt: skip
            tl.debug_barrier()
            closing_task(
                logits, loss_out, coefficients, logit_gradient, shares, row_sums, n, L, TILE, LAYERS_PADDED, TILE
            )


@triton.jit(do_not_specialize=["n"])
def gram_penalty_kernel(
    products, corrections, squares, counter, logits, targets, loss_out, mixed_out, similarities, coefficients,
    logit_gradient, shares, row_sums, n, eps, clamp, L: tl.constexpr, TRANSFORM: tl.constexpr,
    CONVENTION: tl.constexpr, ADJUST: tl.constexpr, TILE: tl.constexpr, LAYERS_PADDED: tl.constexpr,
    HIGH: tl.constexpr,
):  # fmt: skip
    """Closed form by tiles of image pairs: grid (tiles * tiles,)."""
    tile_task(
        products, corrections, squares, logits, targets, mixed_out, similarities, coefficients, shares, row_sums,
        tl.program_id(0), n, eps, clamp, L, TILE, ADJUST, LAYERS_PADDED, TRANSFORM, CONVENTION,
    )  # fmt: skip
    tl.debug_barrier()  # all of this program's stores come before its ticket
    if tl.atomic_add(counter + 1, 1, sem="acq_rel") == tl.num_programs(0) - 1:
        closing_task(logits, loss_out, coefficients, logit_gradient, shares, row_sums, n, L, TILE, LAYERS_PADDED, HIGH)
