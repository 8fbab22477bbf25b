"""The kernels as ``torch.library`` operators: opaque to tracing, with fake and autograd rules.

Each takes the name of a backend that can run on its tensors, see `simreg.kernels.choose`. Features come as rows
(N, O, I), see `layout`; products and coefficients are explained in `closed_form`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from simreg.kernels import chunked, closed_form, compiled, one_pass
from simreg.kernels.closed_form import wide


def _engine(backend: str) -> one_pass.Engine:
    return compiled if backend == "compile" else chunked


def _triton() -> Any:
    from simreg.kernels import triton_backend

    return triton_backend


@torch.library.custom_op(
    "simreg::products",
    mutates_args=(),
    schema="(Tensor[] rows, Tensor[] means, int[] axes, str centering, bool paired, float momentum, str backend) "
    "-> (Tensor, Tensor[])",
)
def products(
    rows: Sequence[Tensor],
    means: Sequence[Tensor],
    axes: Sequence[int],
    centering: str,
    paired: bool,
    momentum: float,
    backend: str,
) -> tuple[Tensor, list[Tensor]]:
    """Products of centred rows and what was subtracted; see `one_pass.products`."""
    if backend == "triton":
        result: tuple[Tensor, list[Tensor]] = _triton().products(rows, means, axes, centering, paired, momentum)
        return result
    return one_pass.products(_engine(backend), rows, means, axes, centering, paired, momentum)


@torch.library.custom_op(
    "simreg::gradients",
    mutates_args=(),
    schema="(Tensor[] rows, Tensor coefficients, Tensor? scale, Tensor[] centers, int[] axes, str centering, "
    "bool paired, Tensor[] add, str backend) -> Tensor[]",
)
def gradients(
    rows: Sequence[Tensor],
    coefficients: Tensor,
    scale: Tensor | None,
    centers: Sequence[Tensor],
    axes: Sequence[int],
    centering: str,
    paired: bool,
    add: Sequence[Tensor],
    backend: str,
) -> list[Tensor]:
    """Gradient of the rows; see `one_pass.gradients`. ``add`` is empty, or has one tensor for each layer."""
    others = list(add) or None
    if backend == "triton":
        found: list[Tensor] = _triton().gradients(rows, coefficients, scale, centers, axes, centering, paired, others)
        return found
    return one_pass.gradients(_engine(backend), rows, coefficients, scale, centers, axes, centering, paired, others)


@torch.library.custom_op(
    "simreg::loss",
    mutates_args=(),
    schema="(Tensor products, Tensor logits, Tensor targets, Tensor? pairs, float eps, float slack, str convention, "
    "str transform, float target_clamp) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def loss(
    products: Tensor,
    logits: Tensor,
    targets: Tensor,
    pairs: Tensor | None,
    eps: float,
    slack: float,
    convention: str,
    transform: str,
    target_clamp: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """L_sim of products, and what backward needs; see `closed_form.penalty`."""
    return closed_form.penalty(
        products,
        logits,
        targets,
        pairs,
        eps=eps,
        slack=slack,
        convention=convention,
        transform=transform,
        target_clamp=target_clamp,
    )


@torch.library.custom_op(
    "simreg::penalty",
    mutates_args=(),
    schema="(Tensor[] rows, Tensor[] means, int[] axes, Tensor logits, Tensor targets, Tensor? pairs, str centering, "
    "bool paired, float momentum, float eps, float slack, str convention, str transform, float target_clamp, "
    "str backend) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor[])",
)
def penalty(
    rows: Sequence[Tensor],
    means: Sequence[Tensor],
    axes: Sequence[int],
    logits: Tensor,
    targets: Tensor,
    pairs: Tensor | None,
    centering: str,
    paired: bool,
    momentum: float,
    eps: float,
    slack: float,
    convention: str,
    transform: str,
    target_clamp: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    """`products` and `loss` in one: loss, mixed and layer similarities, coefficients, logits' gradient, centers."""
    if backend == "triton":
        result: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, list[Tensor]] = _triton().penalty(
            rows,
            means,
            axes,
            logits,
            targets,
            pairs,
            centering,
            paired,
            momentum,
            eps,
            convention,
            transform,
            target_clamp,
        )
        return result
    if pairs is None and not paired:
        n = rows[0].shape[0]
        pairs = torch.triu_indices(n, n, offset=1, device=rows[0].device).T
    found, centers = one_pass.products(_engine(backend), rows, means, axes, centering, paired, momentum)
    parts = closed_form.penalty(
        found,
        logits,
        targets,
        pairs,
        eps=eps,
        slack=slack,
        convention=convention,
        transform=transform,
        target_clamp=target_clamp,
    )
    return *parts, centers


def _centers_like(rows: Sequence[Tensor], axes: Sequence[int], centering: str) -> list[Tensor]:
    sizes = [{"channel": r.shape[a], "image": r.shape[0]}.get(centering, 0) for r, a in zip(rows, axes, strict=True)]
    return [r.new_empty(size, dtype=one_pass.work_dtype(r)) for r, size in zip(rows, sizes, strict=True)]


def _products_like(rows: Sequence[Tensor], paired: bool) -> Tensor:
    n = rows[0].shape[0]
    return rows[0].new_empty((len(rows), 3, n // 2) if paired else (len(rows), n, n), dtype=wide(rows[0]))


@products.register_fake
def _(rows, means, axes, centering, paired, momentum, backend):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    return _products_like(rows, paired), _centers_like(rows, axes, centering)


@gradients.register_fake
def _(rows, coefficients, scale, centers, axes, centering, paired, add, backend):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    return [r.new_empty(r.shape) for r in rows]


@loss.register_fake
def _(products, logits, targets, pairs, eps, slack, convention, transform, target_clamp):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    return _loss_like(products, logits, targets)


@penalty.register_fake
def _(rows, means, axes, logits, targets, pairs, centering, paired, *rest):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN002, ANN202
    return *_loss_like(_products_like(rows, paired), logits, targets), _centers_like(rows, axes, centering)


def _loss_like(products: Tensor, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    new, count = products.new_empty, targets.shape[0]
    return new(()), new(count), new((products.shape[0], count)), new(products.shape), new(logits.shape)


def _save_products(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    rows, means, ctx.axes, ctx.centering, ctx.paired, _, ctx.backend = inputs
    ctx.layers, ctx.no_means = len(rows), [None] * len(means)
    ctx.mark_non_differentiable(*output[1])
    ctx.save_for_backward(*rows, *output[1])


def _products_backward(ctx: Any, upstream: Tensor, _: Any) -> tuple[Any, ...]:
    coefficients = coefficients_of(upstream, ctx.paired)
    saved = ctx.saved_tensors
    rows, centers = saved[: ctx.layers], saved[ctx.layers :]
    found = gradients(
        list(rows), coefficients, None, list(centers), ctx.axes, ctx.centering, ctx.paired, [], ctx.backend
    )
    return found, ctx.no_means, None, None, None, None, None


def coefficients_of(slope: Tensor, paired: bool) -> Tensor:
    """The gradient of products as coefficients of the rows: each squared norm counts its row twice."""
    return slope * _own_twice(slope) if paired else slope + slope.mT


def _own_twice(products: Tensor) -> Tensor:
    return products.new_tensor([1.0, 2.0, 2.0]).unsqueeze(1)


def _save_loss(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.paired = inputs[3] is None
    ctx.logits_dtype = inputs[1].dtype
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(output[3], output[4])


def _loss_backward(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Any, ...]:
    coefficients, logit_gradient = ctx.saved_tensors
    upstream = upstream.to(coefficients.dtype)
    slope = coefficients / _own_twice(coefficients) if ctx.paired else 0.5 * coefficients
    return upstream * slope, (upstream * logit_gradient).to(ctx.logits_dtype), *[None] * 7


def _save_penalty(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    rows, means, ctx.axes, logits, _, _, ctx.centering, ctx.paired, *_, ctx.backend = inputs
    ctx.layers, ctx.no_means, ctx.logits_dtype = len(rows), [None] * len(means), logits.dtype
    _, mixed, similarities, coefficients, logit_gradient, centers = output
    ctx.mark_non_differentiable(mixed, similarities, coefficients, logit_gradient, *centers)
    ctx.save_for_backward(*rows, *centers, coefficients, logit_gradient)


def _penalty_backward(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Any, ...]:
    *saved, coefficients, logit_gradient = ctx.saved_tensors
    rows, centers = saved[: ctx.layers], saved[ctx.layers :]
    found = gradients(
        list(rows), coefficients, upstream, list(centers), ctx.axes, ctx.centering, ctx.paired, [], ctx.backend
    )
    logit_gradient = (upstream * logit_gradient).to(ctx.logits_dtype)
    return found, ctx.no_means, None, logit_gradient, *[None] * 11


def _no_double_backward(ctx: Any, *upstream: Any) -> None:
    raise RuntimeError(
        'the fused similarity kernels have no second derivative: use backend="reference" for double backward.'
    )


products.register_autograd(_products_backward, setup_context=_save_products)
loss.register_autograd(_loss_backward, setup_context=_save_loss)
penalty.register_autograd(_penalty_backward, setup_context=_save_penalty)
gradients.register_autograd(_no_double_backward)
