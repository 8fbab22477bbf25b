"""A report from runs: headline, threats, comparisons, selections, limits, what was not run, settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from simreg._checks import near_matches
from simreg.reporting.blocks import Block, Bullets, Document, Facts, Figure, Note, Row, Section, Table, Text, plural
from simreg.reporting.cautions import cautions
from simreg.reporting.checks import asked_keys, not_run_rows, verdict_table
from simreg.reporting.comparison import comparison_section, headline_blocks, not_run_methods
from simreg.reporting.groups import Group
from simreg.reporting.headline import headline_table
from simreg.reporting.masking import masking_tables
from simreg.reporting.methods import method_groups
from simreg.reporting.numbers import NOTHING
from simreg.reporting.ratios import trade_off_section
from simreg.reporting.recipes import recipe_section
from simreg.reporting.runs import Run, entries, items, machines, suite_of, words
from simreg.reporting.selection import choice_line, not_run_points, selection_section, warnings
from simreg.reporting.settings import created, image_counts, settings_section
from simreg.reporting.threats import threat_sections


def evaluation_groups(runs: Sequence[Run]) -> list[Group]:
    """The evaluated models of a report."""
    groups = []
    for look, run in enumerate(run for run in runs if run.kind == "evaluation"):
        suite = words(run.data.get("suite"))
        absent = f"not part of the {suite} suite that was run" if suite else "not part of this run"
        measurements = (entries(run.data, "measurements"),)
        groups.append(
            Group(
                run.label,
                look,
                measurements,
                entries(run.data, "masking"),
                absent,
                classes=len(items(entries(run.data, "data"), "classes")),
                left_out=tuple(words(key) for key in items(run.data, "left_out")),
            )
        )
    return groups


def build_document(runs: Sequence[Run], *, title: str | None = None, reference: str | None = None) -> Document:
    """The whole report.

    Args:
        runs: From ``load_runs``.
        title: Title; None says what the runs are.
        reference: Label of the unregularized model among the evaluations, for the trade-off; None leaves that out.

    Returns:
        What ``render_page`` shows.

    Raises:
        ValueError: If there are no runs, or ``reference`` is the label of none of the evaluations.
    """
    groups, parts = _parts(runs)
    sections = [_headline(runs, groups), *threat_sections(groups)] if groups else [_headline(runs, groups)]
    if reference is not None:
        section = trade_off_section(groups, _find_reference(groups, reference))
        sections += [section] if section is not None else []
    for run in runs:
        if run.kind == "comparison":
            sections.append(comparison_section(run))
        elif run.kind == "selection":
            sections.append(selection_section(run))
    sections += [_limits(parts), _not_run(runs, groups, parts), settings_section(runs, groups)]
    return _document(runs, title, [section for section in sections if not section.empty])


def build_card(runs: Sequence[Run], *, title: str | None = None, reference: str | None = None) -> Document:
    """The model card: headline, verdicts, masking, limits, what was not run and settings, without figures.

    Args:
        runs: From ``load_runs``.
        title: Title; None says what the runs are.
        reference: Label of the unregularized model among the evaluations, for the trade-off; None leaves that out.

    Returns:
        What ``render_markdown`` writes.

    Raises:
        ValueError: If there are no runs, or ``reference`` is the label of none of the evaluations.
    """
    groups, parts = _parts(runs)
    sections = [_headline(runs, groups, evidence=False)]
    masking = masking_tables(groups)
    if masking:
        sections.append(Section("Masking checks", tuple(masking)))
    if reference is not None:
        section = trade_off_section(groups, _find_reference(groups, reference))
        sections += [_without_figures(section)] if section is not None else []
    for run in runs:
        if run.kind != "evaluation":
            section = comparison_section(run) if run.kind == "comparison" else selection_section(run)
            sections.append(_without_figures(replace(section, sections=(recipe_section(run.data),))))
    sections += [_limits(parts), _not_run(runs, groups, parts), settings_section(runs, groups)]
    return _document(runs, title, [section for section in sections if not section.empty])


def _parts(runs: Sequence[Run]) -> tuple[list[Group], list[tuple[str, list[Group]]]]:
    """The evaluated models; and all groups by the part of the report that they belong to."""
    if not runs:
        raise ValueError("runs is empty: give at least one.")
    groups = evaluation_groups(runs)
    parts: list[tuple[str, list[Group]]] = [("Evaluations", groups)] if groups else []
    for run in runs:
        if run.kind == "comparison":
            found = method_groups(run.data, "equal_epochs") or method_groups(run.data, "equal_time")
            found = [group for group in found if group.runs]  # the others are trainings that were not run
            parts.append((f"Comparison on {run.label}", found))
    return groups, parts


def _find_reference(groups: Sequence[Group], label: str) -> Group:
    found = [group for group in groups if group.label == label]
    if not found:
        labels = [group.label for group in groups]
        near = near_matches(label, labels)
        hint = f" Did you mean {near[0]!r}?" if near else f" They are {', '.join(map(repr, labels)) or 'none'}."
        raise ValueError(f"reference={label!r} is none of the evaluated models.{hint}")
    return found[0]


def _without_figures(section: Section) -> Section:
    return replace(section, blocks=tuple(block for block in section.blocks if not isinstance(block, Figure)))


def _document(runs: Sequence[Run], title: str | None, sections: Sequence[Section]) -> Document:
    data = list(dict.fromkeys(words(entries(run.data, "data").get("name"), "unnamed data") for run in runs))
    suites = list(dict.fromkeys(suite_of(run.data) for run in runs if run.data.get("suite")))
    dates = sorted({created(run.data)[:10] for run in runs} - {NOTHING})
    told = [f"Data: {', '.join(data)}"]
    told += [f"suite: {', '.join(suites)}"] if suites else []
    told += [f"measured {' to '.join(dict.fromkeys((dates[0], dates[-1])))}"] if dates else []
    subtitle = " · ".join(told)
    name = words(title) or _title(runs)
    return Document(name, subtitle, tuple(sections), f"{name}. {subtitle}.")


def _title(runs: Sequence[Run]) -> str:
    kinds = {run.kind for run in runs}
    if kinds == {"evaluation"}:
        return f"Robustness of {runs[0].label}" if len(runs) == 1 else f"Robustness of {len(runs)} models"
    if len(runs) == 1:
        what = "Training methods compared" if kinds == {"comparison"} else "Choice of the regularizer"
        return f"{what} on {runs[0].label}"
    return "Robustness report"


def _headline(runs: Sequence[Run], groups: Sequence[Group], *, evidence: bool = True) -> Section:
    evaluations = [run for run in runs if run.kind == "evaluation"]
    blocks: list[Block] = [_who(runs)]
    blocks += [Note(line, "warning") for line in disagreements(evaluations)]
    if groups:
        blocks.append(headline_table(groups))
        suspicious = [group.label for group in groups if group.masking.get("suspicious")]
        if suspicious:
            line = f"Gradients look masked in {', '.join(suspicious)}: don't quote the white-box numbers by themselves."
            blocks.append(Note(line, "warning"))
        verdicts = verdict_table({run.label: items(run.data, "verdicts") for run in evaluations}, evidence=evidence)
        blocks += [verdicts] if verdicts is not None else [Note("The files hold no verdicts.")]
    for run in runs:
        if run.kind == "comparison":
            blocks += headline_blocks(run)
        elif run.kind == "selection":
            blocks.append(Text(f"Selection on {run.label}. {choice_line(run)}"))
            blocks += [Note(line, "warning") for line in warnings(run)]
    return Section("Headline", tuple(blocks))


def _who(runs: Sequence[Run]) -> Facts:
    """Models, data, suite and date, each once."""
    models = [run.label for run in runs if run.kind == "evaluation"]
    data = [f"{words(entries(run.data, 'data').get('name'), 'unnamed')}, {image_counts(run)}" for run in runs]
    facts = {
        "model" if len(models) == 1 else "models": ", ".join(models),
        "data": "; ".join(dict.fromkeys(data)),
        "suite": ", ".join(dict.fromkeys(suite_of(run.data) for run in runs if run.data.get("suite"))),
        "written": ", ".join(dict.fromkeys(created(run.data) for run in runs)),
        "hardware": "; ".join(dict.fromkeys(machine for run in runs for machine in machines(run.data))),
    }
    return Facts(tuple((name, value) for name, value in facts.items() if value))


def disagreements(runs: Sequence[Run]) -> list[str]:
    """What keeps several evaluations from being compared."""
    lines = []
    reads: dict[str, Callable[[Run], str]] = {
        "images": lambda run: words(entries(run.data, "data").get("fingerprint")),
        "suites": lambda run: words(run.data.get("suite")),
        "seeds of the attacks": lambda run: words(run.data.get("seed")),
        "versions of simreg": lambda run: words(entries(run.data, "versions").get("simreg")),
        "surrogates of the transferred attacks": lambda run: words(entries(run.data, "surrogate").get("fingerprint")),
    }
    for what, read in reads.items():
        found = {value for run in runs if (value := read(run))}
        if len(found) > 1:
            lines.append(
                f"The models were measured with different {what}: differences between them may come from that."
            )
    same: dict[str, list[str]] = {}
    for run in runs:
        fingerprint = words(entries(run.data, "model").get("fingerprint"))
        if fingerprint:
            same.setdefault(fingerprint, []).append(run.label)
    return lines + [f"{' and '.join(labels)} are the same weights." for labels in same.values() if len(labels) > 1]


def _limits(parts: Sequence[tuple[str, Sequence[Group]]]) -> Section:
    """What these numbers can't say; one list per part of the report."""
    title = "What these numbers can't say"
    found = [(name, cautions(groups)) for name, groups in parts if groups]
    found = [(name, lines) for name, lines in found if lines]
    if len(found) == 1:
        return Section(title, (Bullets(tuple(found[0][1])),), brief="Limits")
    sections = tuple(Section(name, (Bullets(tuple(lines)),)) for name, lines in found)
    return Section(title, (), sections, brief="Limits")


def _not_run(runs: Sequence[Run], groups: Sequence[Group], parts: Sequence[tuple[str, Sequence[Group]]]) -> Section:
    """Everything that was named and does not exist, with its reason."""
    rows: list[Row] = []
    for name, found in parts:
        of_part = not_run_rows(found)
        rows += [replace(row, group=name if len(parts) > 1 else "") for row in of_part]
    for run in runs:
        extra = (
            not_run_methods(run) if run.kind == "comparison" else not_run_points(run) if run.kind == "selection" else []
        )
        rows += [replace(row, group=f"{run.kind.capitalize()} on {run.label}") for row in extra]
    told = [Text(line) for name, found in parts if (line := _missing_share(name if len(parts) > 1 else "", found))]
    if not rows:
        return Section("Not run", tuple(told or [Text("Everything that was asked for was run.")]))
    table = Table("What does not exist, and why.", ("What", "Missing for", "Reason"), tuple(_sorted(rows)))
    return Section("Not run", (*told, table))


def _missing_share(name: str, groups: Sequence[Group]) -> str:
    """How many of the measurements that a part of the report names do not exist."""
    named = [(group, key) for group in groups for key in asked_keys(groups)]
    lacking = sum(group.reason(key) is not None for group, key in named)
    if not named:
        return ""
    were = "was" if lacking == 1 else "were"
    told = (
        f"{lacking} of {plural(len(named), 'measurement')} {were} not run or failed"
        if lacking
        else (f"{plural(len(named), 'measurement')}, all of them run")
    )
    return f"{name}: {told}." if name else f"{told}."


def _sorted(rows: Sequence[Row]) -> list[Row]:
    """Rows of one group beside each other, in the order in which groups first appear."""
    order = list(dict.fromkeys(row.group for row in rows))
    return sorted(rows, key=lambda row: order.index(row.group))
