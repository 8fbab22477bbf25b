r"""New channel means from channel sums, and what they change in products of rows that had another mean subtracted.

With rows :math:`x` about a base mean :math:`b`, their sums :math:`X_{ic}` over the :math:`n` positions of a channel and
the step :math:`\delta = m' - b` to the new mean, :math:`\langle x_i - \delta, x_j - \delta \rangle =
\langle x_i, x_j \rangle - u_i - u_j + n |\delta|^2` with :math:`u_i = \sum_c X_{ic} \delta_c`.
"""

# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

import triton
import triton.language as tl

from simreg.kernels.triton_tiles import pick


@triton.jit
def _sums_tile(base, row, n, step, channel, count, splits):
    inside = (row < n)[:, None] & (channel < count)[None, :]
    tile = base + row.to(tl.int64)[:, None] * step + channel[None, :]
    total = tl.load(tile, mask=inside, other=0.0)
    for split in range(1, splits):
        total += tl.load(tile + split * count, mask=inside, other=0.0)
    return total  # (HIGH, WIDE)


@triton.jit
def channels_task(
    sums, means, centers, corrections, squares, task, n, momentum, LAYERS: tl.constexpr, COUNTS: tl.constexpr,
    POSITIONS: tl.constexpr, BLOCKS: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr, SHIFTED: tl.constexpr,
):  # fmt: skip
    """One block of WIDE channels of one layer; tasks are (L, BLOCKS), those beyond the last channel store zeros."""
    STOP: tl.constexpr = len(COUNTS)
    layer = task // BLOCKS
    channel = (task % BLOCKS) * WIDE + tl.arange(0, WIDE)
    count = pick(COUNTS, layer, 0, STOP)
    splits = pick(LAYERS[7], layer, 0, STOP)
    positions = tl.cast(pick(POSITIONS, layer, 0, STOP), tl.float32)
    step = splits * count
    base = sums + tl.cast(n, tl.int64) * pick(LAYERS[6], layer, 0, STOP)
    total = tl.zeros([WIDE], tl.float32)
    for start in range(0, n, HIGH):
        total += tl.sum(_sums_tile(base, start + tl.arange(0, HIGH), n, step, channel, count, splits), 0)
    inside = channel < count
    old = tl.load(pick(means, layer, 0, STOP) + channel, mask=inside, other=0.0)
    average = total / (positions * n)
    shifted = tl.cast(pick(SHIFTED, layer, 0, STOP), tl.int32) != 0  # the base is the old mean, else it is 0
    change = momentum * tl.where(shifted, average, average - old)
    new = old + change
    delta = tl.where(shifted, change, new)
    tl.store(pick(centers, layer, 0, STOP) + channel, new, mask=inside)
    tl.store(squares + task, (positions * tl.sum(tl.where(inside, delta * delta, 0.0), 0)).to(tl.float64))
    for start in range(0, n, HIGH):
        row = start + tl.arange(0, HIGH)
        tile = _sums_tile(base, row, n, step, channel, count, splits)
        tl.store(corrections + task * n + row, tl.sum(tile * delta[None, :], 1).to(tl.float64), mask=row < n)
