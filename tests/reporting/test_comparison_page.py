"""The page of a comparison: who keeps the most, what it costs, verdicts and masking checks of every method."""

import copy

import pytest

from simreg.reporting.groups import median_distance
from simreg.reporting.judgements import judged, threat_budget
from simreg.reporting.methods import method_groups
from simreg.reporting.runs import Run, machines
from simreg.reporting.winners import winner_lines

EPSILON = 8 / 255


def sweep(key, epsilon, accuracy, n):
    result = {"name": key, "epsilons": [epsilon], "accuracies": [accuracy], "n": n, "settings": {}}
    return {"status": "ok", "type": "sweep", "threat": "white_box", "result": result}


def compared(kept, n=1000, seconds=None, key="pgd_linf"):
    """A comparison whose methods keep these shares under an attack, one list of seeds each."""
    methods = {}
    for name, shares in kept.items():
        runs = []
        for seed, share in enumerate(shares):
            measured = {"clean": sweep("clean", 0.0, 0.8, n), key: sweep(key, EPSILON, share, n)}
            spent = (seconds or {}).get(name, 10.0)
            runs.append({"seed": seed, "status": "ok", "training_seconds": spent, "measurements": measured})
        methods[name] = {"label": name, "runs": runs}
    return {"kind": "comparison", "data": {"n": 100, "shape": [1, 8, 8]}, "methods": methods}


def lines(data):
    return winner_lines(data, method_groups(data, "equal_epochs"))


def test_headline_names_the_best_with_interval_clean_accuracy_and_cost():
    (line,) = lines(compared({"none": [0.1], "trades": [0.4]}, seconds={"trades": 25.0}))
    assert "keeps the most is trades: 40.0 % [37.0, 43.1]" in line
    assert "clean accuracy of 80.0 %" in line
    assert "25 s of training, 2.50 times that of none" in line
    assert "(none: 10.0 %" in line
    assert "above those of all others" in line


def test_headline_says_where_intervals_allow_no_difference():
    (line,) = lines(compared({"none": [0.30], "a": [0.39], "b": [0.40]}))
    assert "no difference beyond the intervals to a." in line
    (line,) = lines(compared({"none": [0.39], "a": [0.40]}))
    assert "Between the methods there is no difference beyond the intervals" in line


def test_intervals_are_those_over_seeds_where_there_are_several():
    (line,) = lines(compared({"none": [0.3, 0.32, 0.31], "a": [0.2, 0.4, 0.6]}))
    assert "no difference" in line


def test_nothing_left_is_no_win():
    (line,) = lines(compared({"none": [0.0], "a": [0.002]}))
    assert "no method keeps its accuracy" in line
    assert "0.2 %" in line
    (line,) = lines(compared({"none": [0.0, 0.0], "a": [0.0, 0.0]}, n=100))
    assert "0.0 % [0.0, 3.7] at most" in line  # equal seeds are no proof


def test_the_strongest_attack_at_the_threat_budget_decides():
    data = compared({"none": [0.2], "a": [0.6]})
    for name, share in {"none": 0.1, "a": 0.05}.items():
        run = data["methods"][name]["runs"][0]
        run["measurements"]["autoattack_linf"] = sweep("autoattack_linf", EPSILON, share, 1000)
    (line,) = lines(data)
    assert "AutoAttack (L∞) at 8/255" in line
    assert "keeps the most is none: 10.0 %" in line


def test_the_threat_budget_is_the_file_s_own_or_that_of_its_attacks():
    assert threat_budget(compared({"none": [0.2]})) == EPSILON
    assert threat_budget(compared({"none": [0.2]}) | {"threat_linf": 0.3}) == 0.3
    digits = compared({"none": [0.2]})
    digits["methods"]["none"]["runs"][0]["measurements"]["pgd_linf"]["result"]["epsilons"] = [0.1]
    assert threat_budget(digits) == 0.1


@pytest.fixture(scope="module")
def comparison():
    from .conftest import comparison as build

    return build(seeds=(0, 1), budgets=("equal_epochs",))


def test_files_without_judgements_get_masking_checks_and_verdicts(comparison):
    found = judged(Run("comparison", "data", comparison)).data["methods"]
    for method in found.values():
        for net in method["runs"]:
            assert (net["status"] == "ok") == ("verdicts" in net)
            if net["status"] == "ok":
                assert {check["name"] for check in net["masking"]["checks"]} >= {"black_box", "large_budget"}
                assert any("8/255" in verdict["verdict"] for verdict in net["verdicts"])


def test_judgements_of_the_file_are_kept(comparison, make):
    data = copy.deepcopy(comparison)
    net = data["methods"]["none"]["runs"][0]
    net |= {"masking": make["masking"](), "verdicts": [{"threat": "noise", "verdict": "As said.", "evidence": []}]}
    kept = judged(Run("comparison", "data", data)).data["methods"]["none"]["runs"][0]
    assert kept["verdicts"] == net["verdicts"]
    assert kept["masking"] == net["masking"]


def test_a_comparison_with_holes_is_shown_without_judgements(comparison):
    data = copy.deepcopy(comparison)
    data["methods"]["none"]["runs"][0]["measurements"]["pgd_linf"]["result"]["epsilons"] = None
    assert "verdicts" not in judged(Run("comparison", "data", data)).data["methods"]["none"]["runs"][0]


def test_page_has_verdicts_masking_and_both_kinds_of_images(comparison, whole):
    text, _ = whole(comparison)
    assert "1,000 training images, 10,000 test images" in text
    table = text.partition("**Verdicts.**")[2].partition("**What each method costs")[0]
    assert "none label" in table
    assert "White box" in table
    assert "robustness at 8/255" in table
    assert "not checked" not in text.partition("Masking checks of the white-box numbers")[2].partition("\n")[0]
    assert "the method that keeps the most is" in text


def test_all_machines_are_named_once(comparison):
    data = copy.deepcopy(comparison) | {"hardware": "A CPU, 2 cores, 1 threads"}
    measurements = data["methods"]["none"]["runs"][0]["measurements"]
    measurements["clean"]["machines"] = ["A CPU, 2 cores, 1 threads", "Another"]
    assert machines(data) == ["A CPU, 2 cores, 1 thread", "Another"]
    assert machines({"hardware": "x", "machines": ["x", "y"]}) == ["x", "y"]


def test_what_is_said_of_all_methods_is_a_cell_of_each_in_the_card(comparison, whole):
    data = copy.deepcopy(comparison)
    for name in ("none", "simreg", "gaussian", "fgsm-rs"):
        for net in data["methods"][name]["runs"]:
            net |= {"verdicts": [{"threat": "noise", "verdict": "Holds: 1 %."}]}
            net["masking"] = {"suspicious": False, "checks": [{"name": "logits", "passed": True}]}
    text, _ = whole(data)
    assert "| Random noise | Holds. | Holds. | Holds. | Holds. |" in text


def test_intervals_of_distances_do_not_fall_below_zero(comparison):
    data = copy.deepcopy(comparison)
    runs = data["methods"]["none"]["runs"]
    for net, scale in zip(runs, (1.0, 5.0), strict=True):
        result = net["measurements"]["boundary"]["result"]
        result["distances"] = [scale * distance for distance in result["distances"]]
    (group,) = (found for found in method_groups(data, "equal_epochs") if found.label == "none label")
    estimate = median_distance(group, "boundary")
    assert 0 == estimate.low < estimate.value < estimate.high
