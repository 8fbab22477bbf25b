"""The headline: one number per threat, the masking checks beside those of the attacker who knows the model."""

from __future__ import annotations

import math
from collections.abc import Sequence

from simreg.reporting import names
from simreg.reporting.blocks import MODELS, Cell, Row, Table, missing
from simreg.reporting.cells import accuracy_cell, distance_cell
from simreg.reporting.groups import (
    Group,
    clean,
    corruption_estimate,
    keys_of,
    kind_of,
    largest,
    median_distance,
    setting,
)
from simreg.reporting.masking import masking_cell, short_masking_cell
from simreg.reporting.numbers import count

_HEADLINE = (
    "clean",
    "gaussian",
    "pgd_linf",
    "autoattack_linf",
    "masking",
    "transferred_pgd",
    "transferred_fgsm",
    "boundary",
    "hopskipjump_l2",
    "square_linf",
    "corruptions",
)
_WHITE_BOX = ("pgd_linf", "autoattack_linf")


def headline_table(groups: Sequence[Group], caption: str = "") -> Table:
    """The headline of up to four models with a row per number, of more with a row per model.

    What no model has, for one reason, is told below the table instead of in it; so are models without any measurement.
    """
    measured = [group for group in groups if group.runs] or list(groups)
    keys = _headline_keys(measured)
    absent = [key for key in keys if key != "masking" and _missing_for_all(measured, key)]
    notes = [
        "Accuracy in %, with 95 % intervals; a distance is the median over all images, failures counted as infinitely "
        "far. An accuracy under attack is an upper bound."
    ]
    notes += [f"{names.inline(key)}: not run ({measured[0].reason(key)})." for key in absent]
    notes += [f"{group.label}: not run ({group.absent})." for group in groups if group not in measured]
    shown = {key: _headline_name(measured, key) for key in keys if key not in absent}
    caption = caption or (f"Headline of {measured[0].label}." if len(groups) == 1 else "Headline.")
    if len(measured) <= MODELS:
        return _by_number(measured, shown, caption, " ".join(notes))
    rows = [Row(group.label, tuple(_headline_cell(measured, group, key) for key in shown)) for group in measured]
    return Table(caption, ("Model", *shown.values()), tuple(rows), " ".join(notes))


def _by_number(groups: Sequence[Group], shown: dict[str, str], caption: str, note: str) -> Table:
    """A row per number, with its images."""
    rows = []
    for key, head in shown.items():
        sizes = [_images(group, key) for group in groups]
        images = " / ".join(sizes if len(set(sizes)) > 1 else sizes[:1])
        cells = (*(_headline_cell(groups, group, key) for group in groups), Cell(images))
        rows.append(Row(head, cells))
    return Table(caption, ("Measurement", *(group.label for group in groups), "Images"), tuple(rows), note)


def _headline_keys(groups: Sequence[Group]) -> list[str]:
    """What some model was to be measured with, and always an attacker who knows the model and the masking checks."""
    named = set(keys_of(groups))
    keys = [key for key in _HEADLINE if key in named or key in ("clean", "masking")]
    if "transferred_pgd" in keys and "transferred_fgsm" in keys:
        keys.remove("transferred_fgsm")
    if not any(key in keys for key in _WHITE_BOX):
        keys.insert(keys.index("masking"), "pgd_linf")
    return keys


def _missing_for_all(groups: Sequence[Group], key: str) -> bool:
    """Whether no model has a measurement, for one and the same reason: one line says it better than a column."""
    return None not in (reasons := {group.reason(key) for group in groups}) and len(reasons) == 1


def _headline_name(groups: Sequence[Group], key: str) -> str:
    if key == "masking":
        return "Masking checks of the white-box numbers"
    if key == "corruptions":
        return "Corruptions, mean (%)"
    if kind_of(groups, key) == "distances":
        norm = next((norm for group in groups if (norm := setting(group, key, "norm"))), None)
        return f"{names.measurement(key)}, median {names.distance_label(norm)}"
    if key == "clean":
        return "Clean (%)"
    strengths = _strengths(groups, key)
    return f"{names.measurement(key)}{f' at {strengths[0]}' if len(strengths) == 1 else ''} (%)"


def _strengths(groups: Sequence[Group], key: str) -> list[str]:
    """The largest strengths of the models, each once."""
    return sorted({names.strength(point.epsilon) for group in groups if (point := largest(group, key))})


def _headline_cell(groups: Sequence[Group], group: Group, key: str) -> Cell:
    if key == "masking":
        return masking_cell(group) if len(groups) <= MODELS else short_masking_cell(group)
    if key == "clean" and math.isfinite(clean(group).value):
        return accuracy_cell(clean(group))
    reason = group.reason(key)
    if reason is not None:
        return missing(reason)
    if key == "corruptions":
        return accuracy_cell(corruption_estimate(group, ("mean",)))
    if group.results(key, "distances"):
        return distance_cell(median_distance(group, key))
    point = largest(group, key)
    if point is None:
        return missing("no strength was measured")
    cell = accuracy_cell(point.accuracy)
    same = len(_strengths(groups, key)) == 1
    return cell if same else Cell(cell.text, f"{cell.detail} at {names.strength(point.epsilon)}")


def _images(group: Group, key: str) -> str:
    for kind in ("sweep", "distances", "corruptions"):
        for result in group.results(key, kind):
            return f"{count(result.get('n')):,}"
    return "–" if key != "masking" else ""
