"""Products of centred rows and their gradient in Triton: one launch each way.

Rows (N, O, I) lie densely one after the other, ``units`` = O * I values each. What is subtracted from unit u of image
n is ``center[n * stride + u // div % mod]``: that of its channel, its image, or the unit itself. Sums are in
float32 within a chunk of units and in float64 over chunks, in a fixed order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from simreg.kernels.reference import center_of

_UNITS = 1024  # of a chunk
_WIDE = 32  # units of one matrix product


@triton.jit
def _load(x, center, n, unit, images, units, stride, div, mod):
    """Rows ``n`` at ``unit``, minus their centre, zero outside, and what is inside."""
    inside = (n < images) & (unit < units)
    rows = tl.load(x + n.to(tl.int64) * units + unit, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(center + n * stride + unit // div % mod, mask=inside, other=0.0)
    return tl.where(inside, rows - shift, 0.0), inside


@triton.jit
def _pair_products(x, center, out, images, units, stride, div, mod, UNITS: tl.constexpr):
    """Cross product and both squares of rows p and k + p in one chunk of units: grid (k, chunks)."""
    pair, chunk, k = tl.program_id(0), tl.program_id(1), images // 2
    unit = chunk * UNITS + tl.arange(0, UNITS)
    first, _ = _load(x, center, tl.full([1], 0, tl.int32) + pair, unit, images, units, stride, div, mod)
    second, _ = _load(x, center, tl.full([1], 0, tl.int32) + pair + k, unit, images, units, stride, div, mod)
    out += chunk * 3 * k + pair
    tl.store(out, tl.sum(first * second, 0))
    tl.store(out + k, tl.sum(first * first, 0))
    tl.store(out + 2 * k, tl.sum(second * second, 0))


@triton.jit
def _pair_gradient(x, center, factors, out, images, units, stride, div, mod, UNITS: tl.constexpr):
    """``factors`` (k, 2, 2) times rows p and k + p, in one chunk of units: grid (k, chunks)."""
    pair, chunk, k = tl.program_id(0), tl.program_id(1), images // 2
    unit = chunk * UNITS + tl.arange(0, UNITS)
    one, other = tl.full([1], 0, tl.int32) + pair, tl.full([1], 0, tl.int32) + pair + k
    first, inside = _load(x, center, one, unit, images, units, stride, div, mod)
    second, _ = _load(x, center, other, unit, images, units, stride, div, mod)
    factors += 4 * pair
    of_first = tl.load(factors) * first + tl.load(factors + 1) * second
    of_second = tl.load(factors + 2) * first + tl.load(factors + 3) * second
    tl.store(out + one.to(tl.int64) * units + unit, of_first, mask=inside)
    tl.store(out + other.to(tl.int64) * units + unit, of_second, mask=inside)


@triton.jit
def _gram(x, center, out, images, units, stride, div, mod, HIGH: tl.constexpr, UNITS: tl.constexpr, WIDE: tl.constexpr):
    """Products (N, N) of all rows in one chunk of units: grid (chunks,)."""
    chunk, n, other = tl.program_id(0), tl.arange(0, HIGH)[:, None], tl.arange(0, HIGH)[None, :]
    total = tl.zeros([HIGH, HIGH], tl.float32)
    for start in range(0, UNITS, WIDE):
        unit = chunk * UNITS + start + tl.arange(0, WIDE)[None, :]
        rows, _ = _load(x, center, n, unit, images, units, stride, div, mod)
        total = tl.dot(rows, tl.trans(rows), total, input_precision="ieee")
    tl.store(out + (chunk * images + n) * images + other, total, mask=(n < images) & (other < images))


@triton.jit
def _gram_gradient(x, center, factors, out, images, units, stride, div, mod, HIGH: tl.constexpr, WIDE: tl.constexpr):
    """``factors`` (N, N) times all rows in one chunk of units: grid (chunks,)."""
    n, other = tl.arange(0, HIGH)[:, None], tl.arange(0, HIGH)[None, :]
    unit = tl.program_id(0) * WIDE + tl.arange(0, WIDE)[None, :]
    rows, inside = _load(x, center, n, unit, images, units, stride, div, mod)
    slope = tl.load(factors + n * images + other, mask=(n < images) & (other < images), other=0.0)
    tl.store(out + n.to(tl.int64) * units + unit, tl.dot(slope, rows, input_precision="ieee"), mask=inside)


def products(
    rows: Tensor, axis: int, centering: str, mean: Tensor | None, momentum: float, paired: bool
) -> tuple[Tensor, Tensor]:
    """Products as of `simreg.kernels.products`, and what `gradient` subtracts."""
    center = center_of(rows, axis, centering, mean, momentum).clone()  # later passes move the mean
    rows = rows.contiguous()
    n, units = len(rows), rows[0].numel()
    chunks, place = triton.cdiv(units, _UNITS), (n, units, *_place(rows, center))
    if paired:
        out = torch.empty(chunks, 3, n // 2, device=rows.device)
        _pair_products[n // 2, chunks](rows, center, out, *place, _UNITS)
    else:
        out = torch.empty(chunks, n, n, device=rows.device)
        _gram[(chunks,)](rows, center, out, *place, _high(n), _UNITS, _WIDE)
    return out.sum(0, dtype=torch.float64), center


def gradient(rows: Tensor, center: Tensor, centering: str, factors: Tensor) -> Tensor:
    """Gradient of the rows: ``factors``, (k, 2, 2) of pairs or (N, N), times the centred rows."""
    rows = rows.contiguous()
    n, units, found, factors = len(rows), rows[0].numel(), torch.empty_like(rows), factors.contiguous()
    place = (n, units, *_place(rows, center))
    if factors.ndim == 3:
        _pair_gradient[n // 2, triton.cdiv(units, _UNITS)](rows, center, factors, found, *place, _UNITS)
    else:
        _gram_gradient[(triton.cdiv(units, _WIDE),)](rows, center, factors, found, *place, _high(n), _WIDE)
    return found - found.mean(0) if centering == "batch" else found


def _place(rows: Tensor, center: Tensor) -> tuple[int, int, int]:
    """Which entry of ``center`` belongs to a unit of an image: stride, div, mod."""
    (images, outer, inner), units = center.shape, rows[0].numel()
    if images > 1:
        return 1, units, 1
    return 0, (1 if inner > 1 or outer == 1 else rows.shape[2]), center.numel()


def _high(n: int) -> int:
    """Rows of a matrix product that holds ``n``."""
    return max(16, 1 << (n - 1).bit_length())
