"""The kernels as autograd functions: what `ops` does, for eager mode, where the operators' bookkeeping takes longer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from simreg.kernels import ops
from simreg.kernels.rules import coefficients_of, refuse, scaled, slope_of


class Settings(NamedTuple):
    """What is the same for products and gradients: dimension of channels by layer, centring, pairing, backend."""

    dims: Sequence[int]
    centering: str
    paired: bool
    backend: str


class Penalty(torch.autograd.Function):
    """``loss, mixed, similarities, coefficients, logit_gradient, *centers = Penalty.apply(...)``.

    See `ops.compute_penalty`. What backward makes the gradients of is an output, so that they depend on features and
    logits for autograd: a second derivative comes back here, as the gradient of that output, and is refused.
    """

    @staticmethod
    def forward(
        ctx: Any,
        settings: Settings,
        means: Sequence[Tensor],
        momentum: float,
        options: ops.Options,
        logits: Tensor,
        targets: Tensor,
        pairs: Tensor | None,
        *features: Tensor,
    ) -> tuple[Tensor, ...]:
        dims, centering, paired, backend = settings
        loss, mixed, similarities, coefficients, logit_gradient, centers = ops.compute_penalty(
            features, means, dims, logits, targets, pairs, centering, paired, momentum, *options, backend
        )
        ctx.settings, ctx.dtype = settings, logits.dtype
        ctx.mark_non_differentiable(mixed, similarities, *centers)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(coefficients, logit_gradient, *features, *centers)
        return loss, mixed, similarities, coefficients, logit_gradient, *centers

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, *others: Any) -> tuple[Any, ...]:
        if any(gradient is not None for gradient in others):
            refuse(ctx)
        coefficients, logit_gradient, *saved = ctx.saved_tensors
        layers = len(saved) // 2
        if upstream is None:
            return *[None] * 7, *[None] * layers
        features, centers = saved[:layers], saved[layers:]
        found = scaled(upstream, lambda s: Gradients.apply(ctx.settings, coefficients, s, centers, (), *features))
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
        coefficients = coefficients_of(slope, ctx.settings.paired)
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
        coefficients = coefficients_of(slope, ctx.settings.paired)
        # Added in passing it is no input of `Gradients`, through which a second derivative could reach it.
        later = upstream is not None and torch.is_grad_enabled()
        add = () if upstream is None or later else (upstream,)
        (found,) = Gradients.apply(ctx.settings, coefficients, None, [center], add, features)
        return *[None] * 4, upstream + found if later else found


class Loss(torch.autograd.Function):
    """``loss, mixed, similarities, *_ = Loss.apply(...)`` of products, with the outputs of `Penalty` for backward.

    See `ops.compute_loss`.
    """

    @staticmethod
    def forward(
        ctx: Any, options: ops.Options, products: Tensor, logits: Tensor, targets: Tensor, pairs: Tensor | None
    ) -> tuple[Tensor, ...]:
        loss, mixed, similarities, coefficients, logit_gradient = ops.compute_loss(
            products, logits, targets, pairs, *options
        )
        ctx.paired, ctx.dtype = pairs is None, logits.dtype
        ctx.mark_non_differentiable(mixed, similarities)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(coefficients, logit_gradient)
        return loss, mixed, similarities, coefficients, logit_gradient

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, *others: Any) -> tuple[Any, ...]:
        if any(gradient is not None for gradient in others):
            refuse(ctx)
        if upstream is None:
            return (None,) * 5
        coefficients, logit_gradient = ctx.saved_tensors
        slope = slope_of(coefficients, ctx.paired)
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

    backward = staticmethod(refuse)
