"""An evaluation in a few lines of text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from simreg.robustness import table, wilson


def text_summary(results: Mapping[str, Any]) -> str:
    """A table with one row per measurement, the verdicts, and what was not run.

    Args:
        results: What `evaluate_model` returns.

    Returns:
        Several lines, without a newline at the end.
    """
    rows = [_row(key, entry) for key, entry in results["measurements"].items() if entry["status"] == "ok"]
    lines = [f"{results['model']['name']} on {results['data']['name']}, suite {results['suite']}", "", table(rows)]
    missing = [(key, e["reason"]) for key, e in results["measurements"].items() if e["status"] != "ok"]
    if missing:
        lines += ["", *(f"not run: {key}: {reason}" for key, reason in missing)]
    lines += ["", *(f"- {verdict['verdict']}" for verdict in results.get("verdicts", []))]
    masking = results.get("masking", {})
    failed = [check for check in masking.get("checks", []) if check["passed"] is False]
    if failed:
        lines += ["", "Signs of masked gradients: white-box figures are upper bounds."]
        lines += [f"- {check['name']}: {check['detail']}" for check in failed]
    lines += [f"note: {note}" for note in results["model"].get("notes", [])]
    return "\n".join(lines)


def _row(key: str, entry: Mapping[str, Any]) -> dict[str, object]:
    result = entry["result"]
    row: dict[str, object] = {"measurement": key, "at": "", "accuracy %": None, "95 % interval": "", "n": result["n"]}
    if entry["type"] == "sweep":
        at = max(range(len(result["epsilons"])), key=lambda i: result["epsilons"][i])
        share = result["accuracies"][at]
        row["at"] = f"{result['epsilons'][at]:.4g}" if key != "clean" else ""
        row["accuracy %"] = f"{100 * share:.1f}"
        row["95 % interval"] = _interval(share, result["n"])
    elif entry["type"] == "corruptions":
        row["at"] = "mean"
        row["accuracy %"] = f"{100 * result['mean']:.1f}" if _finite(result["mean"]) else None
    else:
        median = result["median"]
        row["at"] = "median distance"
        row["distance"] = f"{median:.3g}" if _finite(median) else "inf"
    row["seconds"] = f"{entry['seconds']:.0f}"
    return row


def _interval(share: float, n: int) -> str:
    low, high = wilson(share, n)
    return f"{100 * low:.1f} to {100 * high:.1f}"


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
