"""What a report is made of, without any markup: text, tables, figures and the sections that hold them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

T = TypeVar("T")

MODELS = 4
"""Models that stand beside each other in a table; more get a table each four."""

Kind = Literal["number", "text", "missing", "good", "bad"]


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Args:
        text: What it says.
        detail: A smaller second line: the interval of a number, the reason of what is missing.
        kind: "number" is set to the right, "missing" is greyed, "good" and "bad" are marked by a sign as well.
        span: Columns that it takes.
        shade: Depth of its background, from 0 to 1; NaN for none. What it means is in the text as well.
    """

    text: str
    detail: str = ""
    kind: Kind = "number"
    span: int = 1
    shade: float = math.nan


@dataclass(frozen=True)
class Row:
    """A row: its header, its cells, and the name of the group of rows that it belongs to."""

    header: str
    cells: tuple[Cell, ...]
    group: str = ""
    header_detail: str = ""


@dataclass(frozen=True)
class Table:
    """A table; the first of ``columns`` heads the row headers."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""

    @property
    def text_columns(self) -> set[int]:
        """Columns without a number; 0 is that of the row headers."""
        numeric = {
            i + 1 for row in self.rows for i, cell in enumerate(row.cells) if cell.kind == "number" and cell.text
        }
        return set(range(len(self.columns))) - numeric


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Note:
    """A paragraph that stands out: "warning" for what changes how numbers are read, "note" for the rest."""

    text: str
    kind: Literal["note", "warning"] = "note"


@dataclass(frozen=True)
class Bullets:
    """A list."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """Terms and their values."""

    items: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Series:
    """One curve, or one set of points, of a panel.

    Args:
        label: Name in the legend.
        look: Index of colour, marker and line; below 0 is grey.
        x: Positions; for a panel with ``categories`` these are their indices.
        y: Values; NaN leaves a gap.
        low: Lower ends of the intervals, empty for none.
        high: Upper ends of the intervals.
        x_low: Left ends of the intervals of ``x``, empty for none.
        x_high: Right ends of the intervals of ``x``.
        style: "line" joins the points, "points" does not, "steps" is a staircase.
        hollow: Markers without filling.
        marker: "auto" follows ``look``; "none" draws no marker.
        notes: Text beside each point, empty for none.
        shift: How far error bars stand beside their points, as a share of the width, where they would hide each other.
    """

    label: str
    look: int
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    x_low: tuple[float, ...] = ()
    x_high: tuple[float, ...] = ()
    style: Literal["line", "points", "steps", "front"] = "line"
    hollow: bool = False
    marker: str = "auto"
    notes: tuple[str, ...] = ()
    shift: float = 0.0

    @property
    def drawn(self) -> int:
        """Number of points that can be drawn."""
        return sum(math.isfinite(x) and math.isfinite(y) for x, y in zip(self.x, self.y, strict=True))


Size = Literal["tiny", "small", "medium", "large"]


@dataclass(frozen=True)
class Panel:
    """Axes with curves.

    Args:
        title: What is measured.
        x_label: Name and unit of x.
        y_label: Name and unit of y.
        series: The curves.
        y_limits: Ends of the y axis; NaN leaves one to the data.
        x_scale: "linear", "log", "log2", or "symlog", which is linear below 1.
        y_scale: "linear" or "log".
        categories: Names of the positions 0, 1, .. on x, empty for numbers.
        region: Lower left corner (x, y) of the region that is acceptable.
        size: Size on the page.
        x_ticks: Positions of the ticks on x, empty for those that fit.
    """

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    y_limits: tuple[float, float] = (math.nan, math.nan)
    x_scale: Literal["linear", "log", "log2", "symlog"] = "linear"
    y_scale: Literal["linear", "log"] = "linear"
    categories: tuple[str, ...] = ()
    region: tuple[float, float] | None = None
    size: Size = "small"
    x_ticks: tuple[float, ...] = ()

    @property
    def has_points(self) -> bool:
        """Whether there is more to see than a single point, or points that stand on one position."""
        shown = [series for series in self.series if series.style != "front"]
        scattered = sum(series.drawn for series in shown if series.style == "points")
        return scattered > 1 or any(series.drawn > 1 for series in shown if series.style != "points")


@dataclass(frozen=True)
class Heatmap:
    """A power spectrum (H, W), zero frequency at (H // 2, W // 2), with colours from ``low`` to ``high``."""

    title: str
    values: tuple[tuple[float, ...], ...]
    low: float
    high: float
    scale_label: str
    x_label: str = ""
    y_label: str = ""
    size: Size = "small"


@dataclass(frozen=True)
class Figure:
    """Panels under one legend and one caption, and the numbers that they show."""

    title: str
    panels: tuple[Panel | Heatmap, ...]
    caption: str = ""
    numbers: tuple[Table, ...] = ()


Block: TypeAlias = "Text | Note | Bullets | Facts | Table | Figure"


@dataclass(frozen=True)
class Section:
    """Blocks under a heading, and the sections below it."""

    title: str
    blocks: tuple[Block, ...] = ()
    sections: tuple[Section, ...] = ()
    brief: str = ""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to read."""
        return not self.blocks and all(section.empty for section in self.sections)


@dataclass(frozen=True)
class Document:
    """A whole report."""

    title: str
    subtitle: str
    sections: tuple[Section, ...]
    description: str = ""


def missing(reason: str, span: int = 1) -> Cell:
    """The cell of a measurement that does not exist."""
    return Cell("not run", reason, "missing", span)


def plural(n: int, noun: str) -> str:
    """A number of things.

    Example:
        >>> plural(1, "image"), plural(1438, "image")
        ('1 image', '1,438 images')
    """
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def chunks(items: Sequence[T], size: int) -> list[list[T]]:
    """``items`` in parts of at most ``size``.

    Example:
        >>> chunks(["a", "b", "c"], 2)
        [['a', 'b'], ['c']]
    """
    return [list(items[i : i + size]) for i in range(0, len(items), size)]
