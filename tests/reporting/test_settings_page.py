"""Settings on pages and cards: recipes, budgets, what --only left out, wide tables."""

from simreg.reporting import load_runs
from simreg.reporting.blocks import Cell, Document, Row, Section, Table
from simreg.reporting.build import build_card
from simreg.reporting.html import render_page
from simreg.reporting.markdown import render_markdown
from simreg.reporting.recipes import recipe_section

SHARED = {"recipe": {"batch_size": 64, "peak_rate": 0.1, "schedule": "one-cycle"}, "epochs": 2.0}


def card(save, results):
    return render_markdown(build_card(load_runs([save("run", results)]))).replace("\\", "")


def test_a_selection_tells_how_its_nets_were_trained(make, save, whole):
    results = make["selection"](seeds=(0, 3)) | SHARED
    facts = ("batch size:** 64", "peak rate:** 0.1", "schedule:** one-cycle", "network: width:** 16", "seeds:** 0, 3")
    text, _ = whole(results)
    for told in (text, card(save, results)):
        assert [fact for fact in (*facts, "epochs:** 2") if fact not in told] == []


def test_the_card_of_a_comparison_has_recipe_and_settings_of_the_methods(make, save):
    told = card(save, make["comparison"](seeds=(0,), budgets=("equal_epochs",)))
    assert "**batch size:** 64" in told
    assert "| simreg label | what simreg does | alpha 10 |" in told


def test_without_a_recipe_there_is_no_section():
    assert recipe_section({"points": []}).empty


def test_a_comparison_has_the_budgets_of_its_measurements(make, whole):
    results = make["comparison"](seeds=(0,), budgets=("equal_epochs",))
    for method in results["methods"].values():
        for net in method["runs"]:
            if net["status"] == "ok":
                net["measurements"]["pgd_linf"]["result"]["settings"] |= {"step_size": None, "restarts": None}
    text, _ = whole(results)
    line = next(line for line in text.splitlines() if line.startswith("| PGD, L∞ (all models) | 500 |"))
    assert "steps 50" in line
    assert "step size 2.5 epsilon / steps" in line
    assert "restarts –" in line


def test_what_only_left_out_is_counted_and_named(make, whole, undrawn):
    results = make["evaluation"]("a") | {"left_out": ["pgd_l2", "spectrum"]}
    for key in results["left_out"]:
        del results["measurements"][key]
    text, _ = whole(results)
    assert text.count("standard, 16 of 18 measurements") == 3  # subtitle, headline, settings
    not_run = text.partition("## Not run")[2]
    assert "3 of 18 measurements were not run" in not_run
    assert "| PGD, L2 | a | left out with --only |" in not_run
    page = undrawn(results, make["evaluation"]("b"))
    assert "left out with --only" in page.partition("Not run</h2>")[0]
    assert "not part of the standard suite" not in page


def test_corruptions_of_other_data_do_not_name_cifar(make, whole):
    text, _ = whole(make["evaluation"]())
    assert "not the published arrays" in text
    assert "CIFAR-10-C" not in text


def test_tables_of_many_columns_use_the_margins():
    def page(columns):
        row = Row("a", tuple(Cell("1") for _ in range(columns - 1)))
        table = Table("t", tuple(str(i) for i in range(columns)), (row,))
        return render_page(Document("d", "", (Section("s", (table,)),)))

    assert 'class="tablebox short wide"' in page(7)
    assert 'class="tablebox short"' in page(6)
    assert ".tablebox.wide { position: relative" in page(7)
