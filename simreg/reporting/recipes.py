"""How nets were trained: recipe, network, seeds, and what each method does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simreg.reporting.blocks import Block, Cell, Facts, Row, Section, Table
from simreg.reporting.methods import labels_of, runs_of
from simreg.reporting.numbers import count, significant
from simreg.reporting.runs import entries, items, words


def recipe_section(data: Mapping[str, Any]) -> Section:
    """What all trainings of a comparison or a selection share, and what each method of a comparison does."""
    facts = [(_name(name), flat(value)) for name, value in entries(data, "recipe").items()]
    facts += [(f"network: {_name(name)}", flat(value)) for name, value in entries(data, "network").items()]
    facts += [(_name(name), flat(data[name])) for name in ("epochs", "budget_seconds") if data.get(name) is not None]
    seeds = sorted({count(run.get("seed")) for run in _trainings(data)})
    facts += [("seeds", ", ".join(map(str, seeds)))] if seeds else []
    blocks: list[Block] = [Facts(tuple(facts))] if facts else []
    methods = entries(data, "methods")
    blocks += [_methods_table(data)] if methods else []
    return Section("Recipe and methods" if methods else "Recipe", tuple(blocks))


def _trainings(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """All training runs of a comparison or a selection."""
    points = [point for point in items(data, "points") if isinstance(point, Mapping)]
    methods = entries(data, "methods")
    holders = [*(entries(methods, name) for name in methods), entries(data, "reference"), *points]
    return [run for holder in holders for run in runs_of(holder)]


def _methods_table(data: Mapping[str, Any]) -> Table:
    rows = []
    for name, (label, _) in labels_of(data).items():
        method = entries(entries(data, "methods"), name)
        settings = ", ".join(f"{words(k)} {flat(v)}" for k, v in entries(method, "settings").items())
        cells = (Cell(words(method.get("description"), "–"), kind="text"), Cell(settings or "–", kind="text"))
        rows.append(Row(label, cells))
    return Table("The methods.", ("Method", "What it does", "Settings"), tuple(rows))


def _name(value: Any) -> str:
    return words(value).replace("_", " ")


def flat(value: Any) -> str:
    """A setting as text, lists and mappings in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{words(k)} {flat(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(flat, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return significant(value) if isinstance(value, float) else words(value, "–")
