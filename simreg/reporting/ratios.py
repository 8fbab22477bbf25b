"""The trade-off against an unregularized model: clean accuracy kept (R0/U0) against robustness gained (RD/UD)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from simreg.reporting import names
from simreg.reporting.blocks import Block, Cell, Figure, Panel, Row, Section, Series, Table, Text, missing
from simreg.reporting.describe import figure_of
from simreg.reporting.groups import Group, clean, largest, sweep_points
from simreg.reporting.numbers import NOTHING, Estimate, mean_estimate, ratio, ratio_interval_text
from simreg.robustness.intervals import ratio_interval

MINIMUM_CLEAN_RATIO = 0.9
KEYS = ("gaussian", "uniform", "salt_and_pepper", "transferred_fgsm", "pgd_linf", "corruptions")


def ratio_estimate(group: Group, reference: Group, epsilon: float | None, key: str) -> Estimate:
    """Accuracy of ``group`` over that of ``reference`` at one strength; None takes clean accuracy.

    Two single runs get the interval of a ratio of shares, several runs with equal seeds Student's t over their ratios.
    """
    pairs = _pairs(group, reference)
    if len(pairs) > 1:
        ratios = [_divide(_accuracy(r, epsilon, key).value, _accuracy(u, epsilon, key).value) for r, u in pairs]
        return mean_estimate([value for value in ratios if math.isfinite(value)]).within(0.0)
    r, u = _accuracy(group, epsilon, key), _accuracy(reference, epsilon, key)
    value = _divide(r.value, u.value)
    if r.n < 1 or u.n < 1 or r.seeds > 1 or u.seeds > 1 or not (0 <= r.value <= 1 and 0 <= u.value <= 1):
        return Estimate(value)
    return Estimate(value, *ratio_interval(r.value, r.n, u.value, u.n), n=r.n)


def _pairs(group: Group, reference: Group) -> list[tuple[Group, Group]]:
    """Training runs of the same seed, each as a group of its own."""
    others = dict(zip(reference.seeds, reference.runs, strict=False))
    return [
        (Group(group.label, group.look, (run,)), Group(reference.label, reference.look, (others[seed],)))
        for seed, run in zip(group.seeds, group.runs, strict=False)
        if seed in others
    ]


def _accuracy(group: Group, epsilon: float | None, key: str) -> Estimate:
    if epsilon is None:
        return clean(group)
    points = [p for p in sweep_points(group, key) if math.isclose(p.epsilon, epsilon, rel_tol=1e-5)]
    return points[0].accuracy if points else Estimate(math.nan)


def _divide(numerator: float, denominator: float) -> float:
    if denominator == 0:
        return math.inf if numerator > 0 else math.nan
    return numerator / denominator


def trade_off_section(groups: Sequence[Group], reference: Group) -> Section | None:
    """R0/U0 against RD/UD of every model but the reference, per distortion at its largest strength."""
    others = [group for group in groups if group is not reference]
    strengths = {key: point.epsilon for key in KEYS if (point := largest(reference, key)) and point.epsilon > 0}
    if not others or not strengths:
        return None
    text = (
        f"Each model against {reference.label}: R0/U0 is the share of its clean accuracy that a model keeps, RD/UD its "
        f"accuracy under a distortion over that of {reference.label}. Acceptable is R0/U0 of at least "
        f"{MINIMUM_CLEAN_RATIO:g} with RD/UD above 1; a model whose intervals cross these lines is not established as "
        "either."
    )
    blocks: list[Block] = [Text(text), _table(others, reference, strengths)]
    figure = _figure(others, reference, strengths)
    blocks += [figure] if figure is not None else []
    return Section("Trade-off between clean and robust accuracy", tuple(blocks), brief="Trade-off")


def _table(others: Sequence[Group], reference: Group, strengths: dict[str, float]) -> Table:
    columns = ["Model", "R0/U0"]
    columns += [f"RD/UD, {names.measurement(key)} at {names.strength(e)}" for key, e in strengths.items()]
    rows = []
    for group in others:
        cells = [_cell(ratio_estimate(group, reference, None, "clean"))]
        for key, epsilon in strengths.items():
            reason = group.reason(key)
            estimate = ratio_estimate(group, reference, epsilon, key)
            cells.append(missing(reason) if reason is not None else _cell(estimate))
        rows.append(Row(group.label, tuple(cells)))
    return Table(f"Ratios to {reference.label}, with 95 % intervals.", tuple(columns), tuple(rows))


def _cell(estimate: Estimate) -> Cell:
    if math.isnan(estimate.value):
        return Cell(NOTHING, "not at this strength", "missing")
    return Cell(ratio(estimate.value), ratio_interval_text(estimate))


def _figure(others: Sequence[Group], reference: Group, strengths: dict[str, float]) -> Figure | None:
    panels = []
    for key, epsilon in strengths.items():
        series = []
        for group in others:
            x = ratio_estimate(group, reference, None, "clean")
            y = ratio_estimate(group, reference, epsilon, key)
            if math.isfinite(x.value) and math.isfinite(y.value):
                series.append(point_series(group.label, group.look, x, y))
        if series:
            title = f"{names.measurement(key)}, ε = {names.strength(epsilon)}"
            panels.append(
                Panel(title, "R0/U0 (clean)", "RD/UD (robust)", tuple(series), region=(MINIMUM_CLEAN_RATIO, 1.0))
            )
    caption = "Shaded: acceptable. Bars: 95 % intervals."
    return figure_of("Clean accuracy kept against robustness gained", panels, caption)


def point_series(label: str, look: int, x: Estimate, y: Estimate) -> Series:
    """One point with the intervals of both its values."""
    return Series(label, look, (x.value,), (y.value,), (y.low,), (y.high,), (x.low,), (x.high,), style="points")
