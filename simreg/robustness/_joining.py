"""How the results of consecutive parts of an image set become the result of all of it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

_SHARES = ("_share", "_shares", "_accuracy", "_accuracies")  # endings of settings that are means over images
QUERY_SUMMARY = ("mean_queries_of_successes", "median_queries_of_successes", "accuracy_by_queries")
"""What ``query_summary`` returns."""


def check_parts(parts: Sequence[Any], kind: type) -> None:
    """Raise unless ``parts`` is a sequence of at least one result of this type."""
    if isinstance(parts, kind) or not isinstance(parts, Sequence):
        raise TypeError(f"parts must be a sequence of {kind.__name__}, got {type(parts).__name__}.")
    if not parts:
        raise ValueError("parts is empty: there is nothing to join.")
    wrong = [type(part).__name__ for part in parts if not isinstance(part, kind)]
    if wrong:
        raise TypeError(f"parts must hold {kind.__name__} results, got {wrong[0]}.")


def check_same(name: str, values: Sequence[Any]) -> None:
    """Raise ``ValueError`` unless all parts agree on what decides the numbers."""
    for i, value in enumerate(values):
        if value != values[0]:
            raise ValueError(f"parts disagree on {name}: {values[0]!r} in the first, {value!r} in part {i + 1}.")


def check_consecutive(settings: Sequence[Mapping[str, Any]], sizes: Sequence[int]) -> None:
    """Raise ``ValueError`` if the parts say where they start and that is not where the part before ended."""
    starts = [int(entry.get("first_index", 0)) for entry in settings]
    if not any(starts):  # attacks without random draws need not know where a part starts
        return
    for i in range(1, len(starts)):
        if starts[i] != starts[i - 1] + sizes[i - 1]:
            raise ValueError(
                f"parts are not consecutive: part {i} ends at image {starts[i - 1] + sizes[i - 1]}, "
                f"part {i + 1} starts at {starts[i]}."
            )


def join_settings(settings: Sequence[Mapping[str, Any]], sizes: Sequence[int], per_image: int) -> dict[str, Any]:
    """One set of settings: largest perturbations, shares of all images, totals; everything else must agree.

    Args:
        settings: Of each part.
        sizes: Images of each part.
        per_image: Times that an image counts in a share: once for each epsilon at most.

    Returns:
        Settings with the keys of the first part, in its order.

    Raises:
        ValueError: If parts are not consecutive, or disagree on what decides the numbers.
    """
    check_consecutive(settings, sizes)
    check_same("the names of their settings", [sorted(set(s) - {"first_index"}) for s in settings])
    joined: dict[str, Any] = {}
    for name, first in settings[0].items():
        values = [entry[name] for entry in settings] if name != "first_index" else []
        if name == "first_index":
            joined[name] = first
        elif name == "max_perturbation":
            joined[name] = [max(column) for column in zip(*values, strict=True)]
        elif name == "start_image_queries":
            joined[name] = sum(values)
        elif name == "queries":
            joined[name] = [[q for row in rows for q in row] for rows in zip(*values, strict=True)]
        elif name.endswith(_SHARES):
            joined[name] = _join_shares(name, values, sizes, per_image)
        else:
            if name not in QUERY_SUMMARY:  # which is made from "queries" below
                check_same(f"settings[{name!r}]", values)
            joined[name] = first
    if "query_marks" in joined:
        if "queries" not in joined:
            raise ValueError(
                "parts lack the queries of their images: to_dict(curves=False) leaves out what join needs."
            )
        joined.update(query_summary(joined["queries"], joined["query_marks"]))
    return joined


def query_summary(queries: Sequence[Sequence[int | None]], marks: Sequence[int]) -> dict[str, list[Any]]:
    """What the queries that took each image say about all of them.

    Args:
        queries: By epsilon and image: queries until it was misclassified, 0 if it was without any attack, None if it
            never was.
        marks: Queries at which accuracy is read.

    Returns:
        By epsilon: mean and median over the images that the attack took (None if it took none), and a list of the
        accuracies left at each mark.
    """
    taken = [[q for q in row if q] for row in queries]
    lasting = [[math.inf if q is None else q for q in row] for row in queries]
    means = [statistics.fmean(row) if row else None for row in taken]
    medians = [float(statistics.median(row)) if row else None for row in taken]
    curves = [[sum(q > mark for q in row) / len(row) for mark in marks] for row in lasting]
    return dict(zip(QUERY_SUMMARY, (means, medians, curves), strict=True))


def join_share(values: Sequence[float], sizes: Sequence[int], per_image: int = 1) -> float:
    """Mean weighted by size; to the bit that of all images at once where the values are shares of images."""
    total = sum(sizes)
    counts = [value * size * per_image for value, size in zip(values, sizes, strict=True)]
    if all(abs(count - round(count)) < 1e-6 for count in counts):
        return sum(map(round, counts)) / (total * per_image)
    return math.fsum(value * size for value, size in zip(values, sizes, strict=True)) / total


def _join_shares(name: str, values: Sequence[Any], sizes: Sequence[int], per_image: int) -> Any:
    """The same through lists and dicts of shares."""
    first = values[0]
    if isinstance(first, Mapping):
        check_same(f"the entries of settings[{name!r}]", [sorted(value) for value in values])
        return {key: _join_shares(name, [value[key] for value in values], sizes, per_image) for key in first}
    if isinstance(first, (list, tuple)):
        check_same(f"the length of settings[{name!r}]", [len(value) for value in values])
        return [_join_shares(name, column, sizes, per_image) for column in zip(*values, strict=True)]
    if any(value is None for value in values):
        check_same(f"settings[{name!r}]", values)
        return None
    return join_share(values, sizes, per_image)
