"""The machinery of benchmarks/: arithmetic of the harness, the report of made-up results, baselines against simreg."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


def load(name):
    """A module of benchmarks/, imported as its scripts import each other."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(BENCHMARKS))


class Fixture:
    """What the harness uses of pytest-benchmark."""

    def __init__(self):
        self.extra_info = {}

    def pedantic(self, target, setup, teardown, rounds):
        for _ in range(rounds):
            setup()
            target()
            teardown()


def test_quartiles_and_ratios_are_taken_round_by_round():
    harness = load("harness")
    assert harness.quartiles([4.0, 1.0, 3.0, 2.0, 5.0]) == [2.0, 3.0, 4.0]
    assert harness.quartiles([2.0]) == [2.0] * 3
    times = {"a": {"total": [1.0, 4.0, 9.0]}, "b": {"total": [2.0, 2.0, 3.0]}}
    assert harness.relative_times(times, ["b", "absent"]) == {"a": {"b": [1.25, 2.0, 2.5]}, "b": {}}


def test_race_runs_each_candidate_once_a_round_in_rotating_order():
    harness = load("harness")
    order = []
    candidates = [harness.Candidate(n, {"only": lambda _, n=n: order.append(n)}) for n in "abc"]
    benchmark = Fixture()
    harness.compare(benchmark, candidates, bases=["b"], rounds=3)
    rounds = ["".join(order[i : i + 3]) for i in range(0, len(order), 3)]
    assert [sorted(r) for r in rounds] == [["a", "b", "c"]] * 3
    assert {r.index("a") for r in rounds} == {0, 1, 2}
    assert benchmark.extra_info["subject"] == "a"
    assert list(benchmark.extra_info["milliseconds"]) == ["a", "b", "c"]
    assert set(benchmark.extra_info["relative_time"]["a"]) == {"b"}


def test_stages_pass_on_their_results():
    harness = load("harness")
    candidate = harness.Candidate("c", {"first": lambda nothing: [nothing], "second": lambda found: [*found, 2]})
    assert candidate.run() == [None, 2]


def test_peak_memory_counts_what_lives_at_one_time():
    harness = load("harness")
    x = torch.zeros(250_000)
    assert harness.peak_memory(lambda: ((x + 1) + 1).sum()) == pytest.approx(2 * x.nbytes, rel=0.01)


def assert_agree(found, wanted, inputs):
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    gradients = [torch.autograd.grad(loss, inputs.leaves) for loss, _ in (found, wanted)]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("centering", ["none", "image", "batch", "channel"])
@pytest.mark.parametrize("pairing", ["pairs", "all"])
def test_naive_agrees_with_reference_and_kernels_in_float64(pairing, centering):
    layer_sets, baselines, similarities = load("layer_sets"), load("baselines"), load("similarities")
    case = layer_sets.Case("tiny", 8, pairing, centering)
    inputs = layer_sets.make_inputs(case).double()
    for way in (similarities.reference, lambda *a: similarities.fused(*a, "torch")):
        wanted = way(inputs, centering, case.paired)
        assert_agree(baselines.naive(inputs, centering, case.paired), wanted, inputs)


def test_corrcoef_agrees_with_reference():
    layer_sets, baselines, similarities = load("layer_sets"), load("baselines"), load("similarities")
    inputs = layer_sets.make_inputs(layer_sets.Case("tiny", 8, "all", "image"))
    wanted = similarities.reference(inputs, "image", False)
    torch.testing.assert_close(baselines.corrcoef(inputs), wanted, rtol=1e-4, atol=1e-5)


def test_paper_scheme_agrees_with_reference_in_float64():
    layer_sets, baselines, similarities = load("layer_sets"), load("baselines"), load("similarities")
    inputs = layer_sets.make_inputs(layer_sets.Case("tiny", 8, "pairs", "channel")).double()
    halves = inputs.halves()
    wanted, found = similarities.reference(inputs, "channel", True), baselines.paper_scheme(halves)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    gradient = torch.autograd.grad(wanted[0], inputs.features)
    parts = torch.autograd.grad(found[0], halves.features)
    joined = [torch.cat(pair) for pair in zip(parts[::2], parts[1::2], strict=True)]
    torch.testing.assert_close(joined, list(gradient), rtol=1e-8, atol=1e-12)


@pytest.fixture
def summarize():
    pytest.importorskip("matplotlib")
    return load("summarize")


ENVIRONMENT = {
    "processor": "Made Up",
    "cores": 2,
    "threads": 1,
    "gpu": None,
    "system": "Linux",
    "python": "3.12.0",
    "versions": {"torch": "2.9", "triton": None},
    "commit": "abc",
}


def made_up(path):
    similarity = {
        "case": {"layers": "CIFAR", "images": 32, "pairing": "pairs", "centering": "channel", "dtype": "float32"},
        "subject": "compile",
        "memory": {"compile": 1.0, "naive": 2.5},
        "milliseconds": {
            name: dict.fromkeys(("forward", "backward", "total"), [value] * 3)
            for name, value in (("compile", 4.0), ("naive", 40.0), ("memory floor", 2.5))
        },
        "relative_time": {
            "compile": {"naive": [0.08, 0.1, 0.125], "memory floor": [1.5, 1.6, 1.7]},
            "naive": {"memory floor": [16.0] * 3},
            "memory floor": {},
        },
    }
    attack = {
        "case": {"attack": "FGSM", "images": 128},
        "subject": "batched",
        "milliseconds": {n: {"total": [v] * 3} for n, v in (("batched", 5.0), ("one at a time", 4.0))},
        "relative_time": {"batched": {"one at a time": [1.2, 1.25, 1.3]}, "one at a time": {}},
    }
    groups = {"similarity": similarity, "attacks": attack}
    benchmarks = [{"group": g, "extra_info": {**i, "environment": ENVIRONMENT}} for g, i in groups.items()]
    path.write_text(json.dumps({"commit_info": {"id": "abc"}, "benchmarks": benchmarks}, indent=4))


def test_report_shows_goals_speed_ups_and_losses(summarize, tmp_path):
    path = tmp_path / "results.json"
    made_up(path)
    before = json.loads(path.read_text())
    summarize.compact(path)
    assert json.loads(path.read_text()) == before
    assert len(path.read_text().splitlines()) == 4
    text = summarize.report(summarize.read(path), tmp_path)
    assert "| pairs, with a compiler: speed-up over naive, N = 32 | at least 8 | 10 | met |" in text
    assert "| attacks: batches of 128, speed-up over one image at a time | at least 3 | 0.8 | **not met** |" in text
    assert (
        "| pairs, with a compiler: speed-up over the paper's similarity, N = 32 | at least 7 |  | not measured |"
        in text
    )
    assert "| CIFAR | 32 | channel | float32 | 2.5 | 40 | 10 [8-12.5] |" in text
    assert "| attacks | FGSM, 128 | batched | one at a time | 1.25 [1.2-1.3] |" in text
    assert [p.name for p in tmp_path.glob("*.png")] == ["made-up-speed-up.png"]


def test_fill_replaces_only_what_is_between_the_marks(summarize):
    text = summarize.fill(f"a\n{summarize.BEGIN}\nold\n{summarize.END}\nb\n", r"new \1")
    assert text == f"a\n{summarize.BEGIN}\n\nnew \\1\n\n{summarize.END}\nb\n"
    with pytest.raises(ValueError, match="must hold the marks"):
        summarize.fill("no marks", "new")


def test_readme_has_the_marks(summarize):
    assert summarize.fill((BENCHMARKS / "README.md").read_text(encoding="utf-8"), "")
