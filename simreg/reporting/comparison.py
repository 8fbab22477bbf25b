"""The section of a comparison of training methods: headline, cost, every threat, training, recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from simreg.reporting import names
from simreg.reporting.blocks import MODELS, Block, Bullets, Cell, Note, Row, Section, Table, Text, chunks, plural
from simreg.reporting.costs import cost_table, equal_time_table, time_figure
from simreg.reporting.groups import Group
from simreg.reporting.headline import headline_table
from simreg.reporting.histories import scalars_figure, weights_figure
from simreg.reporting.judgements import said_of
from simreg.reporting.methods import BUDGETS, done, labels_of, method_groups, reference_group, runs_of, trainings_of
from simreg.reporting.numbers import NOTHING, count, significant
from simreg.reporting.ratios import trade_off_section
from simreg.reporting.recipes import recipe_section
from simreg.reporting.remarks import remarks
from simreg.reporting.runs import Run, entries, items, words
from simreg.reporting.threats import threat_sections
from simreg.reporting.winners import winner_lines


def comparison_section(run: Run) -> Section:
    """Everything about one comparison."""
    data = run.data
    budget = next((name for name in BUDGETS if method_groups(data, name)), "equal_epochs")
    groups = method_groups(data, budget)
    blocks: list[Block] = [headline_table(groups)] if groups else []
    blocks += method_verdicts(data, groups)
    blocks += cost_table(data)
    figure = time_figure(data)
    blocks += [figure] if figure is not None else []
    if budget == "equal_epochs" and method_groups(data, "equal_time"):
        blocks += equal_time_table(data)
    blocks += [Note(line, "warning") for line in collapses(data)]
    reference = reference_group(data, groups)
    measured = [group for group in groups if group.runs]
    trade_off = trade_off_section(measured, reference) if reference is not None and reference.runs else None
    sections = [trade_off] if trade_off is not None else []
    sections += threat_sections(measured) if measured else []
    training = _training(data, budget)
    sections += [training] if training is not None else []
    sections.append(recipe_section(data))
    return Section(f"Training methods compared on {run.label}", tuple(blocks), tuple(sections))


def method_verdicts(data: Mapping[str, Any], groups: Sequence[Group]) -> list[Table]:
    """What the evidence says of each method against each threat; the numbers are in the headline and its sections."""
    said = {g.label: [items(net, "verdicts") for net in trainings_of(data, g)] for g in groups if g.runs}
    tables = []
    for part in chunks([label for label, runs in said.items() if any(runs)], MODELS):
        rows = []
        for threat, title in names.THREATS.items():
            told = [said_of(said[label], threat) for label in part]
            if threat != "clean" and any(told):
                cells = [Cell(text or NOTHING, kind="text") for text in told]
                alike = len(set(told)) == 1 < len(told)
                rows.append(Row(title, (replace(cells[0], span=len(part)),) if alike else tuple(cells)))
        tables.append(Table("Verdicts.", ("Threat", *part), tuple(rows)))
    return tables


def headline_blocks(run: Run) -> list[Block]:
    """What was compared, and who keeps the most."""
    groups = next((found for name in BUDGETS if (found := method_groups(run.data, name))), [])
    lines = winner_lines(run.data, groups)
    notes = [Note(line, "warning") for line in remarks(run.data, groups)]
    return [Text(summary(run)), *notes, *([Bullets(tuple(lines))] if lines else [])]


def summary(run: Run) -> str:
    """What was compared, in a sentence or two."""
    data = run.data
    methods = entries(data, "methods")
    seeds = sorted({count(r.get("seed")) for name in methods for r in runs_of(entries(methods, name))})
    network = entries(data, "network")
    net = f" of {words(network.get('name'))}, width {words(network.get('width'))}," if network else ""
    budgets = [text for name, text in BUDGETS.items() if method_groups(data, name)]
    shown = f", seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}" if seeds else ""
    several = "; means over training runs, with Student's t intervals where there are several" * (len(seeds) > 1)
    kept = " Numbers are those at equal epochs unless said otherwise." if len(budgets) == 2 else ""
    at = " and at ".join(budgets) or "no budget"
    return (
        f"{plural(len(methods), 'method')}{net} trained on {run.label} with one recipe at {at}{shown}{several}.{kept}"
    )


def collapses(data: Mapping[str, Any]) -> list[str]:
    """Trainings that lost their robustness at once, and were stopped before."""
    lines = []
    methods = entries(data, "methods")
    for name, (label, _) in labels_of(data).items():
        for run in runs_of(entries(methods, name)):
            collapse = entries(run, "collapse")
            if collapse:
                told = ", ".join(f"{words(k).replace('_', ' ')} {_short(v)}" for k, v in collapse.items())
                lines.append(
                    f"{label}, seed {count(run.get('seed'))}, {BUDGETS.get(str(run.get('budget')), 'one budget')}: "
                    f"training collapsed; the weights before were kept ({told})."
                )
    return lines


def _short(value: Any) -> str:
    return significant(float(value)) if isinstance(value, float) else words(value)


def not_run_methods(run: Run) -> list[Row]:
    """Trainings that do not exist, with their reasons."""
    methods = entries(run.data, "methods")
    rows: dict[tuple[str, str], list[str]] = {}
    for name, (label, _) in labels_of(run.data).items():
        for one in runs_of(entries(methods, name)):
            if one.get("status", "ok") != "ok":
                reason = words(one.get("reason"), "no reason given")
                which = f"seed {count(one.get('seed'))}, {BUDGETS.get(str(one.get('budget')), 'one budget')}"
                rows.setdefault((label, reason), []).append(which)
    return [
        Row(f"training of {label}", (Cell("; ".join(which), kind="text"), Cell(reason, kind="text")))
        for (label, reason), which in rows.items()
    ]


def _training(data: Mapping[str, Any], budget: str) -> Section | None:
    """Layer weights and losses over the training of the first seed of each method."""
    first = [
        (label, look, entries(runs[0], "history"))
        for name, (label, look) in labels_of(data).items()
        if (runs := done(entries(entries(data, "methods"), name), budget))
    ]
    figures = [weights_figure([(label, history) for label, _, history in first]), scalars_figure(first)]
    blocks = tuple(figure for figure in figures if figure is not None)
    return Section("Training", (Text("The first seed of each method."), *blocks)) if blocks else None
