"""Settings of the regularizer to choose from."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from simreg._checks import check_choice, check_positive
from simreg.comparison.methods import Method, parse_method
from simreg.comparison.objectives import MODES, Mode


@dataclass(frozen=True)
class Grid:
    """Settings to choose from: every combination of the values.

    Attributes:
        alpha: Strengths.
        threshold: Of the target "threshold".
        pairs: Pairs a step, in the modes "separate" and "joint".
        pool_size: Regularization images, in these modes.
        target: "pixel" or "threshold".
        mode: "same-batch" (all pairs of the task batch, early layers), "separate" (the paper's: passes of their own,
            five layers) or "joint".

    Raises:
        ValueError: If a value is out of range, or a list is given that has no effect.
    """

    alpha: tuple[float, ...] = (1.0, 3.0, 10.0, 30.0)
    threshold: tuple[float, ...] = ()
    pairs: tuple[int, ...] = ()
    pool_size: tuple[int, ...] = ()
    target: Literal["pixel", "threshold"] = "pixel"
    mode: Mode = "same-batch"

    def __post_init__(self) -> None:
        check_choice("target", self.target, ("pixel", "threshold"))
        check_choice("mode", self.mode, MODES)
        if not self.alpha:
            raise ValueError("alpha: the grid needs at least one value.")
        if self.threshold and self.target == "pixel":
            raise ValueError("threshold has no effect on target='pixel': take target='threshold', or leave it out.")
        if self.mode == "same-batch" and (self.pairs or self.pool_size):
            raise ValueError("pairs and pool_size have no effect in mode 'same-batch': it compares the task images.")
        for name, values in asdict(self).items():
            if isinstance(values, tuple) and len(set(values)) < len(values):
                raise ValueError(f"{name} names a value twice: {values}.")
        for point in self.points():
            self.method(point)  # raises if a value is not valid

    def values(self) -> dict[str, list[Any]]:
        """Values of each setting; [None] for one that has no effect."""
        pooled = self.mode != "same-batch"
        return {
            "alpha": [float(value) for value in self.alpha],
            "threshold": list(self.threshold or (0.6, 0.8, 0.9)) if self.target == "threshold" else [None],
            "pairs": list(self.pairs or (16,)) if pooled else [None],
            "pool_size": list(self.pool_size or (5000,)) if pooled else [None],
        }

    def points(self) -> list[dict[str, Any]]:
        """All combinations."""
        values = self.values()
        return [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]

    def method(self, point: Mapping[str, Any]) -> Method:
        """The method of `simreg.comparison` that trains a point."""
        check_positive("alpha", point["alpha"])
        if point["threshold"] is not None and not 0 < point["threshold"] < 1:
            raise ValueError(f"threshold must be in (0, 1), got {point['threshold']!r}.")
        same_batch = {"pixel": "simreg", "threshold": "simreg-threshold"}[self.target]
        base = {"same-batch": same_batch, "separate": "simreg-paper", "joint": "simreg-joint"}[self.mode]
        settings = [f"{name}={value}" for name, value in point.items() if value is not None]
        return parse_method(":".join([base, *settings, *([] if self.mode == "same-batch" else [self._target()])]))

    def _target(self) -> str:
        return f"target={self.target}"
