"""A goal as a limit on numbers that stand in the results; `goal_list` has them all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

Record = dict[str, Any]  # extra_info of one benchmark, and its group
Values = Callable[[Record], Iterable[float]]

FUSED = ("compile", "triton", "torch")
AT_LEAST, AT_MOST = "at least", "at most"


@dataclass(frozen=True)
class Goal:
    """A limit on the worst of all values that fit.

    Args:
        text: What is promised.
        group: Of benchmarks.
        values: The numbers of a record that the limit is for.
        sense: `AT_LEAST` or `AT_MOST`.
        limit: The limit.
        where: Entries of a record's case, and their values.
        device: Where it is promised: "cpu" or "cuda".
    """

    text: str
    group: str
    values: Values
    sense: str
    limit: float
    where: dict[str, tuple[Any, ...]]
    device: str


def goal(text: str, group: str, values: Values, sense: str, limit: float, *, device: str = "cpu", **where: Any) -> Goal:
    """A goal for records whose case has these entries; a tuple stands for any of several values."""
    several = {key: value if isinstance(value, tuple) else (value,) for key, value in where.items()}
    return Goal(text, group, values, sense, limit, several, device)


def device_of(record: Record) -> str:
    return "cpu" if record["environment"]["gpu"] is None else "cuda"


def fits(wanted: Goal, record: Record) -> bool:
    if record["group"] != wanted.group or device_of(record) != wanted.device:
        return False
    return all(record["case"].get(key) in values for key, values in wanted.where.items())


def worst(wanted: Goal, records: Iterable[Record]) -> float | None:
    """The value furthest on the wrong side; None if nothing was measured."""
    values = [value for record in records if fits(wanted, record) for value in wanted.values(record)]
    if not values:
        return None
    return min(values) if wanted.sense == AT_LEAST else max(values)


def met(wanted: Goal, value: float) -> bool:
    return value >= wanted.limit if wanted.sense == AT_LEAST else value <= wanted.limit


def relative(name: str, base: str) -> Values:
    """Median time of ``name`` over that of ``base``."""

    def values(record: Record) -> list[float]:
        quartiles = record["relative_time"].get(name, {}).get(base)
        return [] if quartiles is None else [quartiles[1]]

    return values


def speed_up(name: str, base: str) -> Values:
    return lambda record: [1 / value for value in relative(name, base)(record)]


def of(table: str, name: str) -> Values:
    """What a table of the record says of one candidate."""
    return lambda record: [float(record[table][name])] if name in record[table] else []


def of_fused(table: str) -> Values:
    return lambda record: [value for name in FUSED for value in of(table, name)(record)]


def error(kind: str) -> Values:
    """Errors of the fused backends: "similarity" or "gradient"."""
    return lambda record: [record["errors"][name][kind] for name in FUSED if name in record["errors"]]


def graphs(kind: str) -> Values:
    return lambda record: [record["graphs"][name][kind] for name in record["graphs"] if name == "same batch"]


def above_operations(name: str) -> Values:
    """Relative time of a step, less its relative number of floating-point operations."""
    return lambda record: [value - record["flop_ratio"][name] for value in relative(name, "plain")(record)]
