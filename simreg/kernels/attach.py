"""Features handed on by the similarity, so that one pass writes the gradient of both their users.

A feature that feeds the next layer and the similarity makes autograd write the similarity's gradient, read both and
write their sum. Handed on by this function, it gets ``g + A x`` in one go: less traffic, and no extra memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from simreg.kernels import ops
from simreg.kernels.layout import as_rows, from_rows, to_rows


class Attach(torch.autograd.Function):
    """``handed_on, products, center = Attach.apply(features, ...)``.

    ``handed_on`` has the values of ``features``: the same memory, or a copy for layers that are overwritten in place.
    ``products`` (1, 3, k) or (1, N, N) and ``center`` are those of `ops.products`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        mean: Tensor | None,
        channel_dim: int,
        centering: str,
        paired: bool,
        momentum: float,
        backend: str,
        copy: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows, axis = as_rows(features, channel_dim)
        means = [] if mean is None else [mean]
        products, centers = ops.products([rows], means, [axis], centering, paired, momentum, backend)
        ctx.save_for_backward(rows, centers[0])
        ctx.settings = (features.shape, channel_dim, axis, centering, paired, backend)
        ctx.mark_non_differentiable(centers[0])
        ctx.set_materialize_grads(False)
        return features.clone() if copy else features.view_as(features), products, centers[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor | None, slope: Tensor | None, _: Any) -> tuple[Any, ...]:
        nothing = [None] * 7
        if slope is None:  # no penalty was taken of this pass
            return upstream, *nothing
        rows, center = ctx.saved_tensors
        shape, channel_dim, axis, centering, paired, backend = ctx.settings
        add = [] if upstream is None else [to_rows(upstream, channel_dim, axis)]
        coefficients = ops.coefficients_of(slope, paired)
        found = ops.gradients([rows], coefficients, None, [center], [axis], centering, paired, add, backend)
        return from_rows(found[0], shape, channel_dim, axis), *nothing
