"""The benchmarks' own arithmetic, and that their scripts run."""

import json

import baselines
import gpu
import harness
import pytest
import summarize
import torch
import torchvision
from similarities import Case, contest


def test_ratios_are_taken_round_by_round():
    assert harness.quartiles([4.0, 1.0, 2.0, 3.0, 5.0]) == [2.0, 3.0, 4.0]
    found = harness.compared({"a": [2.0, 8.0, 3.0], "b": [1.0, 2.0, 3.0]}, ["b", "absent"])
    assert found["over"] == {"b": {"a": [1.5, 2.0, 3.0], "b": [1.0, 1.0, 1.0]}}  # of the medians it would be 1.5
    assert found["ms"]["b"] == [1500, 2000, 2500]


def test_every_candidate_runs_once_a_round_and_not_always_at_the_same_place():
    ran = []
    harness.race({name: lambda name=name: ran.append(name) for name in "abc"}, ["a"], 3)
    assert [sorted(ran[i : i + 3]) for i in (0, 3, 6)] == [list("abc")] * 3
    assert len(set(ran[::3])) > 1


@pytest.mark.parametrize("pairing", ["pairs", "all"])
@pytest.mark.parametrize("centering", ["channel", "batch", "image", "none"])
def test_baselines_and_simreg_agree(pairing, centering, monkeypatch):
    monkeypatch.setitem(baselines.LAYER_SETS, "toy", ((3, 4, 4), (5, 2, 2)))
    candidates, noted = contest(Case("toy", 6, pairing, centering), ("torch", "reference"))
    assert {"torch", "reference", "naive"} <= set(noted["errors"]) <= set(candidates)  # against naive in float64
    assert all(max(errors) < 2e-6 for errors in noted["errors"].values()), noted["errors"]


def test_gpu_script_says_that_there_is_none_and_runs_every_case_on_a_cpu(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torchvision.models, "resnet50", torchvision.models.resnet18)
    assert gpu.main([str(tmp_path / "out.json")]) == 2
    assert capsys.readouterr().out.splitlines() == ["no GPU: torch.cuda.is_available() is false"]
    assert gpu.main([str(tmp_path / "out.json"), "--device", "cpu", "--sizes", "smoke"]) == 0
    found = json.loads((tmp_path / "out.json").read_text())["benchmarks"]
    assert [b["group"] for b in found if "skipped" in b["extra_info"]] == ["similarity, CUDA graphs"] * 4


def test_summarize_fills_the_readme_from_results(tmp_path):
    here = {"gpu": None, "processor": "P", "threads": 1, "versions": {"torch": "2"}, "commit": "c"}
    info = {"environment": here, "ms": {"k = 4": [1, 2, 3], "plain": [1, 1, 1]}, "goals": {"k = 4": "<= 2"}}
    info |= {"over": {"plain": {"k = 4": [1, 2, 3], "plain": [1, 1, 1]}}, "case": {"width": 8, "batch": 8}}
    benchmarks = [{"name": "t", "group": g, "extra_info": info} for g in ("training step", "training step by pairs")]
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "here.json").write_text(json.dumps({"benchmarks": benchmarks}))
    (tmp_path / "README.md").write_text(f"a {summarize.BEGIN} {summarize.END} b")
    summarize.main(tmp_path)
    assert "| width 8, batch 8 | k = 4 | 2 | plain | 2 [1-3] | <= 2 |" in (tmp_path / "README.md").read_text()
