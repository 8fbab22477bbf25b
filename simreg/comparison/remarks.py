"""What a comparison's numbers cannot say: nets near chance, and training times that are not equal after all."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

TIME_TOLERANCE = 0.15
"""Share of the time budget that a training may be off."""


def notes_on(methods: Mapping[str, Any], header: Mapping[str, Any]) -> list[str]:
    """Sentences for results, tables and reports.

    Args:
        methods: Of the results, by name.
        header: The other entries of the results.

    Returns:
        One sentence for each kind of fault that was found.
    """
    return [*_near_chance(methods, header), *_unequal_times(methods, header)]


def _near_chance(methods: Mapping[str, Any], header: Mapping[str, Any]) -> list[str]:
    constant = 1 / max(1, len(header["data"]["classes"]))
    found = []
    for name, method in methods.items():
        clean = [run["measurements"]["clean"] for run in method["runs"] if run["status"] == "ok"]
        shares = [entry["result"]["accuracies"][0] for entry in clean if entry["status"] == "ok"]
        if shares and statistics.fmean(shares) <= constant + (1 - constant) / 20:
            found.append(f"{name} ({100 * statistics.fmean(shares):.1f} %)")
    if not found:
        return []
    return [f"Clean accuracy is near chance: {', '.join(found)}. Their other numbers mean nothing: train longer."]


def _unequal_times(methods: Mapping[str, Any], header: Mapping[str, Any]) -> list[str]:
    budget = header["budget_seconds"]
    if budget is None:
        return []
    off = [
        f"{name}, seed {run['seed']} ({run['training_seconds']:.3g} s)"
        for name, method in methods.items()
        for run in method["runs"]
        if run["status"] == "ok"
        and run["budget"] == "equal_time"
        and abs(run["training_seconds"] / budget - 1) > TIME_TOLERANCE
    ]
    if not off:
        return []
    return [
        f"Training times are not equal: off the budget of {budget:g} s by more than {TIME_TOLERANCE:.0%}: "
        f"{', '.join(off)}. Steps were settled before the training: give it a quiet machine, or a longer budget."
    ]
