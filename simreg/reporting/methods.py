"""The methods of a comparison: their labels, their training runs in each budget, and the unregularized one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from simreg.reporting.groups import Group
from simreg.reporting.masking import joined_panel
from simreg.reporting.numbers import Estimate, count, mean_estimate, number
from simreg.reporting.runs import entries, items, unlike, words

BUDGETS = {"equal_epochs": "equal epochs", "equal_time": "equal training time"}
REFERENCES = ("none", "standard", "unregularized", "plain")


def method_groups(data: Mapping[str, Any], budget: str) -> list[Group]:
    """The methods that were asked for in this budget, each with its training runs."""
    groups = []
    for name, (label, look) in labels_of(data).items():
        method = entries(entries(data, "methods"), name)
        asked = [run for run in runs_of(method) if run.get("budget", "equal_epochs") == budget]
        if asked:
            measured = done(method, budget)
            reasons = [words(run.get("reason"), "no reason given") for run in asked if run not in measured]
            measurements = tuple(entries(run, "measurements") for run in measured)
            seeds = tuple(count(run.get("seed")) for run in measured)
            classes = len(items(entries(data, "data"), "classes"))
            absent = reasons[0] if reasons else "not part of this run"
            panel = joined_panel([entries(run, "masking") for run in measured], seeds)
            groups.append(Group(label, look, measurements, panel, absent, seeds, budget, classes))
    return groups


def trainings_of(data: Mapping[str, Any], group: Group) -> list[Mapping[str, Any]]:
    """The training runs behind one of the groups of a comparison."""
    name = next(name for name, (label, _) in labels_of(data).items() if label == group.label)
    return done(entries(entries(data, "methods"), name), group.budget)


def reference_group(data: Mapping[str, Any], groups: Sequence[Group]) -> Group | None:
    """The unregularized method, by its name."""
    labels = [label for name, (label, _) in labels_of(data).items() if name in REFERENCES]
    return next((group for group in groups if group.label in labels), None)


def runs_of(method: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """All training runs of a method, those that were not run included."""
    return [run for run in items(method, "runs") if isinstance(run, Mapping)]


def done(method: Mapping[str, Any], budget: str) -> list[Mapping[str, Any]]:
    """Training runs of a method in one budget that exist."""
    runs = [run for run in runs_of(method) if run.get("budget", "equal_epochs") == budget]
    return [run for run in runs if run.get("status", "ok") == "ok"]


def mean_of(runs: Sequence[Mapping[str, Any]], name: str) -> Estimate:
    """Mean over training runs of one number that is never negative."""
    return mean_estimate([number(run.get(name)) for run in runs]).within(0.0)


def labels_of(data: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """Label and look of every method, by name."""
    taken: set[str] = set()
    found = {}
    for look, name in enumerate(entries(data, "methods")):
        label = unlike(words(entries(entries(data, "methods"), name).get("label"), words(name, "unnamed")), taken)
        taken.add(label)
        found[str(name)] = (label, look)
    return found
