"""Models as a report compares them: one evaluation, or the training runs of one method, with their estimates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from simreg.reporting import names
from simreg.reporting.numbers import Estimate, accuracy_estimate, count, mean_estimate, median_estimate, number, percent
from simreg.reporting.runs import entries, items, words

Result = Mapping[str, Any]

LEFT_OUT = "left out with --only"


@dataclass(frozen=True)
class Group:
    """One column of the tables, one curve of the figures.

    Args:
        label: Name in tables and legends.
        look: Index of its colour, marker and line.
        runs: Measurements by key, of each training run.
        masking: The masking panel; empty where it was not part of the run.
        absent: What to say of a measurement that the file does not name.
        seeds: Seed of each training run.
        budget: Of the training, in a comparison.
        classes: Number of classes; 0 where it is not known.
        left_out: Measurements of the suite that ``--only`` left out.
    """

    label: str
    look: int
    runs: tuple[Mapping[str, Any], ...] = field(repr=False)
    masking: Mapping[str, Any] = field(default_factory=dict, repr=False)
    absent: str = "not part of this run"
    seeds: tuple[int, ...] = ()
    budget: str = ""
    classes: int = 0
    left_out: tuple[str, ...] = ()

    def results(self, key: str, kind: str) -> list[Result]:
        """What was measured under this key: one result per training run that has it."""
        found = []
        for run in self.runs:
            entry = entries(run, key)
            result = entries(entry, "result")
            if entry.get("status") == "ok" and entry.get("type", kind) == kind and _whole(result, kind):
                found.append(result)
        return found

    def reason(self, key: str) -> str | None:
        """Why there is nothing under this key; None if there is."""
        named = [entries(run, key) for run in self.runs if isinstance(run.get(key), Mapping)]
        if any(self.results(key, kind) for kind in _NEEDS):
            return None
        if not named:
            return LEFT_OUT if key in self.left_out else self.absent
        failed = [entry for entry in named if entry.get("status") != "ok"]
        return words(failed[0].get("reason"), "no reason given") if failed else "the file holds no readable result"


_NEEDS = {
    "sweep": ("epsilons", "accuracies"),
    "distances": ("distances",),
    "corruptions": ("accuracies",),
    "spectrum": ("power", "radial"),
}


def kind_of(groups: Iterable[Group], key: str) -> str | None:
    """Type of the results under this key, of the first group that has any."""
    for group in groups:
        for kind in _NEEDS:
            if group.results(key, kind):
                return kind
    return None


def keys_of(groups: Iterable[Group]) -> list[str]:
    """All keys of these groups, in the order of the report."""
    return names.order({str(key) for group in groups for run in group.runs for key in run})


def threat_of(groups: Iterable[Group], key: str) -> str:
    """Threat model of this key."""
    said = [entries(run, key).get("threat") for group in groups for run in group.runs]
    return names.threat(key, next((value for value in said if value), None))


@dataclass(frozen=True)
class Point:
    """Accuracy at one strength."""

    epsilon: float
    accuracy: Estimate


def sweep_points(group: Group, key: str) -> list[Point]:
    """Accuracy at every strength that any run measured, by strength."""
    values: dict[str, list[float]] = {}
    strengths: dict[str, float] = {}
    sizes = []
    for result in group.results(key, "sweep"):
        sizes.append(count(result.get("n")))
        for epsilon, accuracy in zip(items(result, "epsilons"), items(result, "accuracies"), strict=False):
            if math.isfinite(number(epsilon)):
                name = f"{number(epsilon):.6g}"
                strengths[name] = number(epsilon)
                values.setdefault(name, []).append(number(accuracy))
    n = min(sizes, default=0)
    points = [Point(strengths[name], accuracy_estimate(values[name], n)) for name in values]
    return sorted(points, key=lambda point: point.epsilon)


def clean(group: Group) -> Estimate:
    """Clean accuracy; of the Gaussian sweep at 0 where it was not measured by itself."""
    for key in ("clean", "gaussian"):
        points = [point for point in sweep_points(group, key) if point.epsilon == 0]
        if points:
            return points[0].accuracy
    return Estimate(math.nan)


def near_chance(group: Group) -> bool:
    """Whether clean accuracy is at most a twentieth of the way from guessing to all right."""
    if group.classes < 2:
        return False
    guessing = 1 / group.classes
    return clean(group).value <= guessing + (1 - guessing) / 20


def chance_line(groups: Sequence[Group]) -> list[str]:
    """A caution that names the models near chance, where there are any."""
    found = [f"{group.label} ({percent(clean(group).value)} %)" for group in groups if near_chance(group)]
    if not found:
        return []
    return [f"Near chance: train longer. Clean accuracy is about that of guessing for {', '.join(found)}."]


def largest(group: Group, key: str) -> Point | None:
    """The accuracy at the largest strength."""
    points = sweep_points(group, key)
    return points[-1] if points else None


def setting(group: Group, key: str, name: str) -> Any:
    """One of the settings of the first result under this key."""
    for kind in _NEEDS:
        for result in group.results(key, kind):
            settings = entries(result, "settings")
            return settings.get(name, entries(settings, "budget").get(name, result.get(name)))
    return None


def distances(result: Result) -> list[float]:
    """Distance of each image, inf for a failure, NaN left out."""
    return [d for d in map(number, items(result, "distances")) if not math.isnan(d)]


def median_distance(group: Group, key: str) -> Estimate:
    """Median distance over all images; over several training runs the mean of their medians."""
    medians = [median_estimate(distances(result)) for result in group.results(key, "distances")]
    medians = [median for median in medians if not math.isnan(median.value)]
    if not medians:
        return Estimate(math.nan)
    if len(medians) == 1:
        return medians[0]
    values = [median.value for median in medians]
    if all(map(math.isfinite, values)):
        mean = mean_estimate(values, min(median.n for median in medians))
        return replace(mean, low=max(mean.low, 0.0))  # a distance
    return Estimate(math.inf, n=min(median.n for median in medians), seeds=len(medians))


def corruption_estimate(group: Group, path: Sequence[str]) -> Estimate:
    """An accuracy of the corruption results: ("mean",), ("group_accuracies", "low")."""
    values, sizes = [], []
    for result in group.results("corruptions", "corruptions"):
        inner: Any = result
        for name in path:
            inner = inner.get(name) if isinstance(inner, Mapping) else None
        values.append(number(inner))
        sizes.append(count(result.get("n")))
    return accuracy_estimate(values, min(sizes, default=0))


def severities(group: Group) -> list[float]:
    """The severities that were measured; 1 to 5 unless the settings say otherwise."""
    for result in group.results("corruptions", "corruptions"):
        said = items(result, "severities") or items(entries(result, "settings"), "severities")
        said = said or items(entries(entries(result, "settings"), "budget"), "severities")
        lengths = [len(row) for row in entries(result, "accuracies").values() if isinstance(row, (list, tuple))]
        if len(said) == max(lengths, default=0):
            return [number(severity) for severity in said]
        return [float(i + 1) for i in range(max(lengths, default=0))]
    return []


def corruption_curve(group: Group, name: str) -> list[Estimate]:
    """Accuracy at every severity of one corruption."""
    rows, sizes = [], []
    for result in group.results("corruptions", "corruptions"):
        row = items(entries(result, "accuracies"), name)
        if row:
            rows.append([number(value) for value in row])
            sizes.append(count(result.get("n")))
    length = min((len(row) for row in rows), default=0)
    return [accuracy_estimate([row[i] for row in rows], min(sizes)) for i in range(length)]


def _whole(result: Result, kind: str) -> bool:
    """Whether a result has what its type needs."""
    if kind == "corruptions":
        return isinstance(result.get("accuracies"), Mapping)
    return all(isinstance(result.get(name), (list, tuple)) and result[name] for name in _NEEDS[kind])
