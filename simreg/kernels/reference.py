"""The definition of correct: products of centred rows in plain torch, differentiable, and what a compiler sees.

Rows are (N, O, I): N images, with the channels in dimension ``axis``, 1 or 2, and positions in the other.
"""

import torch
from torch import Tensor


def wide(values: Tensor) -> torch.dtype:
    """The dtype of small sums: float64, or float32 on devices that have none."""
    return torch.float32 if values.device.type == "mps" else torch.float64


def work_dtype(values: Tensor) -> torch.dtype:
    """The dtype of centred values: float32, or float64 for such ``values``."""
    return torch.float64 if values.dtype == torch.float64 else torch.float32


def center_of(rows: Tensor, axis: int, centering: str, mean: Tensor | None, momentum: float) -> Tensor:
    """What is subtracted, broadcast to (N, O, I); ``mean`` (C,) is updated first, None is that of ``rows``."""
    dtype = work_dtype(rows)
    if centering == "none":
        return rows.new_zeros(1, 1, 1, dtype=dtype)
    if centering != "channel":
        return rows.mean(0 if centering == "batch" else (1, 2), keepdim=True, dtype=dtype)
    if mean is None:
        return rows.mean((0, 3 - axis), keepdim=True, dtype=dtype)
    if momentum:
        mean.lerp_(rows.detach().mean((0, 3 - axis), dtype=dtype), momentum)
    return mean.view((1, -1, 1) if axis == 1 else (1, 1, -1))


def centred(rows: Tensor, axis: int, centering: str, mean: Tensor | None, momentum: float) -> Tensor:
    """Rows minus their centre, (N, O, I)."""
    return rows.to(work_dtype(rows)) - center_of(rows, axis, centering, mean, momentum)


def products(rows: Tensor, axis: int, centering: str, mean: Tensor | None, momentum: float, paired: bool) -> Tensor:
    """See `simreg.kernels.products`."""
    rows = centred(rows, axis, centering, mean, momentum)
    if not paired:
        flat = rows.flatten(1)
        return (flat @ flat.T).to(wide(rows))
    first, second = rows.chunk(2)
    # One dimension first: short sums lose less to rounding.
    sums = [(a * b).sum(2).sum(1, dtype=wide(rows)) for a, b in ((first, second), (first, first), (second, second))]
    return torch.stack(sums)
