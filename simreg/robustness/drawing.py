"""How figures look: colours, markers and lines of the curves, and bare matplotlib figures without a window."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito, 2008: told apart by colour-blind readers as well."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "p", ">", "h", "*")
LINES = ("-", "--", "-.", ":")
GREY = "#767676"
"""Darkest use of grey for what stays in the background; 4.5:1 against white."""


def look(index: int, *, markers: bool = False) -> dict[str, Any]:
    """Colour, line and marker of the curve with this index, as keywords of ``Axes.plot``.

    Colours repeat after 7 curves, markers after 12 and lines change with each round of colours: no two of the first 84
    curves look alike.

    Example:
        >>> look(0)["color"], look(7)["color"] == look(0)["color"], look(7)["linestyle"]
        ('#0072B2', True, '--')
    """
    keywords: dict[str, Any] = {"color": COLOURS[index % len(COLOURS)], "linewidth": 1.6}
    keywords["linestyle"] = LINES[index // len(COLOURS) % len(LINES)]
    if markers:
        keywords |= {"marker": MARKERS[index % len(MARKERS)], "markersize": 4}
    return keywords


def tidy(axes: Any) -> None:
    """Light grid behind the data, no frame above and to the right."""
    axes.grid(visible=True, color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def new_figure(width: float, height: float) -> Any:
    """A figure of this size in inches that no window and no pyplot knows; ImportError names the extra."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install simreg[plots]") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: str | os.PathLike[str]) -> Path:
    """Write the figure; the ending of ``path`` chooses the format, missing folders are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path


@contextmanager
def plain_settings(**settings: Any) -> Iterator[None]:
    """Matplotlib's own defaults and ``settings`` for the block, whatever the user's configuration says."""
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install simreg[plots]") from error
    parameters: Any = matplotlib.rcParams
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        parameters.update(settings)
        yield
