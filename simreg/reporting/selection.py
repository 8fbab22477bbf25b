"""The section of a selection: the choice, all settings, their figures, and the training of the best."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simreg.reporting import names
from simreg.reporting.blocks import Block, Cell, Facts, Figure, Panel, Row, Section, Table, Text, missing, plural
from simreg.reporting.cells import accuracy_cell
from simreg.reporting.curves import accuracy_series
from simreg.reporting.describe import figure_of
from simreg.reporting.groups import Group, sweep_points
from simreg.reporting.histories import scalars_figure, weights_figure
from simreg.reporting.numbers import accuracy_estimate, count, number, percent, ratio, ratio_interval_text
from simreg.reporting.plane import plane_figure, sensitivity_figures
from simreg.reporting.points import AXES, Points, name_settings, ratio_of, value_text
from simreg.reporting.recipes import recipe_section
from simreg.reporting.runs import Run, entries, items, words

_CURVES = 6  # points whose noise curves are drawn


def selection_section(run: Run) -> Section:
    """Everything about one selection."""
    points = Points(run.data)
    blocks: list[Block] = [Text(summary(run)), _facts(points)]
    table = points_table(points)
    blocks += [table] if table.rows else []
    figures = [plane_figure(points), *sensitivity_figures(points), _curves_figure(points)]
    blocks += [figure for figure in figures if figure is not None]
    training = _training(points)
    title = f"Choice of the regularizer on {run.label}"
    sections = (training, recipe_section(run.data))
    return Section(title, tuple(blocks), tuple(section for section in sections if section is not None))


def summary(run: Run) -> str:
    """What was tried, in a sentence."""
    points = Points(run.data)
    split = entries(run.data, "split")
    distortion = entries(run.data, "distortion")
    tried = plural(len(points.all), "setting")
    return (
        f"{tried} trained on {count(split.get('train')):,} images of {run.label} and measured on "
        f"{count(split.get('validation')):,} validation images taken from the training set; test images had no part in "
        f"it. Robust accuracy is that under {_distortion(run.data)} of {value_text(distortion.get('epsilon'))}."
    )


def _distortion(data: Mapping[str, Any]) -> str:
    return names.measurement(words(entries(data, "distortion").get("name"), "an unnamed distortion"))


def choice_line(run: Run) -> str:
    """The choice and its reason."""
    choice = entries(run.data, "choice")
    settings, reason = entries(choice, "settings"), words(choice.get("reason"), "no reason given")
    reason = f"{reason[:1].upper()}{reason[1:].rstrip('.')}."
    named = name_settings(settings, Points(run.data).shown)
    return f"Choice: {named}. {reason}" if settings else f"Choice: none. {reason}"


def warnings(run: Run) -> list[str]:
    """What leaves the choice without meaning: what the file says of it, else what its numbers say."""
    data = run.data
    said = [words(note) for note in items(data, "notes")]
    if said:
        return said
    classes = len(items(entries(data, "data"), "classes"))
    clean = number(entries(data, "reference").get("clean"))
    lines = []
    if classes and clean <= 1 / classes + _NEAR_CHANCE:
        lines.append(
            f"The unregularized net is near chance: {percent(clean)} % clean accuracy, where guessing one of {classes} "
            f"classes gives {percent(1 / classes)} %. Ratios to such a net mean nothing: train longer."
        )
    ratios = [number(point.get("clean_ratio")) for point in Points(data).all]
    above = sum(value > _TOO_GOOD for value in ratios)
    if above:
        lines.append(
            f"R0/U0 is above {_TOO_GOOD:g} for {above} of {plural(len(ratios), 'setting')}: the unregularized net was "
            "not trained to its end, so the choice may mean nothing. Train longer."
        )
    return lines


_NEAR_CHANCE = 0.05
_TOO_GOOD = 1.1


def _facts(points: Points) -> Facts:
    data, grid = points.data, entries(points.data, "grid")
    facts = [(AXES.get(k, k), ", ".join(map(value_text, items(grid, k)))) for k in points.shown if items(grid, k)]
    facts.append(("smallest acceptable R0/U0", value_text(data.get("minimum_clean_ratio"))))
    reference = entries(data, "reference")
    told = f"clean {percent(number(reference.get('clean')))} %, robust {percent(number(reference.get('robust')))} %"
    facts.append(("unregularized net", told))
    facts += [(name, words(data[name])) for name in ("target", "mode") if data.get(name)]
    return Facts(tuple(facts))


def points_table(points: Points) -> Table:
    """Every point with its accuracies, ratios and standing; the choice is marked."""
    rows = tuple(Row(f"{points.number(p)}: {points.name(p)}", _point_cells(points, p)) for p in points.all)
    columns = ("Setting", "Clean (%)", "Robust (%)", "R0/U0", "RD/UD", "Standing", "Runs")
    return Table("Every setting on the validation images, with 95 % intervals.", columns, rows)


def _point_cells(points: Points, point: Mapping[str, Any]) -> tuple[Cell, ...]:
    if point.get("status", "ok") != "ok":
        return (missing(words(point.get("reason"), "no reason given")), *[Cell("")] * 5)
    runs = [run for run in items(point, "runs") if isinstance(run, Mapping)]
    n = min((count(run.get("n")) for run in runs), default=0)
    means = [accuracy_estimate([number(run.get(name)) for run in runs], n) for name in ("clean", "robust")]
    ratios = [ratio_of(point, name) for name in ("clean_ratio", "robust_ratio")]
    return (
        *map(accuracy_cell, means),
        *(Cell(ratio(value.value), ratio_interval_text(value)) for value in ratios),
        _standing(points, point),
        Cell(str(len(runs))),
    )


def _standing(points: Points, point: Mapping[str, Any]) -> Cell:
    if point is points.chosen:
        return Cell("choice", "", "good")
    told = ["acceptable" if point.get("acceptable") else "not acceptable"]
    return Cell(", ".join([*told, *(["Pareto front"] if point.get("pareto") else [])]), kind="text")


def _shown(points: Points) -> list[Mapping[str, Any]]:
    """The choice and the Pareto front; the first points where there is neither."""
    first = [points.chosen] if points.chosen is not None else []
    front = [point for point in points.all if point.get("pareto") and point is not points.chosen]
    return ([*first, *front] or points.all)[:_CURVES]


def _curves_figure(points: Points) -> Figure | None:
    """Accuracy over the strength of the noise, of the unregularized net, the choice and the Pareto front."""
    reference = _sweep_group("unregularized", 6, entries(points.data, "reference"))
    groups = [reference] if reference is not None else []
    for look, point in enumerate(_shown(points)):
        mark = ", choice" if point is points.chosen else ""
        group = _sweep_group(f"{points.number(point)}: {points.name(point)}{mark}", look, point)
        groups += [group] if group is not None else []
    series = tuple(accuracy_series(group, sweep_points(group, "sweep")) for group in groups)
    if not series:
        return None
    panel = Panel(_distortion(points.data), "strength ε (pixel units)", "accuracy (%)", series, (0, 102), size="medium")
    caption = "Validation images. At small strengths a regularized net can be below the unregularized one."
    return figure_of("Accuracy against the strength of the noise", [panel], caption)


def _sweep_group(label: str, look: int, holder: Mapping[str, Any]) -> Group | None:
    runs = [run for run in items(holder, "runs") if isinstance(run, Mapping) and entries(run, "sweep")]
    measured = tuple({"sweep": {"status": "ok", "type": "sweep", "result": entries(run, "sweep")}} for run in runs)
    return Group(label, look, measured) if measured else None


def _training(points: Points) -> Section | None:
    """Layer weights and losses of the choice and the Pareto front."""
    histories = [
        (f"{points.number(point)}: {points.name(point)}, seed {count(run.get('seed'))}", entries(run, "history"))
        for point in _shown(points)
        for run in items(point, "runs")
        if isinstance(run, Mapping)
    ]
    first = [
        (f"{points.number(point)}: {points.name(point)}", look, entries(runs[0], "history"))
        for look, point in enumerate(_shown(points))
        if (runs := [run for run in items(point, "runs") if isinstance(run, Mapping)])
    ]
    figures = [weights_figure(histories), scalars_figure(first)]
    blocks = tuple(figure for figure in figures if figure is not None)
    return (
        Section("Training of the chosen and the Pareto-optimal settings", blocks, brief="Training") if blocks else None
    )


def not_run_points(run: Run) -> list[Row]:
    """Settings and trainings that do not exist, with their reasons."""
    points = Points(run.data)
    rows = []
    for point in points.all:
        for one in items(point, "runs"):
            if isinstance(one, Mapping) and one.get("status", "ok") != "ok":
                cells = (Cell(f"seed {count(one.get('seed'))}", kind="text"),)
                reason = Cell(words(one.get("reason"), "no reason given"), kind="text")
                rows.append(Row(f"training with {points.name(point)}", (*cells, reason)))
    return rows
