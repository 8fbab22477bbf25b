"""`simreg report`: pages that are whole, say everything, load nothing, and come out the same every time."""

import re
from html.parser import HTMLParser

import pytest

from simreg.cli import main
from simreg.reporting import Report, make_report

pytest.importorskip("matplotlib")
VOID = {"meta", "link", "br", "hr", "img", "input", "col", "wbr"}
KINDS = ("evaluation", "comparison", "selection")


class Page(HTMLParser):
    """Checks nesting while it reads, and collects ids, links and text."""

    def __init__(self, page):
        super().__init__()
        self.open, self.ids, self.links, self.text, self.loads, self.svgs = [], [], [], "", [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if tag == "a" and "href" in found else []
        self.loads += [found[k] for k in ("src", "data", "srcset") if found.get(k)] + (
            [found["href"]] if tag == "link" else []
        )
        self.svgs += [found] if tag == "svg" else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("kind", KINDS)
def test_page_is_whole_and_loads_nothing(make, save, kind):
    seeds = {} if kind == "evaluation" else {"seeds": (0,)}
    page = Page(make_report([save(kind, make[kind](**seeds))]).page)
    assert len(page.ids) == len(set(page.ids))
    assert page.svgs, "no figure"
    shown = [svg for svg in page.svgs if svg.get("aria-hidden") != "true"]
    assert shown
    assert all(svg.get("role") == "img" and (svg.get("aria-label") or svg.get("aria-labelledby")) for svg in shown)
    assert not [link for link in page.loads if not link.startswith("data:")]
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)


@pytest.mark.parametrize("kind", ["evaluation", "selection"])
def test_same_results_give_the_same_bytes(make, save, kind):
    results = make[kind](**({"seeds": (0,), "pairs": (16,)} if kind == "selection" else {}))
    for key in ("uniform", "salt_and_pepper", "fgsm_l2", "pgd_l2", "transferred_pgd", "hopskipjump_l2"):
        results.get("measurements", {}).pop(key, None)
    path = save(kind, results)
    assert make_report([path]).page == make_report([path]).page


def test_headline_has_accuracy_verdict_and_masking(make, save):
    results = make["evaluation"]("plain net")
    report = make_report([save("a", results)])
    text = " ".join(Page(report.page).text.split())
    share = results["measurements"]["clean"]["result"]["accuracies"][0]
    for shown in (text, report.card):
        assert f"{100 * share:.1f}" in shown
        assert all(verdict["verdict"] in " ".join(shown.split()) for verdict in results["verdicts"])
    assert "masking" in text.lower()


def test_what_was_not_run_is_named_with_its_reason(make, save):
    results = make["evaluation"]()
    results["measurements"]["hopskipjump_l2"] = {
        "status": "not run",
        "reason": "no time <today>",
        "threat": "decision",
        "type": "distances",
    }
    other = make["evaluation"]("second")
    report = make_report([save("a", results), save("b", other)])
    assert "no time <today>" in Page(report.page).text
    assert "<today>" not in report.page
    assert "no time" in report.card


def test_many_models_with_odd_names(make, save):
    names = [
        "<script>alert(1)</script>",
        "a&b",
        "net | with pipe",
        "ネット",
        "x" * 200,
        '"quoted"',
    ]
    report = make_report([save(str(i), make["evaluation"](name, seed=i)) for i, name in enumerate(names)])
    text = Page(report.page).text
    assert all(name in text for name in names)
    assert "<script>" not in report.page


def test_missing_numbers_do_not_break_the_page(make, save):
    results = make["evaluation"]()
    results["measurements"]["gaussian"]["result"]["accuracies"][1] = None
    results["measurements"]["boundary"]["result"]["median"] = float("inf")
    Page(make_report([save("a", results)]).page)
    results["measurements"] = {}
    Page(make_report([save("b", results)]).page)


def test_made_corruptions_are_said_not_to_be_the_published_ones(make, save):
    text = Page(make_report([save("a", make["evaluation"]())]).page).text
    assert re.search(r"not (the published|CIFAR-10-C)", text)


def test_command_writes_page_and_card(make, save, tmp_path, capsys):
    path = save("run", make["evaluation"]())
    page, card = tmp_path / "page.html", tmp_path / "card.md"
    assert main(["report", str(path.parent), "--out", str(page), "--card", str(card)]) == 0
    assert page.read_text().lower().startswith("<!doctype html>")
    assert card.read_text().startswith("# ")
    assert main(["report", str(tmp_path / "nothing")]) == 2
    assert "nothing" in capsys.readouterr().err


def test_page_and_card_of_one_run_lie_in_its_folder(make, save, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("simreg.cli.report.make_report", lambda *_, **__: Report("<!DOCTYPE html>", "# Card"))
    folders = [save(name, make["evaluation"]()).parent for name in ("a", "b")]
    for given in (folders[0], folders[1] / "results.json"):
        assert main(["report", str(given)]) == 0
    for folder in folders:
        assert (folder / "report.html").is_file()
        assert (folder / "model-card.md").read_text().startswith("# ")
    assert not (tmp_path / "report.html").exists()
    assert str(folders[0] / "report.html") in capsys.readouterr().out
    assert main(["report", *map(str, folders)]) == 0
    assert (tmp_path / "report.html").is_file()
    assert "written: report.html" in capsys.readouterr().out


def test_a_card_alone_leaves_no_page(make, save, tmp_path, monkeypatch):
    monkeypatch.setattr("simreg.cli.report.make_report", lambda *_, **__: Report("<!DOCTYPE html>", "# Card"))
    folder = save("a", make["evaluation"]()).parent
    assert main(["report", str(folder), "--card", str(tmp_path / "card.md")]) == 0
    assert (tmp_path / "card.md").is_file()
    assert not (folder / "report.html").exists()
