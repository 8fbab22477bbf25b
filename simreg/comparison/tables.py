"""Results of a comparison or a selection as text."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from simreg.robustness import table
from simreg.robustness.intervals import mean_interval

_NAMES = {"equal_epochs": "equal epochs", "equal_time": "equal training time"}
_EPSILON = 8 / 255
_WIDTH = 120
_TELLING = (
    "method",
    "clean",
    "autoattack_linf",
    "pgd_linf",
    "gaussian",
    "corruptions",
    "transferred_fgsm",
    "training s",
    "boundary",
    "seeds",
    "square_linf",
    "epochs",
    "ms/step",
)
"""Columns in the order in which they get a place, as far as the width goes; then any others."""


def comparison_text(results: Mapping[str, Any]) -> str:
    """A table for each budget of a comparison, and what was not run.

    Tables show the most telling columns that fit into 120 characters; the results and the report have the rest.

    Args:
        results: What `compare` returns.

    Returns:
        Several lines, without a newline at the end.
    """
    lines: list[str] = []
    left_out: list[str] = []
    for budget, title in _NAMES.items():
        rows = [row for name in results["methods"] if (row := _method_row(results, name, budget)) is not None]
        if rows:
            shown, hidden = _fitting(rows)
            lines += [*([""] if lines else []), f"{title}{_budget(results, budget)}", table(rows, shown)]
            left_out += [name for name in hidden if name not in left_out]
    seeds = max((len(_runs(method, b)) for method in results["methods"].values() for b in _NAMES), default=0)
    if left_out:
        lines.append(textwrap.fill(f"in the report: {', '.join(left_out)}", _WIDTH))
    note = "Accuracy in %, at the strength named. " + (
        "+-: half the 95 % interval of the mean over seeds (Student's t) where they differ."
        if seeds > 1
        else "One seed: what another seed would give is unknown."
    )
    return "\n".join([*lines, "", note, *_remarks(results)])


def _remarks(results: Mapping[str, Any]) -> list[str]:
    """What was not run, and which trainings collapsed."""
    missing = {
        f"not run: {name}: {run['reason']}"
        for name, method in results["methods"].items()
        for run in method["runs"]
        if run["status"] != "ok"
    }
    collapsed = [
        f"{name}, seed {run['seed']}: collapsed at step {run['collapse']['step']} of {run['planned_steps']}; "
        f"weights of step {run['collapse']['kept_step']} kept"
        for name, method in results["methods"].items()
        for run in method["runs"]
        if run.get("collapse")
    ]
    return [*sorted(missing), *collapsed, *(f"note: {note}" for note in results.get("notes", ()))]


def _fitting(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """Columns that fit into the width, and those left out, both in the order of the rows."""
    names = list(dict.fromkeys(name for row in rows for name in row))

    def place(name: str) -> int:
        title = name if name in _TELLING else name.partition(" ")[0]
        return _TELLING.index(title) if title in _TELLING else len(_TELLING)

    shown: list[str] = []
    for name in sorted(names, key=place):
        wanted = [n for n in names if n in shown or n == name]
        if not shown or max(map(len, table(rows, wanted).splitlines())) <= _WIDTH:
            shown = wanted
    return shown, [name for name in names if name not in shown]


def headline(entry: Mapping[str, Any]) -> tuple[str, float]:
    """The one number of a measurement that goes into a table, and at which strength it was read.

    Accuracies are read at 8/255 where an L-inf attack has that strength, else at the largest.

    Args:
        entry: A measurement with status "ok".

    Returns:
        The strength in words, empty where there is none, and the number: an accuracy, or a median distance.

    Example:
        >>> headline({"type": "sweep", "result": {"epsilons": [0.0, 0.1], "accuracies": [0.7, 0.4]}})
        ('0.1', 0.4)
    """
    result = entry["result"]
    if entry["type"] == "corruptions":
        return "mean", float(result["mean"])
    if entry["type"] == "sweep":
        epsilons = result["epsilons"]
        at = max(range(len(epsilons)), key=lambda i: (abs(epsilons[i] - _EPSILON) < 1e-9, epsilons[i]))
        words = "" if epsilons[at] == 0 else "8/255" if abs(epsilons[at] - _EPSILON) < 1e-9 else f"{epsilons[at]:.3g}"
        return words, float(result["accuracies"][at])
    return "median", float(result["median"])


def _method_row(results: Mapping[str, Any], name: str, budget: str) -> dict[str, Any] | None:
    """One method's row; None if it has no run in this budget."""
    runs = _runs(results["methods"][name], budget)
    if not runs:
        return None
    row: dict[str, Any] = {"method": name, "seeds": len(runs)}
    for key, entry in runs[0]["measurements"].items():
        found = [run["measurements"][key] for run in runs if run["measurements"].get(key, {}).get("status") == "ok"]
        if entry.get("status") != "ok" or entry["type"] == "spectrum" or len(found) < len(runs):
            continue
        strength, _ = headline(entry)
        numbers = [headline(one)[1] for one in found]
        accuracy = entry["type"] != "distances"
        name = key if entry["type"] == "corruptions" else f"{key} {strength}".strip()
        row[name] = _mean([100 * n for n in numbers], ".1f") if accuracy else _mean(numbers, ".3g")
    row["training s"] = f"{statistics.fmean(run['training_seconds'] for run in runs):.0f}"
    row["epochs"] = f"{statistics.fmean(run['epochs'] for run in runs):.3g}"
    row["ms/step"] = f"{statistics.fmean(run['milliseconds_per_step'] for run in runs):.1f}"
    return row


def _runs(method: Mapping[str, Any], budget: str) -> list[Mapping[str, Any]]:
    return [run for run in method["runs"] if run["status"] == "ok" and run["budget"] == budget]


def _budget(results: Mapping[str, Any], budget: str) -> str:
    return f": {results['epochs']:g}" if budget == "equal_epochs" else f": {results['budget_seconds']:g} s"


def _mean(values: Sequence[float], form: str) -> str:
    """Mean over seeds, with half of its interval where they differ.

    Example:
        >>> _mean([1.0, 2.0], ".1f"), _mean([0.0, 0.0], ".1f")
        ('1.5 +-6.4', '0.0')
    """
    if not all(map(math.isfinite, values)):
        return "inf"
    text = f"{statistics.fmean(values):{form}}"
    if len(set(values)) == 1:
        return text
    low, high = mean_interval(values)
    return f"{text} +-{(high - low) / 2:{form}}"


def selection_text(results: Mapping[str, Any]) -> str:
    """A table with one row per point of a selection, and the choice.

    Args:
        results: What `select` or `weigh` returns.

    Returns:
        Several lines, without a newline at the end.
    """
    reference, distortion = results["reference"], results["distortion"]
    noise = f"{distortion['name']} {distortion['epsilon']:g}"
    rows = [{"point": "unregularized", "clean": _percent(reference["clean"]), noise: _percent(reference["robust"])}]
    for point in results["points"]:
        row = {"point": _settings(point["settings"])}
        if point["status"] == "ok":
            row |= {"clean": _percent(point["clean"]), noise: _percent(point["robust"])}
            row |= {"R0/U0": _ratio(point, "clean"), "RD/UD": _ratio(point, "robust")}
            row["acceptable"] = "yes" if point["acceptable"] else "no"
            row["front"] = "yes" if point["pareto"] else "no"
            row["chosen"] = "<-" if point["settings"] == results["choice"]["settings"] else ""
        rows.append(row)
    failed = [f"not run: {_settings(p['settings'])}: {p['reason']}" for p in results["points"] if p["status"] != "ok"]
    seeds = len(reference["runs"])
    note = (
        f"Accuracy in % on {results['split']['validation']} validation images, {seeds} seed{'s' if seeds > 1 else ''}; "
        f"in brackets 95 % intervals {'over seeds' if seeds > 1 else 'of the image sample: other seeds may differ'}."
    )
    return "\n".join([table(rows), "", note, *failed, f"choice: {results['choice']['reason']}"])


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in settings.items() if value is not None)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _ratio(point: Mapping[str, Any], name: str) -> str:
    low, high = (math.nan if bound is None else bound for bound in point[f"{name}_ratio_interval"])
    ratio = point[f"{name}_ratio"]
    return "-" if ratio is None else f"{ratio:.2f} [{low:.2f}, {high:.2f}]"
