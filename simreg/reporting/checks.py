"""Tables of verdicts, and of what was not run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from simreg.reporting import names
from simreg.reporting.blocks import Cell, Row, Table
from simreg.reporting.groups import Group, keys_of
from simreg.reporting.runs import entries, items, words


def verdict_table(verdicts: Mapping[str, Sequence[Any]], *, evidence: bool = True) -> Table | None:
    """The plain sentence per threat and model; what is said of all models stands once.

    Args:
        verdicts: Verdicts of each model.
        evidence: Whether their numbers are shown too.
    """
    rows: list[Row] = []
    named = [words(verdict.get("threat")) for said in verdicts.values() for verdict in _readable(said)]
    for threat in [*names.THREATS, *dict.fromkeys(name for name in named if name not in names.THREATS)]:
        title = names.THREATS.get(threat) or threat or "Other"
        having: dict[tuple[str, str], list[str]] = {}
        for label, said in verdicts.items():
            for verdict in _readable(said):
                if words(verdict.get("threat")) == threat:
                    numbers = "; ".join(names.readable(words(item)) for item in items(verdict, "evidence"))
                    key = words(verdict.get("verdict"), "no verdict"), numbers if evidence else ""
                    having.setdefault(key, []).append(label)
        rows += _verdict_rows(having, title, len(verdicts))
    head = "Threat" if len(verdicts) == 1 else "Model"
    return Table("Verdicts.", (head, "Verdict"), tuple(rows)) if rows else None


def _readable(said: Sequence[Any]) -> list[Mapping[str, Any]]:
    return [verdict for verdict in said if isinstance(verdict, Mapping)]


def _verdict_rows(having: Mapping[tuple[str, str], Sequence[str]], title: str, models: int) -> list[Row]:
    """The rows of one threat; a single model has the threat as its header."""
    if models == 1:
        return [Row(title, (Cell(text, numbers, "text"),)) for text, numbers in having]
    by_label: dict[str, list[Cell]] = {}
    for (text, numbers), labels in having.items():
        for label in ["all"] if len(set(labels)) == models else dict.fromkeys(labels):
            by_label.setdefault(label, []).append(Cell(text, numbers, "text"))
    shared = by_label.pop("all", [])
    return [Row(label, (cell,), title) for label, cells in [*by_label.items(), ("all", shared)] for cell in cells]


def asked_keys(groups: Sequence[Group]) -> list[str]:
    """All keys of these groups, and what ``--only`` left out of their suites."""
    return names.order({*keys_of(groups), *(key for group in groups for key in group.left_out)})


def not_run_rows(groups: Sequence[Group]) -> list[Row]:
    """What does not exist: a row per measurement and reason, with the models that it is missing for."""
    rows = []
    for key in asked_keys(groups):
        rows += _not_run_parts(groups, key)
        reasons: dict[str, list[str]] = {}
        for group in groups:
            reason = group.reason(key)
            if reason is not None:
                reasons.setdefault(reason, []).append(group.label)
        for reason, labels in reasons.items():
            who = "all" if len(labels) == len(groups) and len(groups) > 1 else ", ".join(labels)
            rows.append(Row(names.measurement(key), (Cell(who, kind="text"), Cell(reason, kind="text"))))
    return rows


def _not_run_parts(groups: Sequence[Group], key: str) -> list[Row]:
    """Corruptions that a corruption run left out."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for group in groups:
        for result in group.results(key, "corruptions"):
            for part, reason in entries(result, "not_run").items():
                labels = reasons.setdefault((names.corruption(str(part)), words(reason, "no reason given")), [])
                if group.label not in labels:
                    labels.append(group.label)
    return [
        Row(f"corruption: {part}", (Cell(", ".join(labels), kind="text"), Cell(reason, kind="text")))
        for (part, reason), labels in reasons.items()
    ]
