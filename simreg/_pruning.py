"""Dropping layers: which go, and how the layer logits and the optimizer's state for them shrink."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from simreg._checks import check_positive, describe


def layers_to_keep(weights: Sequence[float], min_weight: float) -> list[int]:
    """Indices of the weights of at least ``min_weight``, or that of the largest if there are none.

    Raises:
        TypeError: If ``min_weight`` is not a number.
        ValueError: If it is outside (0, 1), or a weight is not finite.
    """
    check_positive("min_weight", min_weight)
    if min_weight >= 1:
        raise ValueError(f"min_weight must be in (0, 1), a share of the layer weights, got {min_weight!r}.")
    if any(weight != weight for weight in weights):
        raise ValueError(f"layer_logits: the layer weights {list(weights)!r} are not finite: training has diverged.")
    kept = [i for i, weight in enumerate(weights) if weight >= min_weight]
    return kept or [max(range(len(weights)), key=weights.__getitem__)]


def check_optimizer(optimizer: object, logits: nn.Parameter) -> None:
    """Raise unless ``optimizer`` is None or holds ``logits``, where these are learned."""
    if optimizer is None:
        return
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer must be the torch.optim.Optimizer of the layer logits, got {describe(optimizer)}.")
    held = any(p is logits for group in optimizer.param_groups for p in group["params"])
    if logits.requires_grad and not held:
        raise ValueError("optimizer does not hold the layer logits: pass the one that does (reg.parameter_group()).")


def shrink(parameter: nn.Parameter, kept: Sequence[int]) -> None:
    """Go on with the entries ``kept`` of a parameter (L,), which stays the same object.

    Backward through what was computed from the parameter before raises ``RuntimeError``.
    """
    values, grad = parameter.detach()[list(kept)].clone(), parameter.grad
    # Every graph that is alive, also one that backward is done with, shares one node that accumulates the gradient,
    # and that remembers the shape. A change of dtype makes torch forget it, so that new graphs get a new one.
    if parameter.requires_grad:
        with torch.enable_grad():
            torch.autograd.graph.get_gradient_edge(parameter).node.register_prehook(_refuse)
    parameter.grad = None
    other = torch.float32 if values.dtype == torch.float16 else torch.float16
    for data in (values.new_empty(0, dtype=other), values):
        parameter.data = data
    parameter.grad = None if grad is None else grad[list(kept)].clone()


def shrink_state(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, size: int, kept: Sequence[int]) -> None:
    """Cut what ``optimizer`` remembers of a parameter that had ``size`` entries: momentum, averages of gradients."""
    state: dict[str, Any] = optimizer.state.get(parameter, {})
    for name, value in state.items():
        if isinstance(value, Tensor) and value.shape == (size,):
            state[name] = value[list(kept)].clone()


def _refuse(grads: object) -> None:
    raise RuntimeError(
        "this loss was computed before layers were dropped, and its gradient of the layer logits fits them no more: "
        "call prune_layers between optimizer.step() and the next forward pass."
    )
