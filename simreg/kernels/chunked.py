"""Loops over the features in plain torch, by chunks that stay in the cache; on any device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from simreg.kernels.closed_form import wide
from simreg.kernels.one_pass import work_dtype

_CACHE = 2**18  # values of a chunk on CPU, 1 MB: smaller ones spend their time in calls
_BLOCK = 1024  # units of one inner product of a pair: short sums lose less to rounding
_LARGE = 2**25  # elsewhere only the launches count


def accumulate(
    rows: Sequence[Tensor],
    shifts: Sequence[Tensor | None],
    column_mean: bool,
    products: Tensor,
    sums: Sequence[Tensor],
    sum_dims: Sequence[tuple[int, ...]],
) -> None:
    """See `one_pass.Engine`."""
    for index, layer in enumerate(rows):
        shifted, total = _Shifted(layer, shifts[index], column_mean), products[index]
        for o, i in _chunks(layer):
            part = shifted.chunk(o, i)
            flat = part.flatten(1)
            if total.ndim == 3:
                total += _pair_products(flat)
            else:
                total += flat @ flat.T
            if sums:
                dims, target = sum_dims[index], sums[index]
                target = target if target.ndim == 1 else target[:, o if dims == (2,) else i]
                target += part.sum(dim=dims)


def gradients(
    rows: Sequence[Tensor],
    shifts: Sequence[Tensor | None],
    column_mean: bool,
    factors: Sequence[Tensor],
    add: Sequence[Tensor] | None,
) -> list[Tensor]:
    """See `one_pass.Engine`."""
    others = [None] * len(rows) if add is None else add
    layers = zip(rows, shifts, factors, others, strict=True)
    return [_gradient(layer, shift, column_mean, factor, other) for layer, shift, factor, other in layers]


def _gradient(rows: Tensor, shift: Tensor | None, column_mean: bool, factors: Tensor, add: Tensor | None) -> Tensor:
    paired = factors.ndim == 3
    found = torch.empty(rows.shape, dtype=rows.dtype, device=rows.device)
    direct = add is None and rows.dtype == factors.dtype
    buffer = None
    shifted = _Shifted(rows, shift, column_mean)
    for o, i in _chunks(rows):
        flat = shifted.chunk(o, i).flatten(1)
        target = found[:, o, i]
        if direct:
            result = target.flatten(1)
        else:
            buffer = flat.new_empty(flat.numel()) if buffer is None else buffer
            result = buffer[: flat.numel()].view(flat.shape)
        if paired:
            torch.bmm(factors, _halves(flat), out=_halves(result))
            if column_mean:
                result -= result.mean(dim=0)
        else:
            torch.mm(factors, flat, out=result)
        if add is not None:
            torch.add(result.view(target.shape), add[:, o, i], out=target)
        elif not direct:
            target.copy_(result.view(target.shape))
    return found


def _pair_products(rows: Tensor) -> Tensor:
    """Products (k, 2, 2) of row i and row k + i of (2k, units)."""
    units = rows.shape[1]
    if units % _BLOCK or not rows.is_contiguous():
        pair = _halves(rows)
        return torch.bmm(pair, pair.mT)
    pair = rows.view(2, -1, _BLOCK).transpose(0, 1)  # (k * blocks, 2, _BLOCK)
    return torch.bmm(pair, pair.mT).view(-1, units // _BLOCK, 2, 2).sum(dim=1, dtype=wide(rows))


def _halves(rows: Tensor) -> Tensor:
    """Row i and row k + i next to each other: (2k, units) as a view (k, 2, units)."""
    return rows.view(2, -1, rows.shape[1]).transpose(0, 1)


def _chunks(rows: Tensor) -> Iterator[tuple[slice, slice]]:
    """Ranges of O and I that hold about as many values as the cache, the largest first."""
    n, outer, inner = rows.shape
    budget = max(1, (_CACHE if rows.device.type == "cpu" else _LARGE) // n)
    if inner <= budget:
        step = budget // inner
        for start in range(0, outer, step):
            yield slice(start, start + step), slice(None)
        return
    for index in range(outer):
        for start in range(0, inner, budget):
            yield slice(index, index + 1), slice(start, start + budget)


class _Shifted:
    """Chunks of rows minus a shift, in one reused buffer of the working dtype."""

    def __init__(self, rows: Tensor, shift: Tensor | None, column_mean: bool) -> None:
        self.rows = rows
        self.shift = shift
        self.column_mean = column_mean
        self.buffer: Tensor | None = None

    def chunk(self, outer: slice, inner: slice) -> Tensor:
        """Shape (N, o, i)."""
        part, dtype = self.rows[:, outer, inner], work_dtype(self.rows)
        if self.shift is None and not self.column_mean and part.dtype == dtype:
            return part
        if self.buffer is None:  # the first chunk is the largest
            self.buffer = torch.empty(part.numel(), dtype=dtype, device=part.device)
        out = self.buffer[: part.numel()].view(part.shape)
        if self.column_mean:
            return torch.sub(part, part.mean(dim=0, keepdim=True, dtype=dtype), out=out)
        if self.shift is None:
            return out.copy_(part)
        shift = self.shift
        if shift.shape[1] > 1:
            shift = shift[:, outer]
        if shift.shape[2] > 1:
            shift = shift[:, :, inner]
        return torch.sub(part, shift, out=out)
