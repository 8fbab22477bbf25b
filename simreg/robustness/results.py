"""Results as data: accuracy over epsilon (``Sweep``) and Boundary Attack distances (``BoundaryResult``)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Sweep:
    r"""Accuracy of one model at several strengths of one distortion.

    Args:
        name: Distortion: "gaussian", "uniform", "salt_and_pepper", "fgsm", "pgd" or "transferred_fgsm".
        epsilons: Strengths in pixel units of [0, 1] images.
        accuracies: Accuracy in [0, 1] at each strength, over all ``n`` images.
        n: Number of images; those misclassified without distortion stay in.
        seed: Seed of the random draws, None for a deterministic distortion.
        settings: Everything else that decided the numbers; ``"max_perturbation"`` has one measured value per epsilon.

    Raises:
        ValueError: If epsilons and accuracies differ in length, or ``n`` is below 1.

    Example:
        >>> sweep = Sweep("gaussian", (0.0, 0.1), (0.9, 0.5), n=100, seed=0)
        >>> sweep.at(0.1), sweep.standard_errors
        (0.5, (0.03, 0.05))
    """

    name: str
    epsilons: tuple[float, ...]
    accuracies: tuple[float, ...]
    n: int
    seed: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.epsilons) != len(self.accuracies):
            raise ValueError(f"{len(self.epsilons)} epsilons but {len(self.accuracies)} accuracies: one per epsilon.")
        if self.n < 1:
            raise ValueError(f"n must be at least 1, got {self.n}.")

    @property
    def standard_errors(self) -> tuple[float, ...]:
        r"""Binomial standard error :math:`\sqrt{p (1 - p) / n}` of each accuracy."""
        return tuple(round(math.sqrt(p * (1 - p) / self.n), 12) for p in self.accuracies)

    @property
    def clean(self) -> float | None:
        """Accuracy at epsilon 0; None if the sweep has no such point."""
        return self.at(0.0) if self._index(0.0) is not None else None

    def at(self, epsilon: float) -> float:
        """Accuracy at ``epsilon``; raises ``ValueError`` listing the epsilons if it is not one of them."""
        index = self._index(epsilon)
        if index is None:
            have = ", ".join(f"{e:g}" for e in self.epsilons)
            raise ValueError(f"epsilon={epsilon!r} is not in the {self.name} sweep. It has: {have}.")
        return self.accuracies[index]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {
            "name": self.name,
            "epsilons": list(self.epsilons),
            "accuracies": list(self.accuracies),
            "standard_errors": list(self.standard_errors),
            "n": self.n,
            "seed": self.seed,
            "settings": dict(self.settings),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Sweep:
        """The sweep that ``to_dict`` described; raises ``ValueError`` naming what is missing."""
        name, epsilons, accuracies, n = require(data, "name", "epsilons", "accuracies", "n")
        return cls(
            name, _floats(epsilons), _floats(accuracies), int(n), data.get("seed"), dict(data.get("settings", {}))
        )

    def _index(self, epsilon: float) -> int | None:
        close = [i for i, e in enumerate(self.epsilons) if math.isclose(e, epsilon, rel_tol=1e-6, abs_tol=1e-9)]
        return close[0] if close else None


@dataclass(frozen=True)
class BoundaryResult:
    r"""Boundary Attack distances of all attacked images, failures included.

    Distances are squared L2 per pixel, :math:`d_i = \|x'_i - x_i\|^2 / (C H W)`, of the closest adversarial image over
    all repeats; an image without one has distance inf and stays in the denominator.

    Args:
        distances: One per image, inf where the attack found nothing.
        statuses: One per image: "ok", "no_start" (no adversarial image to start from) or "not_adversarial" (the model
            took back its answer when the final image was checked).
        queries: Model evaluations spent on each image, all repeats together.
        starts: Where the closest image started: "noise", "image" or "none".
        steps: Steps of the attack.
        repeats: Independent runs; the closest result counts.
        seed: Seed of starts and steps.
        curve_steps: Steps at which the curve was read; 0 is the starting point.
        curve_medians: Median distance over all images at these steps.
        repeat_medians: Median distance of each repeat alone.
        settings: Everything else that decided the numbers.
        adversarials: Closest adversarial images (N, C, H, W) on the CPU, NaN where there is none; not written to JSON.

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

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON; the images are left out."""
        names = [name for name in self.__dataclass_fields__ if name != "adversarials"]
        values = {name: getattr(self, name) for name in names}
        data = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        summary = {"n": self.n, "failed_starts": self.failed_starts, "failures": self.failures, "median": self.median}
        return {"name": "boundary", **summary, **data}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> BoundaryResult:
        """The result that ``to_dict`` described, without images; raises ``ValueError`` naming what is missing."""
        distances, statuses, queries, starts = require(data, "distances", "statuses", "queries", "starts")
        steps, repeats, seed = require(data, "steps", "repeats", "seed")
        return cls(
            _floats(distances),
            tuple(statuses),
            tuple(queries),
            tuple(starts),
            steps,
            repeats,
            seed,
            tuple(data.get("curve_steps", ())),
            _floats(data.get("curve_medians", ())),
            _floats(data.get("repeat_medians", ())),
            dict(data.get("settings", {})),
        )


def require(data: Mapping[str, Any], *names: str) -> list[Any]:
    """Values of ``names`` in ``data``; raises ``ValueError`` with the missing ones."""
    missing = [name for name in names if name not in data]
    if missing:
        raise ValueError(f"the result lacks {', '.join(missing)}; it has {', '.join(map(str, data)) or 'nothing'}.")
    return [data[name] for name in names]


def _floats(values: Iterable[Any]) -> tuple[float, ...]:
    """Numbers back from JSON: None was NaN, "inf" an infinity."""
    return tuple(math.nan if value is None else float(value) for value in values)
