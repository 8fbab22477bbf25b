"""One section per threat model: its verdicts' numbers as a table, its figures, and what to keep in mind."""

from __future__ import annotations

from collections.abc import Sequence

from simreg.reporting import names
from simreg.reporting.blocks import Block, Note, Section, Text
from simreg.reporting.corruption import corruption_tables, sources
from simreg.reporting.curves import distance_figure, query_figure, sweep_figure
from simreg.reporting.groups import Group, keys_of, kind_of, threat_of
from simreg.reporting.masking import masking_line, masking_tables
from simreg.reporting.spectra import spectrum_section
from simreg.reporting.tables import threat_tables


def threat_sections(groups: Sequence[Group]) -> list[Section]:
    """Sections of all threats that some file names, and always of the attacker who knows the model."""
    by_threat: dict[str, list[str]] = {threat: [] for threat in names.THREATS}
    for key in keys_of(groups):
        if key != "clean":
            by_threat[threat_of(groups, key)].append(key)
    sections = []
    for threat, keys in by_threat.items():
        if keys or threat == "white_box":
            sections.append(_section(groups, threat, keys))
    return sections


def _section(groups: Sequence[Group], threat: str, keys: Sequence[str]) -> Section:
    title = names.THREATS[threat]
    blocks: list[Block] = [Text(names.THREAT_EXPLANATIONS[threat])] if threat in names.THREAT_EXPLANATIONS else []
    brief, white_box = names.BRIEF.get(threat, title), threat == "white_box"
    what = "distances" if threat == "decision" else "accuracy in %"
    blocks += [Note(line) for line in sources(groups)] if "corruptions" in keys else []
    blocks += threat_tables(groups, keys, f"{brief}: {what}, with 95 % intervals.", masking=white_box)
    if white_box:
        blocks += _masking(groups)
        if not keys:
            blocks.append(Note("No attack that knows the model was part of these runs.", "warning"))
    blocks += _figures(groups, threat, keys)
    spectrum = spectrum_section(groups) if "spectrum" in keys else None
    sections = (spectrum,) if spectrum is not None else ()
    return Section(title, tuple(blocks), sections, names.BRIEF.get(threat, ""))


def _masking(groups: Sequence[Group]) -> list[Block]:
    suspicious = [group.label for group in groups if group.masking.get("suspicious")]
    blocks: list[Block] = []
    if suspicious:
        who = ", ".join(suspicious)
        blocks.append(
            Note(f"Signs of masked gradients in {who}: the numbers of gradient attacks may be far too high.", "warning")
        )
    if not any(group.masking for group in groups):
        blocks.append(Note("No masking checks were part of these runs: high numbers above are not established."))
    return [*blocks, *masking_tables(groups)]


def _figures(groups: Sequence[Group], threat: str, keys: Sequence[str]) -> list[Block]:
    brief = names.BRIEF.get(threat, names.THREATS[threat])
    caption = masking_line(groups) if threat == "white_box" else ""
    sweeps = [key for key in keys if kind_of(groups, key) == "sweep"]
    by_queries = query_figure(groups, sweeps) if threat == "score" else None
    figures = [by_queries]
    if by_queries is None or len(groups) > 1:  # of one model the curves over queries have every strength
        figures.insert(0, sweep_figure(groups, sweeps, f"{brief}: accuracy against strength", caption))
    figures += [distance_figure(groups, key) for key in keys if kind_of(groups, key) == "distances"]
    blocks: list[Block] = [figure for figure in figures if figure is not None]
    return blocks + (list(corruption_tables(groups)) if threat == "corruption" else [])
