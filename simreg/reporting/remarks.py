"""What keeps a comparison's numbers from being read as they stand: nets near chance, and disturbed timing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from simreg.reporting.groups import Group, chance_line
from simreg.reporting.methods import BUDGETS, REFERENCES, done, labels_of, mean_of
from simreg.reporting.numbers import count, number, significant
from simreg.reporting.runs import entries, items, words

_TIME_TOLERANCE = 0.15
_FASTEST = 0.95  # a defence only adds work to a step of the unregularized training


def remarks(data: Mapping[str, Any], groups: Sequence[Group]) -> list[str]:
    """Cautions for the headline: the file's own notes, else what its numbers say; and steps that were too fast.

    Args:
        data: The comparison.
        groups: Its methods, in one budget.
    """
    own = [words(note) for note in items(data, "notes")]
    if "notes" not in data:
        own = [*chance_line([group for group in groups if group.runs]), *_unequal_times(data)]
    return [*own, *_fast_steps(data)]


def _unequal_times(data: Mapping[str, Any]) -> list[str]:
    """Trainings at equal time whose time was not equal."""
    budget = number(data.get("budget_seconds"))
    off = [
        f"{label}, seed {count(run.get('seed'))} ({significant(seconds)} s)"
        for name, (label, _) in labels_of(data).items()
        for run in done(entries(entries(data, "methods"), name), "equal_time")
        if math.isfinite(seconds := number(run.get("training_seconds"))) and _is_off(seconds, budget)
    ]
    if not off:
        return []
    return [
        f"Training times are off the budget of {significant(budget)} s by more than {100 * _TIME_TOLERANCE:.0f} %: "
        f"{', '.join(off)}."
    ]


def _is_off(seconds: float, budget: float) -> bool:
    return budget > 0 and abs(seconds / budget - 1) > _TIME_TOLERANCE


def _fast_steps(data: Mapping[str, Any]) -> list[str]:
    """Methods whose steps took less time than those of the unregularized net: something else ran beside that."""
    methods = entries(data, "methods")
    plain = next((name for name in REFERENCES if name in methods), None)
    base = mean_of(done(entries(methods, plain), "equal_epochs"), "milliseconds_per_step").value if plain else math.nan
    labels = labels_of(data)
    found = []
    for budget, title in BUDGETS.items():
        for name, (label, _) in labels.items():
            step = mean_of(done(entries(methods, name), budget), "milliseconds_per_step").value
            if base > 0 and step / base < _FASTEST:
                found.append(f"{label} at {title} ({step / base:.2f}×)")
    if plain is None or not found:
        return []
    return [
        f"Timing was disturbed: steps took less time than those of {labels[plain][0]} at equal epochs: "
        f"{', '.join(found)}. Compare no training times."
    ]
