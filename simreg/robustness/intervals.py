"""Confidence intervals of what an evaluation reports: shares, their ratios and differences, means, medians."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable

from simreg._checks import describe
from simreg.robustness._incomplete_beta import incomplete_beta

Interval = tuple[float, float]


def wilson(correct_share: float, n: int, level: float = 0.95) -> Interval:
    r"""Wilson's score interval of a share: sound for shares near 0 and 1, where plus-minus a standard error is not.

    .. math:: \frac{p + z^2 / 2n \pm z \sqrt{p (1 - p) / n + z^2 / 4n^2}}{1 + z^2 / n}

    Args:
        correct_share: Share p of successes, in [0, 1].
        n: Number of images.
        level: Confidence, in (0, 1).

    Returns:
        Lower and upper bound, in [0, 1].

    Raises:
        TypeError: If ``n`` is not an integer.
        ValueError: If the share leaves [0, 1], ``n`` is below 1, or the level is not in (0, 1).

    Source: Wilson, 1927 (https://doi.org/10.1080/01621459.1927.10502953).

    Example:
        >>> [round(bound, 4) for bound in wilson(0.003, 1000)]
        [0.001, 0.0088]
        >>> wilson(0.0, 100)[0], round(wilson(0.0, 100)[1], 3)
        (0.0, 0.037)
    """
    p, z = _share("correct_share", correct_share, n), _normal_quantile(level)
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (0.0 if p == 0 else max(middle - half, 0.0)), (1.0 if p == 1 else min(middle + half, 1.0))


def difference_interval(p1: float, n1: int, p2: float, n2: int, level: float = 0.95) -> Interval:
    r"""Newcombe's interval of a difference of two independent shares, p1 - p2, built from their Wilson intervals.

    .. math:: [d - \sqrt{(p_1 - l_1)^2 + (u_2 - p_2)^2},\; d + \sqrt{(u_1 - p_1)^2 + (p_2 - l_2)^2}]

    For two attacks on the same images it is wider than needed, as the images' difficulty cancels.

    Args:
        p1: First share, in [0, 1].
        n1: Number of images behind it.
        p2: Second share, in [0, 1].
        n2: Number of images behind it.
        level: Confidence, in (0, 1).

    Returns:
        Lower and upper bound, in [-1, 1].

    Raises:
        TypeError: If a count is not an integer.
        ValueError: If a share leaves [0, 1], a count is below 1, or the level is not in (0, 1).

    Source: Newcombe, 1998, method 10.

    Example:
        >>> [round(bound, 4) for bound in difference_interval(56 / 70, 70, 48 / 80, 80)]
        [0.0524, 0.3339]
    """
    (low1, high1), (low2, high2) = wilson(p1, n1, level), wilson(p2, n2, level)
    difference = p1 - p2
    return difference - math.hypot(p1 - low1, high2 - p2), difference + math.hypot(high1 - p1, p2 - low2)


def ratio_interval(p1: float, n1: int, p2: float, n2: int, level: float = 0.95) -> Interval:
    r"""Interval of a ratio of two independent shares, p1 / p2, such as R0/U0.

    .. math:: \ln \frac{p_1}{p_2} \pm z \sqrt{\frac{1 - p_1}{n_1 p_1} + \frac{1 - p_2}{n_2 p_2}}

    A share of exactly 0 or 1 has no variance to estimate; there the distance to its Wilson bound takes the place of
    z times the standard error, so that the interval never shrinks to a point. p1 = 0 gives a lower bound of 0,
    p2 = 0 an upper bound of infinity.

    Args:
        p1: Numerator, in [0, 1].
        n1: Number of images behind it.
        p2: Denominator, in [0, 1].
        n2: Number of images behind it.
        level: Confidence, in (0, 1).

    Returns:
        Lower and upper bound, in [0, inf].

    Raises:
        TypeError: If a count is not an integer.
        ValueError: If a share leaves [0, 1], a count is below 1, or the level is not in (0, 1).

    Source: Katz et al., 1978 (log ratio of shares).

    Example:
        >>> [round(bound, 3) for bound in ratio_interval(0.63, 2000, 0.70, 2000)]
        [0.861, 0.941]
        >>> ratio_interval(0.0, 100, 0.5, 100)[0], ratio_interval(0.5, 100, 0.0, 100)[1]
        (0.0, inf)
    """
    (low1, high1), (low2, high2) = wilson(p1, n1, level), wilson(p2, n2, level)
    down1, up1 = _log_widths(p1, n1, low1, high1, level)
    down2, up2 = _log_widths(p2, n2, low2, high2, level)
    if p1 == 0 or p2 == 0:  # no logarithm: the ratio of the bounds themselves
        lower = 0.0 if p1 == 0 else p1 * math.exp(-down1) / high2
        return lower, math.inf if p2 == 0 else high1 / (p2 * math.exp(-down2))
    ratio = p1 / p2
    return ratio * math.exp(-math.hypot(down1, up2)), ratio * math.exp(math.hypot(up1, down2))


def mean_interval(values: Iterable[float], level: float = 0.95) -> Interval:
    r"""Student's t interval of a mean over a few independent runs, such as seeds.

    .. math:: \bar v \pm t_{n-1} \, s / \sqrt{n}

    Args:
        values: One value per run, finite.
        level: Confidence, in (0, 1).

    Returns:
        Lower and upper bound; NaN for one value, which says nothing about its spread.

    Raises:
        ValueError: If there is no value, one is not finite, or the level is not in (0, 1).

    Example:
        >>> [round(bound, 4) for bound in mean_interval([0.36, 0.38, 0.40])]
        [0.3303, 0.4297]
        >>> mean_interval([0.36])
        (nan, nan)
    """
    runs = [float(value) for value in values]
    if not runs or not all(math.isfinite(value) for value in runs):
        raise ValueError(f"values must be finite and at least one, got {runs}.")
    _check_level(level)
    if len(runs) == 1:
        return math.nan, math.nan
    mean, spread = statistics.fmean(runs), statistics.stdev(runs)
    half = t_quantile((1 + level) / 2, len(runs) - 1) * spread / math.sqrt(len(runs))
    return mean - half, mean + half


def median_interval(distances: Iterable[float], level: float = 0.95) -> Interval:
    r"""Distribution-free interval of a median, from the order statistics.

    .. math:: [d_{(k)}, d_{(n + 1 - k)}], \quad
              k = \max \{j : P(\mathrm{Bin}(n, 1/2) < j) \le (1 - \mathrm{level}) / 2\}

    Args:
        distances: One per image; infinities (attacks that failed) are values like any other.
        level: Confidence, in (0, 1).

    Returns:
        Lower and upper bound; NaN if there are too few values for the level (fewer than 6 at 95 %).

    Raises:
        ValueError: If there is no value, one is NaN, or the level is not in (0, 1).

    Example:
        >>> median_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, math.inf])
        (2.0, 9.0)
        >>> median_interval([1.0, 2.0])
        (nan, nan)
    """
    ordered = sorted(float(value) for value in distances)
    if not ordered or any(math.isnan(value) for value in ordered):
        raise ValueError(f"distances must be at least one number, none of them NaN, got {len(ordered)} values.")
    _check_level(level)
    n = len(ordered)
    total, tail, ways, k = 2**n, 0, 1, 0  # tail: the ways to draw fewer than k + 1 of n
    while (tail + ways) / total <= (1 - level) / 2:
        tail, ways, k = tail + ways, ways * (n - k) // (k + 1), k + 1
    return (ordered[k - 1], ordered[n - k]) if k else (math.nan, math.nan)


def t_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t distribution, by bisection of its distribution function.

    Args:
        probability: In (0, 1).
        freedom: Degrees of freedom, at least 1.

    Returns:
        The value below which that probability lies.

    Raises:
        ValueError: If the probability is not in (0, 1) or there are no degrees of freedom.

    Example:
        >>> round(t_quantile(0.975, 1), 3), round(t_quantile(0.975, 6), 4), round(t_quantile(0.95, 30), 4)
        (12.706, 2.4469, 1.6973)
    """
    if not 0 < probability < 1 or freedom < 1:
        raise ValueError(f"t_quantile needs a probability in (0, 1) and freedom >= 1, got {probability}, {freedom}.")
    if probability < 0.5:
        return -t_quantile(1 - probability, freedom)
    tail, low, high = 1 - probability, 0.0, 1.0
    while _t_tail(high, freedom) > tail:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_tail(middle, freedom) > tail else (low, middle)
        if high - low <= 1e-13 * high:
            break
    return (low + high) / 2


def _t_tail(t: float, freedom: int) -> float:
    """P(T > t) for t >= 0: half the regularised incomplete beta function at freedom / (freedom + t^2)."""
    if t == 0:
        return 0.5
    return incomplete_beta(freedom / (freedom + t * t), t * t / (freedom + t * t), freedom / 2, 0.5) / 2


def _log_widths(p: float, n: int, low: float, high: float, level: float) -> Interval:
    """How far the logarithm of a share reaches down and up; infinite down and up for 0."""
    if p == 0:
        return math.inf, math.inf
    if p == 1:
        return math.log(1 / low), 0.0
    width = _normal_quantile(level) * math.sqrt((1 - p) / (n * p))
    return width, width


def _normal_quantile(level: float) -> float:
    _check_level(level)
    return statistics.NormalDist().inv_cdf((1 + level) / 2)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must be a confidence in (0, 1), such as 0.95, got {level!r}.")


def _share(name: str, value: float, n: int) -> float:
    if isinstance(n, bool) or not isinstance(n, int):
        raise TypeError(f"n must be an integer, got {describe(n)}.")
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}.")
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be a share in [0, 1], got {value!r}.")
    return float(value)
