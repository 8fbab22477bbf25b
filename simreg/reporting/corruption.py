"""Common corruptions: where the images came from, every type by severity, and the frequency groups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from simreg.reporting import names
from simreg.reporting.blocks import MODELS, Cell, Row, Table, chunks
from simreg.reporting.groups import (
    Group,
    corruption_curve,
    severities,
)
from simreg.reporting.numbers import NOTHING, percent
from simreg.reporting.runs import entries, words

_ORDER = {"low": 0, "medium": 1, "high": 2}


def sources(groups: Sequence[Group]) -> list[str]:
    """Where the corrupted images came from, once per source."""
    said: dict[str, list[str]] = {}
    for group in groups:
        for result in group.results("corruptions", "corruptions"):
            source = words(result.get("source"), "an unnamed source")
            published = result.get("is_published") is True
            line = (
                f"Corrupted images: {source} (the published arrays)."
                if published
                else f"Corrupted images: {source}. They were made for these images and are not the published arrays: "
                "compare models within this report, not with published figures."
            )
            labels = said.setdefault(line, [])
            if group.label not in labels:
                labels.append(group.label)
    return list(said) if len(said) == 1 else [f"{', '.join(labels)}: {line}" for line, labels in said.items()]


def frequency_groups(groups: Sequence[Group]) -> dict[str, str]:
    """Frequency group of every corruption: low, medium and high ones, each by name."""
    found: dict[str, str] = {}
    for group in groups:
        for result in group.results("corruptions", "corruptions"):
            said = entries(result, "groups")
            found |= {str(name): str(said.get(name, "")) for name in entries(result, "accuracies")}
    return dict(sorted(found.items(), key=lambda item: (_ORDER.get(item[1], 3), item[0])))


def corruption_tables(groups: Sequence[Group]) -> list[Table]:
    """Accuracy for every corruption: by severity for one model, the mean over severities for several beside it."""
    having = [group for group in groups if group.results("corruptions", "corruptions")]
    if len(having) == 1:
        return [_severity_table(having[0])]
    return [_mean_table(part) for part in chunks(having, MODELS)]


def _severity_table(group: Group) -> Table:
    levels = [f"severity {level:g}" for level in severities(group)]
    rows = []
    for name, frequency in frequency_groups([group]).items():
        values = [estimate.value for estimate in corruption_curve(group, name)]
        cells = [*map(_shaded, values), *[Cell(NOTHING)] * (len(levels) - len(values)), _shaded(_mean(values))]
        rows.append(Row(names.corruption(name), tuple(cells), names.GROUPS.get(frequency, frequency)))
    caption = "Accuracy in % by corruption and severity."
    return Table(caption, ("Corruption", *levels, "mean"), tuple(rows), _note([group]))


def _mean_table(groups: Sequence[Group]) -> Table:
    rows = []
    for name, frequency in frequency_groups(groups).items():
        cells = []
        for group in groups:
            values = [estimate.value for estimate in corruption_curve(group, name)]
            told = " · ".join(percent(value, 0) for value in values)
            cells.append(replace(_shaded(_mean(values)), detail=told))
        rows.append(Row(names.corruption(name), tuple(cells), names.GROUPS.get(frequency, frequency)))
    levels = ", ".join(dict.fromkeys(f"{level:g}" for group in groups for level in severities(group)))
    caption = f"Accuracy in % by corruption: the mean over severities, and that at each of them ({levels})."
    return Table(caption, ("Corruption", *(group.label for group in groups)), tuple(rows), _note(groups))


def _shaded(accuracy: float) -> Cell:
    """An accuracy, the darker the lower."""
    return Cell(percent(accuracy), shade=1 - accuracy if math.isfinite(accuracy) else math.nan)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _note(groups: Sequence[Group]) -> str:
    """How sure the numbers are, and what the shades and groups mean."""
    sizes = [e.n for group in groups for name in frequency_groups([group]) for e in corruption_curve(group, name)]
    n = min((size for size in sizes if size > 0), default=0)
    within = f" Of {n:,} images, a number is within {98 / n**0.5:.0f} points or less (95 %)." if n else ""
    return f"Darker is lower. Groups say where in frequency a corruption's change has its weight.{within}"
