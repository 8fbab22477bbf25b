"""Masking checks in a report: a pass is claimed only where the deciding checks were made."""

import pytest

from simreg.reporting.groups import Group
from simreg.reporting.masking import joined_panel, masking_cell, masking_tables


def group(panel):
    return Group("net", 0, ({},), panel)


@pytest.mark.parametrize(
    ("without", "missing"),
    [
        (("large_budget",), "a budget that no image withstands"),
        (("black_box",), "attacks without gradients"),
        (("zero_gradients",), "gradients of exactly zero"),
    ],
)
def test_without_a_deciding_check_nothing_is_established(make, without, missing):
    cell = masking_cell(group(make["masking"](without=without)))
    assert (cell.text, cell.kind) == ("not established", "text")
    assert missing in cell.detail
    assert masking_cell(group(make["masking"]())).kind == "good"


def test_square_after_gradients_stands_in_for_an_attack_without_gradients(make):
    panel = make["masking"](without=("black_box",))
    panel["checks"][-1]["passed"] = True
    assert masking_cell(group(panel)).kind == "good"


@pytest.mark.parametrize(("said", "kind"), [(True, "good"), (False, "text")])
def test_what_the_file_says_is_established_counts(make, said, kind):
    panel = make["masking"](without=("large_budget",) if said else ())
    assert masking_cell(group(panel | {"established": said})).kind == kind


def test_a_failed_check_is_a_sign_whatever_else_passed(make):
    cell = masking_cell(group(make["masking"](suspicious=True) | {"established": True}))
    assert (cell.text, cell.kind) == ("signs of masked gradients", "bad")


def test_checks_and_their_numbers_are_named_in_words(make):
    (table,) = masking_tables([group(make["masking"]())])
    told = " ".join(part for row in table.rows for part in (row.header, *(cell.detail for cell in row.cells)))
    assert "Zero gradients" in told
    assert "FGSM (L∞)" in told
    assert "_" not in told


def test_a_check_of_several_runs_fails_if_it_fails_in_one(make):
    panels = [make["masking"](), make["masking"](suspicious=True), make["masking"](without=("black_box",))]
    joined = joined_panel(panels, (0, 1, 2))
    outcome = {check["name"]: check for check in joined["checks"]}
    assert joined["suspicious"]
    assert outcome["large_budget"]["passed"] is False
    assert "1 of 3 runs; seed 1: PGD at 0.5 leaves 40.0 %" in outcome["large_budget"]["detail"]
    assert outcome["black_box"]["passed"] is None
    assert outcome["zero_gradients"]["passed"] is True
    assert joined_panel([panels[0], {}], (0, 1)) == {}
