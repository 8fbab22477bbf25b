"""The main job, `examples/cifar_resnet18.py`, in its smoke configuration: no network, seconds."""

import json
import math
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from simreg.model_files import load_model
from simreg.robustness import read_results

for package in ("sklearn", "foolbox", "matplotlib"):
    pytest.importorskip(package)
load_file = pytest.importorskip("safetensors.torch").load_file

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SMOKE = ["--smoke", "--epochs", "6", "--threads", "1"]
PLOTS = ("gaussian", "uniform", "salt_and_pepper", "transferred_fgsm", "boundary", "layer_weights")
NETS = ("unregularized", "regularized", "noise-augmented", "equal-accuracy")


@pytest.fixture(scope="module")
def job():
    """The example's `main`, imported as a script imports its neighbours."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        import cifar_resnet18
    finally:
        sys.path.remove(str(EXAMPLES))
    threads = torch.get_num_threads()
    yield cifar_resnet18.main
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def finished(job, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "finished"
    state = torch.get_rng_state()
    assert job([*SMOKE, "--out", str(out)]) == 0
    assert torch.equal(torch.get_rng_state(), state)
    return out


@pytest.fixture
def unfinished(finished, tmp_path):
    """A run whose regularized net is trained and that has just begun to measure."""
    out = tmp_path / "unfinished"
    shutil.copytree(finished, out)
    (out / "results.json").unlink()
    return out


def launch(out, *options):
    command = [sys.executable, str(EXAMPLES / "cifar_resnet18.py"), *SMOKE, "--out", str(out), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def kill_when(path, process):
    """SIGKILL as soon as ``path`` is there; fails if the run ended first."""
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()


def numbers(out):
    """results.json without what must differ between two runs."""
    results = read_results(out / "results.json")
    return json.dumps({k: v for k, v in results.items() if k not in ("created", "seconds_of_the_last_start")})


def test_results_hold_settings_data_measurements_and_versions(finished):
    results = read_results(finished / "results.json")
    assert results["schema_version"] == 1
    assert torch.__version__.startswith(results["versions"]["torch"])
    assert results["settings"]["dataset"] == "digits"
    assert results["settings"]["seed"] == 0
    assert "scikit-learn" in results["data"]["source"]
    assert set(results["models"]) == set(NETS)
    for net in results["models"].values():
        assert len(net["gaussian"]["epsilons"]) == 11
        assert net["transferred_fgsm"]["settings"]["surrogate_fingerprint"]
        assert net["boundary"]["n"] == 8
        assert net["clean"]["n"] == 359
    assert set(results["trade_off"]) == {"gaussian", "uniform", "salt_and_pepper", "transferred_fgsm", "fgsm", "pgd"}
    assert len(results["history"]["step"]) == len(results["history"]["layer_weights"]["stem"])


def test_table_shows_ratio_pgd_and_boundary_counts_for_every_net(finished):
    rows = read_results(finished / "results.json")["table"]
    assert [row["model"].split()[0] for row in rows] == ["unregularized", "regularized", "noise", "unregularized"]
    for row in rows:
        assert {"clean", "R0/U0", "gaussian@0.5", "pgd@0.1"} <= set(row)
        boundary = next(value for name, value in row.items() if name.startswith("boundary"))
        assert "n 8, failed" in boundary


@pytest.mark.parametrize("name", PLOTS)
def test_plots_are_readable_images(finished, name):
    image = pytest.importorskip("PIL.Image")
    with image.open(finished / f"{name}.png") as plot:
        plot.load()
        assert plot.format == "PNG"
        assert min(plot.size) > 300


@pytest.mark.parametrize("name", NETS)
def test_checkpoints_load_into_the_network(job, finished, name):
    found = load_model(finished / f"model-{name}.safetensors")
    weights = load_file(finished / f"model-{name}.safetensors")
    assert all(torch.equal(weights[key], value) for key, value in found.model.state_dict().items())
    assert (found.mean, found.std, len(found.classes)) == ((0.5,), (0.2,), 10)
    assert not list(finished.glob("training-*"))


def test_all_nets_start_alike_and_end_apart(finished):
    weights = [load_file(finished / f"model-{name}.safetensors")["fc.weight"] for name in NETS[:3]]
    assert all(bool(torch.isfinite(w).all()) for w in weights)
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_killed_run_ends_with_the_same_numbers(finished, tmp_path):
    out = tmp_path / "killed"
    kill_when(out / "training-regularized.safetensors", launch(out))
    assert not (out / "model-regularized.safetensors").exists()
    kill_when(out / "evaluation-unregularized.json", launch(out, "--resume"))
    process = launch(out, "--resume")
    output = process.communicate(timeout=180)[0]
    assert process.returncode == 0, output
    assert "training regularized" not in output
    for path in finished.glob("model-*.safetensors"):
        ours, theirs = load_file(out / path.name), load_file(path)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert numbers(out) == numbers(finished)


def test_resume_of_a_finished_run_changes_nothing(job, finished, tmp_path):
    out = tmp_path / "again"
    shutil.copytree(finished, out)
    assert job([*SMOKE, "--out", str(out), "--resume"]) == 0
    assert numbers(out) == numbers(finished)


def test_existing_run_is_not_overwritten(job, finished, capsys):
    before = (finished / "results.json").read_bytes()
    assert job([*SMOKE, "--out", str(finished)]) == 2
    assert "--resume, or choose another --out" in capsys.readouterr().err
    assert (finished / "results.json").read_bytes() == before


def test_resume_with_other_settings_names_them(job, unfinished, capsys):
    assert job([*SMOKE, "--out", str(unfinished), "--resume", "--alpha", "3", "--seed", "7"]) == 2
    message = capsys.readouterr().err
    assert "alpha (was 10.0, now 3.0)" in message
    assert "seed (was 0, now 7)" in message


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_damaged_checkpoint_is_named_with_the_remedy(job, unfinished, capsys, damage):
    path = unfinished / "model-regularized.safetensors"
    content = bytearray(path.read_bytes())
    content[-50] ^= 0xFF
    path.write_bytes({"truncated": content[:-100], "flipped": content, "empty": b""}[damage])
    assert job([*SMOKE, "--out", str(unfinished), "--resume"]) == 2
    message = capsys.readouterr().err
    assert str(path) in message
    assert "damaged" in message
    assert "Delete this file" in message


def test_out_that_cannot_be_written_is_refused_before_any_work(job, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("in the way")
    assert job([*SMOKE, "--out", str(file / "run")]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: --out")
    assert "cannot be written" in captured.err
    assert "training" not in captured.out


def test_named_dataset_that_cannot_be_had_is_an_error(job, tmp_path, capsys, monkeypatch):
    def refuse(name, **options):
        raise FileNotFoundError(f"dataset {name!r} was not found")

    monkeypatch.setattr(sys.modules["cifar_resnet18"], "load_dataset", refuse)
    assert job(["--dataset", "cifar10", "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err == "error: dataset 'cifar10' was not found\n"


def test_default_dataset_falls_back_to_digits_and_says_so(job, capsys, monkeypatch):
    from settings import build_parser

    def only_digits(name, **options):
        if name == "cifar10":
            raise FileNotFoundError("no network")
        return name

    module = sys.modules["cifar_resnet18"]
    monkeypatch.setattr(module, "load_dataset", only_digits)
    assert module.choose_dataset(build_parser().parse_args([])) == "digits"
    assert "Running on the digits" in capsys.readouterr().out


def test_unknown_layer_ends_before_training(job, tmp_path, capsys):
    assert job([*SMOKE, "--layers", "stem,leyer1", "--out", str(tmp_path / "run")]) == 2
    assert "layer1" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ["--mode", "separate", "--target", "threshold", "--layers", "auto"],
        ["--mode", "joint", "--pairs", "4", "--reg-data", "digits", "--layers", "early"],
        ["--target", "label", "--alpha", "0.1", "--color"],
        ["--preset", "paper"],
    ],
)
@pytest.mark.filterwarnings("ignore:.*of the targets:UserWarning")
def test_other_modes_and_targets_train(job, tmp_path, options):
    from nets import make_regularization, train_net
    from settings import build_parser

    module = sys.modules["cifar_resnet18"]
    args = build_parser().parse_args(["--smoke", *options, "--epochs", "1", "--out", str(tmp_path / "run")])
    prepared = module.prepare(args)
    _, history = train_net(prepared, "regularized", prepared.recipe, regularize=make_regularization)
    assert all(math.isfinite(loss) for loss in history["loss"])


def test_crop_and_flip_agrees_with_slicing(job):
    from training import crop_and_flip

    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, 3, 9, 7), generator=generator, dtype=torch.uint8)
    offsets = torch.randint(0, 9, (6, 2), generator=generator)
    flips = torch.tensor([True, False] * 3)
    result = crop_and_flip(images, offsets, flips, padding=4)
    padded = torch.nn.functional.pad(images.float() / 255, (4,) * 4, mode="reflect")
    for i, (top, left) in enumerate(offsets.tolist()):
        wanted = padded[i, :, top : top + 9, left : left + 7]
        assert torch.equal(result[i], wanted.flip(-1) if flips[i] else wanted)


def test_learning_rates_are_those_of_the_schedules(job):
    from training import learning_rate

    rates = [learning_rate("one-cycle", step, 1000, 0) for step in range(1001)]
    assert rates.index(max(rates)) == 200
    assert max(rates) == pytest.approx(0.1)
    assert rates[-1] == pytest.approx(0.0002)
    steps = [learning_rate("steps", 0, 1, epoch) for epoch in range(40)]
    assert steps[3:5] == pytest.approx([0.1, 0.03])
    assert steps[19] == pytest.approx(0.1 * 0.3**4)
    assert steps[20] == 0.1


def test_mistake_before_training_leaves_the_folder_free(job, tmp_path, capsys):
    out = str(tmp_path / "run")
    assert job([*SMOKE, "--out", out, "--layers", "stm"]) == 2
    assert "'stm' matches no layer" in capsys.readouterr().err
    assert job([*SMOKE, "--out", out, "--alpha", "-1"]) == 2
    assert "alpha must be" in capsys.readouterr().err
