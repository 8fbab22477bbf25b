"""What batch normalisation does while regularization images pass through the model."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from simreg._hooks import inert_copy, remove_hooks

BatchNormPolicy = Literal["update", "freeze", "eval", "separate", "official"]
BATCH_NORM_POLICIES = ("update", "freeze", "eval", "separate", "official")

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class RecomputeGuard:
    """Refuses to run batch norms of a model in a backward pass, where a policy is over.

    Activation checkpointing runs layers again in backward. They would then normalise otherwise than in the pass that
    the policy applied to, and update the model's own statistics.
    """

    def __init__(self, policy: BatchNormPolicy) -> None:
        self.policy = policy
        self._finalizer: weakref.finalize[Any, Any] | None = None

    def attach(self, model: nn.Module) -> None:
        """Watch the batch norms of ``model``; only the first call counts."""
        if self._finalizer is None and self.policy not in ("update", "official"):
            norms = norms_with_statistics(model)
            handles = [norm.register_forward_pre_hook(_GuardHook(self.policy)) for norm in norms]
            self._finalizer = weakref.finalize(self, remove_hooks, handles)

    def close(self) -> None:
        """Watch no longer."""
        if self._finalizer is not None:
            self._finalizer()

    def __reduce__(self) -> tuple[Any, ...]:
        return RecomputeGuard, (self.policy,)


class _GuardHook:
    __name__ = "simreg_recompute_guard"  # torch.jit.script asks hooks for their name

    def __init__(self, policy: str) -> None:
        self.policy = policy

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:  # inside backward
            raise RuntimeError(
                f"batch_norm={self.policy!r} cannot be kept under activation checkpointing, which runs layers again in "
                'backward: use batch_norm="update", or switch checkpointing off.'
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return inert_copy()


class AuxiliaryStatistics(nn.Module):
    """Running statistics of their own for the regularization images, one set for each batch norm of a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        for i, norm in enumerate(norms_with_statistics(model)):
            for name in _STATISTICS:
                value = getattr(norm, name)
                self.register_buffer(f"{name}_{i}", None if value is None else value.detach().clone())

    def of(self, index: int) -> dict[str, Tensor | None]:
        """Buffers of the model's batch norm number ``index``."""
        return {name: getattr(self, f"{name}_{index}") for name in _STATISTICS}


def norms_with_statistics(model: nn.Module) -> list[_BatchNorm]:
    """Batch norms of ``model`` that keep running statistics, in order."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


@contextmanager
def batch_norm_policy(
    model: nn.Module, policy: BatchNormPolicy, auxiliary: AuxiliaryStatistics | None = None
) -> Iterator[None]:
    """Apply a policy to the batch norms of ``model`` inside the block; everything is as before afterwards.

    Args:
        model: Its training mode is not touched, apart from that of batch norms under ``"eval"``.
        policy: ``"update"`` and ``"official"`` change nothing, ``"freeze"`` normalises by batch statistics without
            touching buffers, ``"eval"`` by a copy of the running statistics, ``"separate"`` updates ``auxiliary``.
        auxiliary: Buffers for ``"separate"``.
    """
    if policy in ("update", "official"):
        yield
        return
    norms = norms_with_statistics(model)
    saved = [(n.training, n.track_running_stats, {k: n._buffers.get(k) for k in _STATISTICS}) for n in norms]
    try:
        for i, norm in enumerate(norms):
            _apply(norm, policy, None if auxiliary is None else auxiliary.of(i))
        yield
    finally:
        for norm, (training, track, buffers) in zip(norms, saved, strict=True):
            norm.training, norm.track_running_stats = training, track
            norm._buffers.update(buffers)


def _apply(norm: _BatchNorm, policy: BatchNormPolicy, auxiliary: dict[str, Tensor | None] | None) -> None:
    if policy == "freeze":
        if norm.training:  # in eval mode the buffers are read, and not written anyway
            norm.track_running_stats = False
    elif policy == "eval":
        norm.training = False
        # Copies: a later training pass updates the buffers in place, unseen by autograd, which would then use the new
        # values in the backward of this pass.
        norm._buffers.update(
            {k: None if v is None else v.clone() for k, v in norm._buffers.items() if k in _STATISTICS}
        )
    elif auxiliary is not None:
        norm._buffers.update(auxiliary)
