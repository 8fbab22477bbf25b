"""The section of a selection: the choice, all settings, their figures, and the training of the best."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simreg.reporting.blocks import Block, Cell, Facts, Figure, Note, Panel, Row, Section, Table, Text, missing
from simreg.reporting.cells import accuracy_cell
from simreg.reporting.curves import accuracy_series
from simreg.reporting.describe import tables
from simreg.reporting.groups import Group, sweep_points
from simreg.reporting.histories import scalars_figure, weights_figure
from simreg.reporting.numbers import NOTHING, accuracy_estimate, count, number, percent, ratio, ratio_interval_text
from simreg.reporting.plane import plane_figure, sensitivity_figures
from simreg.reporting.points import AXES, Points, name_settings, ratio_of, value_text
from simreg.reporting.runs import Run, entries, items, words

_CURVES = 6  # points whose noise curves are drawn


def selection_section(run: Run) -> Section:
    """Everything about one selection."""
    data, points = run.data, Points(run.data)
    blocks: list[Block] = [Text(summary(run)), Note(choice_line(run)), _facts(data)]
    table = points_table(points)
    blocks += [table] if table.rows else []
    figures = [plane_figure(points), *sensitivity_figures(points), _curves_figure(points)]
    blocks += [figure for figure in figures if figure is not None]
    training = _training(points)
    title = f"Choice of the regularizer on {run.label}"
    return Section(title, tuple(blocks), (training,) if training is not None else ())


def summary(run: Run) -> str:
    """What was tried, in a sentence."""
    points = Points(run.data)
    split = entries(run.data, "split")
    distortion = entries(run.data, "distortion")
    return (
        f"{len(points.all)} settings trained on {count(split.get('train')):,} images of {run.label} and measured on "
        f"{count(split.get('validation')):,} validation images taken from the training set; test images had no part in "
        f"it. Robust accuracy is that under {words(distortion.get('name'), 'a distortion').replace('_', ' ')} noise of "
        f"{value_text(distortion.get('epsilon'))}."
    )


def choice_line(run: Run) -> str:
    """The choice and its reason."""
    choice = entries(run.data, "choice")
    settings, reason = entries(choice, "settings"), words(choice.get("reason"), "no reason given")
    reason = f"{reason[:1].upper()}{reason[1:]}"
    return f"Choice: {name_settings(settings)}. {reason}" if settings else f"Choice: none. {reason}"


def _facts(data: Mapping[str, Any]) -> Facts:
    grid = entries(data, "grid")
    facts = [(AXES.get(str(k), words(k)), ", ".join(map(value_text, items(grid, str(k)))) or NOTHING) for k in grid]
    facts.append(("smallest acceptable R0/U0", value_text(data.get("minimum_clean_ratio"))))
    reference = entries(data, "reference")
    told = f"clean {percent(number(reference.get('clean')))} %, robust {percent(number(reference.get('robust')))} %"
    facts.append(("unregularized net", told))
    facts += [(name, words(data[name])) for name in ("target", "mode") if data.get(name)]
    return Facts(tuple(facts))


def points_table(points: Points) -> Table:
    """Every point with its accuracies, ratios and standing; the choice is marked."""
    rows = []
    for point in points.all:
        cells: tuple[Cell, ...]
        runs = [run for run in items(point, "runs") if isinstance(run, Mapping)]
        if point.get("status", "ok") != "ok":
            cells = (missing(words(point.get("reason"), "no reason given")), *[Cell("")] * 5)
        else:
            sizes = [count(run.get("n")) for run in runs]
            means = [
                accuracy_cell(accuracy_estimate([number(run.get(name)) for run in runs], min(sizes, default=0)))
                for name in ("clean", "robust")
            ]
            ratios = [ratio_of(point, name) for name in ("clean_ratio", "robust_ratio")]
            cells = (
                *means,
                *(Cell(ratio(value.value), ratio_interval_text(value)) for value in ratios),
                _standing(points, point),
                Cell(str(len(runs))),
            )
        rows.append(Row(f"{points.number(point)}: {points.name(point)}", cells))
    columns = ("Setting", "Clean (%)", "Robust (%)", "R0/U0", "RD/UD", "Standing", "Runs")
    return Table("Every setting on the validation images, with 95 % intervals.", columns, tuple(rows))


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
    name = words(entries(points.data, "distortion").get("name"), "distortion").replace("_", " ")
    panel = Panel(
        f"{name.capitalize()} noise", "strength ε (pixel units)", "accuracy (%)", series, (0, 102), size="medium"
    )
    caption = "Validation images. At small strengths a regularized net can be below the unregularized one."
    return Figure("Accuracy against the strength of the noise", (panel,), caption, tables([panel]))


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
