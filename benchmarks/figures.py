"""Results as plots."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from goals import Record
from matplotlib.figure import Figure

_SIZE, _DPI = (5.2, 3.6), 110


def overhead(records: Sequence[Record], path: Path) -> bool:
    """Time of a step over the plain one against k, with the line 1 + 2 k / B; False if nothing was measured."""
    record = next((r for r in records if r["group"] == "step by pairs"), None)
    if record is None:
        return False
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    curves: dict[str, list[tuple[int, list[float]]]] = defaultdict(list)
    for name, relative in record["relative_time"].items():
        found = re.fullmatch(r"(.+), k=(\d+)", name)
        if found:
            curves[found[1]].append((int(found[2]), relative["plain"]))
    for label, points in sorted(curves.items()):
        _curve(axes, label, sorted(points))
    pairs = sorted({k for points in curves.values() for k, _ in points})
    batch = record["case"]["batch"]
    axes.plot(pairs, [1 + 2 * k / batch for k in pairs], "k--", linewidth=1, label=f"1 + 2k/{batch}")
    axes.set(xlabel="k, pairs a step", ylabel="time over the plain step", xticks=pairs)
    axes.set_title(f"ResNet18, width {record['case']['width']}, batch of {batch}", fontsize=9)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=_DPI)
    return True


def speed_up(records: Sequence[Record], path: Path) -> bool:
    """Speed-up over naive against N; False if nothing was measured.

    CIFAR layer set, pairs centred by channel, all pairs by image.
    """
    curves: dict[str, dict[int, list[float]]] = defaultdict(dict)
    for record in records:
        case = record["case"]
        shown = ("CIFAR", "float32", "channel" if case.get("pairing") == "pairs" else "image")
        if record["group"] == "similarity" and (case["layers"], case["dtype"], case["centering"]) == shown:
            for name in ("compile", "triton", "torch"):
                relative = record["relative_time"].get(name)
                if relative:
                    gains = [1 / q for q in reversed(relative["naive"])]
                    curves[f"{case['pairing']}: {name}"][case["images"]] = gains
    if not curves:
        return False
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    for label, points in sorted(curves.items()):
        _curve(axes, label, sorted(points.items()))
    images = sorted({n for points in curves.values() for n in points})
    axes.axhline(1, color="k", linestyle="--", linewidth=1, label="naive")
    axes.set_xscale("log", base=2)
    axes.set(xlabel="N, images", ylabel="speed-up, forward + backward", xticks=images, xticklabels=images)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=_DPI)
    return True


def _curve(axes: Any, label: str, points: Sequence[tuple[int, list[float]]]) -> None:
    """Medians, with bars from quartile to quartile."""
    x, (low, middle, high) = [p[0] for p in points], zip(*(p[1] for p in points), strict=True)
    bars = [[m - a for m, a in zip(middle, low, strict=True)], [b - m for m, b in zip(middle, high, strict=True)]]
    axes.errorbar(x, middle, yerr=bars, marker="o", markersize=3, capsize=2, linewidth=1.2, label=label)
