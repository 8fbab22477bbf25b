"""Results as data: accuracy over epsilon (``Sweep``) and distances of decision attacks (``BoundaryResult``)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from simreg.robustness._distances import BoundaryResult
from simreg.robustness._joining import check_parts, check_same, join_settings, join_share
from simreg.robustness._plain import floats, require

__all__ = ["BoundaryResult", "Sweep", "require"]


@dataclass(frozen=True)
class Sweep:
    r"""Accuracy of one model at several strengths of one distortion.

    Args:
        name: Distortion: "gaussian", "uniform", "salt_and_pepper", "fgsm", "pgd", "transferred_fgsm",
            "transferred_pgd", "square", ...
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

    def to_dict(self, *, curves: bool = True) -> dict[str, Any]:
        """Plain data, for JSON; with ``curves=False`` without ``settings["queries"]``, which only ``join`` needs."""
        return {
            "name": self.name,
            "epsilons": list(self.epsilons),
            "accuracies": list(self.accuracies),
            "standard_errors": list(self.standard_errors),
            "n": self.n,
            "seed": self.seed,
            "settings": {key: value for key, value in self.settings.items() if curves or key != "queries"},
        }

    @classmethod
    def join(cls, parts: Sequence[Sweep]) -> Sweep:
        """The sweep over all images from sweeps over consecutive parts of them, as one run over all would give it.

        Accuracies are weighted by the number of images, and so are settings whose name ends in "_share", "_shares",
        "_accuracy" or "_accuracies"; ``max_perturbation`` is the largest of all parts. Everything else must agree.

        Args:
            parts: Sweeps in the order of the images.

        Returns:
            The joined sweep.

        Raises:
            TypeError: If ``parts`` holds something other than sweeps.
            ValueError: If there is none, or they disagree on name, epsilons, seed or a setting.

        Example:
            >>> parts = [Sweep("gaussian", (0.1,), (share,), n, seed=0) for share, n in ((0.5, 10), (0.8, 20))]
            >>> Sweep.join(parts).accuracies, Sweep.join(parts).n
            ((0.7,), 30)
        """
        check_parts(parts, Sweep)
        first, sizes = parts[0], [part.n for part in parts]
        for name in ("name", "epsilons", "seed"):
            check_same(name, [getattr(part, name) for part in parts])
        accuracies = tuple(
            join_share(column, sizes) for column in zip(*(part.accuracies for part in parts), strict=True)
        )
        settings = join_settings([part.settings for part in parts], sizes, max(1, len(first.epsilons)))
        return cls(first.name, first.epsilons, accuracies, sum(sizes), first.seed, settings)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Sweep:
        """The sweep that ``to_dict`` described; raises ``ValueError`` naming what is missing."""
        name, epsilons, accuracies, n = require(data, "name", "epsilons", "accuracies", "n")
        return cls(name, floats(epsilons), floats(accuracies), int(n), data.get("seed"), dict(data.get("settings", {})))

    def _index(self, epsilon: float) -> int | None:
        close = [i for i, e in enumerate(self.epsilons) if math.isclose(e, epsilon, rel_tol=1e-6, abs_tol=1e-9)]
        return close[0] if close else None
