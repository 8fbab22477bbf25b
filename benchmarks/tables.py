"""Results as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from goal_list import GOALS
from goals import Record, device_of, met, worst

_BOUNDS = ("memory floor", "two matmuls", "plain")  # nothing of the kind can be beaten
_WAYS = ("compile", "triton", "torch", "reference", "paper scheme", "corrcoef", "torch.compile(naive)")


def markdown(titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; columns that are empty throughout are left out."""
    cells = [[_text(cell) for cell in row] for row in rows]
    kept = [i for i in range(len(titles)) if any(row[i] for row in cells)]
    lines = [titles, ["---"] * len(titles), *cells]
    return "\n".join("| " + " | ".join(line[i] for i in kept) + " |" for line in lines)


def _text(cell: Any) -> str:
    if cell is None:
        return ""
    return number(cell) if isinstance(cell, float) else str(cell)


def number(value: float) -> str:
    """Three digits."""
    if value == 0 or 1e-2 <= abs(value) < 1e6:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return f"{value:.1e}"


def spread(quartiles: Sequence[float] | None, *, inverse: bool = False) -> str:
    """Median with the quartiles in brackets; ``inverse`` turns times into speed-ups."""
    if quartiles is None:
        return ""
    low, middle, high = (1 / q for q in reversed(quartiles)) if inverse else quartiles
    return f"{number(middle)} [{number(low)}-{number(high)}]"


def goals_table(records: Sequence[Record]) -> str:
    """Every goal of the hardware at hand, with the worst figure that was measured."""
    here = device_of(records[0])
    rows = []
    for goal in GOALS:
        if goal.device != here:
            continue
        value = worst(goal, records)
        verdict = "not measured" if value is None else "met" if met(goal, value) else "**not met**"
        rows.append((goal.text, f"{goal.sense} {goal.limit:g}", None if value is None else f"{value:.4g}", verdict))
    return markdown(["goal", "wanted", "measured, worst case", ""], rows)


def similarity_table(records: Sequence[Record], pairing: str, suffix: str = "") -> str:
    """One line for each case: times of the bounds and of naive, and speed-ups over naive.

    Args:
        records: Of the group "similarity".
        pairing: "pairs" or "all".
        suffix: Of candidates' names: ", graph" for CUDA graphs.
    """
    rows = []
    for record in records:
        case, times, relative = record["case"], record["milliseconds"], record["relative_time"]
        if case["pairing"] != pairing or "naive" + suffix not in times:
            continue
        subject = record["subject"]
        ratios = {way: relative.get(way + suffix, {}).get("naive" + suffix) for way in _WAYS}
        milliseconds = [_median(times.get(name + suffix)) for name in ("memory floor", "two matmuls", "naive")]
        memory = [record["memory"][name] for name in (subject, "naive")]
        rows.append(
            [
                *(case[key] for key in ("layers", "images", "centering", "dtype")),
                *milliseconds,
                *(spread(quartiles, inverse=True) for quartiles in ratios.values()),
                spread(relative[subject + suffix].get("memory floor" + suffix)),
                spread(relative[subject + suffix].get("two matmuls" + suffix)),
                *memory,
                record.get("launches", {}).get(subject),
            ]
        )
    titles = ["layers", "N", "centring", "dtype", "memory floor, ms", "two matmuls, ms", "naive, ms"]
    titles += [f"{way}, x" for way in _WAYS]
    titles += ["over memory floor", "over two matmuls", "memory", "memory, naive", "launches"]
    return markdown(titles, rows)


def stage_table(records: Sequence[Record]) -> str:
    """Forward and backward apart: speed-ups over naive of medians."""
    rows = []
    for record in records:
        times = record["milliseconds"]
        for name in _WAYS:
            if name in times:
                gains = [times["naive"][s][1] / times[name][s][1] for s in ("forward", "backward", "total")]
                rows.append([*(record["case"][k] for k in ("pairing", "layers", "images", "centering")), name, *gains])
    return markdown(["pairing", "layers", "N", "centring", "", "forward, x", "backward, x", "both, x"], rows)


def _median(stages: dict[str, list[float]] | None) -> float | None:
    return None if stages is None else stages["total"][1]


def precision_table(records: Sequence[Record]) -> str:
    """Errors against float64, of similarities and of gradients."""
    names = ("compile", "triton", "torch", "reference", "naive", "corrcoef")
    rows = []
    for record in records:
        found = record["errors"]
        errors = [found.get(name, {}).get(kind) for kind in ("similarity", "gradient") for name in names]
        rows.append([*(record["case"][key] for key in ("pairing", "centering", "offset")), *errors])
    titles = [f"{kind}: {name}" for kind in ("S", "dX") for name in names]
    return markdown(["pairing", "centring", "offset", *titles], rows)


def race_table(records: Sequence[Record]) -> str:
    """One line for each candidate of each case: time, and time over that of the base."""
    rows = []
    for record in records:
        case = ", ".join(f"{key} {value}" for key, value in record["case"].items())
        rows += [[case, *_race_row(record, name)] for name in record["milliseconds"]]
        rows += [[case, name, None, reason, *[None] * 4] for name, reason in record.get("missing", {}).items()]
    base = next(base for record in records for by in record["relative_time"].values() for base in by)
    measures = ["operations, ratio", "memory, ratio", "tensors, MiB", "torch.compile"]
    return markdown(["", "", "ms", f"time over: {base}", *measures], rows)


def _race_row(record: Record, name: str) -> list[Any]:
    relative = next(iter(record["relative_time"][name].values()), None)
    more = [record.get(table, {}).get(name) for table in ("flop_ratio", "memory_ratio", "tensor_mebibytes")]
    graphs = record.get("graphs", {}).get(name)
    counts = graphs and f"graphs: {graphs['graphs']}, breaks: {graphs['breaks']}"
    return [name, record["milliseconds"][name]["total"][1], spread(relative), *more, counts]


def losses(records: Sequence[Record]) -> str:
    """Cases in which something that simreg is compared with is faster than what simreg chooses."""
    rows = []
    for record in records:
        subject = record.get("subject")
        for base, quartiles in record.get("relative_time", {}).get(subject, {}).items():
            if base not in _BOUNDS and "graph" not in base and quartiles[1] > 1:
                case = ", ".join(str(value) for value in record["case"].values())
                rows.append((record["group"], case, subject, base, spread(quartiles)))
    if not rows:
        return "None of these."
    return markdown(["", "case", "simreg", "against", "time over it"], rows)
