"""Everything needed to repeat a run: models, data, budgets, versions, hardware, fingerprints."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from simreg.reporting import names
from simreg.reporting.blocks import Block, Cell, Facts, Row, Section, Table, chunks, plural
from simreg.reporting.groups import Group, keys_of
from simreg.reporting.methods import BUDGETS, method_groups
from simreg.reporting.numbers import NOTHING, count, duration, number, significant
from simreg.reporting.runs import Run, entries, items, machines, suite_of, words

_LONGEST = 8  # values of a list that are written out
_HEX = 16  # digits of a fingerprint that are shown
_MODELS = 4
_MEASURED = re.compile(
    r"^(max_perturbation|queries|query_marks|accuracy_by_queries|stage_accuracies|start_image_queries|first_index|source_accuracy|surrogate_accuracy)$"
    r"|_shares?$|_queries_of_successes$"
)
"""Settings that are results: a table of budgets leaves them out."""


_DEFAULTS = {"step_size": "2.5 epsilon / steps"}
"""What an attack takes where a setting is null."""


def settings_section(runs: Sequence[Run], groups: Sequence[Group]) -> Section:
    """Models, images, versions and budgets of all runs.

    Args:
        runs: All runs of the report.
        groups: The evaluated models, whose budgets are listed.
    """
    evaluations = [run for run in runs if run.kind == "evaluation"]
    sections = []
    if evaluations:
        sections.append(Section("Models", tuple(_facts_table("Models", [(r.label, _model(r)) for r in evaluations]))))
    sections.append(Section("Images", tuple(_facts_table("Images", [(_name(r), _data(r)) for r in runs]))))
    if groups:
        sections.append(Section("Budgets of the measurements", (budget_table(groups),)))
    sections += [section for run in runs if (section := _comparison_budgets(run, len(runs) > 1)) is not None]
    sections.append(
        Section("Files, versions and hardware", tuple(_facts_table("Runs", [(_name(r), _run(r)) for r in runs])))
    )
    return Section("Settings", (), tuple(sections))


def _comparison_budgets(run: Run, named: bool) -> Section | None:
    """Budgets of the measurements of a comparison; the same in both of its training budgets."""
    found = next((groups for budget in BUDGETS if (groups := method_groups(run.data, budget))), [])
    measured = [group for group in found if group.runs]
    table = budget_table(measured)
    title = f"Budgets of the measurements{f' of the {_name(run)}' if named else ''}"
    return Section(title, (table,)) if table.rows else None


def _name(run: Run) -> str:
    return run.label if run.kind == "evaluation" else f"{run.kind} on {run.label}"


def _facts_table(caption: str, columns: Sequence[tuple[str, Mapping[str, str]]]) -> list[Block]:
    """Facts of one thing, or a table of those of several, at most four beside each other."""
    if all(found == columns[0][1] for _, found in columns):
        return [Facts(tuple(columns[0][1].items()))]
    tables: list[Block] = []
    facts = list(dict.fromkeys(name for _, found in columns for name in found))
    for part in chunks(columns, _MODELS):
        rows = tuple(
            Row(name, tuple(Cell(found.get(name, NOTHING), kind="text") for _, found in part)) for name in facts
        )
        tables.append(Table(f"{caption}.", ("", *(label for label, _ in part)), rows))
    return tables


def _model(run: Run) -> dict[str, str]:
    model = entries(run.data, "model")
    random = f"yes, mean of {count(model.get('samples'))} passes" if model.get("random") else "no"
    facts = {
        "from": words(model.get("spec"), NOTHING),
        "parameters": f"{count(model.get('parameters')):,}" if model.get("parameters") else NOTHING,
        "input": f"(x − {plain(model.get('mean'))}) / {plain(model.get('std'))}, x in [0, 1]",
        "random at inference": random,
        "fingerprint": _short(model.get("fingerprint")),
    }
    notes = " ".join(words(note) for note in items(model, "notes"))
    if notes:
        facts["notes"] = notes
    surrogate = entries(run.data, "surrogate")
    if surrogate:
        facts["surrogate"] = f"{words(surrogate.get('name'), 'unnamed')} ({_short(surrogate.get('fingerprint'))})"
    return facts


def _data(run: Run) -> dict[str, str]:
    data = entries(run.data, "data")
    classes = items(data, "classes")
    shown = ", ".join(words(name) for name in classes[:10]) + (", …" if len(classes) > 10 else "")
    facts = {
        "name": words(data.get("name"), NOTHING),
        "source": words(data.get("source"), NOTHING),
        "images": f"{count(data.get('n')):,}",
        "shape (C, H, W)": " × ".join(words(side) for side in items(data, "shape")) or NOTHING,
        "classes": f"{len(classes)}: {shown}" if classes else NOTHING,
        "fingerprint": _short(data.get("fingerprint")),
    }
    test = entries(data, "test")
    if test:
        facts["training images"] = facts.pop("images")
        facts["test images"] = f"{count(test.get('n')):,}, fingerprint {_short(test.get('fingerprint'))}"
    return facts


def image_counts(run: Run) -> str:
    """How many images the run had, and what for."""
    data, split = entries(run.data, "data"), entries(run.data, "split")
    n, test = count(data.get("n")), count(entries(data, "test").get("n"))
    if run.kind == "comparison" and test:
        return f"{plural(n, 'training image')}, {plural(test, 'test image')}"
    if run.kind == "selection" and split:
        used = plural(count(split.get("train")), "training image")
        return f"{used}, {plural(count(split.get('validation')), 'validation image')}"
    return plural(n, "image")


def _run(run: Run) -> dict[str, str]:
    data = run.data
    grid = {k: v for k, v in entries(data, "grid").items() if plain(v) not in (NOTHING, "")}
    installed = {name: version for name, version in entries(data, "versions").items() if version}
    facts = {
        "written": created(data),
        "suite": suite_of(data) or NOTHING,
        "seed": words(data.get("seed"), NOTHING),
        "grid": plain(grid) or NOTHING,
        "device": words(data.get("device"), NOTHING),
        "hardware": "; ".join(machines(data)) or NOTHING,
        "time of measuring": duration(number(data.get("seconds"))),
        "versions": ", ".join(f"{words(name)} {words(version)}" for name, version in installed.items()) or NOTHING,
        "file": f"{run.source} (SHA-256 {run.digest}…)" if run.digest else NOTHING,
    }
    return {name: value for name, value in facts.items() if value != NOTHING}


def created(data: Mapping[str, Any]) -> str:
    """When a file was written, to the minute.

    Example:
        >>> created({"created": "2026-11-21T03:10:58+00:00"})
        '2026-11-21 03:10 UTC'
    """
    text = words(data.get("created"), NOTHING)
    if len(text) >= 16 and text[10] == "T":
        return f"{text[:10]} {text[11:16]}{' UTC' if text.endswith(('+00:00', 'Z')) else ''}"
    return text


def budget_table(groups: Sequence[Group]) -> Table:
    """Images, settings and time of every measurement; models that agree share a row."""
    rows = []
    for key in keys_of(groups):
        agreeing: dict[tuple[str, str], list[Group]] = {}
        for group in groups:
            found = _budget(group, key)
            if found is not None:
                agreeing.setdefault(found, []).append(group)
        for (images, settings), having in agreeing.items():
            labels = ", ".join(group.label for group in having)
            who = "all models" if len(having) == len(groups) > 1 else labels
            seconds = [number(entries(run, key).get("seconds")) for group in having for run in group.runs]
            taken = [value for value in seconds if math.isfinite(value)]
            time = duration(sum(taken) / len(taken)) if taken else NOTHING
            cells = (Cell(images), Cell(settings or NOTHING, kind="text"), Cell(time))
            rows.append(Row(names.measurement(key), cells, header_detail=who if len(groups) > 1 else ""))
    note = "Time is the mean over the models of a row."
    return Table("Budgets.", ("Measurement", "Images", "Settings", "Time"), tuple(rows), note)


def _budget(group: Group, key: str) -> tuple[str, str] | None:
    for kind in ("sweep", "distances", "corruptions", "spectrum"):
        for result in group.results(key, kind):
            settings = dict(entries(result, "settings"))
            budget = settings.pop("budget", {})
            told = {**(budget if isinstance(budget, Mapping) else {}), **settings}
            told = {name: value for name, value in told.items() if not _MEASURED.search(str(name))}
            for name in ("epsilons", "steps", "repeats", "seed"):
                if name in result and result[name] not in (None, []):
                    told.setdefault(name, result[name])
            text = "; ".join(
                f"{words(name).replace('_', ' ')} {value}"
                for name, raw in sorted(told.items())
                if (value := _DEFAULTS.get(name, NOTHING) if raw is None else plain(raw))
            )
            return f"{count(result.get('n')):,}", text
    return None


def plain(value: Any) -> str:
    """A setting as text: numbers short, long lists by their ends, mappings by their entries."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: NOTHING}[value]
    if isinstance(value, Mapping):
        return ", ".join(f"{words(k)} {plain(v)}" for k, v in list(value.items())[:_LONGEST])
    if isinstance(value, (list, tuple)):
        if len(set(map(json.dumps, value))) == 1:
            return plain(value[0])
        if len(value) > _LONGEST:
            return f"{plain(value[0])} to {plain(value[-1])} ({len(value)} values)"
        return ", ".join(map(plain, value))
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return names.strength(value) if 0 < value < 1 else significant(value)
    text = words(value)
    return _short(text) if len(text) == 64 and all(c in "0123456789abcdef" for c in text) else text


def _short(fingerprint: Any) -> str:
    text = words(fingerprint, NOTHING)
    return f"{text[:_HEX]}…" if len(text) > _HEX else text
