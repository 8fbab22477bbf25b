"""The points of a selection: numbered, named by the settings that vary, with their ratios."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from simreg.reporting.numbers import NOTHING, Estimate, number, significant
from simreg.reporting.runs import entries, items, words

SYMBOLS = {"alpha": "α", "threshold": "Th", "pairs": "k", "pool_size": "N"}
AXES = {
    "alpha": "α, strength of the regularizer",
    "threshold": "Th, threshold of the targets",
    "pairs": "k, image pairs per step",
    "pool_size": "N, regularization images",
}


class Points:
    """The points of a selection, numbered from 1 and named by the settings that vary."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.data = data
        self.all = [point for point in items(data, "points") if isinstance(point, Mapping)]
        values: dict[str, set[str]] = {}
        for point in self.all:
            for name, value in entries(point, "settings").items():
                values.setdefault(str(name), set()).add(value_text(value))
        self.varying = [name for name, found in values.items() if len(found) > 1]
        self.shown = [name for name, found in values.items() if name == "alpha" or self._applies(name, found)]
        chosen = entries(data, "choice").get("settings")
        self.chosen = next((p for p in self.all if chosen and entries(p, "settings") == chosen), None)

    def _applies(self, name: str, found: set[str]) -> bool:
        """Whether a setting has a part in the choice: a threshold where targets have one, others where they vary."""
        if name == "threshold":
            return found != {NOTHING} and self.data.get("target", "threshold") == "threshold"
        return len(found) > 1

    def name(self, point: Mapping[str, Any]) -> str:
        """The settings of a point that differ between points; where none does, those that apply."""
        return name_settings(entries(point, "settings"), self.varying or self.shown)

    def number(self, point: Mapping[str, Any]) -> int:
        """Its number in the tables and figures."""
        return 1 + next(i for i, other in enumerate(self.all) if other is point)


def name_settings(settings: Mapping[str, Any], only: Sequence[str] = ()) -> str:
    """Settings as text.

    Example:
        >>> name_settings({"alpha": 10.0, "threshold": None, "pairs": 16}, ["alpha", "threshold"])
        'α = 10, Th = –'
    """
    shown = {words(name): value for name, value in settings.items() if not only or name in only}
    told = [f"{SYMBOLS.get(name, name.replace('_', ' '))} = {value_text(value)}" for name, value in shown.items()]
    return ", ".join(told) or NOTHING


def value_text(value: Any) -> str:
    """A setting as text: a short number, or words."""
    return significant(number(value)) if math.isfinite(number(value)) else words(value, NOTHING)


def ratio_of(point: Mapping[str, Any], name: str) -> Estimate:
    """One of the two ratios of a point with its interval."""
    ends = [number(end) for end in items(point, f"{name}_interval")]
    low, high = ends if len(ends) == 2 else (math.nan, math.nan)
    return Estimate(number(point.get(name)), low, high)
