"""Cells of tables: accuracies and distances."""

from __future__ import annotations

from simreg.reporting.blocks import Cell
from simreg.reporting.numbers import Estimate, percent, percent_interval, plain_interval, significant


def accuracy_cell(estimate: Estimate) -> Cell:
    """An accuracy in percent over its interval."""
    return Cell(percent(estimate.value), percent_interval(estimate))


def distance_cell(estimate: Estimate) -> Cell:
    """A distance over its interval."""
    return Cell(significant(estimate.value, keep=True), plain_interval(estimate))
