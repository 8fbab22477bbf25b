"""Figures of attacks and noise: accuracy over strength, distance over queries, shares of images, queries of scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from simreg.reporting import names
from simreg.reporting.blocks import Figure, Panel, Series
from simreg.reporting.describe import figure_of
from simreg.reporting.groups import (
    Group,
    Point,
    distances,
    median_distance,
    setting,
    sweep_points,
)
from simreg.reporting.numbers import accuracy_estimate, count, number
from simreg.reporting.runs import entries, items

_BANDS = 3  # shares with bands of their intervals; more would hide each other
_NO_LIMIT = (math.nan, math.nan)


def sweep_figure(groups: Sequence[Group], keys: Sequence[str], title: str, caption: str = "") -> Figure | None:
    """Accuracy over strength: a panel per measurement, a curve per model; None if there is nothing to draw."""
    panels = [panel for key in keys if (panel := sweep_panel(groups, key)) is not None]
    return figure_of(title, panels, caption)


def sweep_panel(groups: Sequence[Group], key: str) -> Panel | None:
    """One measurement as accuracy over strength."""
    series = [accuracy_series(group, sweep_points(group, key)) for group in groups if sweep_points(group, key)]
    if not series:
        return None
    norm = next((said for group in groups if (said := setting(group, key, "norm"))), None)
    label = names.strength_label(key, norm)
    strengths = sorted({round(255 * x, 6) for one in series for x in one.x})
    if len(strengths) > 1 and all(x == round(x) for x in strengths):  # the field's budgets are whole 255ths
        series = [replace(one, x=tuple(round(255 * x, 6) for x in one.x)) for one in series]
        label, ticks = label.replace("(pixel units)", "(1/255)"), _apart(strengths)
        return Panel(names.measurement(key), label, "accuracy (%)", tuple(series), (0, 102), x_ticks=ticks)
    return Panel(names.measurement(key), label, "accuracy (%)", tuple(series), (0, 102))


def _apart(values: Sequence[float]) -> tuple[float, ...]:
    """Those of the values that leave room for a label each, the last one always."""
    room, kept = (values[-1] - values[0]) / 12, [values[-1]]
    for value in reversed(values[:-1]):
        if kept[-1] - value >= room:
            kept.append(value)
    return tuple(reversed(kept))


def accuracy_series(group: Group, points: Sequence[Point]) -> Series:
    """A curve of accuracies in percent with their intervals."""
    return Series(
        group.label,
        group.look,
        tuple(point.epsilon for point in points),
        tuple(100 * point.accuracy.value for point in points),
        tuple(100 * point.accuracy.low for point in points),
        tuple(100 * point.accuracy.high for point in points),
    )


def distance_figure(groups: Sequence[Group], key: str) -> Figure | None:
    """A decision attack: median distance over queries, and the share of images within each distance at the end."""
    having = [group for group in groups if group.results(key, "distances")]
    if not having:
        return None
    label = names.distance_label(setting(having[0], key, "norm"))
    medians, shares = _median_panel(having, key, label), _share_panel(having, key, label)
    caption = "A curve that ends below 100 % has images for which the attack found nothing."
    if medians.has_points:
        caption = (
            "Left: median over all images, failures as infinitely far; the bar beside its end is its 95 % interval. "
            "Right: a curve that ends below 100 % has images for which the attack found nothing. Higher on the left "
            "and further right on the right is more robust."
        )
    return figure_of(names.measurement(key), [medians, shares], caption)


def _median_panel(groups: Sequence[Group], key: str, label: str) -> Panel:
    curves = [curve for i, group in enumerate(groups) if (curve := _median_curve(group, key, i)) is not None]
    unit = "model evaluations per image" if _has_queries(groups, key) else "steps of the attack"
    positive = any(y > 0 and math.isfinite(y) for curve in curves for y in curve.y)
    scale: Literal["linear", "log"] = "log" if positive else "linear"
    return Panel("Median distance", unit, label, tuple(curves), _NO_LIMIT, _spread(curves), scale, size="medium")


def _share_panel(groups: Sequence[Group], key: str, label: str) -> Panel:
    shares = [_share_within(group, key, band=len(groups) <= _BANDS) for group in groups]
    scale: Literal["linear", "log"] = "log" if any(x > 0 for share in shares for x in share.x) else "linear"
    title = "Images within each distance"
    return Panel(title, label, "images (%)", tuple(shares), (0, 102), scale, size="medium")


def _spread(curves: Sequence[Series]) -> Literal["linear", "log"]:
    """A logarithmic axis where queries span a factor of more than 50."""
    xs = [x for curve in curves for x in curve.x if math.isfinite(x)]
    return "log" if xs and min(xs) > 0 and max(xs) / min(xs) > 50 else "linear"


def _has_queries(groups: Sequence[Group], key: str) -> bool:
    return all(items(result, "curve_queries") for group in groups for result in group.results(key, "distances"))


def _median_curve(group: Group, key: str, index: int) -> Series | None:
    """Median distance at the marks of the first training run; the interval of the last stands beside it."""
    results = group.results(key, "distances")
    steps = items(results[0], "curve_queries") or items(results[0], "curve_steps")
    medians = items(results[0], "curve_medians")
    if not medians or len(steps) != len(medians):
        return None
    x, y = tuple(map(number, steps)), tuple(map(number, medians))
    y = tuple(value if math.isfinite(value) and value > 0 else math.nan for value in y)
    end = median_distance(group, key) if len(results) == 1 else None
    if end is None or not math.isfinite(y[-1]) or not math.isfinite(end.low + end.high):
        return Series(group.label, group.look, x, y)
    gap = (math.nan,) * (len(x) - 1)
    beside = 0.025 * (index + 1)
    return Series(group.label, group.look, x, y, (*gap, end.low), (*gap, end.high), shift=beside)


def _share_within(group: Group, key: str, *, band: bool) -> Series:
    """Share of images, of all training runs together, that the attack brought within each distance."""
    found = [d for result in group.results(key, "distances") for d in distances(result)]
    n = len(found)
    reached = sorted(d for d in found if math.isfinite(d) and d > 0)
    already = sum(d <= 0 for d in found)
    estimates = [accuracy_estimate([(already + i) / n], n) for i in range(1, len(reached) + 1)]
    y = tuple(100 * estimate.value for estimate in estimates)
    low = tuple(100 * estimate.low for estimate in estimates) if band else ()
    high = tuple(100 * estimate.high for estimate in estimates) if band else ()
    return Series(group.label, group.look, tuple(reached), y, low, high, style="steps", marker="none")


def query_figure(groups: Sequence[Group], keys: Sequence[str]) -> Figure | None:
    """Accuracy over the queries of a score attack: of one model at every strength, of several at the largest."""
    panels = []
    for key in keys:
        curves = [curve for group in groups for curve in _query_curves(group, key)]
        if len(groups) > 1:
            last = {curve.label: curve for curve in curves}  # of each model the one of its largest strength
            told = " or ".join(sorted({names.strength(curve.epsilon) for curve in last.values()}))
            series, title = [curve.series for curve in last.values()], f"{names.measurement(key)}, ε = {told}"
        else:
            series = [replace(c.series, label=f"ε = {names.strength(c.epsilon)}", look=i) for i, c in enumerate(curves)]
            title = names.measurement(key)
        label = "model evaluations per image"
        panels.append(Panel(title, label, "accuracy (%)", tuple(series), (0, 102), "symlog", size="medium"))
    caption = "A curve that still falls at its end says that more queries would find more."
    return figure_of("Accuracy against queries", panels, caption)


@dataclass(frozen=True)
class _QueryCurve:
    """Accuracy over queries of one model at one strength."""

    label: str
    epsilon: float
    series: Series


def _query_curves(group: Group, key: str) -> list[_QueryCurve]:
    """The curves of the first training run, by strength; none where the file has none."""
    curves = []
    for result in group.results(key, "sweep")[:1]:
        settings = entries(result, "settings")
        marks = [number(value) for value in items(settings, "query_marks")]
        for epsilon, row in zip(items(result, "epsilons"), items(settings, "accuracy_by_queries"), strict=False):
            if isinstance(row, (list, tuple)) and 0 < len(row) == len(marks):
                estimates = [accuracy_estimate([number(value)], count(result.get("n"))) for value in row]
                points = [Point(mark, estimate) for mark, estimate in zip(marks, estimates, strict=True)]
                curves.append(_QueryCurve(group.label, number(epsilon), accuracy_series(group, points)))
    return sorted(curves, key=lambda curve: curve.epsilon)
