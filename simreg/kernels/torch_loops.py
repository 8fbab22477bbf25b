"""Products of centred rows and their gradient in chunks that stay in the cache; plain torch, on any device.

Rows are (N, O, I) as in `reference`; they are read once each way, and nothing of their size is kept but a gradient.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from simreg.kernels.reference import center_of, wide, work_dtype

_CACHE = 2**18  # values of a chunk on a CPU, 1 MB: it stays in the cache between its centre and its products
_UNITS, _SUM = 2**13, 2**12  # of a row in a chunk, and in a matrix product, whose longer sums lose digits on a CPU
_BLOCK = 1024  # units of one inner product of a pair, for the same reason
_LARGE = 2**25  # values of a chunk elsewhere, where only the launches count


def products(
    rows: Tensor, axis: int, centering: str, mean: Tensor | None, momentum: float, paired: bool
) -> tuple[Tensor, Tensor]:
    """Products as of `simreg.kernels.products`, and what `gradient` subtracts."""
    n = len(rows)
    total = rows.new_zeros((n // 2, 2, 2) if paired else (n, n), dtype=wide(rows))
    moving = mean is not None and axis == 1 and momentum > 0  # a chunk holds whole channels: it knows their new mean
    center = center_of(rows, axis, "none" if centering == "batch" else centering, mean, 0.0 if moving else momentum)
    center = center.clone()  # later passes move the mean
    for chunk, buffer in _chunks(rows, _UNITS if paired else _SUM):
        part = rows[:, chunk]
        if moving and mean is not None:
            center[0, chunk, 0] = mean[chunk].lerp_(part.mean((0, 2), dtype=mean.dtype), momentum)
        flat = _centred(part, center, chunk, centering, buffer)
        total += _pair_products(flat) if paired else flat @ flat.T
    return (torch.stack([total[:, 0, 1], total[:, 0, 0], total[:, 1, 1]]) if paired else total), center


def gradient(rows: Tensor, center: Tensor, centering: str, factors: Tensor) -> Tensor:
    """Gradient of the rows: ``factors``, (k, 2, 2) of pairs or (N, N), times the centred rows."""
    found = torch.empty_like(rows)
    direct = found.dtype == factors.dtype and found.is_contiguous()
    for chunk, buffer in _chunks(rows):
        flat = _centred(rows[:, chunk], center, chunk, centering, buffer)
        target = found[:, chunk].flatten(1) if direct else torch.empty_like(flat)
        if factors.ndim == 3:
            torch.bmm(factors, _halves(flat), out=_halves(target))
        else:
            torch.mm(factors, flat, out=target)
        if centering == "batch":
            target -= target.mean(0)
        if not direct:
            found[:, chunk] = target.view(buffer.shape)
    return found


def _chunks(rows: Tensor, most: int = _UNITS) -> Iterator[tuple[slice, Tensor]]:
    """Ranges of O whose values fit the cache, ``most`` units of each row, and one buffer for their centred values."""
    n, outer, inner = rows.shape
    units = min(most, _CACHE // n) if rows.device.type == "cpu" else _LARGE // n
    step = min(outer, 1 << max(0, (units // inner).bit_length() - 1))  # a power of two, so that blocks divide it
    room = rows.new_empty(n * step * inner, dtype=work_dtype(rows))
    for start in range(0, outer, step):
        size = min(step, outer - start)
        yield slice(start, start + size), room[: n * size * inner].view(n, size, inner)


def _centred(part: Tensor, center: Tensor, chunk: slice, centering: str, out: Tensor) -> Tensor:
    """A chunk of rows minus its centre, (N, units)."""
    if centering == "batch":
        center = part.mean(0, keepdim=True, dtype=out.dtype)
    elif center.shape[1] > 1:
        center = center[:, chunk]
    return torch.sub(part, center, out=out).flatten(1)


def _pair_products(rows: Tensor) -> Tensor:
    """Products (k, 2, 2) of row i and row k + i of (2k, units)."""
    units = rows.shape[1]
    block = math.gcd(units, _BLOCK)
    block = block if block >= 64 else units
    pair = rows.view(2, -1, block).transpose(0, 1)  # (k * blocks, 2, block)
    return torch.bmm(pair, pair.mT).view(-1, units // block, 2, 2).sum(1, dtype=wide(rows))


def _halves(rows: Tensor) -> Tensor:
    """Row i and row k + i side by side: (2k, units) as a view (k, 2, units)."""
    return rows.view(2, -1, rows.shape[1]).transpose(0, 1)
