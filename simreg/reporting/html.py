"""A document as one HTML page: no script, nothing to load, every text escaped."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from html import escape

from simreg.reporting.blocks import (
    Block,
    Bullets,
    Cell,
    Document,
    Facts,
    Figure,
    Heatmap,
    Note,
    Panel,
    Row,
    Section,
    Series,
    Table,
    Text,
)
from simreg.reporting.css import STYLE
from simreg.reporting.describe import describe
from simreg.reporting.svg import panel_svg, swatch_svg

_SIGNS = {"good": "✓ ", "bad": "✗ "}
_SHORT = 9  # rows of a table that is kept on one page of paper
_WIDE = 6  # columns of a table that sets intervals below their numbers
_LONG_WORD = re.compile(r"\S{25,}")


def render_page(document: Document, *, figures: bool = True) -> str:
    """The document as a whole HTML page.

    Args:
        document: What to show.
        figures: Whether to draw; without figures their numbers are shown.

    Returns:
        The page, from ``<!DOCTYPE html>`` on.

    Raises:
        ImportError: If ``figures`` and matplotlib is missing.
    """
    writer = _Writer(figures)
    body = "".join(writer.section(section, 2, (i,)) for i, section in enumerate(document.sections, start=1))
    contents = "".join(_contents_line(section, (i,)) for i, section in enumerate(document.sections, start=1))
    return (
        "<!DOCTYPE html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="description" content="{escape(document.description)}">\n'
        f"<title>{escape(document.title)}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n"
        '<a class="skip" href="#main">Skip to the results</a>\n'
        f'<header class="top">\n<h1>{escape(document.title)}</h1>\n'
        f'<p class="subtitle">{escape(document.subtitle)}</p>\n</header>\n'
        f'<nav aria-label="Contents">\n<h2>Contents</h2>\n<ol>{contents}</ol>\n</nav>\n'
        f'<main id="main">\n{body}</main>\n'
        "<footer><p>Made by <code>simreg report</code>. Intervals are at 95 %.</p></footer>\n"
        "</body>\n</html>\n"
    )


def _contents_line(section: Section, path: tuple[int, ...]) -> str:
    inner = "".join(_contents_line(child, (*path, i)) for i, child in enumerate(section.sections, start=1))
    children = f"<ol>{inner}</ol>" if inner and len(path) < 2 else ""
    return f'<li><a href="#{_anchor(path)}">{escape(section.brief or section.title)}</a>{children}</li>'


def _anchor(path: tuple[int, ...]) -> str:
    return "s" + "-".join(map(str, path))


class _Writer:
    """Writes blocks; counts tables and figures so that each has a number and an id."""

    def __init__(self, figures: bool) -> None:
        self.draws, self.tables, self.figures, self.ids = figures, 0, 0, 0

    def section(self, section: Section, level: int, path: tuple[int, ...]) -> str:
        """A section and those below it."""
        name = _anchor(path)
        blocks = "".join(self.row(blocks) for blocks in _rows(section.blocks))
        inner = "".join(
            self.section(child, min(level + 1, 6), (*path, i)) for i, child in enumerate(section.sections, start=1)
        )
        number = ".".join(map(str, path))
        heading = f'<h{level} id="{name}"><span class="secno">{number}</span> {escape(section.title)}</h{level}>'
        return f'<section aria-labelledby="{name}">\n{heading}\n{blocks}{inner}</section>\n'

    def row(self, blocks: Sequence[Block]) -> str:
        """One block, or two that stand beside each other where the page is wide enough."""
        parts = [self.block(block) for block in blocks]
        if len(parts) == 1:
            return parts[0]
        return f'<div class="beside">{"".join(f"<div>{part}</div>" for part in parts)}</div>\n'

    def block(self, block: Block) -> str:
        """Any block."""
        if isinstance(block, Text):
            return f"<p>{escape(block.text)}</p>\n"
        if isinstance(block, Note):
            lead = "<strong>Caution:</strong> " if block.kind == "warning" else ""
            return f'<p class="{block.kind}">{lead}{escape(block.text)}</p>\n'
        if isinstance(block, Bullets):
            return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in block.items)}</ul>\n"
        if isinstance(block, Facts):
            terms = "".join(f"<div><dt>{escape(t)}</dt><dd>{escape(d)}</dd></div>" for t, d in block.items)
            return f'<dl class="facts">{terms}</dl>\n'
        return self.table(block) if isinstance(block, Table) else self.figure(block)

    def table(self, table: Table, *, numbered: bool = True) -> str:
        """A table that scrolls by itself where it is wider than the page."""
        self.ids += 1
        self.tables += numbered
        name = f"t{self.ids}"
        lead = f"<b>Table {self.tables}.</b> " if numbered else ""
        note = f' <span class="tablenote">{escape(table.note)}</span>' if table.note else ""
        text = table.text_columns
        head = "".join(
            f'<th scope="col"{" class=text" if i in text else ""}>{breakable(column)}</th>'
            for i, column in enumerate(table.columns)
        )
        bodies = "".join(f"<tbody>{part}</tbody>" for part in _bodies(table))
        short = " short" if len(table.rows) <= _SHORT else ""
        short += " wide" if len(table.columns) > _WIDE else ""
        return (
            f'<div class="tablebox{short}">\n<p class="caption" id="{name}">{lead}{escape(table.caption)}{note}</p>\n'
            f'<div class="scroll" role="region" tabindex="0" aria-labelledby="{name}">\n'
            f'<table aria-labelledby="{name}">\n<thead><tr>{head}</tr></thead>\n{bodies}\n</table>\n</div>\n</div>\n'
        )

    def figure(self, figure: Figure) -> str:
        """Panels under their legend, the caption, and the numbers behind them."""
        self.figures += 1
        name = f"f{self.figures}"
        caption = f" {escape(figure.caption)}" if figure.caption else ""
        numbers = "".join(self.table(table, numbered=False) for table in figure.numbers)
        if not self.draws:
            heading = f'<p class="missing-figure"><b>Figure {self.figures}. {escape(figure.title)}.</b> '
            return f"{heading}Not drawn: matplotlib is not installed.{caption}</p>\n{numbers}"
        panels = "".join(self._panel(panel, f"{name}-{i}") for i, panel in enumerate(figure.panels, start=1))
        details = f"<details><summary>Numbers of figure {self.figures}</summary>\n{numbers}</details>\n"
        return (
            f'<figure id="{name}" aria-labelledby="{name}-caption">\n{_legend(figure)}'
            f'<div class="panels">{panels}</div>\n'
            f'<figcaption id="{name}-caption"><b>Figure {self.figures}. {escape(figure.title)}.</b>{caption}'
            f"</figcaption>\n</figure>\n{details if numbers else ''}"
        )

    def _panel(self, panel: Panel | Heatmap, name: str) -> str:
        svg = panel_svg(panel, name, describe(panel))
        return f'<div class="panel {panel.size}"><p class="panel-title">{escape(panel.title)}</p>{svg}</div>\n'


def _rows(blocks: Sequence[Block]) -> list[list[Block]]:
    """Blocks one below the other; a table and the table or figure that follows it stand beside each other."""
    rows: list[list[Block]] = []
    for block in blocks:
        before = rows[-1] if rows else []
        if len(before) == 1 and isinstance(before[0], Table) and isinstance(block, (Table, Figure)):
            before.append(block)
        else:
            rows.append([block])
    return rows


def _bodies(table: Table) -> Iterator[str]:
    """Rows by group; the name of a group heads it."""
    for group, rows in _by_group(table.rows):
        cell = f'<th scope="rowgroup" colspan="{len(table.columns)}"><span>{breakable(group)}</span></th>'
        head = f'<tr class="group">{cell}</tr>'
        yield (head if group else "") + "".join(_row(row, table.text_columns) for row in rows)


def _by_group(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    groups: list[tuple[str, list[Row]]] = []
    for row in rows:
        if not groups or groups[-1][0] != row.group:
            groups.append((row.group, []))
        groups[-1][1].append(row)
    return groups


def _row(row: Row, text: set[int]) -> str:
    detail = f'<span class="detail">{breakable(row.header_detail)}</span>' if row.header_detail else ""
    cells = "".join(_cell(cell, text=i in text) for i, cell in enumerate(row.cells, start=1))
    return f'<tr><th scope="row">{breakable(row.header)}{detail}</th>{cells}</tr>\n'


def _cell(cell: Cell, *, text: bool) -> str:
    detail = f'<span class="detail">{breakable(cell.detail)}</span>' if cell.detail else ""
    span = f' colspan="{cell.span}"' if cell.span > 1 else ""
    kind = f"{cell.kind} left" if text else cell.kind
    span += f' style="--shade:{min(max(cell.shade, 0), 1):.2f}"' if math.isfinite(cell.shade) else ""
    kind += " shaded" if math.isfinite(cell.shade) else ""
    return f'<td class="{kind}"{span}>{_SIGNS.get(cell.kind, "")}{breakable(cell.text)}{detail}</td>'


def breakable(text: str) -> str:
    """Escaped text whose words of 25 letters and more may be broken, so that no table gets as wide as a fingerprint.

    Example:
        >>> breakable("a < " + 30 * "b").count("<wbr>")
        2
    """
    parts, end = [], 0
    for match in _LONG_WORD.finditer(text):
        pieces = [match[0][i : i + 12] for i in range(0, len(match[0]), 12)]
        parts += [escape(text[end : match.start()]), "<wbr>".join(map(escape, pieces))]
        end = match.end()
    return "".join([*parts, escape(text[end:])])


def _legend(figure: Figure) -> str:
    """The curves of all panels, each named once."""
    known: dict[tuple[object, ...], Series] = {}
    for panel in figure.panels:
        for series in panel.series if isinstance(panel, Panel) else ():
            if series.label and series.style != "front":
                own = series.marker if series.marker not in ("auto", "none") else ""
                key = (series.label, series.look, own, series.hollow)
                known[key] = series if known.get(key, series).marker == "none" else known.get(key, series)
    filled = {series.look for series in known.values() if not series.hollow}
    shown = [series for series in known.values() if not (series.hollow and series.look >= 0 and series.look in filled)]
    if not shown:
        return ""
    lines = "".join(f"<li>{swatch_svg(series)}<span>{escape(series.label)}</span></li>" for series in shown)
    return f'<ul class="legend" aria-label="Legend">{lines}</ul>\n'
