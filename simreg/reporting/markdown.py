"""A document as Markdown that GitHub shows: tables, lists, no HTML, every text escaped."""

from __future__ import annotations

import re
from collections.abc import Sequence

from simreg.reporting.blocks import Block, Bullets, Cell, Document, Facts, Figure, Note, Row, Section, Table, Text

_SPECIAL = re.compile(r"([\\`*_\[\]|~$#@])")
_SIGNS = {"good": "✓ ", "bad": "✗ "}


def escape(text: str) -> str:
    r"""Text that Markdown shows as it is.

    Example:
        >>> escape("a|b_c <b>")
        'a\\|b\\_c &lt;b&gt;'
    """
    text = " ".join(text.split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", text)


def render_markdown(document: Document) -> str:
    """The document as Markdown; figures are left out.

    Args:
        document: What to show.

    Returns:
        The text, with a newline at the end.
    """
    lines = [f"# {escape(document.title)}", "", escape(document.subtitle), ""]
    for section in document.sections:
        lines += _section(section, 2)
    lines += ["---", "", "Made by `simreg report`. Intervals are at 95 %."]
    return "\n".join(lines).rstrip() + "\n"


def _section(section: Section, level: int) -> list[str]:
    if section.empty:
        return []
    lines = [f"{'#' * level} {escape(section.title)}", ""]
    for block in section.blocks:
        lines += _block(block)
    for child in section.sections:
        lines += _section(child, level + 1)
    return lines


def _block(block: Block) -> list[str]:
    if isinstance(block, Text):
        return [_line(block.text), ""]
    if isinstance(block, Note):
        return [f"> {'**Caution:** ' if block.kind == 'warning' else ''}{escape(block.text)}", ""]
    if isinstance(block, Bullets):
        return [*(f"- {escape(item)}" for item in block.items), ""]
    if isinstance(block, Facts):
        return [*(f"- **{escape(term)}:** {escape(value)}" for term, value in block.items), ""]
    return _table(block) if isinstance(block, Table) else _figure(block)


def _line(text: str) -> str:
    """A paragraph whose first characters start neither a list nor a heading."""
    text = escape(text)
    return re.sub(r"^(\d+)([.)])", r"\1\\\2", f"\\{text}" if text[:1] in "-+" else text)


def _figure(figure: Figure) -> list[str]:
    return [f"*{escape(figure.title)}: see the page.*", ""]


def _table(table: Table) -> list[str]:
    """The table under its caption; groups of rows are rows of their own."""
    lines = [f"**{escape(table.caption)}**{' ' + escape(table.note) if table.note else ''}", ""]
    lines.append(_cells([escape(column) for column in table.columns]))
    text = table.text_columns
    lines.append(_cells([":---" if i in text else "---:" for i in range(len(table.columns))]))
    group = ""
    for row in table.rows:
        if row.group and row.group != group:
            lines.append(_cells([f"**{escape(row.group)}**", *[""] * (len(table.columns) - 1)]))
        group = row.group
        lines.append(_row(row, len(table.columns) - 1))
    return [*lines, ""]


def _row(row: Row, width: int) -> str:
    header = escape(row.header) + (f" ({escape(row.header_detail)})" if row.header_detail else "")
    cells = [_cell(cell) for cell in row.cells for _ in range(cell.span if cell.kind == "text" else 1)]
    return _cells([header, *cells, *[""] * (width - len(cells))])


def _cell(cell: Cell) -> str:
    text = f"{_SIGNS.get(cell.kind, '')}{escape(cell.text)}"
    if not cell.detail:
        return text
    detail = escape(cell.detail)
    if cell.kind == "number" or not cell.text:
        return f"{text} {detail}".lstrip()
    return f"{text} ({detail})" if cell.text.endswith((".", "!", "?")) else f"{text}: {detail}"


def _cells(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
