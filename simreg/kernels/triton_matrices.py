"""Launchers of the kernels of all pairs: Gram matrices of up to 256 images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import triton  # type: ignore[import-untyped, unused-ignore]
from torch import Tensor

from simreg.kernels.triton_gram import gram_gradients_kernel, gram_products_kernel
from simreg.kernels.triton_gram_finalize import gram_penalty_kernel, gram_reduce_kernel
from simreg.kernels.triton_launch import channel_blocks, closed_form_arguments, new_centers, new_gradients
from simreg.kernels.triton_plan import Plan, Tiling, ceil_div, make_plan, positions, power_of_two
from simreg.kernels.triton_results import Results

_INTERPRETED = not isinstance(gram_products_kernel, triton.JITFunction)  # it cannot multiply half precision
_PROGRAMS = 528  # four for each multiprocessor of a large GPU; each leaves a partial matrix
_TILE = 32  # images of a tile of the closed form


def gram_products(
    rows: Sequence[Tensor],
    means: Sequence[Tensor],
    axes: Sequence[int],
    centering: str,
    momentum: float,
    results: Results | None = None,
) -> tuple[Tensor, list[Tensor]]:
    r"""Gram matrices of centred rows, and with ``results`` the penalty of all pairs.

    .. math:: G_{ij} = \langle x_i, x_j \rangle

    Two launches up to 32 images, three beyond that.

    Arguments and return value are those of `triton_backend.products`; ``results`` are filled in if given, and the
    products (L, N, N) then are not for use.
    """
    layers, n, device = len(rows), rows[0].shape[0], rows[0].device
    high, blocks = _row_blocks(n, 128 if all(x.element_size() == 2 for x in rows) else 64)
    plan = _plan(rows, axes, centering, high)
    half = _half(rows, plan)
    update = centering == "channel" and (momentum != 0.0 or any(half))
    moments = blocks if centering == "batch" else 1 if centering == "image" else 0
    partial = torch.empty((plan.chunks, n, n), dtype=torch.float32, device=device)
    moment = torch.empty((plan.chunks, max(moments * n, 1)), dtype=torch.float64, device=device)
    sums = torch.empty(plan.sums * n if update else 1, dtype=torch.float32, device=device)
    counter = torch.empty(2, dtype=torch.int32, device=device)
    gram_products_kernel[(blocks * (blocks + 1) // 2, plan.chunks)](
        tuple(rows), tuple(means) or (counter,), partial, moment, sums, counter, n, plan.layers, plan.groups, centering,
        high, blocks, half, update, _precision(n), _INTERPRETED, num_warps=8 if high >= 64 else 4,
        num_stages=3 if blocks == 1 else 2,
    )  # fmt: skip
    adjust = 1 if centering == "batch" else 0
    if update:
        adjust = channel_blocks(plan)
    products = torch.empty((layers, n, n), dtype=torch.float64, device=device)
    corrections = torch.empty((layers, max(adjust, 1), n), dtype=torch.float64, device=device)
    squares = torch.empty((layers, max(adjust, 1)), dtype=torch.float64, device=device)
    centers = new_centers(rows, means, plan, centering, update)
    tiles, tile, padded = ceil_div(n, _TILE), min(power_of_two(n), _TILE), power_of_two(layers)
    shares = torch.empty((tiles * tiles, layers + 1), dtype=torch.float64, device=device)
    row_sums = torch.empty((layers, tiles, n), dtype=torch.float64, device=device)
    outputs, (eps, clamp, transform, convention) = closed_form_arguments(results, products)
    reduce = _reduce_blocks(n, plan)
    gram_reduce_kernel[(layers * (ceil_div(n * n, reduce[1]) + adjust),)](
        partial, moment, sums, tuple(means) or (counter,), counter, products, corrections, squares, tuple(centers),
        *outputs, shares, row_sums, n, momentum, eps, clamp, plan.layers, plan.first, plan.channels,
        positions(rows, axes), tuple(int(x.element_size() == 4) for x in rows), centering, update,
        results is not None and tiles == 1, transform, convention, adjust, reduce, high, blocks, tile, padded,
        num_warps=8,
    )  # fmt: skip
    if results is not None and tiles > 1:
        gram_penalty_kernel[(tiles * tiles,)](
            products, corrections, squares, counter, *outputs, shares, row_sums, n, eps, clamp, layers, transform,
            convention, adjust, tile, padded, power_of_two(n), num_warps=8,
        )  # fmt: skip
    if results is None and adjust:
        take = corrections.sum(1)  # (L, N)
        products = products - take.unsqueeze(1) - take.unsqueeze(2) + squares.sum(1)[:, None, None]
    return products, centers


def gram_gradients(
    rows: Sequence[Tensor],
    coefficients: Tensor,
    scale: Tensor | None,
    centers: Sequence[Tensor],
    axes: Sequence[int],
    centering: str,
    add: Sequence[Tensor | None] | None,
) -> list[Tensor]:
    r"""Gradients of all rows from the coefficients of all pairs; one launch.

    .. math:: dX = s\,A\,x, \qquad \text{or } s\,H A\,x \text{ for centring by the batch, } H = 1 - \tfrac{1}{N} 1 1^T

    of centred rows :math:`x`, plus ``add``.

    Arguments and return value are those of `triton_backend.gradients`.
    """
    n = rows[0].shape[0]
    high, blocks = _row_blocks(n, 128 if n <= 128 else 64)
    plan = _plan(rows, axes, centering, high, add or ())
    out, extra = new_gradients(rows, add)
    if centering == "batch" and blocks > 1:
        coefficients = coefficients - coefficients.mean(dim=1, keepdim=True)
    coefficients = coefficients.contiguous()
    precision = tuple("tf32" if half else _precision(n) for half in _half(rows, plan))
    gram_gradients_kernel[(blocks, plan.chunks)](
        tuple(rows), coefficients, coefficients if scale is None else scale,
        tuple(rows) if centering in ("none", "batch") else tuple(centers), extra, out, n, plan.layers, plan.groups,
        tuple(x.stride(0) for x in extra), centering, scale is not None, high, blocks, precision,
        num_warps=8 if high >= 64 else 4, num_stages=2,
    )  # fmt: skip
    return list(out)


def _plan(
    rows: Sequence[Tensor], axes: Sequence[int], centering: str, high: int, add: Sequence[Tensor | None] = ()
) -> Plan:
    total = sum(x.shape[1] * x.shape[2] for x in rows)
    few = high > 64
    tiling = Tiling(
        ceil_div(total, _PROGRAMS // 2 if few else _PROGRAMS), tile_bytes=128 if few else 256, columns=64, least=16,
        split_positions=True,
    )  # fmt: skip
    return make_plan(rows, axes, centering == "channel", tiling, add)


def _half(rows: Sequence[Tensor], plan: Plan) -> tuple[bool, ...]:
    """Whether each group of layers is of half precision."""
    return tuple(rows[group[2]].element_size() == 2 for group in plan.groups)


def _row_blocks(n: int, most: int) -> tuple[int, int]:
    """Images of a block, from 16 to ``most``, and the number of blocks.

    The accumulator of a block of 64 leaves registers for the three products that make float32 of TF32.
    """
    high = min(max(power_of_two(n), 16), most)
    return high, ceil_div(n, high)


def _reduce_blocks(n: int, plan: Plan) -> tuple[int, int, int, int]:
    """Chunks and entries of a block of the sums over chunks; the same for row means."""
    chunks = power_of_two(max(stop - start for start, stop in pairwise(plan.first)))
    wide, row = min(power_of_two(n * n), 128), power_of_two(n)
    return min(2048 // wide, chunks), wide, min(2048 // row, chunks), row


def _precision(n: int) -> str:
    return "ieee" if n <= 16 else "tf32x3"
