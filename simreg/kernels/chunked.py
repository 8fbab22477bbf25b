"""Loops over the features in plain torch, by chunks that stay in the cache; on any device."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from simreg.kernels.one_pass import work_dtype

_CACHE = 2**18  # values of a chunk on CPU, 1 MB: smaller ones spend their time in calls
_LARGE = 2**25  # elsewhere only the launches count


def accumulate(
    rows: Tensor,
    shift: Tensor | None,
    column_mean: bool,
    products: Tensor,
    sums: Tensor | None,
    sum_dims: tuple[int, ...],
) -> None:
    """See `one_pass.Engine`."""
    shifted = _Shifted(rows, shift, column_mean)
    for o, i in _chunks(rows):
        part = shifted.chunk(o, i)
        flat = part.flatten(1)
        if products.ndim == 3:
            pair = _halves(flat)
            products += torch.bmm(pair, pair.mT)
        else:
            products += flat @ flat.T
        if sums is not None:
            target = sums if sums.ndim == 1 else sums[:, o if sum_dims == (2,) else i]
            target += part.sum(dim=sum_dims)


def gradient(rows: Tensor, shift: Tensor | None, column_mean: bool, factors: Tensor, add: Tensor | None) -> Tensor:
    """See `one_pass.Engine`."""
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
