"""What the launchers of pairs and of matrices share: tensors to fill in, and what stands in for those not given."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from simreg.kernels.triton_plan import Plan, ceil_div
from simreg.kernels.triton_results import Results

_BLOCK_CHANNELS = 64  # channels of one task of the channel stage


def channel_blocks(plan: Plan) -> int:
    """Tasks of the channel stage for a layer, as many as the widest layer needs."""
    return max(ceil_div(count, _BLOCK_CHANNELS) for count in plan.channels)


def closed_form_arguments(
    results: Results | None, products: Tensor
) -> tuple[tuple[Tensor, ...], tuple[float, float, str, str]]:
    """Tensors and options of the closed form, in the order of the kernels' arguments; unused without ``results``."""
    return (results.tensors, results.options) if results else ((products,) * 7, (1.0, 1.0, "none", "mean"))


def new_centers(
    rows: Sequence[Tensor], means: Sequence[Tensor], plan: Plan, centering: str, update: bool
) -> list[Tensor]:
    """What backward subtracts, to be filled in: one tensor of its own for each layer, as operators require.

    Channel means without ``update`` are the old ones.
    """
    if centering == "channel" and not update:
        return [mean.clone() for mean in means]
    sizes = [x.shape[0] for x in rows] if centering == "image" else plan.channels if update else [0] * len(rows)
    return [torch.empty(size, dtype=torch.float32, device=x.device) for x, size in zip(rows, sizes, strict=True)]


def new_gradients(
    rows: Sequence[Tensor], add: Sequence[Tensor | None] | None
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Gradients to be filled in, dense; and what is added to them, the rows standing in where nothing is."""
    out = tuple(torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in rows)
    return out, tuple(x if a is None else a for x, a in zip(rows, add or rows, strict=True))
