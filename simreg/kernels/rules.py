"""What the autograd rules of `ops` and `functions` share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor


def coefficients_of(slope: Tensor, paired: bool) -> Tensor:
    """The gradient of products as coefficients of the features: each squared norm counts its row twice."""
    return torch.cat([slope[:, :1], 2.0 * slope[:, 1:]], dim=1) if paired else slope + slope.mT


def slope_of(coefficients: Tensor, paired: bool) -> Tensor:
    """The inverse of `coefficients_of`."""
    return torch.cat([coefficients[:, :1], 0.5 * coefficients[:, 1:]], dim=1) if paired else 0.5 * coefficients


def scaled(upstream: Tensor, gradients: Callable[[Tensor | None], Sequence[Tensor]]) -> Sequence[Tensor]:
    """What ``gradients`` gives for the factor ``upstream``: in one pass, unless the factor's derivative is wanted."""
    if upstream.requires_grad and torch.is_grad_enabled():
        return [upstream * gradient for gradient in gradients(None)]
    return gradients(upstream)


def refuse(ctx: Any, *upstream: Any) -> NoReturn:
    """Backward of what has no second derivative."""
    raise RuntimeError(
        'the fused similarity kernels have no second derivative: use backend="reference" for double backward.'
    )


class Derived(torch.autograd.Function):
    """``coefficients, logit_gradient`` once more, as derived from logits and features; the derivative is refused.

    For `ops`. In `functions` both are outputs, which does the same; those of an operator its callers could use.
    """

    @staticmethod
    def forward(ctx: Any, coefficients: Tensor, logit_gradient: Tensor, *sources: Tensor) -> tuple[Tensor, Tensor]:
        """Views; ``sources`` are the logits and features."""
        return coefficients.view_as(coefficients), logit_gradient.view_as(logit_gradient)

    backward = staticmethod(refuse)
