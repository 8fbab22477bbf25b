"""The kernels as autograd functions: what `ops` does, for eager mode, where the operators' bookkeeping takes longer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from simreg.kernels import ops


class Settings(NamedTuple):
    """What is the same for products and gradients: dimension of channels by layer, centring, pairing, backend."""

    dims: Sequence[int]
    centering: str
    paired: bool
    backend: str


class Penalty(torch.autograd.Function):
    """``loss, mixed, similarities, *centers = Penalty.apply(...)``, see `ops.compute_penalty`."""

    @staticmethod
    def forward(
        ctx: Any,
        settings: Settings,
        means: Sequence[Tensor],
        momentum: float,
        options: tuple[Any, ...],
        logits: Tensor,
        targets: Tensor,
        pairs: Tensor | None,
        *features: Tensor,
    ) -> tuple[Tensor, ...]:
        dims, centering, paired, backend = settings
        eps, slack, convention, transform, target_clamp = options
        loss, mixed, similarities, coefficients, logit_gradient, centers = ops.compute_penalty(
            features,
            means,
            dims,
            logits,
            targets,
            pairs,
            centering,
            paired,
            momentum,
            eps,
            slack,
            convention,
            transform,
            target_clamp,
            backend,
        )
        ctx.settings, ctx.dtype = settings, logits.dtype
        ctx.mark_non_differentiable(mixed, similarities, *centers)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(coefficients, logit_gradient, *features, *centers)
        return loss, mixed, similarities, *centers

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, *_: Any) -> tuple[Any, ...]:
        coefficients, logit_gradient, *saved = ctx.saved_tensors
        if upstream is None:
            return *[None] * 7, *[None] * (len(saved) // 2)
        layers = len(saved) // 2
        found = Gradients.apply(ctx.settings, coefficients, upstream, saved[layers:], (), *saved[:layers])
        return *[None] * 4, (upstream * logit_gradient).to(ctx.dtype), None, None, *found


class Products(torch.autograd.Function):
    """``products = Products.apply(...)`` of one layer, see `ops.compute_products`; no running mean."""

    @staticmethod
    def forward(ctx: Any, settings: Settings, features: Tensor) -> Tensor:
        dims, centering, paired, backend = settings
        products, centers = ops.compute_products([features], [], dims, centering, paired, 0.0, backend)
        ctx.settings = settings
        ctx.save_for_backward(features, *centers)
        return products

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Any, ...]:
        features, center = ctx.saved_tensors
        coefficients = ops.coefficients_of(slope, ctx.settings.paired)
        return None, *Gradients.apply(ctx.settings, coefficients, None, [center], (), features)


class Attach(torch.autograd.Function):
    """``handed_on, products, center = Attach.apply(...)``: features handed on by the similarity.

    A feature that feeds the next layer and the similarity makes autograd write the similarity's gradient, read both
    and write their sum. Handed on by this function, it gets ``g + A x`` in one go: less traffic, and no extra memory.
    ``handed_on`` is a view of ``features``, or a copy for layers that are overwritten in place.
    """

    @staticmethod
    def forward(
        ctx: Any, settings: Settings, mean: Tensor | None, momentum: float, copy: bool, features: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        dims, centering, paired, backend = settings
        means = [] if mean is None else [mean]
        products, centers = ops.compute_products([features], means, dims, centering, paired, momentum, backend)
        ctx.settings = settings
        ctx.save_for_backward(features, centers[0])
        ctx.mark_non_differentiable(centers[0])
        ctx.set_materialize_grads(False)
        return features.clone() if copy else features.view_as(features), products, centers[0]

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, slope: Tensor | None, _: Any) -> tuple[Any, ...]:
        if slope is None:  # no penalty was taken of this pass
            return None, None, None, None, upstream
        features, center = ctx.saved_tensors
        coefficients = ops.coefficients_of(slope, ctx.settings.paired)
        add = () if upstream is None else (upstream,)
        return *[None] * 4, *Gradients.apply(ctx.settings, coefficients, None, [center], add, features)


class Loss(torch.autograd.Function):
    """``loss, mixed, similarities = Loss.apply(...)`` of products, see `ops.compute_loss`."""

    @staticmethod
    def forward(
        ctx: Any, options: tuple[Any, ...], products: Tensor, logits: Tensor, targets: Tensor, pairs: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        loss, mixed, similarities, coefficients, logit_gradient = ops.compute_loss(
            products, logits, targets, pairs, *options
        )
        ctx.paired, ctx.dtype = pairs is None, logits.dtype
        ctx.mark_non_differentiable(mixed, similarities)
        ctx.save_for_backward(coefficients, logit_gradient)
        return loss, mixed, similarities

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Any, ...]:
        coefficients, logit_gradient = ctx.saved_tensors
        slope = ops.slope_of(coefficients, ctx.paired)
        return None, upstream * slope, (upstream * logit_gradient).to(ctx.dtype), None, None


class Gradients(torch.autograd.Function):
    """Gradients of the features, see `ops.compute_gradients`; a second derivative is refused."""

    @staticmethod
    def forward(
        ctx: Any,
        settings: Settings,
        coefficients: Tensor,
        scale: Tensor | None,
        centers: Sequence[Tensor],
        add: Sequence[Tensor],
        *features: Tensor,
    ) -> tuple[Tensor, ...]:
        dims, centering, paired, backend = settings
        return tuple(
            ops.compute_gradients(features, coefficients, scale, centers, dims, centering, paired, add, backend)
        )

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> None:
        raise RuntimeError(ops.NO_DOUBLE_BACKWARD)
