"""Spectra of the smallest perturbations: the radial profile and the power in two dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from simreg.reporting.blocks import Block, Figure, Heatmap, Note, Panel, Section, Series, Text
from simreg.reporting.describe import figure_of
from simreg.reporting.groups import Group, Result, setting
from simreg.reporting.numbers import count, number
from simreg.reporting.runs import items

_OF_MEAN, _OF_EACH = "Power of the mean perturbation", "Mean power of the perturbations"
_TWO = (
    "The power of the mean perturbation is what the perturbations of all images have in common (the figure of the "
    "paper); the mean power is what each of them has."
)


def spectrum_section(groups: Sequence[Group]) -> Section | None:
    """Where in frequency the smallest perturbations have their power."""
    having = [group for group in groups if group.results("spectrum", "spectrum")]
    if not having:
        return None
    figures = [_radial_figure(having), *_power_figures(having)]
    steps = sorted({count(setting(group, "spectrum", "steps")) for group in having} - {0})
    blocks: list[Block] = [
        Text(
            "Fourier power of the smallest perturbation that a long Boundary Attack found, averaged over images. Power "
            "at low frequencies means that the model is fooled by coarse changes, as people are."
        )
    ]
    if steps and max(steps) < 1000:
        blocks.append(
            Note(
                f"The attack took {max(steps)} steps: the perturbations are far from the smallest, and their spectra "
                "are mostly those of the noise that they started from.",
                "warning",
            )
        )
    blocks += [figure for figure in figures if figure is not None]
    return Section("Spectra of the smallest perturbations", tuple(blocks), brief="Spectra")


def _radial_figure(groups: Sequence[Group]) -> Figure | None:
    panels = []
    for name, title in (("radial_of_mean", _OF_MEAN), ("radial", _OF_EACH)):
        series = [one for group in groups if (one := _radial_series(group, name)).drawn]
        if series:
            panels.append(
                Panel(title, "frequency (cycles per image)", "power", tuple(series), y_scale="log", size="medium")
            )
    return figure_of("Power over frequency", panels, f"Mean over all directions. {_TWO}")


def _radial_series(group: Group, name: str) -> Series:
    result = group.results("spectrum", "spectrum")[0]
    radial = [number(value) for value in items(result, name)]
    frequencies = [number(value) for value in items(result, "frequencies")] or [float(i) for i in range(len(radial))]
    size = min(len(radial), len(frequencies))
    y = tuple(value if value > 0 else math.nan for value in radial[:size])
    return Series(group.label, group.look, tuple(frequencies[:size]), y)


def _power_figures(groups: Sequence[Group]) -> list[Figure]:
    """The two powers in two dimensions: of one model beside each other, else each with one colour scale for all."""
    figures = []
    for name, title in (("power_of_mean", _OF_MEAN), ("power", _OF_EACH)):
        grids = {g.label: grid for g in groups if (grid := power_grid(g.results("spectrum", "spectrum")[0], name))}
        values = [value for grid in grids.values() for row in grid for value in row if math.isfinite(value)]
        if values:
            low, high = min(values), max(values)
            high = high if high > low else low + 1
            axes = ("log10 of the power", "horizontal frequency", "vertical frequency")
            of_one = len(groups) == 1
            panels = tuple(Heatmap(title if of_one else g, grid, low, high, *axes) for g, grid in grids.items())
            caption = "Cycles per image, zero in the middle, one colour scale for all."
            figures.append(Figure(f"{title}, in two dimensions", panels, caption))
    if len(groups) > 1 or not figures:
        return figures
    together = tuple(panel for figure in figures for panel in figure.panels)
    return [Figure("Power in two dimensions", together, "Cycles per image, zero in the middle.")]


def power_grid(result: Result, name: str = "power") -> tuple[tuple[float, ...], ...]:
    """The logarithm of the power, (H, W); empty if rows differ in length. What is not positive is NaN."""
    rows = [row for row in items(result, name) if isinstance(row, (list, tuple)) and row]
    if not rows or len({len(row) for row in rows}) != 1:
        return ()
    return tuple(tuple(math.log10(p) if (p := number(v)) > 0 else math.nan for v in row) for row in rows)
