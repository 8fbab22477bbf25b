import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simreg.robustness import Sweep, tradeoff
from simreg.robustness.selection import GridPoint, choose, is_acceptable, pareto_front, ratio_of_runs

ratios = st.one_of(
    st.floats(0, 2), st.sampled_from([0.5, 0.9, 1.0, 1.1]), st.just(math.inf), st.just(math.nan)
)  # ties are as likely as not
planes = st.lists(st.tuples(ratios, ratios), max_size=12)


def dominates(a, b):
    return a[0] >= b[0] and a[1] >= b[1] and a != b


def valid(point):
    return not any(map(math.isnan, point))


@settings(max_examples=300, deadline=None)
@given(planes)
def test_front_holds_no_dominated_point_and_every_other_point_is_dominated_by_one_of_it(points):
    front = pareto_front(points)
    assert front == sorted(set(front))
    for i, point in enumerate(points):
        if i in front:
            assert valid(point)
            assert not any(dominates(other, point) for other in points if valid(other))
        elif valid(point):
            assert any(dominates(points[j], point) for j in front)


@settings(max_examples=100, deadline=None)
@given(planes, st.randoms(use_true_random=False))
def test_front_does_not_depend_on_the_order_of_the_points(points, random):
    order = list(range(len(points)))
    random.shuffle(order)
    shuffled = pareto_front([points[i] for i in order])
    assert sorted(order[i] for i in shuffled) == pareto_front(points)


@settings(max_examples=300, deadline=None)
@given(planes.filter(bool), st.floats(0.05, 1.0))
def test_choice_is_acceptable_and_no_acceptable_point_beats_it(points, bound):
    grid = [GridPoint({"alpha": float(i)}, *point) for i, point in enumerate(points)]
    choice = choose(grid, bound)
    accepted = [i for i, p in enumerate(points) if is_acceptable(*p, bound)]
    if not accepted:
        assert choice.index is choice.settings is None
        assert "nearest is alpha" in choice.reason
        return
    assert choice.index in accepted
    assert choice.settings == grid[choice.index].settings
    best = points[choice.index]
    assert best[0] >= bound - 1e-9
    assert best[1] > 1
    assert all((best[1], best[0]) >= (points[i][1], points[i][0]) for i in accepted)
    assert choice.index in pareto_front(points)


def test_choice_is_on_the_front_among_equals_in_robustness():
    points = [GridPoint({"alpha": 1.0}, 0.92, 1.2), GridPoint({"alpha": 2.0}, 0.95, 1.2)]
    assert choose(points).settings == {"alpha": 2.0}


def test_nearest_point_is_the_one_that_falls_least_short():
    points = [
        GridPoint({"alpha": 1.0}, 1.0, 0.99),
        GridPoint({"alpha": 10.0, "threshold": 0.8, "pairs": None}, 0.895, 1.3),
        GridPoint({"alpha": 30.0}, 0.6, 1.5),
        GridPoint({"alpha": 99.0}, math.nan, math.nan),
    ]
    reason = choose(points).reason
    assert reason == (
        "no point has R0/U0 >= 0.9 and RD/UD > 1; nearest is alpha 10, threshold 0.8 (R0/U0 = 0.90, RD/UD = 1.30)"
    )


def test_reason_says_when_the_lead_is_within_its_interval():
    sure, unsure = (GridPoint({"alpha": 1.0}, 0.95, 1.2, (0.9, 1.0), bounds) for bounds in ((1.1, 1.3), (0.8, 1.7)))
    assert "within the interval" not in choose([sure]).reason
    assert "its lead is within the interval of RD/UD, 0.80 to 1.70" in choose([unsure]).reason


@pytest.mark.parametrize("bound", [0.0, -1.0, 1.5])
def test_choose_refuses_bounds_that_make_no_sense(bound):
    with pytest.raises(ValueError, match="minimum_clean_ratio must be in"):
        choose([GridPoint({}, 1.0, 1.0)], bound)


def test_choose_needs_a_point():
    with pytest.raises(ValueError, match="nothing to choose from"):
        choose([])


def test_acceptance_is_the_same_as_that_of_a_tradeoff():
    plain = Sweep("gaussian", (0.0, 0.1), (0.7, 0.35), 1000, 0)
    for clean, robust in ((0.63, 0.4), (0.62, 0.4), (0.7, 0.35), (0.7, 0.351)):
        trade = tradeoff(Sweep("gaussian", (0.0, 0.1), (clean, robust), 1000, 0), plain)
        assert trade.acceptable == is_acceptable(trade.clean_ratio, trade.robust_ratio)


def test_ratio_of_one_seed_has_the_interval_of_the_image_sample():
    ratio, (low, high) = ratio_of_runs([0.63], [0.70], 2000)
    assert ratio == pytest.approx(0.9)
    assert (low, high) == pytest.approx((0.861, 0.941), abs=5e-4)
    narrower = ratio_of_runs([0.63], [0.70], 20000)[1]
    assert low < narrower[0] < ratio < narrower[1] < high


def test_ratio_of_several_seeds_has_students_interval_of_paired_log_ratios():
    ratio, (low, high) = ratio_of_runs([0.45, 0.44, 0.46], [0.36, 0.37, 0.38], 2000)
    logs = [math.log(a / b) for a, b in ((0.45, 0.36), (0.44, 0.37), (0.46, 0.38))]
    mean = sum(logs) / 3
    half = 4.302653 * math.sqrt(sum((v - mean) ** 2 for v in logs) / 2 / 3)
    assert ratio == pytest.approx(1.35 / 1.11)
    assert (low, high) == pytest.approx((math.exp(mean - half), math.exp(mean + half)), rel=1e-5)
    paired = ratio_of_runs([0.2, 0.4], [0.4, 0.8], 2000)  # seeds differ, their ratio does not
    assert paired == (pytest.approx(0.5), (pytest.approx(0.5), pytest.approx(0.5)))


def test_ratio_of_zero_accuracies_stays_defined():
    assert ratio_of_runs([0.1], [0.0], 100)[0] == math.inf
    assert math.isnan(ratio_of_runs([0.0, 0.0], [0.0, 0.0], 100)[0])
    ratio, (low, high) = ratio_of_runs([0.0, 0.1], [0.2, 0.2], 100)
    assert ratio == pytest.approx(0.25)
    assert low < ratio < high


def test_ratio_needs_pairs():
    with pytest.raises(ValueError, match="2 regularized and 1 unregularized"):
        ratio_of_runs([0.1, 0.2], [0.3], 100)
