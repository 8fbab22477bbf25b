"""Counting of a sweep: correct images and measured perturbations, by epsilon."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simreg._checks import check_positive, describe
from simreg.robustness.results import Sweep


class Tally:
    """Counts of correct images and largest perturbations, by epsilon."""

    def __init__(self, epsilons: tuple[float, ...]) -> None:
        self.epsilons = epsilons
        self.correct = [0] * len(epsilons)
        self.largest = [0.0] * len(epsilons)

    def add(self, index: int, correct: int, perturbation: float) -> None:
        """Count one batch at the epsilon of this index."""
        self.correct[index] += correct
        self.largest[index] = max(self.largest[index], perturbation)

    def check_budgets(self) -> None:
        """Raise ``RuntimeError`` if a measured perturbation is above its epsilon (+ 1e-6)."""
        for epsilon, largest in zip(self.epsilons, self.largest, strict=True):
            check_budget(epsilon, largest)

    def sweep(self, name: str, n: int, seed: int | None, settings: dict[str, Any]) -> Sweep:
        """The counts as accuracies of ``n`` images."""
        accuracies = tuple(correct / n for correct in self.correct)
        return Sweep(name, self.epsilons, accuracies, n, seed, {**settings, "max_perturbation": list(self.largest)})


def check_budget(epsilon: float, measured: float) -> None:
    """Raise ``RuntimeError`` if a perturbation left its budget by more than rounding."""
    if not measured <= epsilon + 1e-6 * max(1.0, epsilon):
        raise RuntimeError(
            f"a perturbation of {measured:.8g} left its budget of {epsilon:.8g}: please report this as a bug."
        )


def indices_of(part: slice, first_index: int) -> range:
    """Indices, in the whole set, of one batch of a part that starts at ``first_index``."""
    return range(first_index + part.start, first_index + part.stop)


def check_epsilons(epsilons: float | Iterable[float] | Tensor) -> tuple[float, ...]:
    """One or several ``epsilons`` as floats; raises unless there is at least one and all are finite and >= 0."""
    if isinstance(epsilons, (np.generic, np.ndarray)) and epsilons.dtype != np.float64:
        epsilons = torch.as_tensor(np.asarray(epsilons))
    if isinstance(epsilons, Tensor):
        # float32 grids such as torch.linspace(0, 0.1, 11) get their short decimals back
        epsilons = [float(f"{value:.7g}") for value in epsilons.reshape(-1).tolist()]
    if isinstance(epsilons, (int, float)):
        epsilons = (epsilons,)
    if isinstance(epsilons, (str, bytes)) or not isinstance(epsilons, Iterable):
        raise TypeError(f"epsilons must be a sequence of numbers, got {describe(epsilons)}.")
    strengths = tuple(epsilons)
    if not strengths:
        raise ValueError("epsilons is empty: pass at least one strength.")
    for value in strengths:
        check_positive("epsilons", value, zero=True)
    return tuple(map(float, strengths))
