"""Clean accuracy kept against robustness gained, for every point of a selection, and the choice."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from simreg.robustness.selection import GridPoint, choose, is_acceptable, pareto_front, ratio_of_runs

_ABOVE_CHANCE = 0.05
"""Accuracy above 1/K from which a net counts as trained at all."""
_SUSPICIOUS = 1.1
"""R0/U0 above which the unregularized net, rather than the regularizer, is the reason."""


def weigh(results: Mapping[str, Any], minimum_clean_ratio: float) -> dict[str, Any]:
    """Results of a selection with ratios, intervals, Pareto front and choice for this bound on R0/U0.

    Args:
        results: What `select` returns, or its ``reference`` and ``points`` with their runs alone.
        minimum_clean_ratio: Smallest acceptable R0/U0.

    Returns:
        A copy; nothing is trained or measured. Its ``notes`` say where the nets were trained too little to compare.

    Raises:
        ValueError: If these are no results of a selection, or the bound is not in (0, 1].
    """
    if results.get("kind") != "selection":
        raise ValueError(f"these are results of kind {results.get('kind')!r}, wanted those of a selection.")
    reference = results["reference"]["runs"]
    points = [_weigh_point(point, reference) for point in results["points"]]
    plane = [
        GridPoint(
            point["settings"],
            _number(point["clean_ratio"]),
            _number(point["robust_ratio"]),
            tuple(point["clean_ratio_interval"]),
            tuple(point["robust_ratio_interval"]),
        )
        for point in points
    ]
    choice = choose(plane, minimum_clean_ratio)
    front = pareto_front([(p.clean_ratio, p.robust_ratio) for p in plane])
    for index, (point, where) in enumerate(zip(points, plane, strict=True)):
        point["acceptable"] = is_acceptable(where.clean_ratio, where.robust_ratio, minimum_clean_ratio)
        point["pareto"] = index in front
    means = {name: statistics.fmean(run[name] for run in reference) for name in ("clean", "robust")}
    return {
        **results,
        "minimum_clean_ratio": minimum_clean_ratio,
        "reference": {**means, "runs": reference},
        "points": points,
        "choice": choice.to_dict(),
        "notes": _notes(means["clean"], [p.clean_ratio for p in plane], results),
    }


def _notes(clean: float, ratios: Sequence[float], results: Mapping[str, Any]) -> list[str]:
    """Signs that the unregularized net was trained too little for ratios to it to mean anything."""
    notes = []
    classes = len(results.get("data", {}).get("classes", ()))
    if classes and clean <= 1 / classes + _ABOVE_CHANCE:
        notes.append(
            f"The unregularized net is near chance ({100 * clean:.1f} % clean, {classes} classes): ratios to it mean "
            "nothing. Train longer (--epochs)."
        )
    known = [ratio for ratio in ratios if not math.isnan(ratio)]
    high = sum(ratio > _SUSPICIOUS for ratio in known)
    if high and 2 * high >= len(known):
        notes.append(
            f"R0/U0 is above {_SUSPICIOUS:g} for {high} of {len(known)} points: the unregularized net is probably not "
            "trained to its end. Train longer (--epochs)."
        )
    return notes


def _weigh_point(point: Mapping[str, Any], reference: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One point with its means, ratios and intervals; none of them if a seed of it was not run."""
    runs = point["runs"]
    failed = [run["reason"] for run in runs if run.get("status", "ok") != "ok"]
    if failed:
        empty = dict.fromkeys(("clean", "robust", "clean_ratio", "robust_ratio"), math.nan)
        bounds = dict.fromkeys(("clean_ratio_interval", "robust_ratio_interval"), (math.nan, math.nan))
        return {**point, "status": "not run", "reason": failed[0], **empty, **bounds}
    weighed: dict[str, Any] = {**point, "status": "ok"}
    unregularized = {run["seed"]: run for run in reference}
    for name in ("clean", "robust"):
        ours = [run[name] for run in runs]
        ratio, interval = ratio_of_runs(ours, [unregularized[run["seed"]][name] for run in runs], runs[0]["n"])
        weighed |= {name: statistics.fmean(ours), f"{name}_ratio": ratio, f"{name}_ratio_interval": interval}
    return weighed


def _number(value: float | None) -> float:
    """A ratio as a float; JSON keeps NaN as None."""
    return math.nan if value is None else float(value)
