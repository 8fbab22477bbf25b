"""Drawing panels with matplotlib: every curve with its intervals, colours and markers that differ, no legend inside."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from simreg.reporting.blocks import Heatmap, Panel, Series
from simreg.robustness.drawing import GREY, look, tidy

INCHES = {"tiny": (2.05, 1.75), "small": (3.4, 2.7), "medium": (4.6, 3.2), "large": (6.2, 4.0)}
"""Width and height of the panels; the page shows 96 px an inch or a little less."""

_ACCEPTABLE = "#E4F1EA"
_TICKS = 7
_DECADES = 100  # a logarithmic axis that spans less is labelled with round numbers


def draw(axes: Any, panel: Panel | Heatmap) -> None:
    """Draw ``panel`` on matplotlib's ``axes``."""
    if isinstance(panel, Heatmap):
        _draw_heatmap(axes, panel)
        return
    tidy(axes)
    for series in panel.series:
        _DRAW[series.style](axes, series)
    _scale(axes, panel)
    if panel.region is not None:
        _draw_region(axes, *panel.region)
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)


def keywords(series: Series, *, line: bool) -> dict[str, Any]:
    """Keywords of ``Axes.plot`` for a series."""
    style = look(max(series.look, 0), markers=series.marker != "none")
    if series.look < 0:
        style["color"] = GREY
    if series.marker not in ("auto", "none"):
        style["marker"] = series.marker
    if series.hollow:
        style |= {"markerfacecolor": "white", "markeredgewidth": 1.2}
    if series.marker == "*":
        style["markersize"] = 10
    if not line:
        style["linestyle"] = "none"
    return style


def _draw_line(axes: Any, series: Series, *, line: bool = True) -> None:
    x, y = np.asarray(series.x, dtype=float), np.asarray(series.y, dtype=float)
    style = keywords(series, line=line)
    if len(x) > 40:  # markers would hide the line
        style["markevery"] = max(1, len(x) // 8)
    axes.plot(x, y, **style)
    vertical = _errors(y, series.low, series.high)
    across = _errors(x, series.x_low, series.x_high)
    if vertical is not None or across is not None:
        finite = x[np.isfinite(x)]
        beside = x + series.shift * (finite.max() - finite.min()) if series.shift and len(finite) else x
        axes.errorbar(
            beside,
            y,
            yerr=vertical,
            xerr=across,
            fmt="none",
            ecolor=style["color"],
            elinewidth=0.9,
            capsize=1.5,
            alpha=0.7,
        )
    for xi, yi, note in zip(series.x, series.y, series.notes, strict=False):
        if note and math.isfinite(xi) and math.isfinite(yi):
            text = note.replace("$", r"\$")
            axes.annotate(text, (xi, yi), xytext=(5, 4), textcoords="offset points", fontsize="small")


def _draw_points(axes: Any, series: Series) -> None:
    _draw_line(axes, series, line=False)


def _draw_steps(axes: Any, series: Series) -> None:
    axes.step(series.x, series.y, where="post", **keywords(series, line=True))
    if series.low:
        colour = keywords(series, line=True)["color"]
        axes.fill_between(series.x, series.low, series.high, step="post", color=colour, alpha=0.13, linewidth=0)


def _draw_front(axes: Any, series: Series) -> None:
    axes.plot(series.x, series.y, color=GREY, linewidth=1.2, linestyle="-", zorder=1)


_DRAW: dict[str, Callable[[Any, Series], None]] = {
    "line": _draw_line,
    "points": _draw_points,
    "steps": _draw_steps,
    "front": _draw_front,
}


def _errors(middle: Any, low: tuple[float, ...], high: tuple[float, ...]) -> Any:
    """Lengths of the error bars, (2, n); None without any. What is not finite gets none."""
    if not low:
        return None
    ends = np.stack([middle - np.asarray(low, dtype=float), np.asarray(high, dtype=float) - middle])
    known = np.isfinite(ends)
    ends = np.where(known, np.maximum(ends, 0), 0)  # rounding must not make them negative
    ends[:, ~known.any(axis=0)] = np.nan  # no bar at all, not one of length 0
    return ends if known.any() else None


def _scale(axes: Any, panel: Panel) -> None:
    """Scales, limits and ticks, for data that may be none, one point or all equal."""
    xs = [x for series in panel.series for x in series.x if math.isfinite(x)]
    ys = [y for series in panel.series for y in series.y if math.isfinite(y)]
    if panel.x_scale in ("log", "log2") and xs and min(xs) > 0:
        axes.set_xscale("log", base=2 if panel.x_scale == "log2" else 10)
        if panel.x_scale == "log2" and len(set(xs)) <= _TICKS:
            _plain_ticks(axes.xaxis, sorted(set(xs)))
        elif max(xs) / min(xs) < _DECADES:
            _plain_ticks(axes.xaxis, round_values(*axes.get_xlim()))
    elif panel.x_scale == "symlog":
        axes.set_xscale("symlog", linthresh=1, linscale=0.4)
        axes.set_xlim(left=-0.2)
    if panel.y_scale == "log" and ys and min(ys) > 0:
        axes.set_yscale("log")
        if max(ys) / min(ys) < _DECADES:
            _plain_ticks(axes.yaxis, round_values(*axes.get_ylim()))
    if panel.x_ticks:
        axes.set_xticks(panel.x_ticks, [f"{value:g}" for value in panel.x_ticks])
    elif panel.categories:
        axes.set_xticks(range(len(panel.categories)), panel.categories)
        axes.set_xlim(-0.5, len(panel.categories) - 0.5)
    elif axes.get_xscale() == "linear":
        axes.locator_params(axis="x", nbins=4 if panel.size == "tiny" else 6)
    bottom, top = panel.y_limits
    if not math.isnan(bottom) and axes.get_yscale() == "linear":
        axes.set_ylim(bottom=bottom)
    if not math.isnan(top):
        axes.set_ylim(top=top)
    if not any(series.drawn for series in panel.series):
        axes.text(0.5, 0.5, "nothing to draw", transform=axes.transAxes, ha="center", va="center", color=GREY)


def round_values(low: float, high: float) -> list[float]:
    """The round numbers between two positive ones: 1, 2 or 5 times a power of ten; finer ones where those are few.

    Example:
        >>> round_values(0.0009, 0.011)
        [0.001, 0.002, 0.005, 0.01]
        >>> round_values(3.1, 4.4)
        [3.5, 4.0]
    """
    for steps in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8), tuple(i / 2 for i in range(2, 20)), tuple(range(1, 10))):
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = [float(f"{step}e{power}") for power in powers for step in steps if low <= step * 10.0**power <= high]
        if len(found) >= 2:
            return found
    return found


def _plain_ticks(axis: Any, values: list[float]) -> None:
    """A tick at each of these values instead of at powers of the base."""
    if len(values) >= 2:
        from matplotlib.ticker import NullFormatter, NullLocator

        axis.set_minor_locator(NullLocator())
        axis.set_minor_formatter(NullFormatter())
        axis.set_ticks(values, labels=[f"{value:g}" for value in values])


def _draw_region(axes: Any, left: float, bottom: float) -> None:
    """Shade what lies right of ``left`` and above ``bottom``, which always are in view."""
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    x0, x1 = min(x0, left - 0.05), max(x1, left + 0.1)
    y0, y1 = min(y0, bottom - 0.05), max(y1, bottom + 0.1)
    axes.fill_between([left, x1], bottom, y1, color=_ACCEPTABLE, zorder=0, linewidth=0)
    axes.axvline(left, color=GREY, linewidth=0.9, linestyle=":")
    axes.axhline(bottom, color=GREY, linewidth=0.9, linestyle=":")
    axes.set_xlim(x0, x1)
    axes.set_ylim(y0, y1)
    axes.annotate(
        "acceptable", (x1, y1), xytext=(-3, -3), textcoords="offset points", ha="right", va="top", color="#2F6B4F"
    )


def _draw_heatmap(axes: Any, panel: Heatmap) -> None:
    values = np.asarray(panel.values, dtype=float)
    rows, columns = values.shape
    left, top = -(columns // 2) - 0.5, -(rows // 2) - 0.5
    image = axes.imshow(
        values,
        cmap="cividis",
        vmin=panel.low,
        vmax=panel.high,
        interpolation="none",
        extent=(left, left + columns, top + rows, top),
    )
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.9, pad=0.03)
    bar.set_label(panel.scale_label)
    bar.outline.set_visible(False)
