"""Figures of a selection: the plane of clean and robust accuracy, and what each setting does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from simreg.reporting.blocks import Figure, Panel, Series
from simreg.reporting.describe import figure_of
from simreg.reporting.numbers import number
from simreg.reporting.points import AXES, SYMBOLS, Points, name_settings, ratio_of
from simreg.reporting.runs import entries

_LINES = 8  # lines of a sensitivity panel


def plane_figure(points: Points) -> Figure | None:
    """R0/U0 against RD/UD: the acceptable region, the Pareto front and the choice."""
    data = points.data
    known = [
        p for p in points.all if math.isfinite(ratio_of(p, "clean_ratio").value + ratio_of(p, "robust_ratio").value)
    ]
    if not known:
        return None
    bound = number(data.get("minimum_clean_ratio"))
    bound = bound if math.isfinite(bound) else 0.9
    others = [point for point in known if point is not points.chosen]
    good = [point for point in others if point.get("acceptable")]
    bad = [point for point in others if not point.get("acceptable")]
    series = [_front([point for point in known if point.get("pareto")])]
    series += [_plane_series(points, bad, "not acceptable", -1, "o", hollow=True)] if bad else []
    series += [_plane_series(points, good, "acceptable", 0, "s")] if good else []
    if points.chosen is not None and points.chosen in known:
        chosen = f"choice: {points.name(points.chosen)}"
        series.append(_plane_series(points, [points.chosen], chosen, 1, "*"))
    series.append(Series("unregularized", 6, (1.0,), (1.0,), style="points", marker="P"))
    panel = Panel(
        "Trade-off plane",
        "R0/U0, clean accuracy kept",
        "RD/UD, robust accuracy gained",
        tuple(series),
        region=(bound, 1.0),
        size="large",
    )
    caption = (
        f"Shaded: acceptable, R0/U0 of at least {bound:g} and RD/UD above 1. Grey line: Pareto front, beyond which no "
        "setting is better in both. Numbers are those of the table; bars are 95 % intervals."
    )
    return figure_of("Clean accuracy kept against robustness gained", [panel], caption)


def _plane_series(
    points: Points, chosen: Sequence[Mapping[str, Any]], label: str, look: int, marker: str, *, hollow: bool = False
) -> Series:
    x, y = ([ratio_of(point, name) for point in chosen] for name in ("clean_ratio", "robust_ratio"))
    return Series(
        label,
        look,
        tuple(e.value for e in x),
        tuple(e.value for e in y),
        tuple(e.low for e in y),
        tuple(e.high for e in y),
        tuple(e.low for e in x),
        tuple(e.high for e in x),
        style="points",
        hollow=hollow,
        marker=marker,
        notes=tuple(str(points.number(point)) for point in chosen),
    )


def _front(points: Sequence[Mapping[str, Any]]) -> Series:
    ends = sorted((number(point.get("clean_ratio")), number(point.get("robust_ratio"))) for point in points)
    return Series("Pareto front", -1, tuple(x for x, _ in ends), tuple(y for _, y in ends), style="front")


def sensitivity_figures(points: Points) -> list[Figure]:
    """What each setting that varies does, all others equal."""
    return [figure for name in points.varying if (figure := _sensitivity(points, name)) is not None]


def _sensitivity(points: Points, name: str) -> Figure | None:
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for point in points.all:
        settings = entries(point, "settings")
        if math.isfinite(number(settings.get(name))):
            rest = [other for other in points.varying if other != name]
            others = {k: settings.get(k) for k in rest}
            lines.setdefault(name_settings(others, rest) if rest else "all", []).append(point)
    lines = {label: found for label, found in lines.items() if len(found) > 1}
    if not lines:
        return None
    shown = dict(list(lines.items())[:_LINES])
    panels = []
    for key, title, unit in (
        ("clean_ratio", "Clean accuracy kept", "R0/U0"),
        ("robust_ratio", "Robust accuracy gained", "RD/UD"),
    ):
        series = [_line(label, i, found, name, key) for i, (label, found) in enumerate(shown.items())]
        scale = _scale([x for one in series for x in one.x])
        panels.append(
            Panel(title, AXES.get(name, name.replace("_", " ")), unit, tuple(series), x_scale=scale, size="medium")
        )
    left = len(lines) - len(shown)
    more = f" {left} further lines are not shown." if left else ""
    caption = f"One line per choice of the other settings; bars are 95 % intervals.{more}"
    symbol = SYMBOLS.get(name, name.replace("_", " "))
    return figure_of(f"Sensitivity to {symbol}", panels, caption)


def _scale(xs: Sequence[float]) -> Literal["linear", "log", "log2"]:
    """Doubling steps get an axis to base 2, wide ones to base 10."""
    if not xs or min(xs) <= 0 or max(xs) / min(xs) < 4:
        return "linear"
    return "log2" if all(math.log2(x).is_integer() for x in xs) else "log"


def _line(label: str, look: int, found: Sequence[Mapping[str, Any]], name: str, key: str) -> Series:
    ordered = sorted(found, key=lambda point: number(entries(point, "settings").get(name)))
    estimates = [ratio_of(point, key) for point in ordered]
    return Series(
        label if label != "all" else "all other settings equal",
        look,
        tuple(number(entries(point, "settings").get(name)) for point in ordered),
        tuple(e.value for e in estimates),
        tuple(e.low for e in estimates),
        tuple(e.high for e in estimates),
    )
