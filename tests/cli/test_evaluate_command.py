"""`simreg evaluate` as a user types it: a net of scikit-learn's digits, killed and resumed, and wrong arguments."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from simreg.cli import main
from simreg.data import load_split
from simreg.model_files import save_model
from simreg.nets import ResNet18
from simreg.robustness import read_results

for package in ("sklearn", "foolbox", "safetensors", "torchvision"):
    pytest.importorskip(package)

ARGUMENTS = {"num_classes": 10, "channels": 1, "width": 8, "stem_stride": 2}


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    """A net that reads digits: a few seconds of training."""
    data = load_split("digits", "train")
    model = ResNet18(**ARGUMENTS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    g = torch.Generator().manual_seed(0)
    for _ in range(40):
        rows = torch.randint(len(data.labels), (64,), generator=g)
        loss = F.cross_entropy(model(data.images[rows].float() / 255), data.labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    path = tmp_path_factory.mktemp("nets") / "digits-net.safetensors"
    return save_model(
        path, model, builder="simreg.nets:ResNet18", arguments=ARGUMENTS, classes=[str(i) for i in range(10)]
    )


def command(net, out, *more):
    return [
        "evaluate",
        str(net),
        "--data",
        "digits",
        "--images",
        "40",
        "--surrogate",
        "none",
        "--threads",
        "1",
        "--out",
        str(out),
        *more,
    ]


def strip(results):
    """What must be equal in two runs: all but dates and seconds."""
    text = json.dumps(results, sort_keys=True)
    return [part for part in text.split(", ") if "seconds" not in part and "created" not in part]


def test_quick_suite_of_a_model_file(net, tmp_path, capsys):
    assert main(command(net, tmp_path / "out", "--quiet")) == 0
    results = read_results(tmp_path / "out" / "results.json")
    entries = results["measurements"]
    assert results["model"]["name"] == "digits-net"
    assert entries["clean"]["result"]["accuracies"][0] > 0.5
    assert {key for key, e in entries.items() if e["status"] != "ok"} == {"transferred_fgsm"}
    assert entries["transferred_fgsm"]["reason"] == "no surrogate: --surrogate none"
    assert entries["boundary"]["result"]["n"] == 25
    assert entries["pgd_linf_large"]["result"]["accuracies"][-1] == 0.0
    shown = capsys.readouterr().out
    assert "pgd_linf" in shown
    assert all(verdict["verdict"] in shown for verdict in results["verdicts"])
    assert "simreg report" in shown


def test_killed_command_goes_on(net, tmp_path):
    keys = ["--only", "clean,gaussian,uniform,square_linf,boundary"]
    assert main(command(net, tmp_path / "whole", "--quiet", *keys)) == 0
    code = "import sys; from simreg.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = [sys.executable, "-c", code, *command(net, tmp_path / "killed", *keys)]
    process = subprocess.Popen(arguments, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    found = lambda: list((tmp_path / "killed").glob("parts/uniform-*/000000-000040.json"))  # noqa: E731
    deadline = time.monotonic() + 60
    while not found() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (part,) = found()
    written = part.stat().st_mtime_ns
    assert subprocess.run(arguments, capture_output=True, check=False).returncode == 0
    assert part.stat().st_mtime_ns == written
    whole, killed = (read_results(tmp_path / name / "results.json") for name in ("whole", "killed"))
    assert strip(killed) == strip(whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--data", "digit"], "error: --data 'digit' is neither a folder nor one of cifar10"),
        (["--data", "digit"], "Did you mean 'digits'"),
        (["--only", "pgd"], "error: --only 'pgd' is not one of"),
        (["--device", "foo"], "--device foo: there is no such device here, only cpu"),
        (["--device", "meta"], "--device meta: there is no such device here, only cpu"),
        (["--mean", "123"], "error: --mean (123.0,) must be in units of images in [0, 1]"),
        (["--labels", "y.npy"], "--labels is for an .npy file of images"),
        (["--only", "pgd"], "pgd_linf"),
        (["--color"], "takes images of 1 channels, digits has 3: load the data with --gray"),
        (["--layers", "layer11"], "layer1"),
        (["--corruptions", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_end_with_one_line(net, tmp_path, capsys, change, message):
    status = main(command(net, tmp_path, "--quiet", *change))
    shown = capsys.readouterr()
    assert status == 2
    assert message in shown.err
    assert shown.err.startswith("simreg: error: ")


def with_labels(path, change):
    """An .npz of a few digits with other labels."""
    data = load_split("digits", limit=60)
    np.savez(path, images=data.images.numpy(), labels=change(data.labels.numpy()))
    return path


def test_labels_that_count_from_1_are_told(net, tmp_path, capsys):
    path = with_labels(tmp_path / "set.npz", lambda labels: labels + 1)
    assert main(command(net, tmp_path, "--quiet", "--data", str(path))) == 2
    assert "the labels of set are 1 to 10, but labels count from 0: those of 10 classes are 0 to 9" in (
        capsys.readouterr().err
    )


def test_labels_that_count_from_1_are_told_of_a_named_architecture(tmp_path, capsys):
    timm = pytest.importorskip("timm")
    torch.save(timm.create_model("resnet18", num_classes=10, in_chans=1).state_dict(), tmp_path / "net.pth")
    path = with_labels(tmp_path / "set.npz", lambda labels: labels + 1)
    shared = ["evaluate", "timm:resnet18", "--checkpoint", str(tmp_path / "net.pth"), "--data", str(path), "--quiet"]
    assert main(shared) == 2
    assert "those of set are 1 to 10, and labels count from 0" in capsys.readouterr().err
    shared[-2] = str(with_labels(tmp_path / "few.npz", lambda labels: labels % 3))
    assert main(shared) == 2
    message = capsys.readouterr().err
    assert "has 10 outputs, the data has 3 classes" in message
    assert "count from 0" not in message


def test_too_many_classes_are_no_matter_of_counting(net, tmp_path, capsys):
    path = with_labels(tmp_path / "set.npz", lambda labels: 2 * labels)
    assert main(command(net, tmp_path, "--quiet", "--data", str(path))) == 2
    assert "labels hold class 18 but the model has 10 classes" in capsys.readouterr().err


def test_strengths_of_digits_for_arrays(net, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = with_labels(tmp_path / "set.npz", lambda labels: labels)
    shared = ["evaluate", str(net), "--data", str(path), "--quiet", "--only", "clean,pgd_linf", "--images", "20"]
    assert main([*shared, "--strengths", "digits"]) == 0
    shown = capsys.readouterr().out
    results = read_results("runs/evaluate-digits-net-set-quick-digits/results.json")
    assert results["data"]["strengths"] == "digits"
    epsilons = results["measurements"]["pgd_linf"]["result"]["epsilons"]
    accuracies = results["measurements"]["pgd_linf"]["result"]["accuracies"]
    assert epsilons == [0.0, 0.1, 0.3]
    row = next(line.split() for line in shown.splitlines() if line.startswith("pgd_linf"))
    assert row[1:3] == ["0.3", f"{100 * accuracies[2]:.1f}"]
    assert f"0.1: {100 * accuracies[1]:.1f}" in " ".join(row)  # a weaker attack beside the field's
    assert max(map(len, shown.split("\n\n")[1].splitlines())) <= 120
    assert main(shared) == 0
    results = read_results("runs/evaluate-digits-net-set-quick/results.json")
    assert results["data"]["strengths"] == "photographs"
    assert results["measurements"]["pgd_linf"]["result"]["epsilons"] == [0.0, 2 / 255, 8 / 255]
    assert "  8/255  " in capsys.readouterr().out
    assert main([*shared, "--out", "runs/evaluate-digits-net-set-quick-digits"]) == 2
    assert "holds an evaluation with --strengths digits" in capsys.readouterr().err


def test_function_is_known_by_its_whole_name(tmp_path, monkeypatch, capsys):
    (tmp_path / "own_nets.py").write_text(
        "import torch\ndef make():\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))\n"
    )
    monkeypatch.chdir(tmp_path)
    try:
        assert main(["evaluate", "own_nets:make", "--data", "digits", "--only", "clean", "--quiet"]) == 0
    finally:
        sys.modules.pop("own_nets", None)
        sys.path[:] = [p for p in sys.path if p != str(tmp_path)]
    assert read_results("runs/evaluate-own-nets-make-digits-quick/results.json")["model"]["name"] == "own_nets:make"
    assert capsys.readouterr().out.startswith("own_nets:make on digits")


def test_interrupted_command_ends_as_shells_have_it(net, tmp_path, capsys, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("simreg.cli.evaluate.evaluate_model", interrupted)
    assert main(command(net, tmp_path, "--quiet")) == 130
    assert "the same command goes on from here" in capsys.readouterr().err


def test_missing_model_file(capsys):
    assert main(["evaluate", "no/such.safetensors", "--data", "digits"]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("evaluate", "select", "compare", "report", "130 interrupted"))


def test_debug_shows_the_traceback(capsys):
    assert main(["--debug", "evaluate", "no/such.pt", "--data", "digits"]) == 2
    assert "Traceback" in capsys.readouterr().err
