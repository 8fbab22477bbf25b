"""Cautions of a comparison: nets near chance, times off their budget, steps that were too fast, the file's notes."""

import pytest

from simreg.reporting.cautions import cautions
from simreg.reporting.groups import Group, near_chance
from simreg.reporting.headline import headline_table
from simreg.reporting.masking import masking_cell, masking_tables
from simreg.reporting.methods import method_groups
from simreg.reporting.remarks import remarks
from simreg.reporting.winners import winner_lines


def entry(epsilon, accuracy):
    result = {"epsilons": [epsilon], "accuracies": [accuracy], "n": 1000, "settings": {}}
    return {"status": "ok", "type": "sweep", "result": result}


def net(clean, kept=0.1, seconds=10.0, step=50.0, budget="equal_epochs"):
    measured = {"clean": entry(0.0, clean), "gaussian": entry(0.1, kept)}
    times = {"training_seconds": seconds, "milliseconds_per_step": step}
    return {"seed": 0, "status": "ok", "budget": budget, "measurements": measured, **times}


def compared(**nets):
    methods = {name: {"label": name, "runs": list(runs)} for name, runs in nets.items()}
    return {"data": {"classes": list("abcdefghij")}, "budget_seconds": 10.0, "methods": methods}


def groups_of(data):
    return method_groups(data, "equal_epochs")


def told(data):
    return remarks(data, groups_of(data))


@pytest.mark.parametrize(("clean", "classes", "near"), [(0.14, 10, True), (0.15, 10, False), (0.14, 0, False)])
def test_near_chance_is_a_twentieth_above_guessing(clean, classes, near):
    assert near_chance(Group("net", 0, ({"clean": entry(0.0, clean)},), classes=classes)) == near


def test_methods_near_chance_win_nothing_and_share_one_caution():
    data = compared(none=[net(0.8, 0.3)], a=[net(0.7, 0.4)], b=[net(0.12, 0.9)], c=[net(0.1, 0.9)])
    (line,) = winner_lines(data, groups_of(data))
    assert "keeps the most is a:" in line
    limits = [line for line in cautions(groups_of(data)) if "clean accuracy" in line.lower()]
    assert [line for line in limits if "near chance: train longer" in line.lower()] == [limits[0]]
    assert "b (12.0 %), c (10.0 %)" in limits[0]
    assert [line.split()[0] for line in limits[1:]] == ["a"]
    assert limits[0] in told(data)


def test_a_net_near_chance_has_no_green_tick(make):
    panel = make["masking"]()
    weak = Group("weak", 0, ({"clean": entry(0.0, 0.1)},), panel, classes=10)
    assert masking_cell(weak).text == "near chance: says nothing"
    (table,) = masking_tables([weak])
    assert "good" not in {cell.kind for row in table.rows for cell in row.cells}
    suspicious = Group("weak", 0, weak.runs, make["masking"](suspicious=True), classes=10)
    assert masking_cell(suspicious).kind == "bad"


def test_masking_checks_of_many_models_are_short(make):
    panel = make["masking"](without=("square_after_gradients",))
    runs = ({"clean": entry(0.0, 0.8), "pgd_linf": entry(0.1, 0.1)},)
    groups = [Group(f"net {i}", i, runs, panel, classes=10) for i in range(5)]
    cells = [cell for row in headline_table(groups).rows for cell in row.cells if cell.kind == "good"]
    assert [(cell.text, cell.detail) for cell in cells] == [("no sign, 3 of 4", "")] * 5
    few = [cell for row in headline_table(groups[:4]).rows for cell in row.cells if cell.kind == "good"]
    assert few[0].text == "no sign of masking"


def test_times_off_their_budget_are_named_with_their_seconds():
    late = net(0.8, seconds=11.6, budget="equal_time")
    on_time = net(0.8, seconds=11.4, budget="equal_time")
    slow = net(0.8, seconds=99.0)  # equal epochs have no budget
    (line,) = told(compared(none=[net(0.8), on_time], a=[slow, late]))
    assert "off the budget of 10 s by more than 15 %: a, seed 0 (11.6 s)." in line


def test_steps_faster_than_without_a_defence_say_that_timing_was_disturbed():
    assert not told(compared(none=[net(0.8)], a=[net(0.8, step=48.0)]))
    (line,) = told(compared(none=[net(0.8)], a=[net(0.8, step=40.0)], b=[net(0.8, step=90.0)]))
    assert "Timing was disturbed" in line
    assert "a at equal epochs (0.80×)." in line


def test_notes_of_the_file_take_the_place_of_own_cautions(make, whole):
    data = compared(none=[net(0.8)], a=[net(0.1, seconds=99.0, budget="equal_time")])
    assert told(data | {"notes": ["As the file says."]}) == ["As the file says."]
    text, _ = whole(make["comparison"](seeds=(0,)) | {"notes": ["As the file says."]})
    assert "> **Caution:** As the file says." in text
