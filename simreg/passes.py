"""How regularization images pass through the model: alone or beside the task, and what batch norm does meanwhile."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map

from simreg._checks import describe, unit_float
from simreg.features import FeatureTap, check_features, is_compiled, is_distributed

BatchNormPolicy = Literal["update", "freeze", "eval", "separate", "official"]
BATCH_NORM_POLICIES = ("update", "freeze", "eval", "separate", "official")

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class AuxiliaryStatistics(nn.Module):
    """Running statistics of their own for the regularization images, one set for each batch norm of a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        for i, norm in enumerate(_norms(model)):
            for name in _STATISTICS:
                value = getattr(norm, name)
                self.register_buffer(f"{name}_{i}", None if value is None else value.detach().clone())


def separate_features(
    tap: FeatureTap, images: Tensor, early_exit: bool, policy: BatchNormPolicy, auxiliary: AuxiliaryStatistics | None
) -> Mapping[str, Tensor]:
    """Features of ``images``, uint8 or as the model takes them, by layer, from a pass of their own.

    ``auxiliary`` are the statistics of the policy ``"separate"``; ``"official"`` halves the images.
    """
    model = tap.require_model()
    if policy not in ("update", "official") and not tap._before:
        tap.before(_norms, partial(_refuse_recompute, policy))
    images = as_input(images, model)
    if policy != "official":
        with batch_norm_policy(model, policy, auxiliary):
            return check_features(tap.features(images, early_exit=early_exit), images)
    if images.shape[0] % 2:
        raise ValueError(f'batch_norm="official" passes two halves of the batch, got {images.shape[0]} images.')
    rows, columns = (tap.features(half, early_exit=early_exit) for half in images.chunk(2))
    return check_features({name: torch.cat([rows[name], columns[name]]) for name in tap.layers}, images)


def as_input(images: Tensor, model: nn.Module) -> Tensor:
    """Images in floating point, of the dtype of ``model``."""
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    return unit_float(images) if weight is None else unit_float(images).to(weight.dtype)


def joint_features(tap: FeatureTap, x: Tensor, images: Tensor) -> tuple[Any, Mapping[str, Tensor]]:
    """The model's output for the task images ``x``, and the features of ``images`` by layer, of one pass for both.

    Raises ValueError if the images' shapes differ, TypeError if the output holds more than tensors and plain values.
    """
    if images.shape[1:] != x.shape[1:]:
        raise ValueError(
            f"images of shape {tuple(images.shape[1:])} and task images of shape {tuple(x.shape[1:])} cannot "
            "share a pass: resize one (RegularizationPool(transform=...)), or call reg(batch)."
        )
    n, images = x.shape[0], unit_float(images).to(x)
    if x.is_contiguous(memory_format=torch.channels_last):
        images = images.contiguous(memory_format=torch.channels_last)

    def task(part: Any) -> Any:
        if isinstance(part, Tensor):
            return part[:n] if part.ndim else part
        if part is None or isinstance(part, (str, int, float)):
            return part
        if dataclasses.is_dataclass(part) and not isinstance(part, type):
            fields = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
            return dataclasses.replace(part, **tree_map(task, fields))
        raise TypeError(
            f"joint cannot take the task's rows out of the model's output, {describe(part)}: let the model return "
            "a tensor, or a tuple, dict or dataclass of tensors; or use reg(batch)."
        )

    with tap.record():
        output = tap.require_model()(torch.cat([x, images]))
    return tree_map(task, output), check_features({name: f[n:] for name, f in tap.take().items()}, images)


def exits_early(model: nn.Module, early_exit: bool | Literal["auto"]) -> bool:
    """Whether a pass of its own ends after the last tapped layer.

    Not by itself in a compiled model, whose graph it breaks, nor a distributed one, which goes on to prepare gradients.
    """
    return bool(early_exit) if early_exit != "auto" else not (is_compiled(model) or is_distributed(model))


@contextlib.contextmanager
def batch_norm_policy(
    model: nn.Module, policy: BatchNormPolicy, auxiliary: AuxiliaryStatistics | None = None
) -> Iterator[None]:
    """Apply a policy to the batch norms of ``model`` inside the block; everything is as before afterwards.

    ``"update"`` and ``"official"`` change nothing, ``"freeze"`` normalises by batch statistics and leaves the buffers,
    ``"eval"`` normalises by a copy of the running statistics, ``"separate"`` updates ``auxiliary``.
    """
    norms = [] if policy in ("update", "official") else _norms(model)
    saved = [(n.training, n.track_running_stats, {k: n._buffers.get(k) for k in _STATISTICS}) for n in norms]
    try:
        for i, (norm, (_, _, buffers)) in enumerate(zip(norms, saved, strict=True)):
            if auxiliary is not None:
                norm._buffers.update({name: getattr(auxiliary, f"{name}_{i}") for name in _STATISTICS})
            elif policy == "eval":
                norm.training = False
                # Copies: a later training pass updates the buffers in place, unseen by the backward of this one.
                norm._buffers.update({k: None if v is None else v.clone() for k, v in buffers.items()})
            elif norm.training:  # in eval mode the buffers are read, and not written anyway
                norm.track_running_stats = False
        yield
    finally:
        for norm, (training, track, buffers) in zip(norms, saved, strict=True):
            norm.training, norm.track_running_stats = training, track
            norm._buffers.update(buffers)


def _norms(model: nn.Module) -> list[_BatchNorm]:
    """Batch norms of ``model`` that keep running statistics, in order."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def _refuse_recompute(policy: str, *_: Any) -> None:
    """Refuse activation checkpointing: layers that run again in backward, where the policy is over."""
    if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:  # inside backward
        raise RuntimeError(
            f"batch_norm={policy!r} cannot be kept under activation checkpointing, which runs layers again in "
            'backward: use batch_norm="update", or switch checkpointing off.'
        )
