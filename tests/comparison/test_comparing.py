import shutil

import pytest
import torch

import simreg.comparison.training as training
from simreg.comparison import Plan, Recipe, compare, comparison_text, parse_method, parse_methods
from simreg.comparison.comparing import SURROGATE_SEED
from simreg.model_files import load_model
from simreg.robustness import read_results, write_results

from .conftest import Evaluation, as_split, random_split

pytest.importorskip("safetensors")

METHODS = "none,simreg,gaussian"


@pytest.fixture
def run(training_images, test_images, tmp_path):
    """Run a small comparison into a folder."""

    def go(folder="run", methods=METHODS, seeds=(0, 1), evaluate=None, **changes):
        options = {"recipe": Recipe(batch_size=16, flip=False, padding=2), "epochs": 2, "width": 8} | changes
        return compare(
            options.pop("train", training_images),
            options.pop("test", test_images),
            parse_methods(methods),
            seeds,
            out=tmp_path / folder,
            evaluate=evaluate or Evaluation(),
            progress=options.pop("progress", False),
            checkpoint_seconds=options.pop("checkpoint_seconds", 60.0),
            plan=Plan(**options),
        )

    return go


def numbers(results):
    """What must not differ between two runs: everything but times."""
    found = {}
    for name, method in results["methods"].items():
        for r in method["runs"]:
            kept = {k: v for k, v in r.items() if k not in ("training_seconds", "milliseconds_per_step")}
            found[name, r["budget"], r["seed"]] = str(kept)
    return found


def test_results_have_every_method_seed_and_measurement(run, tmp_path):
    evaluate = Evaluation()
    results = run(evaluate=evaluate)
    assert results == read_results(tmp_path / "run" / "results.json")
    assert results["kind"] == "comparison"
    assert (results["data"]["name"], results["data"]["n"], results["data"]["shape"]) == ("corners", 40, [1, 12, 12])
    assert results["data"]["test"]["n"] == 30
    assert results["recipe"]["batch_size"] == 16
    assert results["threat_linf"] == 8 / 255
    assert list(results["methods"]) == METHODS.split(",")
    for name, method in results["methods"].items():
        assert method["label"]
        assert method["settings"] == parse_method(name).settings
        assert [(r["budget"], r["seed"], r["status"]) for r in method["runs"]] == [
            ("equal_epochs", 0, "ok"), ("equal_epochs", 1, "ok"),
        ]  # fmt: skip
        for r in method["runs"]:
            assert (r["steps"], r["planned_steps"], r["epochs"], r["collapse"]) == (4, 4, 2.0, None)
            assert 0 < r["milliseconds_per_step"] <= 1000 * r["training_seconds"]
            assert r["history"]["step"] == [0, 1, 2, 3]
            assert r["measurements"]["gaussian"]["result"]["epsilons"] == [0.0, 0.1]
            assert {check["name"] for check in r["masking"]["checks"]} >= {"black_box", "large_budget"}
            assert {verdict["threat"] for verdict in r["verdicts"]} >= {"clean", "noise", "white_box"}
    assert set(results["methods"]["simreg"]["runs"][0]["history"]["layer_weights"]) == {"stem", "layer1.1"}
    assert len(evaluate.calls) == 6


def test_all_nets_are_measured_on_the_same_shuffled_images_with_one_surrogate(run, test_images):
    evaluate = Evaluation()
    run(seeds=[0], evaluate=evaluate)
    images, labels = evaluate.images[0]
    assert all(torch.equal(i, images) and torch.equal(y, labels) for i, y in evaluate.images)
    assert not torch.equal(images, test_images.images)  # folders come sorted by class
    assert sorted(labels.tolist()) == sorted(test_images.labels.tolist())
    assert len({call["surrogate"].fingerprint for call in evaluate.calls}) == 1
    assert evaluate.calls[0]["surrogate"].info["seed"] == SURROGATE_SEED
    layers = {call["model_name"].split("-")[0]: list(call["layers"]) for call in evaluate.calls}
    assert layers == {"none": [], "simreg": ["stem", "layer1.1"], "gaussian": []}


def test_nets_are_model_files_of_their_own_with_equal_first_weights(run, tmp_path):
    run(seeds=[0])
    saved = load_model(tmp_path / "run" / "nets" / "simreg-equal-epochs-seed0.safetensors")
    assert (saved.mean, saved.std, saved.classes) == ((0.5,), (0.2,), ("a", "b", "c"))
    assert saved.builder == "simreg.nets:ResNet18"
    assert saved.info["record"]["steps"] == 4
    surrogate = load_model(tmp_path / "run" / "nets" / "surrogate.safetensors")
    assert surrogate.arguments["seed"] == surrogate.info["seed"] == SURROGATE_SEED
    assert saved.arguments == {"num_classes": 3, "channels": 1, "width": 8, "stem_stride": 2, "seed": 0}
    assert not list((tmp_path / "run" / "nets").glob("*.checkpoint"))


class Killed(Exception):
    pass


@pytest.mark.parametrize("place", ["surrogate", "training", "measuring"])
def test_a_killed_run_ends_as_one_that_was_not_killed(run, monkeypatch, place):
    options = {"methods": "none,simreg", "checkpoint_seconds": 0.0}
    wanted = numbers(run("whole", **options))
    if place == "measuring":
        evaluate = Evaluation(stop=3)
        with pytest.raises(KeyboardInterrupt):
            run("parts", evaluate=evaluate, **options)
        assert len(evaluate.calls) == 3
    else:
        advance, steps = training._State.advance, []

        def dies(self, batch):
            if self.path is not None:  # not while timing
                steps.append(self.step)
                if len(steps) == {"surrogate": 3, "training": 4 + 8 + 3}[place]:
                    raise Killed
            advance(self, batch)

        monkeypatch.setattr(training._State, "advance", dies)
        with pytest.raises(Killed):
            run("parts", **options)
        monkeypatch.setattr(training._State, "advance", advance)
    again = Evaluation()
    results = run("parts", evaluate=again, **options)
    assert numbers(results) == wanted
    assert len(again.calls) == {"surrogate": 4, "training": 2, "measuring": 1}[place]


def test_a_finished_run_is_read_back_without_training_or_measuring(run, monkeypatch):
    first = run(seeds=[0])
    monkeypatch.setattr(training._State, "advance", lambda self, batch: pytest.fail("trained again"))
    evaluate = Evaluation()
    second = run(seeds=[0], evaluate=evaluate)
    assert not evaluate.calls
    assert second["methods"] == first["methods"]


def test_what_could_not_be_measured_is_tried_again(run):
    first = run(methods="none", seeds=[0], evaluate=Evaluation(complete=False))
    assert "boundary" in first["methods"]["none"]["runs"][0]["measurements"]
    assert "boundary" not in comparison_text(first)
    evaluate = Evaluation()
    second = run(methods="none", seeds=[0], evaluate=evaluate)
    assert len(evaluate.calls) == 1
    assert "boundary" not in second["methods"]["none"]["runs"][0]["measurements"]


def test_measurements_of_another_net_are_not_taken(run, tmp_path):
    run(methods="none", seeds=[0])
    path = tmp_path / "run" / "measured" / "none-equal-epochs-seed0.json"
    kept = read_results(path)
    write_results(path, {**kept, "fingerprints": ["of another net", kept["fingerprints"][1]]})
    evaluate = Evaluation()
    run(methods="none", seeds=[0], evaluate=evaluate)
    assert len(evaluate.calls) == 1
    assert read_results(path)["fingerprints"] == kept["fingerprints"]


def test_methods_and_seeds_can_be_added_later(run):
    run(methods="none", seeds=[0])
    evaluate = Evaluation()
    results = run(methods="none,gaussian:sigma=0.05", seeds=[1], evaluate=evaluate)
    assert [r["seed"] for r in results["methods"]["none"]["runs"]] == [0, 1]
    assert [r["seed"] for r in results["methods"]["gaussian:sigma=0.05"]["runs"]] == [1]
    assert len(evaluate.calls) == 2
    whole = run("whole", methods="none", seeds=[0, 1])
    assert numbers(whole) == {k: v for k, v in numbers(results).items() if k[0] == "none"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epochs": 3}, r"epochs \(was 2, now 3\)"),
        ({"width": 16}, r"network.width \(was 8, now 16\)"),
        ({"recipe": Recipe(batch_size=8, flip=False, padding=2)}, r"recipe.batch_size \(was 16, now 8\)"),
        ({"train": as_split(random_split(n=40, seed=5))}, "data.fingerprint"),
        ({"test": as_split(random_split(n=30, seed=5))}, "data.test.fingerprint"),
        ({"suite": "full"}, "suite"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(run, change, words):
    run(methods="none", seeds=[0])
    with pytest.raises(ValueError, match=rf"holds a run with other settings: .*{words}"):
        run(methods="none", seeds=[0], **change)


def test_a_net_trained_with_other_settings_is_refused(run, tmp_path):
    run(methods="gaussian:sigma=0.1", seeds=[0])
    nets = tmp_path / "run" / "nets"
    name = "{}-equal-epochs-seed0.safetensors".format
    shutil.copy(nets / name("gaussian_sigma=0.1"), nets / name("none"))
    with pytest.raises(
        ValueError, match=r"of a training with other settings: method \(was 'gaussian:sigma=0.1', now 'none'\)"
    ):
        run(methods="none", seeds=[0])


def test_a_method_that_cannot_run_is_a_row_with_its_reason(run, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torchvision.transforms", None)
    results = run(methods="none,simreg-neural,augmix", seeds=[0])
    runs = {name: method["runs"] for name, method in results["methods"].items()}
    assert [len(r) for r in runs.values()] == [1, 1, 1]
    assert runs["simreg-neural"][0]["status"] == "not run"
    assert "no neural responses were given" in runs["simreg-neural"][0]["reason"]
    assert "AugMix needs torchvision" in runs["augmix"][0]["reason"]
    text = comparison_text(results)
    assert "not run: simreg-neural: no neural responses" in text
    assert "not run: augmix: AugMix needs torchvision" in text


def test_a_diverged_training_is_a_row_and_the_others_go_on(run):
    results = run(methods="jacobian:strength=1e30,none", seeds=[0])
    assert results["methods"]["jacobian:strength=1e30"]["runs"][0]["status"] == "not run"
    assert "training diverged: the loss is" in results["methods"]["jacobian:strength=1e30"]["runs"][0]["reason"]
    assert results["methods"]["none"]["runs"][0]["status"] == "ok"


def test_a_wrong_setting_is_told_before_anything_is_trained(run, tmp_path):
    with pytest.raises(ValueError, match="sigma must be a finite number > 0"):
        run(methods="none,gaussian:sigma=-1.0", seeds=[0])
    assert not list((tmp_path / "run").rglob("*.safetensors"))


@pytest.mark.parametrize("seeds", [[], [-1], [SURROGATE_SEED]])
def test_seeds_out_of_range_are_refused(run, seeds):
    with pytest.raises(ValueError, match="seeds must be numbers from 0 to 9999"):
        run(seeds=seeds)


def test_equal_time_gives_each_method_the_steps_that_fit(run, monkeypatch, tmp_path):
    """With a clock of one second a plain step and three an adversarial one."""
    from simreg.comparison.clock import Clock

    now, advance = [0.0], training._State.advance
    monkeypatch.setattr(Clock, "_now", lambda self: now[0])

    def slow(self, batch):
        loss = self.trainer.loss

        def timed(batch):
            now[0] += 3.0 if self.trainer.stages else 1.0
            return loss(batch)

        self.trainer.loss = timed
        advance(self, batch)
        self.trainer.loss = loss

    monkeypatch.setattr(training._State, "advance", slow)
    results = run(methods="none,pgd-at:steps=1", seeds=[0, 1], epochs=1, budget_seconds=10)
    steps = {
        (name, r["budget"]): (r["steps"], r["training_seconds"])
        for name, method in results["methods"].items()
        for r in method["runs"]
    }
    assert steps == {
        ("none", "equal_epochs"): (2, 2.0),
        ("none", "equal_time"): (10, 10.0),
        ("pgd-at:steps=1", "equal_epochs"): (2, 6.0),
        ("pgd-at:steps=1", "equal_time"): (3, 9.0),
    }
    rates = results["methods"]["pgd-at:steps=1"]["runs"][-1]["history"]["learning_rate"]
    assert rates[0] < rates[1] > rates[-1]  # the whole schedule in three steps
    again = run(methods="none,pgd-at:steps=1", seeds=[0, 1], epochs=1, budget_seconds=10)
    assert again["methods"] == results["methods"]
    with pytest.raises(ValueError, match="holds nets of 10 s of training, not 30 s"):
        run(methods="none", seeds=[0], epochs=1, budget_seconds=30)
    only = run("only", methods="none", seeds=[0], epochs=0, budget_seconds=6)
    assert [(r["budget"], r["steps"]) for r in only["methods"]["none"]["runs"]] == [("equal_time", 6)]


@pytest.mark.parametrize("change", [{"epochs": 0}, {"epochs": -1}, {"budget_seconds": 0.0}])
def test_plans_without_training_are_refused(change):
    with pytest.raises(ValueError, match=r"epochs|budget_seconds"):
        Plan(**change)


def test_tables_show_means_and_intervals_over_seeds(run):
    results = run(methods="none", seeds=[0, 1])
    lines = comparison_text(results).splitlines()
    assert lines[0] == "equal epochs: 2"
    assert lines[1].split()[:2] == ["method", "seeds"]
    assert "gaussian 0.1" in lines[1]
    assert "ms/step" in lines[1]
    assert lines[2].startswith("none")
    assert "+-" in lines[2]
    accuracies = [r["measurements"]["clean"]["result"]["accuracies"][0] for r in results["methods"]["none"]["runs"]]
    assert f"{50 * sum(accuracies):.1f} +-" in lines[2]
    assert any("Student's t" in line for line in lines)
    single = comparison_text(run("single", methods="none", seeds=[0]))
    assert "+-" not in single
    assert "One seed" in single


def test_progress_tells_the_time_left_of_everything(run, capsys):
    run(methods="none", seeds=[0], progress=True)
    said = capsys.readouterr().err
    assert "2 nets to train, about" in said
    assert "and 1 to measure" in said
    assert "trained surrogate (1 of 2); in all about" in said
    assert "measured none-equal-epochs-seed0" in said
