"""Common corruptions: where the images came from, every type by severity, and the frequency groups."""

from __future__ import annotations

import math
from collections.abc import Sequence

from simreg.reporting import names
from simreg.reporting.blocks import Block, Figure, Note, Panel, Series
from simreg.reporting.describe import tables
from simreg.reporting.groups import (
    Group,
    corruption_curve,
    corruption_estimate,
    severities,
)
from simreg.reporting.runs import entries, words

_ORDER = {"low": 0, "medium": 1, "high": 2}


def corruption_blocks(groups: Sequence[Group]) -> list[Block]:
    """How the corruptions were made, every type by severity, and the frequency groups."""
    having = [group for group in groups if group.results("corruptions", "corruptions")]
    if not having:
        return []
    blocks: list[Block] = [Note(line) for line in sources(having)]
    figures = [_types_figure(having), _groups_figure(having)]
    return blocks + [figure for figure in figures if figure is not None]


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
                else f"Corrupted images: {source}. They were made for these images and are not CIFAR-10-C: compare "
                "models within this report, not with published figures."
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


def _types_figure(groups: Sequence[Group]) -> Figure | None:
    panels = []
    for name, group_name in frequency_groups(groups).items():
        series = [_severity_series(group, name) for group in groups if corruption_curve(group, name)]
        if series:
            suffix = f" ({group_name})" if group_name in _ORDER else ""
            title = f"{names.corruption(name)}{suffix}"
            ticks = tuple(sorted({x for one in series for x in one.x}))
            panels.append(Panel(title, "severity", "accuracy (%)", tuple(series), (0, 102), size="tiny", x_ticks=ticks))
    caption = "In brackets the frequency group of each corruption: where the spectrum of its change has its weight."
    return Figure("Accuracy by corruption and severity", tuple(panels), caption, tables(panels)) if panels else None


def _severity_series(group: Group, name: str) -> Series:
    curve, levels = corruption_curve(group, name), severities(group)
    x = tuple(levels[: len(curve)]) if len(levels) >= len(curve) else tuple(float(i + 1) for i in range(len(curve)))
    y, low, high = ([100 * getattr(estimate, end) for estimate in curve] for end in ("value", "low", "high"))
    return Series(group.label, group.look, x, tuple(y), tuple(low), tuple(high))


def _groups_figure(groups: Sequence[Group]) -> Figure | None:
    series = []
    for i, group in enumerate(groups):
        shift = 0.6 * ((i + 0.5) / len(groups) - 0.5)  # beside each other, not on top
        estimates = [corruption_estimate(group, ("group_accuracies", name)) for name in names.GROUPS]
        if any(math.isfinite(estimate.value) for estimate in estimates):
            y, low, high = ([100 * getattr(e, end) for e in estimates] for end in ("value", "low", "high"))
            x = tuple(j + shift for j in range(len(names.GROUPS)))
            series.append(Series(group.label, group.look, x, tuple(y), tuple(low), tuple(high), style="points"))
    if not series:
        return None
    categories = tuple(names.GROUPS.values())
    panel = Panel(
        "By frequency group", "", "accuracy (%)", tuple(series), (0, 102), categories=categories, size="medium"
    )
    caption = (
        "Mean over the corruptions and severities of each group. The bars treat the images as independent and the "
        "corruptions as fixed."
    )
    return Figure("Accuracy by frequency of the corruption", (panel,), caption, tables([panel]))
