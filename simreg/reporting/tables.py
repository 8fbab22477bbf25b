"""Tables of all measurements of a threat: a row per strength, a column per model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

from simreg.reporting import names
from simreg.reporting.blocks import MODELS, Cell, Row, Table, chunks, missing
from simreg.reporting.cells import accuracy_cell, distance_cell
from simreg.reporting.groups import (
    Group,
    corruption_estimate,
    kind_of,
    median_distance,
    setting,
    sweep_points,
)
from simreg.reporting.masking import masking_cell
from simreg.reporting.numbers import count, number, percent, significant
from simreg.reporting.runs import entries, items, words

_WIDEST = 10  # columns of a table
_ALL_STRENGTHS = 6  # sweeps with more strengths show three of them


def threat_tables(groups: Sequence[Group], keys: Sequence[str], caption: str, *, masking: bool = False) -> list[Table]:
    """All measurements of a threat: a row per strength, a column per model, at most four models a table.

    Args:
        groups: The models.
        keys: The measurements.
        caption: What the table holds.
        masking: Whether the outcome of the masking checks heads the rows.

    Returns:
        One table for each four models.
    """
    if len(groups) == 1 and (wide := strength_tables(groups[0], keys, caption)):
        return wide
    tables = []
    for part in chunks(groups, MODELS):
        rows = [row for key in keys for row in _measurement_rows(groups, part, key)]
        if rows and masking:
            rows.insert(0, Row("Masking checks", tuple(masking_cell(group) for group in part)))
        if rows:
            columns = ("Measurement", *(group.label for group in part))
            tables.append(Table(caption, columns, tuple(rows)))
    return tables


def strength_tables(group: Group, keys: Sequence[str], caption: str) -> list[Table]:
    """The sweeps of one model, a row each and a column per strength, by norm; none where that would be too wide."""
    by_label: dict[str, list[str]] = {}
    for key in keys:
        if kind_of([group], key) not in ("sweep", None):
            return []
        by_label.setdefault(names.strength_label(key, setting(group, key, "norm")), []).append(key)
    if all(key in names.STRENGTHS for key in keys):  # noises differ in unit, but are read side by side
        by_label = {"strength ε": list(keys)}
    tables = [_strength_table(group, label, found, caption) for label, found in by_label.items()]
    return tables if all(1 < len(table.columns) <= _WIDEST for table in tables) else []


def _strength_table(group: Group, label: str, keys: Sequence[str], caption: str) -> Table:
    shown = {key: shown_strengths([point.epsilon for point in sweep_points(group, key)]) for key in keys}
    columns = sorted({f"{epsilon:.6g}": epsilon for found in shown.values() for epsilon in found}.values())
    rows = []
    for key in keys:
        about = _conditions([group], key).strip(" ()")
        reason = group.reason(key)
        cells = tuple(_at(key, e, group, "") for e in columns) if reason is None else (missing(reason, len(columns)),)
        rows.append(Row(names.measurement(key), cells, header_detail=about))
        for row in _stage_rows([group], key, max(shown[key], default=0.0), names.measurement(key)):
            cells = tuple(row.cells[0] if e == max(shown[key]) else Cell("") for e in columns)
            rows.append(Row(row.header.partition(", ")[2], cells, header_detail=row.group))
    heads = ["clean" if e == 0 else names.strength(e) for e in columns]
    return Table(caption, (label, *heads), tuple(rows))


def _measurement_rows(groups: Sequence[Group], part: Sequence[Group], key: str) -> list[Row]:
    """Rows of one measurement for ``part`` of the models; which strengths are shown depends on all ``groups``."""
    name, kind = names.measurement(key), kind_of(groups, key)
    if kind is None or all(group.reason(key) for group in part):
        reasons = [group.reason(key) or "" for group in part]
        same = len(set(reasons)) == 1 < len(reasons)
        return [Row("–", (missing(reasons[0], len(part)),) if same else tuple(map(missing, reasons)), name)]
    title = f"{name}{_conditions(part, key)}"
    if kind == "sweep":
        return _sweep_rows(groups, part, key, title)
    if kind == "distances":
        return _distance_rows(part, key, title)
    return _corruption_rows(part, title) if kind == "corruptions" else _spectrum_rows(part, key, title)


def _conditions(part: Sequence[Group], key: str) -> str:
    """Images, steps and restarts, as far as all models agree."""
    told = []
    for name, wording in (
        ("n", "{} images"),
        ("steps", "{} steps"),
        ("max_queries", "{} queries"),
        ("restarts", "{} restarts"),
        ("repeats", "{} repeats"),
    ):
        if name == "steps" and key.startswith("hopskipjump"):  # there they are the queries
            continue
        said = {count(setting(group, key, name)) for group in part if not group.reason(key)} - {0}
        if name == "n":
            said = {count(r.get("n")) for g in part for kind in _TYPES for r in g.results(key, kind)}
        if len(said) == 1 and not (name in ("restarts", "repeats") and said == {1}):
            told.append(wording.format(f"{said.pop():,}"))
    runs = {len(group.runs) for group in part}
    if runs != {1}:
        told.append(f"mean over {min(runs)} training runs" if len(runs) == 1 else "mean over the training runs")
    return f" ({', '.join(told)})" if told else ""


_TYPES = ("sweep", "distances", "corruptions", "spectrum")


def _row(part: Sequence[Group], key: str, head: str, make: Callable[[Group], Cell], title: str = "") -> Row:
    """A row with the cell of every model, or why there is none."""
    reasons = [group.reason(key) for group in part]
    cells = [make(g) if reason is None else missing(reason) for g, reason in zip(part, reasons, strict=True)]
    return Row(head, tuple(cells), title)


def _sweep_rows(groups: Sequence[Group], part: Sequence[Group], key: str, title: str) -> list[Row]:
    shown = shown_strengths([point.epsilon for group in groups for point in sweep_points(group, key)])
    rows = []
    for epsilon in shown:
        cells = _row(part, key, "", partial(_at, key, epsilon)).cells
        rows.append(Row("clean, on these images" if epsilon == 0 else f"ε = {names.strength(epsilon)}", cells, title))
    rows += _stage_rows(part, key, shown[-1] if shown else 0.0, title)
    return rows if len(shown) != 1 or shown[0] != 0 else [Row("accuracy (%)", rows[0].cells, title)]


def _stage_rows(part: Sequence[Group], key: str, epsilon: float, title: str) -> list[Row]:
    """What each attack of an ensemble left over, at the largest strength."""
    stages: dict[str, dict[int, float]] = {}
    for i, group in enumerate(part):
        for result in group.results(key, "sweep")[:1]:
            strengths = [number(e) for e in items(result, "epsilons")]
            left = entries(entries(result, "settings"), "stage_accuracies")
            for stage in left:
                values = items(left, stage)
                if stage != "clean" and len(values) == len(strengths) and epsilon in strengths:
                    stages.setdefault(str(stage), {})[i] = number(values[strengths.index(epsilon)])
    return [
        Row(
            f"ε = {names.strength(epsilon)}, left after {_stage(words(stage))}",
            tuple(Cell(percent(left.get(i, math.nan))) for i in range(len(part))),
            title,
        )
        for stage, left in stages.items()
    ]


def _stage(name: str) -> str:
    """A stage in words.

    Example:
        >>> _stage("apgd-t"), _stage("square"), _stage("dlr +10 features")
        ('APGD-T', 'Square', 'DLR + 10 features')
    """
    if name == "square":
        return "Square"
    loss, _, weight = name.partition(" ")
    return " ".join([loss.upper(), *([weight.replace("+", "+ ").replace("-", "- ")] if weight else [])])


def shown_strengths(strengths: Sequence[float]) -> list[float]:
    """Strengths that a table shows: all of a few, else 0, one near a fifth, the middle and the largest.

    Example:
        >>> shown_strengths([i / 100 for i in range(11)])
        [0.0, 0.02, 0.05, 0.1]
    """
    distinct = {f"{value:.6g}": value for value in strengths}
    ordered = sorted(distinct.values())
    above = [value for value in ordered if value > 0]
    if len(above) <= _ALL_STRENGTHS:
        return ordered
    last = len(above)
    return [*(v for v in ordered if v == 0), above[max(last // 5 - 1, 0)], above[last // 2 - 1], above[-1]]


def _at(key: str, epsilon: float, group: Group, absent: str = "not at this strength") -> Cell:
    for point in sweep_points(group, key):
        if math.isclose(point.epsilon, epsilon, rel_tol=1e-5, abs_tol=1e-9):
            return accuracy_cell(point.accuracy)
    return Cell("–" if absent else "", absent, "missing" if absent else "number")


def _distance_rows(part: Sequence[Group], key: str, title: str) -> list[Row]:
    norm = next((norm for group in part if (norm := setting(group, key, "norm"))), None)

    def start(group: Group) -> Cell:
        medians = items(group.results(key, "distances")[0], "curve_medians")
        return Cell(significant(number(medians[0]) if medians else math.nan, keep=True))

    def failures(group: Group) -> Cell:
        results = group.results(key, "distances")
        lost = sum(not math.isfinite(number(d)) for r in results for d in items(r, "distances"))
        return Cell(f"{lost:,}", f"of {sum(len(items(r, 'distances')) for r in results):,}")

    def queries(group: Group) -> Cell:
        spent = [number(q) for r in group.results(key, "distances") for q in items(r, "queries")]
        spent = [q for q in spent if math.isfinite(q)]
        return Cell(significant(sum(spent) / len(spent)) if spent else "–")

    kinds: tuple[tuple[str, Callable[[Group], Cell]], ...] = (
        (f"median {names.distance_label(norm)}", lambda group: distance_cell(median_distance(group, key))),
        ("median of the starting points", start),
        ("images without a result", failures),
        ("mean model evaluations per image", queries),
    )
    return [_row(part, key, head, make, title) for head, make in kinds]


def _spectrum_rows(part: Sequence[Group], key: str, title: str) -> list[Row]:
    heads = {
        "mean_frequency": "mean frequency (cycles per image)",
        "median": "median squared L2 per pixel",
        "failures": "images without a result",
    }
    return [_row(part, key, head, partial(_spectrum_cell, key, name), title) for name, head in heads.items()]


def _spectrum_cell(key: str, name: str, group: Group) -> Cell:
    values = [number(result.get(name)) for result in group.results(key, "spectrum")]
    return Cell(significant(sum(values) / len(values)))


def _corruption_rows(part: Sequence[Group], title: str) -> list[Row]:
    heads: dict[tuple[str, ...], str] = {("clean",): "clean, on these images", ("mean",): "mean over all"}
    heads |= {("group_accuracies", name): text for name, text in names.GROUPS.items()}
    return [_row(part, "corruptions", head, partial(_corruption_cell, path), title) for path, head in heads.items()]


def _corruption_cell(path: tuple[str, ...], group: Group) -> Cell:
    return accuracy_cell(corruption_estimate(group, path))
