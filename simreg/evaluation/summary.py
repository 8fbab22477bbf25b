"""An evaluation in a few lines of text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from simreg.robustness import table, wilson

_EPSILON = 8 / 255
_MOST_255 = 16  # budgets up to so many gray levels are written as such


def text_summary(results: Mapping[str, Any]) -> str:
    """A table with one row per measurement, the verdicts, and what was not run.

    Accuracies are those at the field's budget, 8/255 for L-inf attacks on photographs, the largest for anything else;
    where a weaker one was measured, that near a quarter of it stands beside them.

    Args:
        results: What `evaluate_model` returns.

    Returns:
        Several lines, without a newline at the end.
    """
    rows = [_row(key, entry) for key, entry in results["measurements"].items() if entry["status"] == "ok"]
    used = [name for name in rows[0] if any(row[name] not in (None, "") for row in rows)] if rows else []
    shape = "x".join(map(str, results["data"]["shape"]))
    lines = [f"{results['model']['name']} on {results['data']['name']} ({shape}), suite {results['suite']}", ""]
    lines.append(table(rows, used))
    if results.get("left_out"):
        lines += ["", f"left out: {', '.join(results['left_out'])}"]
    missing = [(key, e["reason"]) for key, e in results["measurements"].items() if e["status"] != "ok"]
    if missing:
        lines += ["", *(f"not run: {key}: {reason}" for key, reason in missing)]
    lines += ["", *(f"- {verdict['verdict']}" for verdict in results.get("verdicts", []))]
    lines += ["", *_masking_lines(results.get("masking", {}))]
    lines += [f"note: {note}" for note in results["model"].get("notes", [])]
    return "\n".join(lines)


def _masking_lines(masking: Mapping[str, Any]) -> list[str]:
    """What the panel on masked gradients found."""
    checks = masking.get("checks", [])
    failed = [f"- {check['name']}: {check['detail']}" for check in checks if check["passed"] is False]
    if failed:
        return ["Signs of masked gradients: white-box figures are upper bounds.", *failed]
    made = [check["name"] for check in checks if check["passed"]]
    skipped = [check["name"] for check in checks if check["passed"] is None]
    found = "no sign in" if masking.get("established") else "not established from"
    left = f"; not possible: {', '.join(skipped)}" if skipped else ""
    return [f"Masked gradients: {found} {len(made)} of {len(checks)} checks{left}."]


def _row(key: str, entry: Mapping[str, Any]) -> dict[str, object]:
    result = entry["result"]
    row: dict[str, object] = {
        "measurement": key,
        "at": "",
        "accuracy %": None,
        "95 % interval": "",
        "weaker: %": "",
        "distance": None,
        "n": result["n"],
        "seconds": f"{entry['seconds']:.0f}",
    }
    if entry["type"] == "sweep":
        return row | _sweep_cells(result["epsilons"], result["accuracies"], result["n"])
    if entry["type"] == "corruptions":
        return row | {"at": "mean", "accuracy %": f"{100 * result['mean']:.1f}" if _finite(result["mean"]) else None}
    median = result["median"]
    return row | {"at": "median", "distance": f"{median:.3g}" if _finite(median) else "inf"}


def _sweep_cells(epsilons: Sequence[float], accuracies: Sequence[float], n: int) -> dict[str, object]:
    """Accuracy at the field's budget, and at a weaker one where there is one."""
    at = max(range(len(epsilons)), key=lambda i: (abs(epsilons[i] - _EPSILON) < 1e-9, epsilons[i]))
    low, high = wilson(accuracies[at], n)
    cells: dict[str, object] = {
        "at": _strength(epsilons[at]),
        "accuracy %": f"{100 * accuracies[at]:.1f}",
        "95 % interval": f"{100 * low:.1f} to {100 * high:.1f}",
    }
    below = [i for i in range(len(epsilons)) if 0 < epsilons[i] < epsilons[at]]
    if below:
        weaker = min(below, key=lambda i: (abs(epsilons[i] - epsilons[at] / 4), -epsilons[i]))
        cells["weaker: %"] = f"{_strength(epsilons[weaker])}: {100 * accuracies[weaker]:.1f}"
    return cells


def _strength(epsilon: float) -> str:
    """An epsilon in words: nothing for 0, k/255 for small numbers of gray levels.

    Example:
        >>> _strength(2 / 255), _strength(0.3), _strength(0.0)
        ('2/255', '0.3', '')
    """
    levels = 255 * epsilon
    if abs(levels - round(levels)) < 1e-6 and 0 < round(levels) <= _MOST_255:
        return f"{round(levels)}/255"
    return f"{epsilon:.3g}" if epsilon else ""


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
