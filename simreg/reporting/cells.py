"""Cells of tables: accuracies, distances and the outcome of the masking checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from simreg.reporting.blocks import Cell
from simreg.reporting.groups import Group
from simreg.reporting.numbers import Estimate, percent, percent_interval, plain_interval, significant
from simreg.reporting.runs import items


def accuracy_cell(estimate: Estimate) -> Cell:
    """An accuracy in percent over its interval."""
    return Cell(percent(estimate.value), percent_interval(estimate))


def distance_cell(estimate: Estimate) -> Cell:
    """A distance over its interval."""
    return Cell(significant(estimate.value, keep=True), plain_interval(estimate))


def masking_cell(group: Group) -> Cell:
    """Outcome of the masking panel in a few words.

    Example:
        >>> masking_cell(Group("plain", 0, (), {"suspicious": False, "checks": [{"name": "a", "passed": True}]})).text
        'no sign of masking'
    """
    if not group.masking:
        return Cell("not checked", "no masking panel in this file", "missing")
    checks = [check for check in items(group.masking, "checks") if isinstance(check, Mapping)]
    passed = sum(check.get("passed") is True for check in checks)
    failed = sum(check.get("passed") is False for check in checks)
    open_ = len(checks) - passed - failed
    told = f"{passed} of {len(checks)} checks passed" + (f", {open_} not possible" if open_ else "")
    if group.masking.get("suspicious"):
        return Cell("signs of masked gradients", f"{told}: white-box numbers may be far too high", "bad")
    if not passed:
        return Cell("not checked", told, "missing")
    return Cell("no sign of masking", told, "good")


def masking_line(groups: Sequence[Group]) -> str:
    """The outcome of the masking checks of all models in a sentence."""
    outcomes: dict[str, list[str]] = {}
    for group in groups:
        outcomes.setdefault(masking_cell(group).text, []).append(group.label)
    told = [f"{text} ({', '.join(labels)})" if len(outcomes) > 1 else text for text, labels in outcomes.items()]
    return f"Masking checks: {'; '.join(told)}."
