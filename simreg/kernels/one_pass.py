"""Centred products of rows and their gradient, reading the features once each way.

Rows are shifted before they are multiplied, so that a large common offset costs no precision: by the old running mean
(channel), by a sample of each row (image), by the column mean (batch). What the shift misses is corrected exactly on
the small sums. The loops over the features are those of an engine: `chunked` or `compiled`.

Shapes as in `layout`: N images, O x I units.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from simreg.kernels.closed_form import wide

_PILOT = 256  # values of a row that its shift is estimated from


class Engine(Protocol):
    """Loops over the features of all layers, (N, O, I) each, minus a shift that broadcasts, or the column mean."""

    def accumulate(
        self,
        rows: Sequence[Tensor],
        shifts: Sequence[Tensor | None],
        column_mean: bool,
        products: Tensor,
        sums: Sequence[Tensor],
        sum_dims: Sequence[tuple[int, ...]],
    ) -> None:
        """Add products to zeros (L, k, 2, 2) for pairs or (L, N, N), and sums over ``sum_dims`` to zeros (N, ...)."""
        ...

    def gradients(
        self,
        rows: Sequence[Tensor],
        shifts: Sequence[Tensor | None],
        column_mean: bool,
        factors: Sequence[Tensor],
        add: Sequence[Tensor] | None,
    ) -> list[Tensor]:
        """``factors`` (k, 2, 2) or (N, N) times rows, plus ``add``, in the dtype of ``rows``."""
        ...


def products(
    engine: Engine,
    rows: Sequence[Tensor],
    means: Sequence[Tensor],
    axes: Sequence[int],
    centering: str,
    paired: bool,
    momentum: float,
) -> tuple[Tensor, list[Tensor]]:
    """Products of centred rows, (L, 3, k) or (L, N, N), and what backward subtracts in each layer.

    Args:
        engine: What loops over the features.
        rows: Per layer (N, O, I), see `layout.as_rows`.
        means: Per layer the running mean (C,), for ``"channel"``.
        axes: Per layer the dimension of the channels.
        centering: ``"channel"`` (the mean is updated before it is subtracted), ``"batch"``, ``"image"``, ``"none"``.
        paired: Products of row i with row k + i only.
        momentum: Weight of the batch in the running mean.

    Returns:
        Products, and per layer the new mean (C,), the rows' means (N,), or nothing (0,).
    """
    n, exact = rows[0].shape[0], wide(rows[0])
    total = rows[0].new_zeros((len(rows), n // 2, 2, 2) if paired else (len(rows), n, n), dtype=exact)
    with _full_precision(rows[0]):
        if centering == "channel":
            total, centers = _channel_products(engine, rows, means, axes, momentum, total)
        elif centering == "image":
            total, centers = _image_products(engine, rows, total)
        else:
            centers = [layer.new_empty(0) for layer in rows]
            engine.accumulate(rows, [None] * len(rows), centering == "batch", total, [], [])
        if paired:
            total = torch.stack([total[:, :, 0, 1], total[:, :, 0, 0], total[:, :, 1, 1]], dim=1)
    return total, centers


def gradients(
    engine: Engine,
    rows: Sequence[Tensor],
    coefficients: Tensor,
    scale: Tensor | None,
    centers: Sequence[Tensor],
    axes: Sequence[int],
    centering: str,
    paired: bool,
    add: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """Gradient of each layer's rows, (N, O, I): ``scale * A @ (rows - center)``, plus ``add``.

    Args:
        engine: As for `products`.
        rows: As for `products`.
        coefficients: Shape (L, 3, k) or (L, N, N), see `closed_form`.
        scale: The upstream gradient, a scalar, or None for 1.
        centers: From `products`.
        axes: As for `products`.
        centering: As for `products`.
        paired: As for `products`.
        add: Per layer the gradient that the rest of the network sends.
    """
    with _full_precision(rows[0]):
        if scale is not None:
            coefficients = coefficients * scale
        if paired:
            cross, first, second = coefficients.unbind(1)  # (L, k) each
            coefficients = torch.stack([first, cross, cross, second], dim=2).view(*first.shape, 2, 2)
        elif centering == "batch":  # the projection that removes the column mean, on the small side
            coefficients = coefficients - coefficients.mean(dim=1, keepdim=True)
        layers = list(zip(centers, rows, axes, strict=True))
        shifts = [spread(center, layer, axis, centering) for center, layer, axis in layers]
        factors = [part.to(work_dtype(layer)) for part, layer in zip(coefficients, rows, strict=True)]
        return engine.gradients(rows, shifts, centering == "batch", factors, add)


def work_dtype(rows: Tensor) -> torch.dtype:
    """float32, or float64 for such rows."""
    return torch.float64 if rows.dtype == torch.float64 else torch.float32


@contextmanager
def _full_precision(rows: Tensor) -> Iterator[None]:
    """No autocast and no TF32: a product rounded to 10 bits cannot tell 1 - S from 0."""
    with torch.no_grad(), torch.autocast(rows.device.type, enabled=False):
        if not rows.is_cuda:
            yield
            return
        matmul: Any = torch.backends.cuda.matmul  # a switch of the whole process, back as it was afterwards
        name, exact = ("fp32_precision", "ieee") if hasattr(matmul, "fp32_precision") else ("allow_tf32", False)
        before = getattr(matmul, name)
        setattr(matmul, name, exact)
        try:
            yield
        finally:
            setattr(matmul, name, before)


def spread(center: Tensor, rows: Tensor, axis: int, centering: str) -> Tensor | None:
    """What is subtracted, as a tensor that broadcasts to (N, O, I)."""
    if centering == "channel":
        return center.to(work_dtype(rows)).view((1, -1, 1) if axis == 1 else (1, 1, -1))
    if centering == "image":
        return center.to(work_dtype(rows)).view(-1, 1, 1)
    return None


def _channel_products(
    engine: Engine,
    rows: Sequence[Tensor],
    means: Sequence[Tensor],
    axes: Sequence[int],
    momentum: float,
    total: Tensor,
) -> tuple[Tensor, list[Tensor]]:
    """Products of rows minus the updated mean, from those of rows minus the old one.

    With step d = new - old and s_i the channel sums of shifted rows,
    <x_i - new, x_j - new> = <x_i - old, x_j - old> - s_i d - s_j d + positions |d|^2.
    """
    sizes = tuple(layer.shape[axis] for layer, axis in zip(rows, axes, strict=True))
    sums = total.new_zeros(rows[0].shape[0], sum(sizes))  # all layers side by side
    layers = list(zip(means, rows, axes, strict=True))
    shifts = [spread(mean, layer, axis, "channel") for mean, layer, axis in layers]
    parts, dims = torch.split(sums, list(sizes), dim=1), [(3 - axis,) for axis in axes]
    engine.accumulate(rows, shifts, False, total, parts, dims)
    positions = tuple(layer.shape[3 - axis] for layer, axis in zip(rows, axes, strict=True))
    per_channel, per_layer, member = _channels(sizes, positions, total.dtype, total.device)
    old = torch.cat([*means])
    new = (old.to(total.dtype) + momentum * sums.mean(dim=0) / per_channel).to(work_dtype(rows[0]))
    step = new.to(total.dtype) - old.to(work_dtype(rows[0])).to(total.dtype)  # (all C,)
    along = ((sums * step) @ member).T  # (L, N)
    constant = per_layer * ((step * step) @ member)  # (L,)
    total = total - matched(along, torch.add, total) + constant.view(-1, *[1] * (total.ndim - 1))
    return total, [mean.clone() for mean in torch.split(new, list(sizes))]


@functools.lru_cache(maxsize=64)
def _channels(
    sizes: tuple[int, ...], positions: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Positions by channel (all C,) and by layer (L,), and which layer a channel belongs to, (all C, L)."""
    per_layer = torch.tensor(positions, dtype=dtype)
    layer = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    member = torch.nn.functional.one_hot(layer, len(sizes)).to(dtype)
    return per_layer[layer].to(device), per_layer.to(device), member.to(device)


def _image_products(engine: Engine, rows: Sequence[Tensor], total: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Products of rows minus their mean, from those of rows minus a pilot: ``<x_i, x_j> - s_i s_j / D``."""
    pilots = [pilot(layer) for layer in rows]
    sums = total.new_zeros(len(rows), rows[0].shape[0])
    shifts = [p.view(-1, 1, 1) for p in pilots]
    engine.accumulate(rows, shifts, False, total, list(sums), [(1, 2)] * len(rows))
    units = _units(tuple(layer.shape[1] * layer.shape[2] for layer in rows), total.dtype, total.device)
    centers = torch.stack(pilots).to(total.dtype) + sums / units.unsqueeze(1)
    total = total - matched(sums, torch.mul, total) / units.view(-1, *[1] * (total.ndim - 1))
    return total, [center.to(work_dtype(layer), copy=True) for center, layer in zip(centers, rows, strict=True)]


@functools.lru_cache(maxsize=64)
def _units(units: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(units, dtype=dtype).to(device)


def pilot(rows: Tensor) -> Tensor:
    """Mean of a few values spread over each row, (N,)."""
    flat = rows.flatten(1)
    return flat[:, :: max(1, flat.shape[1] // _PILOT)].mean(dim=1, dtype=work_dtype(rows))


def matched(values: Tensor, combine: Callable[[Tensor, Tensor], Tensor], total: Tensor) -> Tensor:
    """``combine(v_i, v_j)`` of ``values`` (L, N) in the shape of ``total``, (L, k, 2, 2) or (L, N, N)."""
    sides = values.view(len(values), 2, -1).mT if total.ndim == 4 else values  # (L, k, 2) or (L, N)
    return combine(sides.unsqueeze(-2), sides.unsqueeze(-1))
