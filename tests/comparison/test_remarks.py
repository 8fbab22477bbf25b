"""What a comparison says of its own weak points."""

import pytest

from simreg.comparison.recipe import Network
from simreg.comparison.remarks import notes_on

HEADER = {"data": {"classes": list("abcdefghij")}, "budget_seconds": 10.0}


def method(*runs):
    return {
        "runs": [
            {
                "seed": i,
                "status": "ok",
                "budget": "equal_time",
                "training_seconds": seconds,
                "measurements": {"clean": {"status": "ok", "result": {"accuracies": [clean]}}},
            }
            for i, (clean, seconds) in enumerate(runs)
        ]
    }


def test_nothing_is_said_of_good_runs():
    failed = {"runs": [{"seed": 0, "status": "not run", "reason": "diverged", "budget": "equal_time"}]}
    assert notes_on({"none": method((0.8, 10.0), (0.9, 11.0)), "x": failed}, HEADER) == []


def test_nets_near_chance_are_named():
    (note,) = notes_on({"none": method((0.8, 10)), "trades": method((0.1, 10), (0.14, 10))}, HEADER)
    assert note.startswith("Clean accuracy is near chance: trades (12.0 %).")


@pytest.mark.parametrize("seconds", [8.0, 12.0])
def test_times_off_the_budget_are_named(seconds):
    methods = {"none": method((0.8, 10)), "augmix": method((0.8, 10), (0.8, seconds))}
    (note,) = notes_on(methods, HEADER)
    assert f"augmix, seed 1 ({seconds:.3g} s)" in note
    assert "none" not in note
    assert notes_on(methods, {**HEADER, "budget_seconds": None}) == []


def test_widths_that_corrupt_memory_are_refused():
    with pytest.raises(ValueError, match="width must be at least 8, got 7"):
        Network(10, 1, width=7)
