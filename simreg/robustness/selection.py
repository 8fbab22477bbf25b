"""The trade-off by which a regularized model is accepted: clean accuracy kept against robustness gained."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

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
    acceptable = clean_ratio >= minimum_clean_ratio - 1e-9 and robust_ratio > 1
    return TradeOff(regularized.name, distortion, clean_ratio, robust_ratio, acceptable, minimum_clean_ratio)


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
