"""Diagnostics of a penalty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from simreg.kernels import Penalty


def kept(found: Penalty, targets: Tensor) -> dict[str, Tensor]:
    """What `described` needs of a penalty, without its graph; nothing is read."""
    return {
        "loss": found.loss.detach(),
        "similarity": found.similarity.detach(),
        "target": targets.detach(),
        "layers": found.layers.detach(),
    }


def described(last: Mapping[str, Tensor], alpha: float, layers: Sequence[str]) -> dict[str, Any]:
    """The numbers of `SimilarityRegularizer.stats` that hang on the penalty; synchronises."""
    mixed, target, layered = (last[k].double() for k in ("similarity", "target", "layers"))
    loss = float(last["loss"])
    return {
        "loss": loss,
        "penalty": alpha * loss,
        "correlation": _correlation(mixed, target),
        "target_share": float((target.abs() >= 0.999).double().mean()),
        "similarity_spread": dict(zip(layers, layered.std(dim=1, correction=0).tolist(), strict=True)),
    }


def _correlation(x: Tensor, y: Tensor) -> float:
    x, y = x - x.mean(), y - y.mean()
    norm = float((x.square().sum() * y.square().sum()).sqrt())
    return float((x * y).sum()) / norm if norm > 0 else float("nan")
