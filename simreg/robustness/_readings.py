"""Single numbers out of an evaluation's measurements: accuracy of one attack at one budget, with its error."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simreg.robustness.intervals import Interval, difference_interval, wilson
from simreg.robustness.results import Sweep

Measurements = Mapping[str, Mapping[str, Any]]
"""Entries by key: {"status": "ok", "type", "threat", "result"} or {"status": "not run", "reason", "threat"}."""

NAMES = {
    "fgsm": "FGSM",
    "pgd": "PGD",
    "pgd_linf_large": "PGD",
    "transferred_fgsm": "transferred FGSM",
    "transferred_pgd": "transferred PGD",
    "square": "Square",
    "autoattack": "AutoAttack",
    "adaptive": "the adaptive attack",
    "hopskipjump": "HopSkipJump",
    "boundary": "the Boundary Attack",
}
"""Attacks in prose."""


@dataclass(frozen=True)
class Reading:
    """Accuracy under one attack at one budget."""

    key: str
    epsilon: float
    accuracy: float
    n: int

    @property
    def interval(self) -> Interval:
        """Wilson's interval, 95 %."""
        return wilson(self.accuracy, self.n)

    @property
    def attack(self) -> str:
        """The attack in prose, without its norm."""
        return NAMES.get(self.key, NAMES.get(self.key.rsplit("_", 1)[0], self.key))

    def evidence(self) -> str:
        """Key, budget, number, interval and images in one line."""
        budget = f" at {epsilon_text(self.epsilon)}" if self.epsilon else ""
        return f"{self.key}{budget}: {share_text(self.accuracy, self.interval)}, n = {self.n}"


def result_of(measurements: Measurements, key: str) -> Mapping[str, Any] | None:
    """The result of a measurement; None if it was not run."""
    entry = measurements.get(key)
    return entry["result"] if entry is not None and entry.get("status") == "ok" else None


def sweep_of(measurements: Measurements, key: str) -> Sweep | None:
    """The sweep of a measurement; None if it was not run."""
    result = result_of(measurements, key)
    return None if result is None else Sweep.from_dict(result)


def readings(measurements: Measurements, keys: Iterable[str]) -> list[Reading]:
    """Every budget above 0 of every sweep of these keys that was run; numbers that are NaN are left out."""
    found = []
    for key in keys:
        sweep = sweep_of(measurements, key)
        points = zip(sweep.epsilons, sweep.accuracies, strict=True) if sweep else ()
        found += [Reading(key, e, a, sweep.n) for e, a in points if sweep and e > 0 and not math.isnan(a)]
    return found


def clean_reading(measurements: Measurements, key: str) -> Reading | None:
    """Accuracy without attack on the very images of this sweep, where it was recorded."""
    sweep = sweep_of(measurements, key)
    if sweep is None:
        return None
    stages, marks = sweep.settings.get("stage_accuracies", {}), sweep.settings.get("query_marks", [])
    if sweep.clean is not None:
        share = sweep.clean
    elif "clean" in stages:
        share = stages["clean"][0]
    elif marks and marks[0] == 0:
        share = sweep.settings["accuracy_by_queries"][0][0]
    else:
        return None
    return None if math.isnan(share) else Reading(key, 0.0, float(share), sweep.n)


def before_square(measurements: Measurements, key: str) -> list[Reading]:
    """What AutoAttack's attacks with gradients left over, where the stages were recorded."""
    sweep = sweep_of(measurements, key)
    if sweep is None:
        return []
    stages = {name: a for name, a in sweep.settings.get("stage_accuracies", {}).items() if name != "square"}
    if len(stages) < 2:  # nothing but the clean accuracy
        return []
    # the last stage counts what Square took at smaller budgets too: it stands in where older results have no more
    last = sweep.settings.get("gradient_shares", list(stages.values())[-1])
    return [Reading(key, e, a, sweep.n) for e, a in zip(sweep.epsilons, last, strict=True) if e > 0]


def distance_readings(
    measurements: Measurements, key: str, epsilons: Iterable[float], values: int | None
) -> list[Reading]:
    """Share of images whose distance to another class exceeds a budget: an upper bound of accuracy there.

    The attack's label is the model's own answer, so images that were wrong to begin with count here too.

    Args:
        measurements: Entries by key.
        key: Of a decision attack.
        epsilons: Budgets, in the attack's norm.
        values: Pixels times channels of an image, which turns squared L2 per pixel into L2; None leaves "l2" out.
    """
    result = result_of(measurements, key)
    if result is None:
        return []
    distances = [math.inf if d is None else float(d) for d in result["distances"]]
    if result.get("settings", {}).get("norm") != "linf":
        if values is None:
            return []
        distances = [math.sqrt(d * values) for d in distances]
    n = len(distances)
    return [Reading(key, e, sum(d > e for d in distances) / n, n) for e in epsilons]


def same_epsilon(a: float, b: float) -> bool:
    """Whether two budgets are the same but for rounding."""
    return math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-9)


def gap(stronger: Reading, weaker: Reading, level: float) -> tuple[float, bool]:
    """How far accuracy under ``weaker`` lies below that under ``stronger``, and whether beyond sampling error."""
    difference = stronger.accuracy - weaker.accuracy
    lower, _ = difference_interval(stronger.accuracy, stronger.n, weaker.accuracy, weaker.n, level)
    return difference, lower > 0


def share_text(share: float, interval: Interval | None = None) -> str:
    """A share in percent, with its interval.

    Example:
        >>> share_text(0.003, (0.001, 0.0088))
        '0.3 % (95 % interval 0.1-0.9)'
    """
    text = f"{100 * share:.1f} %"
    return text if interval is None else f"{text} (95 % interval {100 * interval[0]:.1f}-{100 * interval[1]:.1f})"


def epsilon_text(epsilon: float) -> str:
    """A budget as a multiple of 1/255 where it is one, else in decimals.

    Example:
        >>> epsilon_text(8 / 255), epsilon_text(0.1), epsilon_text(1.0)
        ('8/255', '0.1', '1')
    """
    steps = epsilon * 255
    whole = 1 <= round(steps) <= 128 and abs(steps - round(steps)) < 1e-3
    return f"{round(steps)}/255" if whole and epsilon != round(epsilon, 2) else f"{epsilon:.4g}"


def listed(words: Sequence[str]) -> str:
    """Words as a list in prose.

    Example:
        >>> listed(["a", "b", "c"])
        'a, b and c'
    """
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def not_measured(threat: str, subject: str, measurements: Measurements, keys: Sequence[str]) -> dict[str, Any]:
    """The verdict on measurements that were not run, with the first reason given."""
    reasons = [str(measurements[key]["reason"]) for key in keys if measurements.get(key, {}).get("reason")]
    return verdict(threat, f"{subject}: not measured: {reasons[0] if reasons else 'not part of this run'}.", [])


def verdict(threat: str, text: str, evidence: Sequence[str]) -> dict[str, Any]:
    """One entry of ``verdicts``."""
    return {"threat": threat, "verdict": text, "evidence": list(evidence)}
