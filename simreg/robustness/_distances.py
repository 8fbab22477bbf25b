"""Distances that decision attacks found, as data."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from simreg.robustness._joining import check_parts, check_same, join_settings, join_share
from simreg.robustness._plain import floats, lists, require

_FOR_JOIN = ("curves", "repeat_distances")  # one row per image, which only ``join`` needs


@dataclass(frozen=True)
class BoundaryResult:
    r"""Distances that a decision attack found for all attacked images, failures included.

    The unit is ``settings["norm"]``: squared L2 per pixel, :math:`d_i = \|x'_i - x_i\|^2 / (C H W)`, or the largest
    change of a value ("linf"), of the closest adversarial image over all repeats; an image without one has distance inf
    and stays in the denominator.

    Args:
        distances: One per image, inf where the attack found nothing.
        statuses: One per image: "ok", "no_start" (no adversarial image to start from) or "not_adversarial" (the model
            took back its answer when the final image was checked).
        queries: Model evaluations spent on each image, all repeats together.
        starts: Where the closest image started: "noise", "image" or "none".
        steps: Steps of the attack; for HopSkipJump the model evaluations that an image may take.
        repeats: Independent runs; the closest result counts.
        seed: Seed of starts and steps.
        curve_steps: Steps at which the curve was read; 0 is the starting point. For HopSkipJump model evaluations after
            the start was found.
        curve_medians: Median distance over all images at these steps.
        repeat_medians: Median distance of each repeat alone.
        settings: Everything else that decided the numbers.
        adversarials: Closest adversarial images (N, C, H, W) on the CPU, NaN where there is none; not written to JSON.
        name: "boundary" or "hopskipjump".
        curve_queries: Mean model evaluations per image until each of ``curve_steps``, start search and all repeats
            included; failed images with what they took.
        curves: Distance of each image at ``curve_steps``, from which ``join`` makes medians.
        repeat_distances: Distance of each image in each repeat, likewise.

    Example:
        >>> result = BoundaryResult(
        ...     (0.002, 0.004, math.inf), ("ok", "ok", "no_start"), (60, 60, 40), ("noise", "image", "none"), 50, 1, 0)
        >>> result.n, result.failed_starts, result.median
        (3, 1, 0.004)
    """

    distances: tuple[float, ...]
    statuses: tuple[str, ...]
    queries: tuple[int, ...]
    starts: tuple[str, ...]
    steps: int
    repeats: int
    seed: int
    curve_steps: tuple[int, ...] = ()
    curve_medians: tuple[float, ...] = ()
    repeat_medians: tuple[float, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    adversarials: Tensor | None = field(default=None, repr=False, compare=False)
    name: str = "boundary"
    curve_queries: tuple[float, ...] = ()
    curves: tuple[tuple[float, ...], ...] = field(default=(), repr=False)
    repeat_distances: tuple[tuple[float, ...], ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        lengths = {len(self.distances), len(self.statuses), len(self.queries), len(self.starts)}
        if len(lengths) != 1 or not self.distances:
            raise ValueError(
                f"distances, statuses, queries and starts need one value per image, got lengths {lengths}."
            )

    @property
    def n(self) -> int:
        """Number of attacked images, failures included."""
        return len(self.distances)

    @property
    def failed_starts(self) -> int:
        """Images for which no adversarial starting point was found."""
        return self.statuses.count("no_start")

    @property
    def failures(self) -> int:
        """Images without an adversarial result, for whatever reason."""
        return self.n - self.statuses.count("ok")

    @property
    def median(self) -> float:
        """Median distance over all images, failures as inf."""
        return float(statistics.median(self.distances))

    @property
    def start_median(self) -> float:
        """Median distance of the starting points over all images; NaN if no curve was recorded."""
        return self.curve_medians[0] if self.curve_medians else math.nan

    @property
    def mean_queries(self) -> float:
        """Mean number of model evaluations per image."""
        return statistics.fmean(self.queries)

    def to_dict(self, *, curves: bool = True) -> dict[str, Any]:
        """Plain data, ready for JSON; the images are left out, with ``curves=False`` also what only ``join`` needs."""
        left_out = {"adversarials", "name", *(() if curves else _FOR_JOIN)}
        data = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in left_out}
        data = {name: lists(value) for name, value in data.items()}
        summary = {"n": self.n, "failed_starts": self.failed_starts, "failures": self.failures, "median": self.median}
        return {"name": self.name, **summary, **data}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> BoundaryResult:
        """The result that ``to_dict`` described, without images; raises ``ValueError`` naming what is missing."""
        distances, statuses, queries, starts = require(data, "distances", "statuses", "queries", "starts")
        steps, repeats, seed = require(data, "steps", "repeats", "seed")
        return cls(
            floats(distances),
            tuple(statuses),
            tuple(queries),
            tuple(starts),
            steps,
            repeats,
            seed,
            tuple(data.get("curve_steps", ())),
            floats(data.get("curve_medians", ())),
            floats(data.get("repeat_medians", ())),
            dict(data.get("settings", {})),
            name=data.get("name", "boundary"),
            curve_queries=floats(data.get("curve_queries", ())),
            curves=tuple(map(floats, data.get("curves", ()))),
            repeat_distances=tuple(map(floats, data.get("repeat_distances", ()))),
        )

    @classmethod
    def join(cls, parts: Sequence[BoundaryResult]) -> BoundaryResult:
        """The result over all images from results over consecutive parts of them.

        Images are put one after the other; medians are taken over all of them, not over the parts' medians.

        Args:
            parts: Results in the order of the images, with their curves.

        Returns:
            The joined result; with images if every part has them.

        Raises:
            TypeError: If ``parts`` holds something other than such results.
            ValueError: If there is none, they disagree on what decides the numbers, or lack their curves.

        Example:
            >>> parts = [BoundaryResult((d,), ("ok",), (60,), ("noise",), 50, 1, 0) for d in (0.001, 0.002, 0.009)]
            >>> BoundaryResult.join(parts).distances, BoundaryResult.join(parts).median
            ((0.001, 0.002, 0.009), 0.002)
        """
        check_parts(parts, BoundaryResult)
        first, sizes = parts[0], [part.n for part in parts]
        for name in ("name", "steps", "repeats", "seed", "curve_steps"):
            check_same(name, [getattr(part, name) for part in parts])
        curves, repeat_distances = (_rows(parts, name) for name in _FOR_JOIN)
        adversarials = [part.adversarials for part in parts if part.adversarials is not None]
        return cls(
            distances=_chain(part.distances for part in parts),
            statuses=_chain(part.statuses for part in parts),
            queries=_chain(part.queries for part in parts),
            starts=_chain(part.starts for part in parts),
            steps=first.steps,
            repeats=first.repeats,
            seed=first.seed,
            curve_steps=first.curve_steps,
            curve_medians=column_medians(curves),
            repeat_medians=column_medians(repeat_distances),
            settings=join_settings([part.settings for part in parts], sizes, 1),
            adversarials=torch.cat(adversarials) if len(adversarials) == len(parts) else None,
            name=first.name,
            curve_queries=tuple(
                join_share(column, sizes) for column in zip(*(part.curve_queries for part in parts), strict=True)
            ),
            curves=curves,
            repeat_distances=repeat_distances,
        )


def column_medians(rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Median of each column, with the mean of the two middle values, inf included."""
    return tuple(float(statistics.median(column)) for column in zip(*rows, strict=True))


def _rows(parts: Sequence[BoundaryResult], name: str) -> tuple[tuple[float, ...], ...]:
    """The rows of all images, one after the other; raises ``ValueError`` if a part was saved without them."""
    rows = _chain(getattr(part, name) for part in parts)
    summary = {"curves": "curve_medians", "repeat_distances": "repeat_medians"}[name]
    for i, part in enumerate(parts):
        if len(getattr(part, name)) != (part.n if rows or getattr(part, summary) else 0):
            raise ValueError(
                f"part {i + 1} lacks {name}, which exact medians need: to_dict(curves=False) left them out."
            )
    return rows


def _chain(values: Iterable[Iterable[Any]]) -> tuple[Any, ...]:
    return tuple(itertools.chain.from_iterable(values))
