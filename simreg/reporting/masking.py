"""The masking checks of a model, or of the training runs of a method, and what they come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from simreg.reporting import names
from simreg.reporting.blocks import MODELS, Cell, Row, Table, chunks
from simreg.reporting.groups import Group, near_chance
from simreg.reporting.runs import items, words
from simreg.robustness._masking_checks import DECISIVE

Panel = Mapping[str, Any]


def checks_of(panel: Panel) -> dict[str, Mapping[str, Any]]:
    """The checks of a panel by name."""
    found = [check for check in items(panel, "checks") if isinstance(check, Mapping)]
    return {words(check.get("name"), "unnamed"): check for check in found}


def joined_panel(panels: Sequence[Panel], seeds: Sequence[int]) -> dict[str, Any]:
    """The panels of several training runs as one: a check passes if it does in all, and fails if it does in any.

    Args:
        panels: One for each run.
        seeds: Seeds of the runs.

    Returns:
        A panel; empty unless every run has one.
    """
    if not panels or not all(checks_of(panel) for panel in panels):
        return {}
    if len(panels) == 1:
        return dict(panels[0])
    known = dict.fromkeys(name for panel in panels for name in checks_of(panel))
    joined: dict[str, Any] = {
        "suspicious": any(bool(panel.get("suspicious")) for panel in panels),
        "checks": [_joined_check(name, panels, seeds) for name in known],
    }
    said = [panel.get("established") for panel in panels]
    return joined if None in said else {**joined, "established": all(said)}


def _joined_check(name: str, panels: Sequence[Panel], seeds: Sequence[int]) -> dict[str, Any]:
    """One check over all runs, with the numbers of the first run that decides it."""
    found = [checks_of(panel).get(name, {"passed": None}) for panel in panels]
    outcomes = [check.get("passed") for check in found]
    outcome = next((wanted for wanted in (False, None) if wanted in outcomes), True)
    first = outcomes.index(outcome)
    question = next((check["question"] for check in found if check.get("question")), "")
    same = outcomes.count(outcome)
    runs = f"all {len(found)} runs" if same == len(found) else f"{same} of {len(found)} runs"
    detail = words(found[first].get("detail"))
    told = f"{runs}; seed {seeds[first]}: {detail}" if detail and first < len(seeds) else runs
    return {"name": name, "question": question, "passed": outcome, "detail": told}


def established(panel: Panel) -> bool:
    """Whether gradients were looked at closely enough to say that they are not masked."""
    said = panel.get("established")
    return said if isinstance(said, bool) else not panel.get("suspicious") and not _not_looked_at(panel)


def _not_looked_at(panel: Panel) -> list[str]:
    """The checks that decide and were not possible, in words."""
    made = {name for name, check in checks_of(panel).items() if check.get("passed") is not None}
    return [names.DECISIVE.get(group[0], names.check(group[0])) for group in DECISIVE if not made & set(group)]


def masking_cell(group: Group) -> Cell:
    """Outcome of the masking panel in a few words.

    Example:
        >>> checks = [{"name": name, "passed": True} for name in ("black_box", "large_budget", "zero_gradients")]
        >>> masking_cell(Group("plain", 0, (), {"suspicious": False, "checks": checks})).text
        'no sign of masking'
        >>> masking_cell(Group("plain", 0, (), {"suspicious": False, "checks": checks[:2]})).text
        'not established'
    """
    outcomes = [check.get("passed") for check in checks_of(group.masking).values()]
    if not outcomes:
        return Cell("not checked", "no masking panel in this file", "missing")
    passed, possible = outcomes.count(True), len(outcomes) - outcomes.count(None)
    told = f"{passed} of {len(outcomes)} checks passed"
    told += f", {len(outcomes) - possible} not possible" if possible < len(outcomes) else ""
    if group.masking.get("suspicious"):
        return Cell("signs of masked gradients", f"{told}: white-box numbers may be far too high", "bad")
    if near_chance(group):
        return Cell("near chance: says nothing", told, "text")
    if established(group.masking):
        return Cell("no sign of masking", told, "good")
    without = "; ".join(_not_looked_at(group.masking))
    return Cell("not established", f"{told}; not looked at: {without}" if without else told, "text")


def short_masking_cell(group: Group) -> Cell:
    """The outcome in a few words, for tables of many models: how many checks passed, of how many.

    Example:
        >>> checks = [{"name": name, "passed": True} for name in ("black_box", "large_budget", "zero_gradients")]
        >>> short_masking_cell(Group("plain", 0, (), {"suspicious": False, "checks": checks})).text
        'no sign, 3 of 3'
    """
    cell = masking_cell(group)
    outcomes = [check.get("passed") for check in checks_of(group.masking).values()]
    if cell.text not in _SHORT:
        return replace(cell, detail="")
    return replace(cell, text=f"{_SHORT[cell.text]}, {outcomes.count(True)} of {len(outcomes)}", detail="")


_SHORT = {"no sign of masking": "no sign", "signs of masked gradients": "signs", "not established": "not established"}


def masking_line(groups: Sequence[Group]) -> str:
    """The outcome of the masking checks of all models in a sentence."""
    outcomes: dict[str, list[str]] = {}
    for group in groups:
        outcomes.setdefault(masking_cell(group).text, []).append(group.label)
    told = [f"{text} ({', '.join(labels)})" if len(outcomes) > 1 else text for text, labels in outcomes.items()]
    return f"Masking checks: {'; '.join(told)}."


def masking_tables(groups: Sequence[Group]) -> list[Table]:
    """Every masking check of every model."""
    questions: dict[str, str] = {}
    for group in groups:
        for name, check in checks_of(group.masking).items():
            questions.setdefault(name, words(check.get("question")))
    tables = []
    for part in chunks(groups, MODELS) if questions else []:
        rows = [Row("Outcome", tuple(map(masking_cell, part)))]
        rows += [
            Row(names.check(name), tuple(_check_cell(group, name) for group in part), header_detail=question)
            for name, question in questions.items()
        ]
        columns = ("Check", *(group.label for group in part))
        caption = "Are the gradients to be trusted? Checks for masked gradients."
        tables.append(Table(caption, columns, tuple(rows)))
    return tables


def _check_cell(group: Group, name: str) -> Cell:
    check = checks_of(group.masking).get(name)
    if check is None:
        return Cell("not checked", "", "missing")
    passed, detail = check.get("passed"), names.readable(words(check.get("detail")))
    if passed is None:
        return Cell("not possible", detail, "missing")
    if passed and near_chance(group):
        return Cell("passed, near chance", detail, "text")
    return Cell("passed", detail, "good") if passed else Cell("failed", detail, "bad")
