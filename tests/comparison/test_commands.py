import argparse

import pytest
import torch

from simreg.cli import _training as shared
from simreg.cli import compare, select
from simreg.comparison import METHODS
from simreg.robustness import read_results

pytest.importorskip("safetensors")
pytest.importorskip("sklearn")

TINY = ["--data", "digits", "--size", "16", "--width", "8", "--epochs", "1", "--batch-size", "32", "--device", "cpu"]


@pytest.fixture(autouse=True)
def _threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def command(*words):
    """Parse and run one command; returns its exit status."""
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers()
    for module in (compare, select):
        module.add_parser(subparsers)
    args = parser.parse_args([str(word) for word in words])
    return args.run(args)


def test_compare_measures_real_nets_with_the_real_suite(tmp_path, capsys, monkeypatch):
    evaluation = pytest.importorskip("simreg.evaluation")
    build = evaluation.build_suite
    monkeypatch.setattr(
        evaluation, "build_suite", lambda *a: build(*a).only(["clean", "gaussian", "transferred_fgsm", "pgd_linf"])
    )
    options = ["--methods", "none,simreg,fgsm-rs", "--train-images", "200", "--test-images", "40", "--quiet"]
    assert command("compare", *TINY, *options, "--out", tmp_path) == 0
    printed = capsys.readouterr().out
    assert "equal epochs: 1" in printed
    assert f"next: simreg report {tmp_path}" in printed
    results = read_results(tmp_path / "results.json")
    assert results["methods"]["fgsm-rs"]["settings"]["epsilon"] == 0.3  # digits
    assert results["recipe"]["flip"] is False
    for method in results["methods"].values():
        (run,) = method["runs"]
        assert run["status"] == "ok"
        assert run["steps"] == 6
        assert set(run["measurements"]) == {"clean", "gaussian", "transferred_fgsm", "pgd_linf"}
        assert run["measurements"]["transferred_fgsm"]["result"]["settings"]["surrogate"] == "unregularized ResNet18"
        assert run["measurements"]["clean"]["result"]["n"] == 40


def test_compare_lists_every_method_with_its_settings(capsys):
    assert command("compare", "--list") == 0
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if not line.startswith(" ")] == list(METHODS)
    assert "settings: sigma=0.1" in said
    assert "cannot run here: no neural responses were given" in said


def test_select_chooses_and_chooses_again(tmp_path, capsys):
    grid = ["--target", "threshold", "--mode", "separate", "--alpha", "0.1", "--threshold", "0.5,0.8"]
    grid += ["--pairs", "4", "--pool-size", "50", "--validation-images", "40", "--train-images", "200"]
    assert command("select", *TINY, *grid, "--out", tmp_path, "--quiet") == 0
    printed = capsys.readouterr().out
    assert "alpha 0.1, threshold 0.5, pairs 4, pool_size 50" in printed
    assert "Accuracy in % on 40 validation images, 1 seed" in printed
    results = read_results(tmp_path / "results.json")
    assert results["grid"] == {"alpha": [0.1], "threshold": [0.5, 0.8], "pairs": [4], "pool_size": [50]}
    assert results["split"] == {"train": 160, "validation": 40}
    written = (tmp_path / "results.json").read_bytes()
    assert command("select", "--results", tmp_path, "--minimum-clean-ratio", "0.01") == 0
    printed = capsys.readouterr().out
    assert "R0/U0 >= 0.01 and RD/UD > 1" in printed
    assert "written" not in printed
    assert (tmp_path / "results.json").read_bytes() == written
    again = ["--results", tmp_path / "results.json", "--minimum-clean-ratio", "0.99", "--out", tmp_path / "again"]
    assert command("select", *again) == 0
    assert read_results(tmp_path / "again" / "results.json")["minimum_clean_ratio"] == 0.99


def test_misspelt_methods_show_before_anything_is_read(tmp_path):
    with pytest.raises(ValueError, match="Did you mean 'gaussian'"):
        command("compare", "--data", tmp_path / "nowhere", "--methods", "gausian")


@pytest.mark.parametrize("name", ["compare", "select"])
def test_missing_data_is_named(name):
    with pytest.raises(ValueError, match="--data is missing: one of cifar10"):
        command(name)


def test_a_missing_gpu_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="torch sees no CUDA device here"):
        command("compare", "--data", "digits", "--device", "cuda")


def test_numbers_may_be_fractions():
    assert shared.fraction("8/255") == 8 / 255
    assert shared.fraction("0.03") == 0.03
    assert shared.numbers("1,2.5") == (1.0, 2.5)
    assert shared.whole_numbers("0,3") == (0, 3)
    with pytest.raises(argparse.ArgumentTypeError, match="whole number from 1"):
        shared.positive("0")
