"""Tables of judgements: masking checks, verdicts, and what was not run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from simreg.reporting import names
from simreg.reporting.blocks import MODELS, Cell, Row, Table, chunks
from simreg.reporting.cells import masking_cell
from simreg.reporting.groups import Group, keys_of
from simreg.reporting.runs import entries, items, words


def masking_tables(groups: Sequence[Group]) -> list[Table]:
    """Every masking check of every model."""
    tables = []
    checked = [group for group in groups if items(group.masking, "checks")]
    known: dict[str, str] = {}
    for group in checked:
        for check in items(group.masking, "checks"):
            known.setdefault(words(entries({"c": check}, "c").get("name"), "unnamed"), words(check.get("question")))
    for part in chunks(groups, MODELS) if known else []:
        rows = tuple(
            Row(name, tuple(_check_cell(group, name) for group in part), header_detail=question)
            for name, question in known.items()
        )
        outcome = Row("Outcome", tuple(masking_cell(group) for group in part))
        columns = ("Check", *(group.label for group in part))
        tables.append(Table("Are the gradients to be trusted? Checks for masked gradients.", columns, (outcome, *rows)))
    return tables


def _check_cell(group: Group, name: str) -> Cell:
    for check in items(group.masking, "checks"):
        if isinstance(check, Mapping) and words(check.get("name"), "unnamed") == name:
            passed, detail = check.get("passed"), words(check.get("detail"))
            if passed is None:
                return Cell("not possible", detail, "missing")
            return Cell("passed", detail, "good") if passed else Cell("failed", detail, "bad")
    return Cell("not checked", "", "missing")


def verdict_table(verdicts: Mapping[str, Sequence[Any]]) -> Table | None:
    """The plain sentence per threat and model, with its evidence."""
    rows = []
    for threat, title in names.THREATS.items():
        for label, said in verdicts.items():
            for verdict in said:
                if isinstance(verdict, Mapping) and words(verdict.get("threat")) == threat:
                    rows.append(_verdict_row(label if len(verdicts) > 1 else title, verdict, title, len(verdicts)))
    known = set(names.THREATS)
    for label, said in verdicts.items():
        for verdict in said:
            if isinstance(verdict, Mapping) and words(verdict.get("threat")) not in known:
                rows.append(_verdict_row(label, verdict, words(verdict.get("threat"), "Other"), 2))
    head = "Threat" if len(verdicts) == 1 else "Model"
    return Table("Verdicts.", (head, "Verdict"), tuple(rows)) if rows else None


def _verdict_row(header: str, verdict: Mapping[str, Any], title: str, models: int) -> Row:
    evidence = "; ".join(words(item) for item in items(verdict, "evidence"))
    cell = Cell(words(verdict.get("verdict"), "no verdict"), evidence, "text")
    return Row(header, (cell,), title if models > 1 else "")


def not_run_rows(groups: Sequence[Group]) -> list[Row]:
    """What does not exist: a row per measurement and reason, with the models that it is missing for."""
    rows = []
    for key in keys_of(groups):
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
