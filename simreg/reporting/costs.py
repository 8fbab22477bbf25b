"""What methods of a comparison cost: training time, equal time, and accuracy against time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from simreg.reporting import names
from simreg.reporting.blocks import Block, Cell, Figure, Panel, Row, Series, Table
from simreg.reporting.describe import figure_of
from simreg.reporting.groups import Group, clean, corruption_estimate, largest
from simreg.reporting.headline import headline_table
from simreg.reporting.masking import masking_line
from simreg.reporting.methods import BUDGETS, REFERENCES, done, labels_of, mean_of, method_groups, trainings_of
from simreg.reporting.numbers import Estimate, duration, number, plain_interval, significant
from simreg.reporting.runs import entries


def cost_table(data: Mapping[str, Any]) -> list[Block]:
    """Training time of every method and budget."""
    methods = entries(data, "methods")
    plain = next((name for name in REFERENCES if name in methods), None)
    base = mean_of(done(entries(methods, plain), "equal_epochs"), "milliseconds_per_step").value if plain else math.nan
    rows = []
    for budget, title in BUDGETS.items():
        for name, (label, _) in labels_of(data).items():
            runs = done(entries(methods, name), budget)
            if runs:
                step = mean_of(runs, "milliseconds_per_step")
                time = mean_of(runs, "training_seconds")
                times = f"{step.value / base:.2f}×" if base > 0 and math.isfinite(step.value) else "–"
                cells = (
                    Cell(significant(time.value, keep=True), plain_interval(time)),
                    Cell(significant(step.value, keep=True), plain_interval(step)),
                    Cell(times),
                    Cell(significant(mean_of(runs, "steps").value, 6)),
                    Cell(significant(mean_of(runs, "epochs").value)),
                    Cell(str(len(runs))),
                )
                rows.append(Row(label, cells, f"At {title}"))
    if not rows:
        return []
    columns = ("Method", "Training time (s)", "ms per step", "Step against no defence", "Steps", "Epochs", "Runs")
    return [Table("What each method costs to train.", columns, tuple(rows))]


def equal_time_table(data: Mapping[str, Any]) -> list[Block]:
    """The headline of the methods when each gets the same time."""
    groups = method_groups(data, "equal_time")
    seconds = number(data.get("budget_seconds"))
    budget = f" of {duration(seconds)}" if math.isfinite(seconds) else ""
    return [headline_table(groups, f"Headline at an equal training time{budget}: slower steps are fewer steps.")]


def time_figure(data: Mapping[str, Any]) -> Figure | None:
    """Accuracy over training time: filled at equal epochs, hollow at equal time."""
    panels = []
    for title, read in _readings([g for budget in BUDGETS for g in method_groups(data, budget)]):
        series = []
        for budget in BUDGETS:
            for group in method_groups(data, budget):
                time = mean_of(trainings_of(data, group), "training_seconds")
                series += _time_point(group, time, read(group), hollow=budget == "equal_time")
        if series:
            panels.append(Panel(title, "training time (s)", "accuracy (%)", tuple(series)))
    caption = f"Up and to the left is better. {masking_line(method_groups(data, 'equal_epochs'))}"
    if any(series.hollow for panel in panels for series in panel.series):
        caption += " Filled: equal epochs. Hollow: equal training time."
    return figure_of("Accuracy against training time", panels, caption)


def _time_point(group: Group, time: Estimate, accuracy: Estimate, *, hollow: bool) -> list[Series]:
    if not (math.isfinite(time.value) and math.isfinite(accuracy.value)):
        return []
    y = tuple(100 * value for value in (accuracy.value, accuracy.low, accuracy.high))
    label = f"{group.label}, equal time" if hollow else group.label
    return [
        Series(
            label,
            group.look,
            (time.value,),
            y[:1],
            y[1:2],
            y[2:],
            (time.low,),
            (time.high,),
            style="points",
            hollow=hollow,
        )
    ]


def _readings(groups: Sequence[Group]) -> list[tuple[str, Callable[[Group], Estimate]]]:
    """Titles of the panels and how each reads its accuracy; the attack is the strongest that was run."""
    found: list[tuple[str, Callable[[Group], Estimate]]] = [("Clean accuracy", clean)]
    attack = [key for key in ("autoattack_linf", "pgd_linf", "fgsm_linf") if any(largest(g, key) for g in groups)]
    for key in ["gaussian", *attack[:1], "transferred_fgsm"]:
        points = [point for group in groups if (point := largest(group, key))]
        if points:
            title = f"{names.measurement(key)}, ε = {names.strength(max(p.epsilon for p in points))}"
            found.append((title, partial(_last, key)))
    if any(group.results("corruptions", "corruptions") for group in groups):
        found.append(("Common corruptions, mean", lambda group: corruption_estimate(group, ("mean",))))
    return found


def _last(key: str, group: Group) -> Estimate:
    point = largest(group, key)
    return point.accuracy if point else Estimate(math.nan)
