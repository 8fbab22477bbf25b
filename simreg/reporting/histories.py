"""What training looked like: layer weights, loss, and the match of similarities, over steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from simreg.reporting.blocks import Figure, Panel, Series
from simreg.reporting.describe import figure_of
from simreg.reporting.numbers import number
from simreg.reporting.runs import entries, items

History = Mapping[str, Any]
_PANELS = 6  # trainings whose layer weights are shown
_SCALARS = {
    "loss": ("Loss", "loss"),
    "correlation": ("Similarity of features and targets", "correlation"),
    "target_share": ("Targets at ±1", "share of pairs"),
}


def weights_figure(histories: Sequence[tuple[str, History]]) -> Figure | None:
    """Layer weights over training, a panel per training and a curve per layer; None without any."""
    panels: list[Panel] = []
    layers: dict[str, int] = {}
    for label, history in histories:
        weights = entries(history, "layer_weights")
        for layer in weights:
            layers.setdefault(str(layer), len(layers))
        series = [
            one for layer in weights if (one := _series(str(layer), layers[str(layer)], history, weights.get(layer)))
        ]
        if series and len(panels) < _PANELS:
            panels.append(Panel(label, "training step", "weight (sum 1)", tuple(series), (0, 1.02)))
    left = sum(bool(entries(history, "layer_weights")) for _, history in histories) - len(panels)
    more = f" {left} further trainings are not shown." if left > 0 else ""
    caption = f"Weight of each layer in the mixed similarity: a softmax that is learned with the model.{more}"
    return figure_of("Layer weights over training", panels, caption)


def scalars_figure(histories: Sequence[tuple[str, int, History]]) -> Figure | None:
    """Loss, correlation and target share over training, a curve per training; None without any.

    What is one and the same number at every step of all trainings is left out.
    """
    panels = []
    for name, (title, unit) in _SCALARS.items():
        series = [one for label, look, h in histories if (one := _series(label, look, h, h.get(name)))]
        if len({y for one in series for y in one.y if math.isfinite(y)}) > 1:
            panels.append(Panel(title, "training step", unit, tuple(series)))
    caption = "Single steps, not averages: curves are as noisy as the steps are."
    return figure_of("Training over steps", panels, caption)


def _series(label: str, look: int, history: History, values: Any) -> Series | None:
    """A curve over the steps of a history; None unless it has a number at a step."""
    steps = [number(step) for step in items(history, "step")]
    if not isinstance(values, (list, tuple)) or len(values) != len(steps):
        return None
    y = tuple(map(number, values))
    series = Series(label, look, tuple(steps), y, marker="auto" if len(steps) < 4 else "none")
    return series if any(map(math.isfinite, y)) else None
