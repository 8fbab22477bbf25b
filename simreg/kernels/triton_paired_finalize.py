"""From the partial products of pairs to the penalty and the coefficients of its gradient, in one launch.

The programs share out the sums over chunks and channels; the last one to finish does the small rest. Every sum has a
fixed order, so results do not depend on which program that is.
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
    partial, reduced, centers, task, pairs, LAYERS: tl.constexpr, FIRST: tl.constexpr, CENTERING: tl.constexpr,
    HIGH: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    STOP: tl.constexpr = len(FIRST) - 1
    blocks = (pairs + WIDE - 1) // WIDE
    layer = task // blocks
    pair = (task % blocks) * WIDE + tl.arange(0, WIDE)[None, :]  # (1, WIDE)
    start = pick(FIRST, layer, 0, STOP)
    stop = pick(FIRST, layer + 1, 0, STOP + 1)
    field = FIRST[STOP] * tl.cast(pairs, tl.int64)
    units = pick(LAYERS[2], layer, 0, STOP)
    broad = pick(LAYERS[5], layer, 0, STOP)
    mean_first, mean_second = 0.0, 0.0
    if CENTERING == "image":
        sum_first = tl.zeros([HIGH, WIDE], tl.float64)
        sum_second = tl.zeros([HIGH, WIDE], tl.float64)
        for c in range(start, stop, HIGH):
            chunk = c + tl.arange(0, HIGH)[:, None]  # (HIGH, 1)
            inside = (chunk < stop) & (pair < pairs)
            place = partial + (chunk.to(tl.int64) * pairs + pair)
            size = tl.minimum(broad, units - (chunk - start) * broad).to(tl.float64)
            sum_first += size * tl.load(place + 3 * field, mask=inside, other=0.0)
            sum_second += size * tl.load(place + 4 * field, mask=inside, other=0.0)
        mean_first = (tl.sum(sum_first, 0) / units)[None, :]
        mean_second = (tl.sum(sum_second, 0) / units)[None, :]
        here = pick(centers, layer, 0, STOP) + pair
        tl.store(here, mean_first.to(tl.float32), mask=pair < pairs)
        tl.store(here + pairs, mean_second.to(tl.float32), mask=pair < pairs)
    cross = tl.zeros([HIGH, WIDE], tl.float64)
    own_first = tl.zeros([HIGH, WIDE], tl.float64)
    own_second = tl.zeros([HIGH, WIDE], tl.float64)
    for c in range(start, stop, HIGH):
        chunk = c + tl.arange(0, HIGH)[:, None]  # (HIGH, 1)
        inside = (chunk < stop) & (pair < pairs)
        place = partial + (chunk.to(tl.int64) * pairs + pair)
        cross += tl.load(place, mask=inside, other=0.0)
        own_first += tl.load(place + field, mask=inside, other=0.0)
        own_second += tl.load(place + 2 * field, mask=inside, other=0.0)
        if CENTERING == "image":
            size = tl.where(inside, tl.minimum(broad, units - (chunk - start) * broad), 0).to(tl.float64)
            a = tl.load(place + 3 * field, mask=inside, other=0.0) - mean_first
            b = tl.load(place + 4 * field, mask=inside, other=0.0) - mean_second
            cross += size * a * b
            own_first += size * a * a
            own_second += size * b * b
    out = reduced + layer * 3 * pairs + pair
    tl.store(out, tl.sum(cross, 0)[None, :], mask=pair < pairs)
    tl.store(out + pairs, tl.sum(own_first, 0)[None, :], mask=pair < pairs)
    tl.store(out + 2 * pairs, tl.sum(own_second, 0)[None, :], mask=pair < pairs)


@triton.jit
def _corrected(reduced, corrections, squares, layer, pair, inside, pairs, BLOCKS: tl.constexpr, UPDATE: tl.constexpr):
    place = reduced + layer * 3 * pairs + pair
    dot = tl.load(place, mask=inside, other=0.0)
    first = tl.load(place + pairs, mask=inside, other=0.0)
    second = tl.load(place + 2 * pairs, mask=inside, other=0.0)
    if UPDATE:
        for block in range(BLOCKS):
            here = corrections + (layer * BLOCKS + block) * 2 * pairs + pair
            u = tl.load(here, mask=inside, other=0.0)
            v = tl.load(here + pairs, mask=inside, other=0.0)
            square = tl.load(squares + layer * BLOCKS + block, mask=inside, other=0.0)
            dot += square - u - v
            first += square - 2.0 * u
            second += square - 2.0 * v
    return dot, first, second


@triton.jit
def _penalty_block(
    dot, first, second, weights, layer, pair, inside, targets, mixed_out, similarities, coefficients, pairs, eps, clamp,
    TRANSFORM: tl.constexpr, CONVENTION: tl.constexpr,
):  # fmt: skip
    floor = tl.cast(eps, tl.float64) * eps
    least_first = tl.maximum(first, floor)
    least_second = tl.maximum(second, floor)
    norm = tl.sqrt(least_first) * tl.sqrt(least_second)
    raw = dot / norm
    similarity = snapped(raw)
    mixed = tl.sum(weights[:, None] * similarity, 0)  # (WIDE,)
    here = pair < pairs
    target = tl.load(targets + pair, mask=here, other=0.0).to(tl.float64)
    loss, slope = difference_and_slope(mixed, target, clamp, here, pairs, TRANSFORM, CONVENTION)
    tl.store(mixed_out + pair, mixed, mask=here)
    tl.store(similarities + layer * pairs + pair[None, :], similarity, mask=inside)
    each = weights[:, None] * slope[None, :]  # (HIGH, WIDE)
    out = coefficients + layer * 3 * pairs + pair[None, :]
    each = tl.where((first <= floor) | (second <= floor), 0.0, each)  # a zero row has no gradient; NaN is not left out
    tl.store(out, each / norm, mask=inside)
    tl.store(out + pairs, -each * raw / least_first, mask=inside)
    tl.store(out + 2 * pairs, -each * raw / least_second, mask=inside)
    return tl.sum(loss, 0), tl.sum(tl.where(inside, slope[None, :] * similarity, 0.0), 1)


@triton.jit(do_not_specialize=["pairs"])
def paired_finalize_kernel(
    partial, sums, means, counter, reduced, corrections, squares, centers, logits, targets, loss_out, mixed_out,
    similarities, coefficients, logit_gradient, pairs, momentum, eps, clamp, LAYERS: tl.constexpr, FIRST: tl.constexpr,
    COUNTS: tl.constexpr, POSITIONS: tl.constexpr, SHIFTED: tl.constexpr, CENTERING: tl.constexpr,
    UPDATE: tl.constexpr, PENALTY: tl.constexpr, TRANSFORM: tl.constexpr, CONVENTION: tl.constexpr,
    BLOCKS: tl.constexpr, REDUCE: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """Sums over chunks and channels, then the closed form: grid (L * blocks of pairs + L * BLOCKS,)."""
    L: tl.constexpr = len(FIRST) - 1
    task = tl.program_id(0)
    reduce_tasks = L * ((pairs + REDUCE[1] - 1) // REDUCE[1])
    if task < reduce_tasks:
        _reduce_task(partial, reduced, centers, task, pairs, LAYERS, FIRST, CENTERING, REDUCE[0], REDUCE[1])
    if UPDATE:
        if task >= reduce_tasks:
            channels_task(
                sums, means, centers, corrections, squares, task - reduce_tasks, pairs * 2, momentum, LAYERS, COUNTS,
                POSITIONS, BLOCKS, 32, 64, SHIFTED,
            )  # fmt: skip
    tl.debug_barrier()  # all of this program's stores come before its ticket
    if tl.atomic_add(counter, 1, sem="acq_rel") == tl.num_programs(0) - 1:
        row = tl.arange(0, TAIL[0])
        layer = row[:, None]
        weights = tl.zeros([TAIL[0]], tl.float64)
        if PENALTY:
            weights = layer_weights(logits, row, L)
        loss = tl.full([], 0.0, tl.float64)
        shares = tl.zeros([TAIL[0]], tl.float64)
        for start in range(0, pairs, TAIL[1]):
            pair = start + tl.arange(0, TAIL[1])
            inside = (layer < L) & (pair < pairs)[None, :]
            dot, first, second = _corrected(
                reduced, corrections, squares, layer, pair[None, :], inside, pairs, BLOCKS, UPDATE
            )
            if PENALTY:
                more, share = _penalty_block(
                    dot, first, second, weights, layer, pair, inside, targets, mixed_out, similarities, coefficients,
                    pairs, eps, clamp, TRANSFORM, CONVENTION,
                )  # fmt: skip
                loss += more
                shares += share
            elif UPDATE:
                out = reduced + layer * 3 * pairs + pair[None, :]
                tl.store(out, dot, mask=inside)
                tl.store(out + pairs, first, mask=inside)
                tl.store(out + 2 * pairs, second, mask=inside)
        if PENALTY:
            tl.store(loss_out, loss)
            gradient = weights * (shares - tl.sum(weights * shares, 0))
            tl.store(logit_gradient + row, gradient, mask=row < L)
