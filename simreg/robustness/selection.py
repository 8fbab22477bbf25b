"""The trade-off by which a regularized model is accepted: clean accuracy kept against robustness gained.

Points of a grid are weighed in the plane of two ratios, R0/U0 and RD/UD: those that no other beats in both are its
Pareto front, and of the acceptable ones the most robust is chosen.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from simreg.robustness.intervals import Interval, mean_interval, ratio_interval
from simreg.robustness.results import Sweep


@dataclass(frozen=True)
class TradeOff:
    """Ratios of a regularized to an unregularized model.

    Args:
        name: Distortion of the sweeps.
        distortion: Epsilon at which RD and UD were read.
        clean_ratio: R0/U0.
        robust_ratio: RD/UD.
        acceptable: R0/U0 is at least ``minimum_clean_ratio`` and RD/UD is above 1.
        minimum_clean_ratio: The bound on R0/U0.

    Example:
        >>> TradeOff("gaussian", 0.1, 0.93, 1.2, True, 0.9).to_dict()["acceptable"]
        True
    """

    name: str
    distortion: float
    clean_ratio: float
    robust_ratio: float
    acceptable: bool
    minimum_clean_ratio: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return asdict(self)


def tradeoff(
    regularized: Sweep,
    unregularized: Sweep,
    *,
    clean_regularized: float | None = None,
    clean_unregularized: float | None = None,
    distortion: float | None = None,
    minimum_clean_ratio: float = 0.9,
) -> TradeOff:
    r"""Weigh lost clean accuracy against gained robustness.

    .. math:: \text{acceptable} \iff R_0 / U_0 \ge 0.9 \text{ and } R_D / U_D > 1

    with R the regularized and U the unregularized model's accuracy, clean (0) and at high distortion (D).

    Args:
        regularized: Sweep of the regularized model.
        unregularized: Sweep of the unregularized model, same distortion and same surrogate.
        clean_regularized: R0 in [0, 1]; None takes the sweep's accuracy at epsilon 0.
        clean_unregularized: U0 in [0, 1]; None takes the sweep's accuracy at epsilon 0.
        distortion: Epsilon D; None takes the largest of the regularized model's sweep.
        minimum_clean_ratio: Smallest acceptable R0/U0.

    Returns:
        The two ratios and whether they are acceptable. UD = 0 gives RD/UD = inf, or NaN if RD is 0 too.

    Raises:
        ValueError: If the sweeps are not comparable, an epsilon is missing, or a clean accuracy is outside (0, 1].

    Source: Attias, Pehlevan, Obeid, 2024 (https://arxiv.org/abs/2410.03952).

    Example:
        >>> r = Sweep("gaussian", (0.0, 0.1), (0.63, 0.45), n=2000, seed=0)
        >>> u = Sweep("gaussian", (0.0, 0.1), (0.70, 0.36), n=2000, seed=0)
        >>> result = tradeoff(r, u)
        >>> round(result.clean_ratio, 3), round(result.robust_ratio, 3), result.acceptable
        (0.9, 1.25, True)
    """
    _check_comparable(regularized, unregularized)
    distortion = max(regularized.epsilons) if distortion is None else distortion
    clean_ratio = _clean("clean_regularized", clean_regularized, regularized) / _clean(
        "clean_unregularized", clean_unregularized, unregularized
    )
    robust_ratio = _ratio(regularized.at(distortion), unregularized.at(distortion))
    acceptable = is_acceptable(clean_ratio, robust_ratio, minimum_clean_ratio)
    return TradeOff(regularized.name, distortion, clean_ratio, robust_ratio, acceptable, minimum_clean_ratio)


@dataclass(frozen=True)
class GridPoint:
    """One setting of a regularizer, weighed against the unregularized model.

    Attributes:
        settings: Of the regularizer, such as alpha and threshold.
        clean_ratio: R0/U0.
        robust_ratio: RD/UD; NaN if both are 0.
        clean_ratio_interval: Of R0/U0.
        robust_ratio_interval: Of RD/UD.

    Example:
        >>> GridPoint({"alpha": 10.0}, 0.93, 1.2).robust_ratio
        1.2
    """

    settings: dict[str, Any]
    clean_ratio: float
    robust_ratio: float
    clean_ratio_interval: Interval = (math.nan, math.nan)
    robust_ratio_interval: Interval = (math.nan, math.nan)


@dataclass(frozen=True)
class Choice:
    """Which point of a grid to take.

    Attributes:
        index: Of the point; None if none is acceptable.
        settings: Of the point; None if none is acceptable.
        reason: Why, in a sentence; names the nearest point if none is acceptable.

    Example:
        >>> choose([GridPoint({"alpha": 1.0}, 0.99, 1.05), GridPoint({"alpha": 30.0}, 0.7, 1.4)]).to_dict()["settings"]
        {'alpha': 1.0}
    """

    index: int | None
    settings: dict[str, Any] | None
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """What results record."""
        return {"settings": self.settings, "reason": self.reason}


def is_acceptable(clean_ratio: float, robust_ratio: float, minimum_clean_ratio: float = 0.9) -> bool:
    """Whether R0/U0 is at least the bound, up to rounding, and RD/UD above 1.

    Example:
        >>> is_acceptable(0.9, 1.2), is_acceptable(0.89, 1.2), is_acceptable(0.95, 1.0)
        (True, False, False)
    """
    return clean_ratio >= minimum_clean_ratio - 1e-9 and robust_ratio > 1


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Points that no other point dominates: is at least as good in both coordinates and better in one.

    Args:
        points: Pairs such as (R0/U0, RD/UD), larger is better; one with a NaN is never in the front.

    Returns:
        Their indices in order; of equal points all or none.

    Example:
        >>> pareto_front([(1.0, 1.0), (0.95, 1.2), (0.9, 1.1), (0.9, 1.2)])
        [0, 1]
    """
    valid = [(x, y) for x, y in points if not (math.isnan(x) or math.isnan(y))]

    def dominated(x: float, y: float) -> bool:
        return any(u >= x and v >= y and (u > x or v > y) for u, v in valid)

    return [i for i, (x, y) in enumerate(points) if not math.isnan(x) and not math.isnan(y) and not dominated(x, y)]


def choose(points: Sequence[GridPoint], minimum_clean_ratio: float = 0.9) -> Choice:
    """The acceptable point with the largest RD/UD, of equal ones that with the largest R0/U0.

    Args:
        points: Of a grid.
        minimum_clean_ratio: Smallest acceptable R0/U0.

    Returns:
        The choice; without an acceptable point none, and a reason that names the nearest: the one with the smallest
        Euclidean distance to R0/U0 = ``minimum_clean_ratio`` and RD/UD = 1, where it falls short of them.

    Raises:
        ValueError: If there are no points, or the bound is not in (0, 1].

    Source: acceptable region of Attias, Pehlevan, Obeid, 2024 (https://arxiv.org/abs/2410.03952).

    Example:
        >>> points = [GridPoint({"alpha": 1}, 0.97, 1.1), GridPoint({"alpha": 10}, 0.92, 1.3)]
        >>> choose(points).settings, choose(points, 0.95).settings
        ({'alpha': 10}, {'alpha': 1})
    """
    if not points:
        raise ValueError("points holds nothing to choose from.")
    if not 0 < minimum_clean_ratio <= 1:
        raise ValueError(f"minimum_clean_ratio must be in (0, 1], got {minimum_clean_ratio!r}.")
    wanted = f"R0/U0 >= {minimum_clean_ratio:g} and RD/UD > 1"
    accepted = [i for i, p in enumerate(points) if is_acceptable(p.clean_ratio, p.robust_ratio, minimum_clean_ratio)]
    if not accepted:
        nearest = min(points, key=lambda p: _shortfall(p, minimum_clean_ratio))
        return Choice(None, None, f"no point has {wanted}; nearest is {_describe(nearest)}")
    best = max(accepted, key=lambda i: (points[i].robust_ratio, points[i].clean_ratio))
    reason = f"largest RD/UD of the {len(accepted)} of {len(points)} points with {wanted}: {_describe(points[best])}"
    low, high = points[best].robust_ratio_interval
    if low <= 1:
        reason += (
            f"; its lead is within the interval of RD/UD, {low:.2f} to {high:.2f}: more seeds or images would tell"
        )
    return Choice(best, dict(points[best].settings), reason)


def ratio_of_runs(
    regularized: Sequence[float], unregularized: Sequence[float], n: int, level: float = 0.95
) -> tuple[float, Interval]:
    r"""Ratio of mean accuracies over seeds, and its interval.

    .. math:: \frac{\sum_s R_s}{\sum_s U_s}, \qquad
        \exp\Big(\overline{\ln (R_s / U_s)} \pm t_{S-1}\, \mathrm{sd} / \sqrt{S}\Big)

    With several seeds the interval is that of the mean over seeds, both models of a seed taken as a pair. With one
    seed, or an accuracy of 0, it is that of the image sample alone, which says nothing about other seeds.

    Args:
        regularized: Accuracy of each seed, in [0, 1].
        unregularized: The same of the unregularized model, same seeds in the same order.
        n: Images behind each accuracy.
        level: Confidence, in (0, 1).

    Returns:
        The ratio, NaN for 0/0, and lower and upper bound.

    Raises:
        ValueError: If there are no accuracies, or not equally many.

    Example:
        >>> ratio, (low, high) = ratio_of_runs([0.45, 0.42], [0.37, 0.37], 2000)
        >>> round(ratio, 3), round(low, 2), round(high, 2)
        (1.176, 0.76, 1.82)
    """
    if not regularized or len(regularized) != len(unregularized):
        raise ValueError(f"got {len(regularized)} regularized and {len(unregularized)} unregularized accuracies.")
    r, u = statistics.fmean(regularized), statistics.fmean(unregularized)
    if len(regularized) == 1 or min(*regularized, *unregularized) <= 0:
        return _ratio(r, u), ratio_interval(r, n, u, n, level)
    low, high = mean_interval([math.log(a / b) for a, b in zip(regularized, unregularized, strict=True)], level)
    return r / u, (math.exp(low), math.exp(high))


def _shortfall(point: GridPoint, minimum_clean_ratio: float) -> tuple[float, float, float]:
    """Distance to the acceptable region; of equal ones the more robust comes first."""
    if math.isnan(point.clean_ratio) or math.isnan(point.robust_ratio):
        return math.inf, 0.0, 0.0
    clean, robust = max(0.0, minimum_clean_ratio - point.clean_ratio), max(0.0, 1 - point.robust_ratio)
    return math.hypot(clean, robust), -point.robust_ratio, -point.clean_ratio


def _describe(point: GridPoint) -> str:
    settings = ", ".join(f"{name} {value:g}" for name, value in point.settings.items() if value is not None)
    return f"{settings} (R0/U0 = {point.clean_ratio:.2f}, RD/UD = {point.robust_ratio:.2f})"


def _check_comparable(regularized: Sweep, unregularized: Sweep) -> None:
    if regularized.name != unregularized.name:
        raise ValueError(f"a {regularized.name} sweep cannot be weighed against a {unregularized.name} sweep.")
    key = "surrogate_fingerprint"
    if regularized.settings.get(key) != unregularized.settings.get(key):
        raise ValueError("the two sweeps transfer from different surrogates: attack both models from the same one.")


def _clean(name: str, value: float | None, sweep: Sweep) -> float:
    value = sweep.clean if value is None else value
    if value is None:
        raise ValueError(f"{name} is not given and the {sweep.name} sweep has no epsilon 0: pass {name}.")
    if not 0 < value <= 1:
        raise ValueError(f"{name} must be an accuracy in (0, 1], got {value!r}.")
    return value


def _ratio(numerator: float, denominator: float) -> float:
    if denominator == 0:
        return math.inf if numerator > 0 else math.nan
    return numerator / denominator
