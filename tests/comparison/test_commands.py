import argparse

import numpy as np
import pytest
import torch

from simreg.cli import _training as shared
from simreg.cli import compare, select
from simreg.comparison import METHODS, comparison_text
from simreg.data import load_dataset
from simreg.robustness import read_results, write_results

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
    assert isinstance(results["notes"], list)
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


def test_select_warns_of_nets_near_chance(tmp_path, capsys):
    one = {"seed": 0, "status": "ok", "clean": 0.12, "robust": 0.1, "n": 500}
    results = {
        "kind": "selection",
        "reference": {"runs": [one]},
        "points": [{"settings": {"alpha": 1.0}, "runs": [one | {"robust": 0.11}]}],
        "data": {"classes": list("0123456789")},
        "split": {"validation": 500},
        "distortion": {"name": "gaussian", "epsilon": 0.1},
    }
    write_results(tmp_path / "results.json", results)
    assert command("select", "--results", tmp_path, "--out", tmp_path / "again") == 0
    (note,) = read_results(tmp_path / "again" / "results.json")["notes"]
    assert "near chance (12.0 % clean, 10 classes)" in note
    shown = capsys.readouterr()
    assert shown.err == f"simreg: warning: {note}\n"
    assert note not in shown.out


def archive(path, count=200, **changes):
    """Scikit-learn's digits as one .npz file."""
    data = load_dataset("digits", size=16)
    names = [f"{part}_{kind}" for part in ("train", "test") for kind in ("images", "labels")]
    np.savez(path, **{name: getattr(data, name).numpy()[:count] for name in names} | changes)
    return path


def test_arrays_are_trained_and_measured_on(tmp_path, monkeypatch):
    evaluation = pytest.importorskip("simreg.evaluation")
    build = evaluation.build_suite
    monkeypatch.setattr(evaluation, "build_suite", lambda *a: build(*a).only(["clean"]))
    tiny = [*TINY, "--data", archive(tmp_path / "set.npz"), "--quiet"]
    options = ["--methods", "none", "--train-images", "150", "--test-images", "40", "--out", tmp_path / "compare"]
    assert command("compare", *tiny, *options) == 0
    results = read_results(tmp_path / "compare" / "results.json")
    assert (results["data"]["n"], results["data"]["test"]["n"]) == (150, 40)
    assert results["data"]["source"] == f"arrays in {tmp_path / 'set.npz'}"
    assert results["methods"]["none"]["runs"][0]["measurements"]["clean"]["result"]["n"] == 40
    assert command("select", *tiny, "--alpha", "1", "--out", tmp_path / "select") == 0
    assert read_results(tmp_path / "select" / "results.json")["split"] == {"train": 180, "validation": 20}


def test_arrays_take_channels_and_size_as_other_images_do(tmp_path):
    path = archive(tmp_path / "set.npz")
    args = argparse.Namespace(data=str(path), color=True, size=8, quiet=True, data_dir=None)
    split = shared.load_images(args, "test", 30)
    assert split.images.shape == (30, 3, 8, 8)
    assert split.classes == tuple("0123456789")
    assert torch.equal(split.rows[:10], shared.load_images(args, "test", 10).rows)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"train_labels": np.arange(200) % 10 + 1}, "labels must count from 0, .*; test_labels are 1 to 10"),
        ({"test_labels": np.arange(200) % 12}, "test_labels are up to 11, those of training up to 9"),
    ],
)
def test_labels_of_arrays_must_fit(tmp_path, arrays, message):
    path = archive(tmp_path / "set.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        shared.load_images(argparse.Namespace(data=str(path), color=False, size=None), "test", None)


@pytest.mark.parametrize("name", ["compare", "select"])
def test_arrays_without_both_parts_are_refused(tmp_path, name):
    np.savez(tmp_path / "set.npz", images=np.zeros((4, 8, 8), np.uint8), labels=np.zeros(4, int))
    with pytest.raises(ValueError, match="must hold 'train_images'; it has images, labels"):
        command(name, "--data", tmp_path / "set.npz", "--device", "cpu")
    with pytest.raises(ValueError, match=r"holds one array; training takes an \.npz with train_images"):
        command(name, "--data", tmp_path / "set.npy", "--device", "cpu")


def measured(result, kind="sweep"):
    return {"status": "ok", "type": kind, "result": result}


@pytest.mark.parametrize("seeds", [1, 3])
def test_table_of_a_whole_suite_fits_a_terminal(seeds):
    """All measurements of the quick suite, and more: the most telling columns stay, the others are named."""
    sweep = {"epsilons": [0.0, 8 / 255], "accuracies": [0.8, 0.412]}
    keys = ["clean", "gaussian", "uniform", "salt_and_pepper", "transferred_fgsm", "transferred_pgd", "fgsm_linf"]
    keys += ["fgsm_l2", "pgd_linf", "autoattack_linf", "square_linf", "pgd_linf_large"]
    entries = {key: measured(sweep) for key in keys}
    entries |= {"boundary": measured({"median": 0.00123}, "distances"), "corruptions": measured({"mean": 0.5}, "x")}
    entries["corruptions"]["type"] = "corruptions"
    run = {"status": "ok", "budget": "equal_epochs", "measurements": entries, "milliseconds_per_step": 10.0}
    run |= {"training_seconds": 1234.0, "epochs": 30.0}
    methods = {name: {"runs": [run] * seeds} for name in ("none", "simreg+gaussian", "pgd-at:steps=7")}
    text = comparison_text({"methods": methods, "epochs": 30, "budget_seconds": None})
    assert max(map(len, text.splitlines())) <= 120
    columns = text.splitlines()[1]
    shown = ("method", "clean", "autoattack_linf 8/255", "pgd_linf 8/255", "gaussian 8/255", "corruptions")
    assert all(name in columns for name in shown)
    assert "fgsm_l2" not in columns
    rest = " ".join(text[text.index("in the report: ") :].split())
    assert all(f"{key} 8/255" in rest for key in ("fgsm_l2", "pgd_linf_large", "salt_and_pepper"))
    assert "clean" not in rest.partition("Accuracy")[0]


@pytest.mark.parametrize("name", ["compare", "select"])
def test_missing_data_is_named(name):
    with pytest.raises(ValueError, match="--data is missing: one of cifar10"):
        command(name)


def test_a_missing_gpu_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="torch sees no CUDA device here"):
        command("compare", "--data", "digits", "--device", "cuda")


def test_an_unknown_device_is_named_with_those_that_exist():
    with pytest.raises(ValueError, match="--device foo: there is no such device here, only cpu"):
        command("select", "--data", "digits", "--device", "foo")


def test_numbers_may_be_fractions():
    assert shared.fraction("8/255") == 8 / 255
    assert shared.fraction("0.03") == 0.03
    assert shared.numbers("1,2.5") == (1.0, 2.5)
    assert shared.whole_numbers("0,3") == (0, 3)
    with pytest.raises(argparse.ArgumentTypeError, match="whole number from 1"):
        shared.positive("0")
