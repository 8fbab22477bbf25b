"""Centred products of rows and their gradient, reading the features once each way.

Rows are shifted before they are multiplied, so that a large common offset costs no precision: by the old running mean
(channel), by a sample of each row (image), by the column mean (batch). What the shift misses is corrected exactly on
the small sums. The loops over the features are those of an engine: `chunked` or `compiled`.

Shapes as in `layout`: N images, O x I units.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from simreg.kernels.closed_form import wide

_PILOT = 256  # values of a row that its shift is estimated from


class Engine(Protocol):
    """Loops over the features of one layer, shape (N, O, I), minus what broadcasts to it or the column mean."""

    def sums(
        self, rows: Tensor, shift: Tensor | None, column_mean: bool, paired: bool, sum_dim: int
    ) -> tuple[Tensor, Tensor]:
        """Products (k, 2, 2) of each pair or (N, N) of all rows, and sums of the rows over ``sum_dim`` (0: none)."""
        ...

    def gradient(
        self, rows: Tensor, shift: Tensor | None, column_mean: bool, factors: Tensor, add: Tensor | None
    ) -> Tensor:
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
    results, centers = [], []
    for index, layer in enumerate(rows):
        with _full_precision(layer):
            if centering == "channel":
                result, center = _channel_products(engine, layer, means[index], axes[index], paired, momentum)
            elif centering == "image":
                result, center = _image_products(engine, layer, paired)
            else:
                result, _ = engine.sums(layer, None, centering == "batch", paired, 0)
                center = layer.new_empty(0)
            if paired:
                result = torch.stack([result[:, 0, 1], result[:, 0, 0], result[:, 1, 1]])
        results.append(result)
        centers.append(center)
    return torch.stack(results), centers


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
    if scale is not None:
        coefficients = coefficients * scale.to(coefficients.dtype)
    if paired:
        cross, first, second = coefficients.unbind(1)  # (L, k) each
        coefficients = torch.stack([first, cross, cross, second], dim=2).view(*first.shape, 2, 2)
    elif centering == "batch":  # the projection that removes the column mean, on the small side
        coefficients = coefficients - coefficients.mean(dim=1, keepdim=True)
    found = []
    for index, layer in enumerate(rows):
        with _full_precision(layer):
            shift = _spread(centers[index], layer, axes[index], centering)
            factors = coefficients[index].to(work_dtype(layer))
            extra = None if add is None else add[index]
            found.append(engine.gradient(layer, shift, centering == "batch", factors, extra))
    return found


def work_dtype(rows: Tensor) -> torch.dtype:
    """float32, or float64 for such rows."""
    return torch.float64 if rows.dtype == torch.float64 else torch.float32


@contextmanager
def _full_precision(rows: Tensor) -> Iterator[None]:
    """No autocast and no TF32: a product rounded to 10 bits cannot tell 1 - S from 0."""
    with torch.no_grad(), torch.autocast(rows.device.type, enabled=False):
        if not (rows.is_cuda and torch.backends.cuda.matmul.allow_tf32):
            yield
            return
        torch.backends.cuda.matmul.allow_tf32 = False
        try:
            yield
        finally:
            torch.backends.cuda.matmul.allow_tf32 = True


def _spread(center: Tensor, rows: Tensor, axis: int, centering: str) -> Tensor | None:
    """What is subtracted, as a tensor that broadcasts to (N, O, I)."""
    if centering == "channel":
        return center.to(work_dtype(rows)).view((1, -1, 1) if axis == 1 else (1, 1, -1))
    if centering == "image":
        return center.to(work_dtype(rows)).view(-1, 1, 1)
    return None


def _channel_products(
    engine: Engine, rows: Tensor, old: Tensor, axis: int, paired: bool, momentum: float
) -> tuple[Tensor, Tensor]:
    """Products of rows minus the updated mean, from those of rows minus the old one.

    With step d = new - old and s_i the channel sums of shifted rows,
    <x_i - new, x_j - new> = <x_i - old, x_j - old> - s_i d - s_j d + positions |d|^2.
    """
    exact, positions = wide(rows), rows.shape[3 - axis]
    total, sums = engine.sums(rows, _spread(old, rows, axis, "channel"), False, paired, 3 - axis)
    sums = sums.to(exact)  # (N, C)
    new = (old.to(exact) + momentum * sums.mean(dim=0) / positions).to(work_dtype(rows))
    step = new.to(exact) - old.to(work_dtype(rows)).to(exact)
    along = sums @ step  # (N,)
    return total.to(exact) - _matched(along, torch.add, paired) + positions * (step @ step), new


def _image_products(engine: Engine, rows: Tensor, paired: bool) -> tuple[Tensor, Tensor]:
    """Products of rows minus their mean, from those of rows minus a pilot: ``<x_i, x_j> - s_i s_j / D``."""
    exact, units = wide(rows), rows.shape[1] * rows.shape[2]
    pilot = _pilot(rows)
    total, sums = engine.sums(rows, pilot.view(-1, 1, 1), False, paired, 2)
    own = sums.to(exact).sum(dim=1)  # (N,)
    center = (pilot.to(exact) + own / units).to(pilot.dtype)
    return total.to(exact) - _matched(own, torch.mul, paired) / units, center


def _pilot(rows: Tensor) -> Tensor:
    """Mean of a few values spread over each row, (N,)."""
    flat = rows.flatten(1)
    return flat[:, :: max(1, flat.shape[1] // _PILOT)].mean(dim=1, dtype=work_dtype(rows))


def _matched(values: Tensor, combine: object, paired: bool) -> Tensor:
    """``combine(v_i, v_j)`` for the pairs, (k, 2, 2), or all rows, (N, N)."""
    assert callable(combine)
    sides = values.view(2, -1).T if paired else values  # (k, 2) or (N,)
    result: Tensor = combine(sides.unsqueeze(-2), sides.unsqueeze(-1))
    return result
