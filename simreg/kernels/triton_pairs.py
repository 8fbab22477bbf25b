"""Launchers of the kernels of pairs (p, k + p)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from simreg.kernels.triton_batch import batch_gradients_kernel, batch_products_kernel
from simreg.kernels.triton_launch import channel_blocks, closed_form_arguments, new_centers, new_gradients
from simreg.kernels.triton_paired import paired_gradients_kernel, paired_products_kernel
from simreg.kernels.triton_paired_finalize import paired_finalize_kernel
from simreg.kernels.triton_plan import Plan, Tiling, ceil_div, chunk_units, make_plan, positions, power_of_two
from simreg.kernels.triton_results import Results

_TILE = 1024  # entries of the finalizing kernel's tiles


def paired_products(
    rows: Sequence[Tensor],
    means: Sequence[Tensor],
    axes: Sequence[int],
    centering: str,
    momentum: float,
    results: Results | None = None,
) -> tuple[Tensor, list[Tensor]]:
    r"""Products of the pairs (p, k + p), and with ``results`` the penalty of all; two launches.

    .. math:: \langle x_p, x_{k+p} \rangle, \quad |x_p|^2, \quad |x_{k+p}|^2 \quad \text{of centred rows}

    Arguments and return value are those of `triton_backend.products`; ``results`` are filled in if given, and the
    products (L, 3, k) then are not for use.
    """
    n, device = rows[0].shape[0], rows[0].device
    pairs = n // 2
    update = centering == "channel" and momentum != 0.0
    plan = _plan(rows, axes, centering, pairs)
    fields = 5 if centering == "image" else 3
    partial = torch.empty((fields, plan.chunks, pairs), dtype=torch.float64, device=device)
    sums = torch.empty(plan.sums * n if update else 1, dtype=torch.float32, device=device)
    counter = torch.empty(1, dtype=torch.int32, device=device)
    if centering == "batch":
        high, blocks, warps = _pair_blocks(plan, pairs)
        batch_products_kernel[(plan.chunks,)](
            tuple(rows), partial, counter, pairs, plan.layers, plan.groups, high, blocks, num_warps=warps
        )
    else:
        paired_products_kernel[(plan.chunks, pairs)](
            tuple(rows), tuple(means) or (counter,), partial, sums, counter, pairs, plan.layers, plan.groups, centering,
            update, num_warps=4,
        )  # fmt: skip
    return _finalize(plan, axes, rows, means, centering, momentum, partial, sums, counter, results)


def _finalize(
    plan: Plan,
    axes: Sequence[int],
    rows: Sequence[Tensor],
    means: Sequence[Tensor],
    centering: str,
    momentum: float,
    partial: Tensor,
    sums: Tensor,
    counter: Tensor,
    results: Results | None,
) -> tuple[Tensor, list[Tensor]]:
    layers, n, device = len(rows), rows[0].shape[0], rows[0].device
    pairs = n // 2
    update = centering == "channel" and momentum != 0.0
    products = torch.empty((layers, 3, pairs), dtype=torch.float64, device=device)
    blocks = channel_blocks(plan) if update else 1
    corrections = torch.empty((layers * blocks, n) if update else 1, dtype=torch.float64, device=device)
    squares = torch.empty(layers * blocks, dtype=torch.float64, device=device)
    centers = new_centers(rows, means, plan, centering, update)
    wide = min(power_of_two(pairs), 16)
    chunks = power_of_two(max(stop - start for start, stop in pairwise(plan.first)))
    tall = power_of_two(layers)
    outputs, (eps, clamp, transform, convention) = closed_form_arguments(results, products)
    paired_finalize_kernel[(layers * (ceil_div(pairs, wide) + (blocks if update else 0)),)](
        partial, sums, tuple(means) or (counter,), counter, products, corrections, squares, tuple(centers), *outputs,
        pairs, momentum, eps, clamp, plan.layers, plan.first, plan.channels, positions(rows, axes), (1,) * layers,
        centering, update, results is not None, transform, convention, blocks, (min(_TILE // wide, chunks), wide),
        (tall, min(power_of_two(pairs), _TILE // tall)), num_warps=8,
    )  # fmt: skip
    return products, centers


def paired_gradients(
    rows: Sequence[Tensor],
    coefficients: Tensor,
    scale: Tensor | None,
    centers: Sequence[Tensor],
    axes: Sequence[int],
    centering: str,
    add: Sequence[Tensor | None] | None,
) -> list[Tensor]:
    r"""Gradients of all rows from the coefficients of their pairs; one launch.

    .. math:: dX_p = s\,(o_p\,x_p + c_p\,x_{k+p}), \qquad dX_{k+p} = s\,(o_{k+p}\,x_{k+p} + c_p\,x_p)

    of centred rows :math:`x`, less their column mean for ``"batch"``, plus ``add``.

    Arguments and return value are those of `triton_backend.gradients`.
    """
    pairs = rows[0].shape[0] // 2
    plan = _plan(rows, axes, centering, pairs, add or ())
    out, extra = new_gradients(rows, add)
    strides = tuple(x.stride(0) for x in extra)
    coefficients = coefficients.contiguous()
    given = coefficients if scale is None else scale
    if centering == "batch":
        high, blocks, warps = _pair_blocks(plan, pairs)
        batch_gradients_kernel[(plan.chunks,)](
            tuple(rows), coefficients, given, extra, out, pairs, plan.layers, plan.groups, strides, scale is not None,
            high, blocks, num_warps=warps,
        )  # fmt: skip
    else:
        subtract = tuple(rows) if centering == "none" else tuple(centers)
        paired_gradients_kernel[(plan.chunks, pairs)](
            tuple(rows), coefficients, given, subtract, extra, out, pairs, plan.layers, plan.groups, strides,
            centering, scale is not None, num_warps=4,
        )  # fmt: skip
    return list(out)


def _plan(
    rows: Sequence[Tensor], axes: Sequence[int], centering: str, pairs: int, add: Sequence[Tensor | None] = ()
) -> Plan:
    if centering == "batch":
        high = _block_pairs(pairs)
        # Several blocks read a chunk several times: it has to stay in cache.
        units = chunk_units(rows, copies=1, low=32, high=1 << 12, programs=1024) if pairs <= high else 64
        tiling = Tiling(units, tile=2048 // high, tile_bytes=128)
    else:
        tiling = Tiling(chunk_units(rows, copies=pairs, low=1 << 11, high=1 << 16))
    return make_plan(rows, axes, centering == "channel", tiling, add)


def _block_pairs(pairs: int) -> int:
    """Pairs whose units are in registers at once with batch centring; more than 128 are read again."""
    return power_of_two(pairs) if pairs <= 128 else 64


def _pair_blocks(plan: Plan, pairs: int) -> tuple[int, int, int]:
    """Pairs of a block, number of blocks and warps: 16 entries of each half in a thread."""
    high = _block_pairs(pairs)
    widest = max(group[5] for group in plan.groups)
    return high, ceil_div(pairs, high), min(max(high * widest // 512, 4), 16)
