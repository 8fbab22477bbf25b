"""Numbers as a reader wants them: percent, intervals, distances, times; what is no number says so."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from simreg.robustness.intervals import mean_interval, median_interval, wilson

NOTHING = "–"
"""What stands where there is no number."""


@dataclass(frozen=True)
class Estimate:
    """A measured value with its 95 % interval; NaN where there is none.

    Args:
        value: The measured value.
        low: Lower end of the interval.
        high: Upper end of the interval.
        n: Number of images behind it, 0 if unknown.
        seeds: Number of training runs behind it.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    n: int = 0
    seeds: int = 1

    def within(self, least: float, most: float = math.inf) -> Estimate:
        """The same value, its interval cut to what is possible: Student's t does not know that a share ends at 1."""
        low, high = (end if math.isnan(end) else min(max(end, least), most) for end in (self.low, self.high))
        return replace(self, low=low, high=high)


def number(value: Any) -> float:
    """``value`` as a float, NaN for None, text and anything else that is no number.

    Example:
        >>> number(None), number("inf"), number(True), number(3)
        (nan, inf, nan, 3.0)
    """
    if isinstance(value, bool) or value is None:
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def count(value: Any) -> int:
    """``value`` as a whole number, 0 for what is none."""
    value = number(value)
    return int(value) if math.isfinite(value) else 0


def accuracy_estimate(values: Sequence[float], n: int) -> Estimate:
    """Mean accuracy: Wilson's interval over ``n`` images for one training run, Student's t over several.

    Runs that are all equal, such as at 0 or 1, have no spread to go by: they get Wilson's interval as well.

    Example:
        >>> one = accuracy_estimate([0.5], 100)
        >>> round(one.low, 3), round(one.high, 3)
        (0.404, 0.596)
        >>> round(accuracy_estimate([0.0, 0.0], 100).high, 3), accuracy_estimate([0.1, 0.9], 100).high
        (0.037, 1.0)
        >>> accuracy_estimate([], 100).value
        nan
    """
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return Estimate(math.nan, n=n, seeds=len(values))
    if len(set(known)) > 1:
        return mean_estimate(known, n).within(0.0, 1.0)
    if n < 1 or not 0 <= known[0] <= 1:
        return Estimate(known[0], n=n, seeds=len(known))
    return Estimate(known[0], *wilson(known[0], n), n=n, seeds=len(known))


def mean_estimate(values: Sequence[float], n: int = 0) -> Estimate:
    """Mean over training runs with Student's t interval; one run has no interval."""
    known = [value for value in values if math.isfinite(value)]
    if len(known) < 2:
        return Estimate(known[0] if known else math.nan, n=n, seeds=len(known))
    return Estimate(statistics.fmean(known), *mean_interval(known), n, len(known))


def median_estimate(distances: Sequence[float]) -> Estimate:
    """Median with the interval of the order statistics; inf stands for images without a result."""
    known = sorted(value for value in distances if not math.isnan(value))
    if not known:
        return Estimate(math.nan)
    return Estimate(middle(known), *median_interval(known), len(known))


def middle(values: Sequence[float]) -> float:
    """Median that keeps infinities; NaN of nothing."""
    known = sorted(value for value in values if not math.isnan(value))
    half = len(known) // 2
    if not known:
        return math.nan
    return known[half] if len(known) % 2 else (known[half - 1] + known[half]) / 2


def percent(value: float, digits: int = 1) -> str:
    """A share as percent without its sign.

    Example:
        >>> percent(0.3664), percent(float("nan"))
        ('36.6', '–')
    """
    return f"{100 * value:.{digits}f}" if math.isfinite(value) else NOTHING


def percent_interval(estimate: Estimate) -> str:
    """The interval in percent, cut to [0, 100]: "[34.5, 38.8]"; empty without one.

    Example:
        >>> percent_interval(Estimate(0.5, 0.404, 0.596))
        '[40.4, 59.6]'
    """
    if not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
        return ""
    low, high = (min(max(end, 0.0), 1.0) for end in (estimate.low, estimate.high))
    return f"[{percent(low)}, {percent(high)}]"


def significant(value: float, digits: int = 3, *, keep: bool = False) -> str:
    """Up to ``digits`` significant digits, with ``keep`` exactly so many; powers of ten written out.

    Example:
        >>> significant(0.0012345), significant(2.5e-7), significant(float("inf")), significant(12000.0)
        ('0.00123', '2.5×10⁻⁷', '∞', '12,000')
        >>> significant(0.012, keep=True), significant(93, keep=True)
        ('0.0120', '93.0')
    """
    if math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    if 1e-4 <= abs(value) < 1:
        places = digits - 1 - math.floor(math.log10(abs(value)))
        return _strip(f"{value:.{places}f}", keep).replace("-", "−")
    if 1 <= abs(value) < 1e7:
        places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        return _strip(f"{value:,.{places}f}", keep).replace("-", "−")
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    mantissa = _strip(mantissa, keep)
    return f"{mantissa}×10{str(int(exponent)).translate(_POWERS)}".replace("-", "−", 1 if value < 0 else 0)


def _strip(text: str, keep: bool) -> str:
    return text if keep or "." not in text else text.rstrip("0").rstrip(".")


_POWERS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def plain_interval(estimate: Estimate) -> str:
    """The interval of a distance or a time: "[0.00812, 0.0104]"; empty without one."""
    if math.isnan(estimate.low) or math.isnan(estimate.high):
        return ""
    return f"[{significant(estimate.low, keep=True)}, {significant(estimate.high, keep=True)}]"


def ratio_interval_text(estimate: Estimate) -> str:
    """The interval of a ratio, with two decimals; empty without one."""
    if math.isnan(estimate.low) or math.isnan(estimate.high):
        return ""
    return f"[{ratio(estimate.low)}, {ratio(estimate.high)}]"


def ratio(value: float) -> str:
    """A ratio with two decimals."""
    return f"{value:.2f}" if math.isfinite(value) else significant(value)


def duration(seconds: float) -> str:
    """Seconds in words of two units.

    Example:
        >>> duration(0.42), duration(75), duration(7322), duration(float("nan"))
        ('0.42 s', '1 min 15 s', '2 h 2 min', '–')
    """
    if not math.isfinite(seconds):
        return NOTHING
    if seconds < 10:
        return f"{significant(seconds, 2)} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    large, small, units = (whole // 60, whole % 60, ("min", "s")) if whole < 3600 else _hours(whole)
    return f"{large:,} {units[0]}" + (f" {small} {units[1]}" if small else "")


def _hours(seconds: int) -> tuple[int, int, tuple[str, str]]:
    return seconds // 3600, seconds % 3600 // 60, ("h", "min")
