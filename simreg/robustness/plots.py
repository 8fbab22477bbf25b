"""Figures of results, written as files; no window, no global state of matplotlib."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simreg.robustness.drawing import look, new_figure, save_figure, tidy
from simreg.robustness.results import BoundaryResult, Sweep

_TITLES = {
    "gaussian": "Gaussian noise",
    "uniform": "Uniform noise",
    "salt_and_pepper": "Salt-and-pepper noise",
    "fgsm": "White-box FGSM",
    "pgd": "White-box PGD",
    "transferred_fgsm": "Transferred FGSM",
    "transferred_pgd": "Transferred PGD",
    "square": "Square Attack",
    "autoattack": "AutoAttack",
    "adaptive": "Adaptive PGD",
}
_STRENGTHS = {
    "gaussian": "standard deviation $\\epsilon$ (pixel units)",
    "uniform": "half width $\\epsilon$ (pixel units)",
    "salt_and_pepper": "probability $\\epsilon$ per value",
}


def plot_sweeps(sweeps: Mapping[str, Sweep], path: str | os.PathLike[str], *, title: str | None = None) -> Path:
    """Accuracy against strength, one curve per label, with standard errors.

    Args:
        sweeps: Sweeps by label; usually one distortion and several models.
        path: File to write; its ending (.png, .pdf, .svg) chooses the format.
        title: Title; None names the distortion.

    Returns:
        The path.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If ``sweeps`` is empty.

    Example:
        >>> import tempfile
        >>> sweep = Sweep("gaussian", (0.0, 0.05, 0.1), (0.7, 0.55, 0.36), n=2000, seed=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     plot_sweeps({"unregularized": sweep}, Path(folder) / "gaussian.png").stat().st_size > 1000
        True
    """
    _require(sweeps, "sweeps")
    figure = new_figure(5.2, 3.8)
    axes = figure.subplots()
    for i, (label, sweep) in enumerate(sweeps.items()):
        order = np.argsort(sweep.epsilons)
        x, y, error = (
            np.asarray(v, dtype=float)[order] for v in (sweep.epsilons, sweep.accuracies, sweep.standard_errors)
        )
        axes.errorbar(x, 100 * y, yerr=100 * error, label=f"{label} (n={sweep.n})", capsize=2, **look(i, markers=True))
    names = {sweep.name for sweep in sweeps.values()}
    name = names.pop() if len(names) == 1 else ""
    axes.set_xlabel(_STRENGTHS.get(name, "$\\epsilon$ (pixel units)"))
    axes.set_ylabel("accuracy (%)")
    axes.set_ylim(bottom=0)
    axes.locator_params(axis="x", nbins=6)
    axes.set_title(title if title is not None else _TITLES.get(name, name))
    tidy(axes)
    axes.legend(fontsize="small", frameon=False, loc="best")
    return save_figure(figure, path)


def plot_boundary(
    results: Mapping[str, BoundaryResult], path: str | os.PathLike[str], *, title: str | None = None
) -> Path:
    """Boundary Attack: median distance against steps, and the share of images within each distance at the end.

    Failed images stay in both: in the median as infinitely far, on the right as a curve that ends below 100 %.

    Args:
        results: Boundary Attack results by label.
        path: File to write; its ending chooses the format.
        title: Title; None is "Boundary Attack".

    Returns:
        The path.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If ``results`` is empty.

    Example:
        >>> import tempfile
        >>> result = BoundaryResult(
        ...     (0.002, 0.004), ("ok", "ok"), (60, 60), ("noise", "noise"), 50, 1, 0, (0, 50), (0.005, 0.003))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     plot_boundary({"unregularized": result}, Path(folder) / "boundary.png").stat().st_size > 1000
        True
    """
    _require(results, "results")
    figure = new_figure(9.2, 3.8)
    left, right = figure.subplots(1, 2)
    for i, (label, result) in enumerate(results.items()):
        medians = [median if math.isfinite(median) else math.nan for median in result.curve_medians]
        left.plot(result.curve_steps, medians, label=label, **look(i, markers=True))
        reached = np.sort([d for d in result.distances if math.isfinite(d)])
        share = 100 * np.arange(1, len(reached) + 1) / result.n
        note = f"{label} (n={result.n}, {result.failures} failed)"
        right.step(reached, share, where="post", label=note, **look(i))
    left.set_xlabel("steps")
    left.set_ylabel("median squared $L_2$ per pixel")
    left.set_ylim(bottom=0)
    right.set_xlabel("squared $L_2$ per pixel")
    right.set_ylabel("images within this distance (%)")
    right.set_ylim(0, 102)
    if any(d > 0 and math.isfinite(d) for result in results.values() for d in result.distances):
        right.set_xscale("log")
    for axes in (left, right):
        tidy(axes)
    left.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    figure.legend(
        *right.get_legend_handles_labels(), fontsize="small", frameon=False, loc="outside lower center", ncols=2
    )
    figure.suptitle("Boundary Attack" if title is None else title, fontsize="medium")
    return save_figure(figure, path)


def plot_history(history: Mapping[str, Any], path: str | os.PathLike[str], *, title: str | None = None) -> Path:
    """Training over steps: layer weights, target share, correlation and loss.

    Args:
        history: ``"step"`` (steps), and any of ``"layer_weights"`` (values by layer name), ``"target_share"``,
            ``"correlation"`` and ``"loss"``, each as long as ``"step"``; or several such histories by label.
        path: File to write; its ending chooses the format.
        title: Title above all panels.

    Returns:
        The path.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If a series has not the length of its steps, or there is nothing to draw.

    Example:
        >>> import tempfile
        >>> history = {"step": [0, 1], "layer_weights": {"stem": [0.5, 0.3], "layer1": [0.5, 0.7]}, "loss": [2.0, 1.0]}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     plot_history(history, Path(folder) / "history.png").stat().st_size > 1000
        True
    """
    histories = {"": history} if "step" in history else dict(history)
    _require(histories, "history")
    panels = _panels(histories)
    columns = min(len(panels), 2)
    rows = math.ceil(len(panels) / columns)
    figure = new_figure(4.6 * columns, 3.3 * rows)
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, panel in zip(grid, panels, strict=False):
        _draw_panel(axes, *panel)
    for axes in grid[len(panels) :]:
        axes.remove()
    if title:
        figure.suptitle(title, fontsize="medium")
    return save_figure(figure, path)


_WEIGHTS, _SHARE = "Layer weights", "Targets at ±1"

_Series = tuple[str, Sequence[float], Sequence[float]]


def _panels(histories: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, list[_Series]]]:
    """Title, y label and series of each panel that has anything to show."""
    weights: list[_Series] = []
    scalars: dict[str, list[_Series]] = {"target_share": [], "correlation": [], "loss": []}
    for label, history in histories.items():
        if "step" not in history:
            raise ValueError(f"history {label!r} has no 'step'; it has {', '.join(map(repr, history))}.")
        steps = history["step"]
        for layer, values in history.get("layer_weights", {}).items():
            weights.append((f"{label} {layer}".strip(), steps, _values(layer, values, steps)))
        for name, series in scalars.items():
            if name in history:
                series.append((label, steps, _values(name, history[name], steps)))
    panels = [
        (_WEIGHTS, "weight (sum 1)", weights),
        (_SHARE, "share of pairs", scalars["target_share"]),
        ("Similarity and target", "correlation", scalars["correlation"]),
        ("Loss", "loss", scalars["loss"]),
    ]
    shown = [panel for panel in panels if panel[2]]
    if not shown:
        raise ValueError("history has nothing to draw: give layer_weights, target_share, correlation or loss.")
    return shown


def _draw_panel(axes: Any, title: str, unit: str, series: Sequence[_Series]) -> None:
    """One panel of the history: a curve per series."""
    for i, (label, steps, values) in enumerate(series):
        few = sum(not math.isnan(value) for value in values) < 3  # too few for a line to be seen
        axes.plot(steps, values, label=label, **look(i, markers=few))
    if title == _SHARE and not any(value > 0 for _, _, values in series for value in values):
        axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center", va="center", color="0.4")
    axes.set_xlabel("training step")
    axes.set_ylabel(unit)
    axes.set_title(title, fontsize="medium")
    if title in (_WEIGHTS, _SHARE):  # both are shares: zero is where they start
        axes.set_ylim(bottom=0, top=1.02 if title == _WEIGHTS or axes.get_ylim()[1] <= 0 else None)
    tidy(axes)
    if any(label for label, _, _ in series):
        axes.legend(fontsize="small", frameon=False, loc="best")


def _values(name: str, values: Sequence[float | None], steps: Sequence[float]) -> list[float]:
    if len(values) != len(steps):
        raise ValueError(f"history[{name!r}] has {len(values)} values for {len(steps)} steps: one per step.")
    return [math.nan if value is None else float(value) for value in values]


def _require(items: Mapping[str, Any], name: str) -> None:
    if not items:
        raise ValueError(f"{name} is empty: give at least one entry by label.")
