"""Which method of a comparison keeps the most, what it costs, and whether that is more than chance."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from simreg.reporting import names
from simreg.reporting.groups import Group, clean, corruption_estimate, largest, near_chance, sweep_points
from simreg.reporting.judgements import threat_budget
from simreg.reporting.masking import established
from simreg.reporting.methods import mean_of, reference_group, trainings_of
from simreg.reporting.numbers import Estimate, duration, percent, percent_interval, plain_interval, ratio

_STRONGEST_FIRST = ("autoattack_linf", "adaptive_linf", "pgd_linf", "fgsm_linf")
_NOTHING_LEFT = 0.05

Reading = Callable[[Group], Estimate]


def winner_lines(data: Mapping[str, Any], groups: Sequence[Group]) -> list[str]:
    """A sentence for each kind of distortion: who keeps the most, at what clean accuracy and training time.

    Methods near chance have no part in it.

    Args:
        data: The comparison.
        groups: Its methods, in one budget.
    """
    measured = [group for group in groups if group.runs and not near_chance(group)]
    return [_line(data, measured, *reading) for reading in _readings(data, measured)] if len(measured) > 1 else []


def _readings(data: Mapping[str, Any], groups: Sequence[Group]) -> list[tuple[str, Reading, bool]]:
    """What is compared: its name, how it is read, and whether it is a white-box attack."""
    budget = threat_budget(data)
    found: list[tuple[str, Reading, bool]] = []
    for key in _STRONGEST_FIRST:
        if _known(groups, partial(_at, key, budget)):
            found.append((f"Under {names.inline(key)} at {names.strength(budget)}", partial(_at, key, budget), True))
            break
    strengths = {point.epsilon for group in groups if (point := largest(group, "gaussian"))}
    if len(strengths) == 1:
        epsilon = strengths.pop()
        found.append((f"Under Gaussian noise at {names.strength(epsilon)}", partial(_at, "gaussian", epsilon), False))
    found.append(("Under common corruptions, on average,", partial(corruption_estimate, path=("mean",)), False))
    return [reading for reading in found if _known(groups, reading[1])]


def _known(groups: Sequence[Group], read: Reading) -> bool:
    return all(math.isfinite(read(group).value) for group in groups)


def _at(key: str, epsilon: float, group: Group) -> Estimate:
    for point in sweep_points(group, key):
        if math.isclose(point.epsilon, epsilon, rel_tol=1e-5):
            return point.accuracy
    return Estimate(math.nan)


def _line(data: Mapping[str, Any], groups: Sequence[Group], what: str, read: Reading, white_box: bool) -> str:
    best = max(groups, key=lambda group: read(group).value)
    kept = read(best)
    highest = max((read(group).high for group in groups), default=math.nan)
    if highest <= _NOTHING_LEFT or kept.value == 0:
        return f"{what} no method keeps its accuracy: {_share(kept)} at most."
    reference = reference_group(data, groups)
    beside = ""
    if reference is not None and reference is not best:
        beside = f" ({reference.label}: {_share(read(reference))} of {_share(clean(reference))})"
    told = [
        f"{what} the method that keeps the most is {best.label}: {_share(kept)}, at a clean accuracy of "
        f"{_share(clean(best))} and {_cost(data, best, reference)}{beside}.",
        _others(groups, best, read),
    ]
    if white_box and best.masking.get("suspicious"):
        told.append(f"The gradients of {best.label} look masked: its number is no evidence of robustness.")
    elif white_box and not established(best.masking):
        told.append("Whether gradients are masked is not established.")
    return " ".join(told)


def _others(groups: Sequence[Group], best: Group, read: Reading) -> str:
    """Whether the best is apart from the others, by their intervals."""
    others = [group for group in groups if group is not best]
    if any(math.isnan(read(group).low + read(group).high) for group in groups):
        return "There are no intervals that say whether that is more than chance."
    alike = [group.label for group in others if read(group).high >= read(best).low]
    if not alike:
        return "Its interval lies above those of all others."
    if len(alike) == len(others):
        return "Between the methods there is no difference beyond the intervals."
    return f"There is no difference beyond the intervals to {', '.join(alike)}."


def _share(estimate: Estimate) -> str:
    return f"{percent(estimate.value)} % {percent_interval(estimate)}".rstrip()


def _cost(data: Mapping[str, Any], best: Group, reference: Group | None) -> str:
    """Training time, also as a multiple of that of the unregularized method."""
    time = mean_of(trainings_of(data, best), "training_seconds")
    text = f"{duration(time.value)} of training"
    if interval := plain_interval(time):
        text += f" ({interval} s)"
    if reference is None or reference is best:
        return text
    base = mean_of(trainings_of(data, reference), "training_seconds").value
    times = f", {ratio(time.value / base)} times that of {reference.label}" if base > 0 else ""
    return text + times
