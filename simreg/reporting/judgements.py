"""Masking panels and verdicts of the nets of a comparison: those of its file, or made from its measurements."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from simreg.reporting.methods import runs_of
from simreg.reporting.numbers import number
from simreg.reporting.runs import Run, entries, items, words
from simreg.robustness import masking_panel, verdicts

USUAL_BUDGET = 8 / 255
"""L-inf budget at which photographs are judged."""

_ATTACKS = ("pgd_linf", "autoattack_linf", "adaptive_linf", "fgsm_linf")


def judged(run: Run) -> Run:
    """The same run, with a masking panel and verdicts for every net of a comparison; others stay as they are."""
    if run.kind != "comparison":
        return run
    budget = threat_budget(run.data)
    methods = {
        name: {**method, "runs": [_judged_net(net, run.data, budget) for net in runs_of(method)]}
        for name, method in entries(run.data, "methods").items()
        if isinstance(method, Mapping)
    }
    return replace(run, data={**run.data, "methods": methods})


def threat_budget(data: Mapping[str, Any]) -> float:
    """The L-inf budget at which a comparison is judged: what its file says, else 8/255 or the largest of PGD."""
    if math.isfinite(said := number(data.get("threat_linf"))):
        return said
    strengths: list[float] = []
    for method in entries(data, "methods").values():
        for net in runs_of(method) if isinstance(method, Mapping) else ():
            for key in _ATTACKS:
                result = entries(entries(entries(net, "measurements"), key), "result")
                strengths += [value for value in map(number, items(result, "epsilons")) if math.isfinite(value)]
    usual = any(math.isclose(value, USUAL_BUDGET, rel_tol=1e-5) for value in strengths)
    return USUAL_BUDGET if usual else max(strengths, default=USUAL_BUDGET)


def _judged_net(net: Mapping[str, Any], data: Mapping[str, Any], budget: float) -> Mapping[str, Any]:
    measurements = entries(net, "measurements")
    if not measurements or (entries(net, "masking") and items(net, "verdicts")):
        return net
    sides = [number(side) for side in items(entries(data, "data"), "shape")]
    values = int(math.prod(sides)) if sides and all(map(math.isfinite, sides)) else None
    classes = len(items(entries(data, "data"), "classes")) or None
    try:
        panel = entries(net, "masking") or masking_panel(measurements, values_per_image=values)
        found = verdicts(measurements, panel, threat_linf=budget, values_per_image=values, classes=classes)
    except (KeyError, TypeError, ValueError):  # a file with holes: the numbers that it has are shown all the same
        return net
    return {**net, "masking": panel, "verdicts": found}


def said_of(verdicts: Sequence[Sequence[Any]], threat: str) -> str:
    """What the verdicts of several training runs say of one threat, without their numbers; what not all say is counted.

    Args:
        verdicts: Those of each run.
        threat: The threat.

    Example:
        >>> runs = [[{"threat": "noise", "verdict": f"Accuracy {how}: 40 %."}] for how in ("falls", "holds", "falls")]
        >>> said_of(runs, "noise")
        'Accuracy falls (2 of 3 runs). Accuracy holds (1 of 3 runs).'
    """
    found: dict[str, set[int]] = {}
    for i, said in enumerate(verdicts):
        for verdict in said:
            if isinstance(verdict, Mapping) and words(verdict.get("threat")) == threat:
                found.setdefault(_clause(words(verdict.get("verdict"))), set()).add(i)
    n = len(verdicts)
    shares = {text: f" ({len(runs)} of {n} runs)" if len(runs) < n else "" for text, runs in found.items()}
    return " ".join(f"{text}{share}." for text, share in shares.items())


_OPEN = re.compile(r"(.*?) accuracy is .*too few images to say")


def _clause(text: str) -> str:
    """What a verdict says, without the numbers that follow."""
    if found := _OPEN.match(text):
        return f"{found[1]}: too few images to say"
    clause, _, rest = text.partition(": ")
    return (text if rest.startswith("not measured") else clause.partition(" within a median distance")[0]).rstrip(".")
