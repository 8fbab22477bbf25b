"""Panels as SVG text to put into a page: the same bytes for the same numbers, no script, nothing to load."""

from __future__ import annotations

import io
import re
import warnings
from html import escape
from typing import Any
from xml.etree import ElementTree

from simreg.reporting.blocks import Heatmap, Panel, Series
from simreg.reporting.draw import INCHES, draw, keywords
from simreg.robustness.drawing import new_figure, plain_settings

_SETTINGS = {
    "svg.fonttype": "none",  # text stays text: it can be searched, read aloud and zoomed
    "svg.hashsalt": "simreg",
    "font.family": "DejaVu Sans",  # comes with matplotlib; the page names the fonts to show
    "font.size": 8.5,
    "axes.labelsize": 8.5,
    "axes.titlesize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.unicode_minus": True,
    "axes.linewidth": 0.8,
    "axes.edgecolor": "#444444",
    "axes.formatter.useoffset": False,
}
_LONG = re.compile(r"-?\d+\.\d{3,}(?:e-?\d+)?")
_NUMERIC = ("d", "x", "y", "x1", "x2", "y1", "y2", "width", "height", "transform", "points")


def panel_svg(panel: Panel | Heatmap, identifier: str, description: str) -> str:
    """One panel as an ``<svg>`` element with a title and a description for those who don't see it.

    Args:
        panel: What to draw.
        identifier: Prefix of every id in it, unique on the page.
        description: What the panel shows, in words.

    Returns:
        The element, without XML header and namespaces, ready for an HTML page.

    Raises:
        ImportError: If matplotlib is missing.
    """
    small = {"font.size": 7.5, "axes.labelsize": 7.5, "xtick.labelsize": 7, "ytick.labelsize": 7}
    with plain_settings(**{**_SETTINGS, **(small if panel.size == "tiny" else {})}):
        figure = new_figure(*INCHES[panel.size])
        draw(figure.subplots(), panel)
        file = io.StringIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a label may have characters that the font lacks
            figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    root = ElementTree.fromstring(_without_doctype(file.getvalue()))
    _clean(root, identifier)
    width, height = INCHES[panel.size]
    root.attrib = {
        "viewBox": root.attrib.get("viewBox", f"0 0 {72 * width:g} {72 * height:g}"),
        "role": "img",
        "aria-labelledby": f"{identifier}-title {identifier}-text",
        "class": f"panel-{panel.size}",
    }
    inner = "".join(ElementTree.tostring(child, encoding="unicode") for child in root)
    attributes = "".join(f' {name}="{escape(value)}"' for name, value in root.attrib.items())
    words = (
        f'<title id="{identifier}-title">{escape(panel.title)}</title>'
        f'<desc id="{identifier}-text">{escape(description)}</desc>'
    )
    return f"<svg{attributes}>{words}{inner}</svg>"


def swatch_svg(series: Series) -> str:
    """The line and marker of a series, for a legend."""
    style = keywords(series, line=series.style != "points")
    colour = style["color"]
    parts = []
    if style.get("linestyle") != "none":
        dashes = {"--": "6 3", "-.": "6 2 1.5 2", ":": "1.5 2.5"}.get(style["linestyle"], "")
        dash = f' stroke-dasharray="{dashes}"' if dashes else ""
        parts.append(f'<line x1="1" y1="6" x2="29" y2="6" stroke="{colour}" stroke-width="2"{dash}/>')
    if style.get("marker"):
        fill = "white" if series.hollow else colour
        path = _marker_path(style["marker"])
        parts.append(f'<path d="{path}" fill="{fill}" stroke="{colour}" stroke-width="1.2"/>')
    return f'<svg class="swatch" viewBox="0 0 30 12" aria-hidden="true">{"".join(parts)}</svg>'


def _marker_path(marker: str) -> str:
    """The outline of a marker around (15, 6) as the data of an SVG path."""
    from matplotlib.markers import MarkerStyle
    from matplotlib.path import Path

    style = MarkerStyle(marker)
    path = style.get_path().transformed(style.get_transform())
    letters = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C", Path.CLOSEPOLY: "Z"}
    steps = []
    for points, code in path.iter_segments(simplify=False):
        at = " ".join(f"{15 + 9 * x:.2f} {6 - 9 * y:.2f}" for x, y in points.reshape(-1, 2))
        steps.append("Z" if code == Path.CLOSEPOLY else f"{letters[code]}{at}")
    return "".join(steps)


def _without_doctype(text: str) -> str:
    """The text without the line that names a document type outside the page."""
    return re.sub(r"<!DOCTYPE[^>]*>", "", text)


def _clean(element: Any, prefix: str) -> None:
    """Drop namespaces, metadata, styles of the whole page and ids that nothing uses; make the other ids unique."""
    for parent in element.iter():
        for child in list(parent):
            if not isinstance(child.tag, str) or child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
    used = set(re.findall(r"#([\w-]+)", " ".join(v for e in element.iter() for v in e.attrib.values())))
    for child in element.iter():
        child.tag = child.tag.rpartition("}")[2]
        child.tail = None
        child.text = child.text if child.tag in ("text", "tspan") else None
        attributes = {name.rpartition("}")[2]: value for name, value in child.attrib.items()}
        child.attrib = {
            name: _value(name, value, prefix) for name, value in attributes.items() if name != "id" or value in used
        }


def _value(name: str, value: str, prefix: str) -> str:
    """An attribute with its ids made unique, its font left to the page, and its numbers shortened."""
    if name == "id":
        return f"{prefix}-{value}"
    if name == "href" and value.startswith("#"):
        return f"#{prefix}-{value[1:]}"
    value = re.sub(r"url\(#([\w-]+)\)", rf"url(#{prefix}-\1)", value)
    if name == "style":
        return re.sub(r"font-family:[^;]*;? ?", "", value)
    return _LONG.sub(lambda match: f"{float(match[0]):.2f}", value) if name in _NUMERIC else value
