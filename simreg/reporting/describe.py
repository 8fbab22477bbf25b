"""Figures in words and as tables, for those who can't see them or want the numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from simreg.reporting.blocks import Cell, Figure, Heatmap, Panel, Row, Series, Table, chunks
from simreg.reporting.numbers import significant

_NAMED = 6  # series that a description tells one by one
_COLUMNS = 4  # series beside each other in a table
_ROWS = 40  # rows of a table; more are thinned out


def describe(panel: Panel | Heatmap) -> str:
    """What a panel shows: its axes, and where every curve starts and ends.

    Example:
        >>> describe(Panel("Noise", "ε", "accuracy (%)", (Series("plain", 0, (0.0, 0.1), (70.0, 36.0)),)))
        'accuracy (%) against ε. plain: 70 at 0 to 36 at 0.1.'
    """
    if isinstance(panel, Heatmap):
        return f"{panel.scale_label}, brightest {significant(panel.high)}, darkest {significant(panel.low)}."
    shown = [series for series in panel.series if series.style != "front"]
    told = [_ends(panel, series) for series in shown[:_NAMED]]
    if len(shown) > _NAMED:
        told.append(f"{len(shown) - _NAMED} more are in the table of numbers.")
    across = panel.x_label or "group"
    return f"{panel.y_label} against {across}. {' '.join(told)}".strip()


def figure_of(title: str, panels: Sequence[Panel | Heatmap], caption: str = "") -> Figure | None:
    """The panels that have more than a single point to show, and their numbers; None without any.

    What has a single point is in the tables.
    """
    shown = tuple(panel for panel in panels if isinstance(panel, Heatmap) or panel.has_points)
    return Figure(title, shown, caption, tables(shown)) if shown else None


def tables(panels: Sequence[Panel | Heatmap]) -> tuple[Table, ...]:
    """The numbers of each panel with curves."""
    return tuple(table for panel in panels if isinstance(panel, Panel) for table in panel_tables(panel))


def panel_tables(panel: Panel) -> list[Table]:
    """The numbers of a panel: a row per position on x, a column per curve, at most four curves a table.

    Curves with positions of their own get a table of their own; staircases are read at common positions.
    """
    by_positions: dict[tuple[float, ...], list[Series]] = {}
    for series in panel.series:
        if series.style != "front" and series.drawn:
            by_positions.setdefault(_positions(panel, series), []).append(series)
    found = []
    for positions, curves in by_positions.items():
        for part in chunks(curves, _COLUMNS):
            rows = tuple(Row(_position(panel, x), tuple(_cell(panel, one, x) for one in part)) for x in positions)
            columns = (panel.x_label or "group", *(one.label for one in part))
            found.append(Table(f"{panel.title}: {panel.y_label}", columns, rows))
    return found


def _positions(panel: Panel, series: Series) -> tuple[float, ...]:
    """The positions on x that a table of this series has."""
    if panel.categories:
        return tuple(map(float, range(len(panel.categories))))
    joined = [x for one in panel.series if one.style == "steps" for x in one.x] if series.style == "steps" else series.x
    positions = sorted({x for x in joined if math.isfinite(x)})
    if len(positions) > _ROWS:  # a staircase has a position per image
        step = (len(positions) - 1) / (_ROWS - 1)
        positions = [positions[round(i * step)] for i in range(_ROWS)]
    return tuple(positions)


def _ends(panel: Panel, series: Series) -> str:
    points = [(x, y) for x, y in zip(series.x, series.y, strict=True) if math.isfinite(x) and math.isfinite(y)]
    if not points:
        return f"{series.label}: nothing to draw."
    if panel.categories:
        told = ", ".join(f"{_position(panel, x)} {significant(y)}" for x, y in points[:_NAMED])
        return f"{series.label}: {told}."
    (x0, y0), (x1, y1) = points[0], points[-1]
    if len(points) == 1 or series.style == "points":
        told = ", ".join(f"{significant(y)} at {significant(x)}" for x, y in points[:_NAMED])
        more = f" and {len(points) - _NAMED} more" if len(points) > _NAMED else ""
        return f"{series.label}: {told}{more}."
    return f"{series.label}: {significant(y0)} at {significant(x0)} to {significant(y1)} at {significant(x1)}."


def _position(panel: Panel, x: float) -> str:
    if panel.categories and 0 <= round(x) < len(panel.categories):
        return panel.categories[round(x)].replace("\n", " ")
    return significant(x)


def _cell(panel: Panel, series: Series, x: float) -> Cell:
    """Value and interval of a series at a position; a staircase keeps its value until the next step."""
    if series.style == "steps":
        found = [i for i, position in enumerate(series.x) if position <= x]
    else:
        found = [i for i, position in enumerate(series.x) if (round(position) if panel.categories else position) == x]
    if not found:
        return Cell("0" if series.style == "steps" else "")
    i = found[-1]
    low, high = (ends[i] if i < len(ends) else math.nan for ends in (series.low, series.high))
    interval = f"[{significant(low)}, {significant(high)}]" if math.isfinite(low) and math.isfinite(high) else ""
    return Cell(significant(series.y[i]), interval)
