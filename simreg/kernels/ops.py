"""The kernels as ``torch.library`` operators: opaque to tracing, with fake and autograd rules.

Each takes the name of a backend that can run on its tensors, see `simreg.kernels.choose`. Features come as (N, ...)
with the dimension of their channels; products and coefficients are explained in `closed_form`. Outside of a trace,
`functions` does the same without the cost of the operators' bookkeeping.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from simreg.kernels import chunked, closed_form, compiled, one_pass
from simreg.kernels.closed_form import wide
from simreg.kernels.layout import as_rows, dense, from_rows, to_rows
from simreg.kernels.rules import Derived, coefficients_of, refuse, scaled

Found = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
Options = tuple[float, float, str, str, float]  # eps, slack, convention, transform, clamp of targets


def compute_products(
    features: Sequence[Tensor],
    means: Sequence[Tensor],
    dims: Sequence[int],
    centering: str,
    paired: bool,
    momentum: float,
    backend: str,
) -> tuple[Tensor, list[Tensor]]:
    """Products of centred features and what was subtracted; see `one_pass.products`."""
    rows, axes = _rows(features, dims)
    if backend == "triton":
        result: tuple[Tensor, list[Tensor]] = _triton().products(rows, means, axes, centering, paired, momentum)
        return result
    return one_pass.products(_engine(backend), rows, means, axes, centering, paired, momentum)


def compute_gradients(
    features: Sequence[Tensor],
    coefficients: Tensor,
    scale: Tensor | None,
    centers: Sequence[Tensor],
    dims: Sequence[int],
    centering: str,
    paired: bool,
    add: Sequence[Tensor],
    backend: str,
) -> list[Tensor]:
    """Gradient of the features; see `one_pass.gradients`. ``add`` is empty, or has one tensor for each layer."""
    rows, axes = _rows(features, dims)
    others = [to_rows(g, d, a) for g, d, a in zip(add, dims, axes, strict=True)] if add else None
    if backend == "triton":
        others = [g if dense(g) else g.contiguous() for g in others] if others else None
        found = _triton().gradients(rows, coefficients, scale, centers, axes, centering, paired, others)
    else:
        engine = _engine(backend)
        found = one_pass.gradients(engine, rows, coefficients, scale, centers, axes, centering, paired, others)
    return [from_rows(r, f.shape, d, a) for r, f, d, a in zip(found, features, dims, axes, strict=True)]


def compute_loss(
    products: Tensor,
    logits: Tensor,
    targets: Tensor,
    pairs: Tensor | None,
    eps: float,
    slack: float,
    convention: str,
    transform: str,
    target_clamp: float,
) -> Found:
    """L_sim of products, and what backward needs; see `closed_form.penalty`."""
    with torch.no_grad(), torch.autocast(products.device.type, enabled=False):
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


def compute_penalty(
    features: Sequence[Tensor],
    means: Sequence[Tensor],
    dims: Sequence[int],
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
    """Products and loss in one: loss, mixed and layer similarities, coefficients, logits' gradient, centers."""
    if backend == "triton":
        rows, axes = _rows(features, dims)
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
        n = features[0].shape[0]
        pairs = torch.triu_indices(n, n, offset=1, device=features[0].device).T
    found, centers = compute_products(features, means, dims, centering, paired, momentum, backend)
    return *compute_loss(found, logits, targets, pairs, eps, slack, convention, transform, target_clamp), centers


def _rows(features: Sequence[Tensor], dims: Sequence[int]) -> tuple[list[Tensor], list[int]]:
    views = [as_rows(f.detach(), d) for f, d in zip(features, dims, strict=True)]
    return [v[0] for v in views], [v[1] for v in views]


def _engine(backend: str) -> one_pass.Engine:
    # The compiler does not run under modes that look at each operation, such as FlopCounterMode.
    return compiled if backend == "compile" and torch._C._len_torch_dispatch_stack() == 0 else chunked


def _triton() -> Any:
    from simreg.kernels import triton_backend

    return triton_backend


_OPTIONS = "float eps, float slack, str convention, str transform, float target_clamp"

products = torch.library.custom_op(
    "simreg::products",
    compute_products,
    mutates_args=(),
    schema="(Tensor[] features, Tensor[] means, int[] dims, str centering, bool paired, float momentum, str backend) "
    "-> (Tensor, Tensor[])",
)
gradients = torch.library.custom_op(
    "simreg::gradients",
    compute_gradients,
    mutates_args=(),
    schema="(Tensor[] features, Tensor coefficients, Tensor? scale, Tensor[] centers, int[] dims, str centering, "
    "bool paired, Tensor[] add, str backend) -> Tensor[]",
)
penalty = torch.library.custom_op(
    "simreg::penalty",
    compute_penalty,
    mutates_args=(),
    schema="(Tensor[] features, Tensor[] means, int[] dims, Tensor logits, Tensor targets, Tensor? pairs, "
    f"str centering, bool paired, float momentum, {_OPTIONS}, str backend) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor[])",
)


@products.register_fake
def _(
    features: Sequence[Tensor],
    means: Sequence[Tensor],
    dims: Sequence[int],
    centering: str,
    paired: bool,
    momentum: float,
    backend: str,
) -> tuple[Tensor, list[Tensor]]:
    return _products_like(features, paired), _centers_like(features, dims, centering)


@gradients.register_fake
def _(features: Sequence[Tensor], coefficients: Tensor, scale: Any, centers: Any, dims: Sequence[int], *_: Any) -> Any:
    rows, axes = _rows(features, dims)
    fresh = [r.new_empty(r.shape) for r in rows]
    return [from_rows(r, f.shape, d, a) for r, f, d, a in zip(fresh, features, dims, axes, strict=True)]


@penalty.register_fake
def _(
    features: Sequence[Tensor],
    means: Sequence[Tensor],
    dims: Sequence[int],
    logits: Tensor,
    targets: Tensor,
    pairs: Tensor | None,
    centering: str,
    paired: bool,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    products = _products_like(features, paired)
    return *_loss_like(products, logits, targets), _centers_like(features, dims, centering)


def _products_like(features: Sequence[Tensor], paired: bool) -> Tensor:
    n, layers = features[0].shape[0], len(features)
    return features[0].new_empty((layers, 3, n // 2) if paired else (layers, n, n), dtype=wide(features[0]))


def _centers_like(features: Sequence[Tensor], dims: Sequence[int], centering: str) -> list[Tensor]:
    layers = zip(features, dims, strict=True)
    sizes = [{"channel": f.shape[d], "image": f.shape[0]}.get(centering, 0) for f, d in layers]
    dtypes = [f.dtype if centering in ("batch", "none") else one_pass.work_dtype(f) for f in features]
    return [f.new_empty(size, dtype=d) for f, size, d in zip(features, sizes, dtypes, strict=True)]


def _loss_like(products: Tensor, logits: Tensor, targets: Tensor) -> Found:
    new, count = products.new_empty, targets.shape[0]
    return new(()), new(count), new((products.shape[0], count)), new(products.shape), new(logits.shape)


def _save_products(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    features, means, *ctx.settings = inputs
    ctx.layers, ctx.no_means = len(features), [None] * len(means)
    ctx.mark_non_differentiable(*output[1])
    ctx.save_for_backward(*features, *output[1])


def _products_backward(ctx: Any, slope: Tensor, _: Any) -> tuple[Any, ...]:
    dims, centering, paired, _, backend = ctx.settings
    features, centers = list(ctx.saved_tensors[: ctx.layers]), list(ctx.saved_tensors[ctx.layers :])
    coefficients = coefficients_of(slope, paired)
    found = gradients(features, coefficients, None, centers, dims, centering, paired, [], backend)
    return found, ctx.no_means, *[None] * 5


def _save_penalty(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    features, means, dims, logits, _, _, centering, paired, *_, backend = inputs
    ctx.settings = dims, centering, paired, backend
    ctx.layers, ctx.no_means = len(features), [None] * len(means)
    # Not a saved tensor: an optimizer may step over the logits before backward, which needs no values of them.
    ctx.logits = logits
    _, mixed, similarities, coefficients, logit_gradient, centers = output
    ctx.mark_non_differentiable(mixed, similarities, coefficients, logit_gradient, *centers)
    ctx.save_for_backward(*features, *centers, coefficients, logit_gradient)


def _penalty_backward(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Any, ...]:
    *saved, coefficients, logit_gradient = ctx.saved_tensors
    features, centers = saved[: ctx.layers], saved[ctx.layers :]
    if torch.is_grad_enabled():
        coefficients, logit_gradient = Derived.apply(coefficients, logit_gradient, ctx.logits, *features)
    dims, centering, paired, backend = ctx.settings
    found = scaled(
        upstream, lambda s: gradients(features, coefficients, s, centers, dims, centering, paired, [], backend)
    )
    return list(found), ctx.no_means, None, (upstream * logit_gradient).to(ctx.logits.dtype), *[None] * 11


products.register_autograd(_products_backward, setup_context=_save_products)
penalty.register_autograd(_penalty_backward, setup_context=_save_penalty)
gradients.register_autograd(refuse)
