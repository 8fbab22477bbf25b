from __future__ import annotations

import math
import random
from statistics import NormalDist

import pytest

from simreg.robustness.intervals import (
    difference_interval,
    mean_interval,
    median_interval,
    ratio_interval,
    t_quantile,
    wilson,
)


# printed tables of Student's t, two-sided 95 % and 99 %, one-sided 95 %
@pytest.mark.parametrize(
    ("probability", "freedom", "wanted"),
    [
        (0.975, 1, 12.7062),
        (0.975, 2, 4.30265),
        (0.975, 4, 2.77645),
        (0.975, 6, 2.44691),
        (0.975, 9, 2.26216),
        (0.975, 30, 2.04227),
        (0.975, 120, 1.97993),
        (0.995, 1, 63.6567),
        (0.995, 6, 3.70743),
        (0.995, 29, 2.75639),
        (0.95, 5, 2.01505),
        (0.9995, 3, 12.9240),
    ],
)
def test_t_quantile_matches_tables(probability, freedom, wanted):
    assert t_quantile(probability, freedom) == pytest.approx(wanted, rel=1e-5)
    assert t_quantile(1 - probability, freedom) == pytest.approx(-wanted, rel=1e-5)


def test_t_quantile_becomes_normal_and_is_closed_form_for_one_and_two_degrees():
    for p in (0.6, 0.9, 0.975, 0.9999):
        assert t_quantile(p, 10**7) == pytest.approx(NormalDist().inv_cdf(p), rel=1e-6)
        assert t_quantile(p, 1) == pytest.approx(math.tan(math.pi * (p - 0.5)), rel=1e-9)
        assert t_quantile(p, 2) == pytest.approx((2 * p - 1) / math.sqrt(2 * p * (1 - p)), rel=1e-9)
    assert t_quantile(0.5, 3) == pytest.approx(0.0, abs=1e-9)


def test_wilson_matches_published_values():
    # Newcombe, 1998, table I: 81/263, 15/148, 0/20, 1/29
    for count, n, wanted in ((81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0, 0.1611))):
        assert wilson(count / n, n) == pytest.approx(wanted, abs=6e-5)
    assert wilson(1 / 29, 29) == pytest.approx((0.0061, 0.1718), abs=6e-5)
    low, high = wilson(1.0, 20)
    assert (low, high) == (pytest.approx(1 - 0.1611, abs=6e-5), 1.0)


def test_wilson_bounds_solve_the_score_equation():
    for p, n, level in ((0.2, 50, 0.9), (0.97, 1000, 0.99)):
        z = NormalDist().inv_cdf((1 + level) / 2)
        for bound in wilson(p, n, level):
            assert abs(p - bound) / math.sqrt(bound * (1 - bound) / n) == pytest.approx(z, rel=1e-9)


def test_difference_interval_matches_newcombe():
    # Newcombe, 1998, comparing proportions, method 10: 56/70 against 48/80; 9/10 against 3/10; 10/10 against 0/10
    assert difference_interval(56 / 70, 70, 48 / 80, 80) == pytest.approx((0.0524, 0.3339), abs=6e-5)
    assert difference_interval(0.9, 10, 0.3, 10) == pytest.approx((0.1705, 0.8090), abs=6e-5)
    assert difference_interval(1.0, 10, 0.0, 10) == pytest.approx((0.6075, 1.0), abs=6e-5)


def test_ratio_interval_is_the_delta_method_inside():
    low, high = ratio_interval(0.3, 400, 0.6, 900)
    width = NormalDist().inv_cdf(0.975) * math.sqrt(0.7 / (0.3 * 400) + 0.4 / (0.6 * 900))
    assert math.log(high / 0.5) == pytest.approx(width)
    assert math.log(0.5 / low) == pytest.approx(width)


def test_ratio_interval_at_zero_and_one():
    assert ratio_interval(0.0, 100, 0.0, 100) == (0.0, math.inf)
    low, high = ratio_interval(0.0, 100, 0.5, 100)
    assert low == 0.0
    assert 0.05 < high < 0.15  # 3.7 of 100 against a half
    low, high = ratio_interval(0.5, 100, 0.0, 100)
    assert high == math.inf
    assert low == pytest.approx(0.5 * math.exp(-1.96 * 0.1) / wilson(0.0, 100)[1], rel=1e-3)
    low, high = ratio_interval(1.0, 100, 1.0, 100)
    assert low < 1 < high
    assert low == pytest.approx(wilson(1.0, 100)[0])
    # continuous where it matters: one error of a thousand is no jump from none
    assert ratio_interval(1.0, 1000, 0.9, 1000)[0] == pytest.approx(ratio_interval(0.999, 1000, 0.9, 1000)[0], abs=0.01)


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = random.Random(0)
    runs, hits = 600, {"wilson": 0, "ratio": 0, "mean": 0, "median": 0}
    for _ in range(runs):
        a = sum(rng.random() < 0.08 for _ in range(200)) / 200
        b = sum(rng.random() < 0.5 for _ in range(200)) / 200
        hits["wilson"] += wilson(a, 200)[0] <= 0.08 <= wilson(a, 200)[1]
        low, high = ratio_interval(a, 200, b, 200)
        hits["ratio"] += low <= 0.16 <= high
        low, high = mean_interval([rng.gauss(3, 2) for _ in range(4)])
        hits["mean"] += low <= 3 <= high
        low, high = median_interval([rng.expovariate(1) for _ in range(31)])
        hits["median"] += low <= math.log(2) <= high
    for name, count in hits.items():
        assert 0.925 <= count / runs <= 0.99, (name, count / runs)


def test_mean_interval_by_hand():
    low, high = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.776445 * math.sqrt(2.5 / 5)
    assert (low, high) == pytest.approx((3 - half, 3 + half))
    assert all(math.isnan(v) for v in mean_interval([0.4]))
    assert mean_interval([2.0, 2.0]) == (2.0, 2.0)


def test_median_interval_is_that_of_the_order_statistics():
    # binomial tables: for n = 20 the 6th and 15th of the sorted values, for n = 100 the 40th and 61st
    assert median_interval([float(v) for v in range(1, 21)]) == (6.0, 15.0)
    assert median_interval([float(v) for v in range(100, 0, -1)]) == (40.0, 61.0)
    assert median_interval([1.0, 2, 3, 4, 5, 6]) == (1.0, 6.0)  # 2 / 2^6 = 3.1 %
    assert all(math.isnan(v) for v in median_interval([1.0, 2, 3, 4, 5]))
    assert median_interval([1.0] * 6 + [math.inf] * 6) == (1.0, math.inf)
    assert median_interval([1.0] * 1 + [math.inf] * 20) == (math.inf, math.inf)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: wilson(1.2, 10), ValueError, "correct_share must be a share"),
        (lambda: wilson(0.5, 0), ValueError, "n must be at least 1"),
        (lambda: wilson(0.5, 10.0), TypeError, "n must be an integer"),
        (lambda: wilson(0.5, 10, 95), ValueError, "level must be a confidence"),
        (lambda: wilson(math.nan, 10), ValueError, "share"),
        (lambda: mean_interval([]), ValueError, "at least one"),
        (lambda: mean_interval([1.0, math.inf]), ValueError, "finite"),
        (lambda: median_interval([1.0, math.nan]), ValueError, "NaN"),
        (lambda: median_interval([1.0], 1.0), ValueError, "level"),
        (lambda: t_quantile(0.9, 0), ValueError, "freedom"),
    ],
)
def test_bad_arguments_are_named(call, error, words):
    with pytest.raises(error, match=words):
        call()
