"""What batch normalisation does while regularization images pass through the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

BatchNormPolicy = Literal["update", "freeze", "eval", "separate", "official"]
BATCH_NORM_POLICIES = ("update", "freeze", "eval", "separate", "official")

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


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
