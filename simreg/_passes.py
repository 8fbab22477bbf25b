"""Passes of the model that give the features of regularization images."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from simreg._outputs import like, rows_of
from simreg.batchnorm import AuxiliaryStatistics, BatchNormPolicy, RecomputeGuard, batch_norm_policy
from simreg.features import FeatureTap, is_compiled, is_distributed


def exits_early(model: nn.Module, early_exit: bool | Literal["auto"]) -> bool:
    """Whether a pass of its own ends after the last tapped layer."""
    if early_exit != "auto":
        return bool(early_exit)
    # An exception would end the forward of a compiled model in a graph break, and that of a distributed wrapper
    # before it has prepared the reduction of gradients.
    return not (is_compiled(model) or is_distributed(model))


def separate_features(
    tap: FeatureTap,
    images: Tensor,
    *,
    early_exit: bool,
    policy: BatchNormPolicy,
    auxiliary: AuxiliaryStatistics | None,
    guard: RecomputeGuard,
) -> dict[str, Tensor]:
    """Features of a pass of its own, by layer.

    Args:
        tap: Of the model.
        images: As the model takes them.
        early_exit: Whether the pass ends after the last tapped layer.
        policy: What the pass does to batch norm.
        auxiliary: Statistics for ``"separate"``.
        guard: Against activation checkpointing, under which the policy would be over too early.

    Raises:
        ValueError: If ``"official"`` has an odd number of images to halve, or a layer did not run.
    """
    if policy != "official":
        model = tap.require_model()
        guard.attach(model)
        with batch_norm_policy(model, policy, auxiliary):
            return tap.features(images, early_exit=early_exit)
    if images.shape[0] % 2:
        raise ValueError(f'batch_norm="official" passes two halves of the batch, got {images.shape[0]} images.')
    rows, columns = (tap.features(half, early_exit=early_exit) for half in images.chunk(2))
    return {name: torch.cat([rows[name], columns[name]]) for name in tap.layers}


def joint_features(tap: FeatureTap, x: Tensor, images: Tensor) -> tuple[Any, dict[str, Tensor]]:
    """The model's output for the task images ``x``, and the features of ``images`` by layer, of one pass for both.

    Raises:
        ValueError: If the images' shapes differ, or a layer did not run.
    """
    if images.shape[1:] != x.shape[1:]:
        raise ValueError(
            f"images of shape {tuple(images.shape[1:])} and task images of shape {tuple(x.shape[1:])} cannot "
            "share a pass: resize one (RegularizationPool(transform=...)), or call reg(batch)."
        )
    with tap.record():
        output = tap.require_model()(torch.cat([x, like(images, x)]))
    n = x.shape[0]
    features = {name: f[n:] for name, f in tap.take().items()}
    return rows_of(output, n), features
