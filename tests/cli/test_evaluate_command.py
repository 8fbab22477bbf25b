"""`simreg evaluate` as a user types it: a net of scikit-learn's digits, killed and resumed, and wrong arguments."""

import json
import os
import signal
import subprocess
import sys
import time

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
        (["--data", "digit"], "Did you mean 'digits'"),
        (["--only", "pgd"], "pgd_linf"),
        (["--color"], "takes images of 1 channels"),
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


def test_missing_model_file(capsys):
    assert main(["evaluate", "no/such.safetensors", "--data", "digits"]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("evaluate", "select", "compare", "report"))


def test_debug_shows_the_traceback(capsys):
    assert main(["--debug", "evaluate", "no/such.pt", "--data", "digits"]) == 2
    assert "Traceback" in capsys.readouterr().err
