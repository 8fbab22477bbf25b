"""What the pages of evaluations and selections show, and what they leave out."""

import re

import pytest

from simreg.reporting import load_runs
from simreg.reporting.blocks import Panel, Series
from simreg.reporting.build import build_card
from simreg.reporting.describe import figure_of
from simreg.reporting.markdown import render_markdown


def titles(figures):
    return [panel.title for figure in figures for panel in figure.panels]


def test_single_points_are_not_drawn():
    line = Series("a", 0, (0.0, 1.0), (1.0, 2.0))
    alone = Series("a", 0, (1.0,), (2.0,))
    panel = [Panel("p", "x", "y", series) for series in ((line,), (alone,), (alone, Series("b", 1, (1.0,), (3.0,))))]
    assert figure_of("t", panel).panels == (panel[0],)
    assert figure_of("t", panel[1:]) is None
    points = [Series(name, 0, (1.0,), (2.0,), style="points") for name in "ab"]
    assert figure_of("t", [Panel("p", "x", "y", tuple(points))]) is not None
    assert figure_of("t", [Panel("p", "x", "y", tuple(points[:1]))]) is None


def test_an_attack_at_one_strength_is_a_row_of_its_table_alone(make, whole):
    results = make["evaluation"]()
    result = results["measurements"]["square_linf"]["result"]
    result |= {"epsilons": [8 / 255], "accuracies": [0.123]}
    del result["settings"]["accuracy_by_queries"]
    text, figures = whole(results)
    assert re.search(r"\| Square Attack, L∞ .*\| 12\.3 \[", text)
    assert not [title for title in titles(figures) if title.startswith("Square")]


def test_queries_of_square_are_drawn_at_every_strength(make, whole):
    _, figures = whole(make["evaluation"]())
    (panel,) = (panel for figure in figures for panel in figure.panels if panel.title.startswith("Square"))
    assert [series.label for series in panel.series] == ["ε = 2/255", "ε = 8/255"]
    assert all(len(series.x) == 11 for series in panel.series)


def test_corruptions_are_one_table_of_numbers_by_severity(make, whole, undrawn):
    results = make["evaluation"]()
    accuracies = results["measurements"]["corruptions"]["result"]["accuracies"]
    text, figures = whole(results)
    shown = [f"{100 * share:.1f}" for share in accuracies["frost"]]
    assert f"| frost | {' | '.join(shown)} |" in text
    assert not [figure for figure in figures if "orruption" in figure.title]
    page = undrawn(results)
    assert page.count("--shade:") == 15 * 6
    assert f"--shade:{1 - accuracies['frost'][0]:.2f}" in page


def test_corruptions_of_several_models_have_severities_below_their_mean(make, undrawn):
    results = make["evaluation"]("a"), make["evaluation"]("b", seed=1)
    row = results[1]["measurements"]["corruptions"]["result"]["accuracies"]["fog"]
    page = undrawn(*results)
    assert f"{100 * sum(row) / 5:.1f}" in page
    assert " · ".join(f"{100 * share:.0f}" for share in row) in page


def test_strengths_of_one_model_are_columns(make, whole):
    text, _ = whole(make["evaluation"]())
    table = text.partition("**White-box attacks: accuracy in %")[2].partition("\n\n**")[0]
    assert "| clean | 1/255 | 2/255 | 4/255 | 8/255 | 16/255 | 0.25 | 0.5 |" in table
    row = next(line for line in table.splitlines() if line.startswith("| left after APGD-CE"))
    assert [i for i, cell in enumerate(row.split("|")[2:-1]) if cell.strip()] == [4]  # at 8/255, the largest


def test_both_powers_of_the_spectrum_are_drawn(make, whole):
    _, figures = whole(make["evaluation"]())
    (figure,) = (figure for figure in figures if figure.title == "Power in two dimensions")
    assert [panel.title for panel in figure.panels] == [
        "Power of the mean perturbation",
        "Mean power of the perturbations",
    ]


def test_card_has_each_number_once_and_counts_what_is_missing(make, save, undrawn):
    results = make["evaluation"]()
    results["verdicts"] = [{"threat": "clean", "verdict": "70.0 % are right.", "evidence": ["clean: 70.0 %, n = 9"]}]
    card = render_markdown(build_card(load_runs([save("a", results)])))
    assert "| 70.0 % are right. |" in card
    assert ".:" not in card
    assert "n = 9" not in card
    assert "n = 9" in undrawn(results)
    assert "1 of 18 measurements was not run or failed." in card
    assert "no regularized layers were named" in card


def test_selection_shows_only_settings_that_have_a_part(make, whole):
    results = make["selection"](thresholds=(0.8,), pairs=(16,))
    for point in results["points"]:
        point["settings"] |= {"threshold": None, "pairs": None, "pool_size": None}
    settings = results["choice"]["settings"]
    settings |= {"threshold": None, "pairs": None, "pool_size": None}
    results |= {"target": "pixel", "grid": {"alpha": [1, 3, 10], "threshold": [None], "pairs": [None]}}
    text, figures = whole(results)
    assert f"Choice: α = {settings['alpha']:g}." in text
    assert not re.search(r"Th =|k =|N =|Th, |k, image", text)
    assert "Loss" in titles(figures)
    assert "Targets at ±1" not in titles(figures)


def test_selection_with_thresholds_and_varying_pairs_shows_them(make, whole):
    text, _ = whole(make["selection"]() | {"target": "threshold"})
    assert re.search(r"Choice: α = \S+, Th = \S+, k = \d+\. ", text)
    assert "N =" not in text


@pytest.mark.parametrize(
    ("clean", "ratio", "told"), [(0.14, 1.0, ["near chance"]), (0.7, 1.2, ["R0/U0 is above 1.1"]), (0.16, 1.05, [])]
)
def test_a_choice_against_a_net_without_training_is_warned_of(make, whole, clean, ratio, told):
    results = make["selection"]()
    results["reference"]["clean"] = clean
    results["points"][0]["clean_ratio"] = ratio
    text, _ = whole(results)
    assert [line for line in ("near chance", "R0/U0 is above 1.1") if line in text] == told


def test_notes_of_a_selection_stand_instead_of_the_report_s_own(make, whole):
    results = make["selection"]() | {"notes": ["Said by the run."]}
    results["reference"]["clean"] = 0.1
    text, _ = whole(results)
    assert "Said by the run." in text
    assert "near chance" not in text


@pytest.mark.parametrize("content", [b"\x80\x02PK\x03\x04", b"[1, 2]", b"{}", b"{"])
def test_what_is_no_results_file_is_refused_without_advice_to_delete_it(tmp_path, content):
    path = tmp_path / "plain.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"plain\.pt .*give the folder of a run") as error:
        load_runs([path])
    assert "delete" not in str(error.value)
