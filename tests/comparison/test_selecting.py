import copy
import math

import pytest

import simreg.comparison.training as training
from simreg.comparison import Grid, Recipe, SelectionPlan, select, selection_text, weigh
from simreg.robustness import Sweep, read_results, write_results

from .conftest import as_split, random_split

pytest.importorskip("safetensors")


@pytest.fixture
def run(training_images, tmp_path):
    def go(folder="run", grid=None, seeds=(0, 1), **changes):
        options = {"recipe": Recipe(batch_size=16, flip=False, padding=2), "epochs": 2, "width": 8, "validation": 10}
        options |= changes
        return select(
            options.pop("train", training_images),
            grid or Grid(alpha=(1.0, 30.0)),
            seeds,
            out=tmp_path / folder,
            progress=options.pop("progress", False),
            checkpoint_seconds=options.pop("checkpoint_seconds", 60.0),
            plan=SelectionPlan(**options),
        )

    return go


def numbers(results):
    timeless = copy.deepcopy(results)
    for runs in [timeless["reference"]["runs"], *(point["runs"] for point in timeless["points"])]:
        for r in runs:
            r.pop("training_seconds")
            r.pop("milliseconds_per_step")
    return str((timeless["reference"], timeless["points"], timeless["choice"]))


def test_results_weigh_every_point_against_the_reference(run, tmp_path):
    results = run()
    assert str(results) == str(read_results(tmp_path / "run" / "results.json"))
    assert results["kind"] == "selection"
    assert results["grid"] == {"alpha": [1.0, 30.0], "threshold": [None], "pairs": [None], "pool_size": [None]}
    assert results["split"] == {"train": 30, "validation": 10}
    assert results["distortion"] == {"name": "gaussian", "epsilon": 0.1}
    assert [point["settings"]["alpha"] for point in results["points"]] == [1.0, 30.0]
    reference = results["reference"]
    for point in results["points"]:
        assert [r["seed"] for r in point["runs"]] == [0, 1]
        for r in point["runs"]:
            assert r["n"] == 10
            assert len(r["sweep"]["epsilons"]) == 11
            assert (r["clean"], r["robust"]) == (r["sweep"]["accuracies"][0], r["sweep"]["accuracies"][-1])
            assert set(r["history"]["layer_weights"]) == {"stem", "layer1.1"}
        assert point["clean"] == pytest.approx(sum(r["clean"] for r in point["runs"]) / 2)
        assert point["clean_ratio"] == pytest.approx(point["clean"] / reference["clean"])
        low, high = point["clean_ratio_interval"]
        assert low <= point["clean_ratio"] * 1.3
        assert high >= point["clean_ratio"] / 1.3
    assert any(point["pareto"] for point in results["points"])


def test_a_killed_selection_ends_as_one_that_was_not_killed(run, monkeypatch):
    options = {"grid": Grid(alpha=(3.0,)), "seeds": [0, 1], "checkpoint_seconds": 0.0}
    wanted = numbers(run("whole", **options))
    advance = training._State.advance
    for death in (3, 6):
        steps = []

        def dies(self, batch, steps=steps, death=death):
            if self.path is not None:
                steps.append(self.step)
                if len(steps) == death:
                    raise KeyboardInterrupt
            advance(self, batch)

        monkeypatch.setattr(training._State, "advance", dies)
        with pytest.raises(KeyboardInterrupt):
            run("parts", **options)
    monkeypatch.setattr(training._State, "advance", advance)
    assert numbers(run("parts", **options)) == wanted


def test_grid_and_seeds_can_grow_without_training_again(run, monkeypatch):
    small = run(grid=Grid(alpha=(1.0,)), seeds=[0])
    trained = []
    monkeypatch.setattr(training, "train", None)
    advance = training._State.advance
    monkeypatch.setattr(
        training._State, "advance", lambda self, batch: (trained.append(self.path), advance(self, batch))[1]
    )
    large = run(grid=Grid(alpha=(1.0, 3.0)), seeds=[0])
    assert {path.name for path in trained if path is not None} == {"simreg_alpha=3.0-seed0.checkpoint"}
    assert large["points"][0]["clean"] == small["points"][0]["clean"]


@pytest.mark.parametrize(
    ("change", "words"),
    [({"epochs": 3}, "epochs"), ({"validation": 12}, "split"), ({"epsilon": 0.2}, "distortion.epsilon")],
)
def test_other_settings_in_the_same_folder_are_refused(run, change, words):
    run(grid=Grid(alpha=(1.0,)), seeds=[0])
    with pytest.raises(ValueError, match=rf"holds a run with other settings: .*{words}"):
        run(grid=Grid(alpha=(1.0,)), seeds=[0], **change)


def test_validation_images_are_not_trained_on(run, training_images, monkeypatch):
    """Every image of a training set is its own: none of those measured is in a training batch."""

    import simreg.comparison.selecting as module

    measured, trained = [], []
    advance = training._State.advance

    def spy(classifier, images, labels, name, epsilons):
        measured.append(images)
        assert (name, epsilons) == ("gaussian", pytest.approx([i / 100 for i in range(11)]))
        return Sweep(name, tuple(epsilons), tuple(0.9 - 0.05 * i for i in range(11)), len(images))

    monkeypatch.setattr(module, "noise_sweep", spy)
    monkeypatch.setattr(
        training._State, "advance", lambda self, batch: (trained.append(self.site.data.images), advance(self, batch))[1]
    )
    results = run(grid=Grid(alpha=(1.0,)), seeds=[0, 1])
    (point,) = results["points"]
    assert (point["clean"], point["robust"]) == (pytest.approx(0.9), pytest.approx(0.4))
    keys = {bytes(image.flatten().tolist()) for images in measured for image in images}
    used = {bytes(image.flatten().tolist()) for images in trained for image in images}
    assert len(keys) == 10
    assert len(used) == 30
    assert not keys & used
    assert keys | used == {bytes(image.flatten().tolist()) for image in training_images.images}


def test_a_diverged_point_is_left_out_of_the_choice(run, monkeypatch):
    from simreg.comparison import TrainingDiverged
    from simreg.comparison.objectives import SimilarityObjective

    loss = SimilarityObjective.loss

    def explode(self, images, batch):
        if self.regularizer.alpha == 30.0:
            raise TrainingDiverged("training diverged: the loss is nan at step 0")
        return loss(self, images, batch)

    with monkeypatch.context() as patch:
        patch.setattr(training, "_MOST_TIMED", 0)
        patch.setattr(training, "time_training", lambda site, trainer: None)
        patch.setattr(SimilarityObjective, "loss", explode)
        patch.setattr("simreg.comparison.nets.time_training", lambda site, trainer: training.Timing(0.01))
        results = run(seeds=[0])
    point = results["points"][1]
    assert (point["status"], point["clean"], point["robust_ratio"]) == ("not run", None, None)
    assert not point["acceptable"]
    assert not point["pareto"]
    assert results["points"][0]["pareto"]
    assert "not run: alpha 30: training diverged" in selection_text(results)
    assert str(weigh(results, 0.5)["points"][1]["runs"]) == str(point["runs"])


def made_up(accuracies, reference=(0.7, 0.35), seeds=2):
    """Results of a selection with these (clean, robust) accuracies, the same for every seed but for a little."""

    def runs(clean, robust):
        return [
            {"seed": s, "status": "ok", "clean": clean + 0.002 * s, "robust": robust + 0.002 * s, "n": 1000}
            for s in range(seeds)
        ]

    points = [
        {"settings": {"alpha": float(i), "threshold": None, "pairs": None, "pool_size": None}, "runs": runs(*pair)}
        for i, pair in enumerate(accuracies)
    ]
    return {
        "kind": "selection",
        "points": points,
        "reference": {"runs": runs(*reference)},
        "split": {"validation": 1000},
        "distortion": {"name": "gaussian", "epsilon": 0.1},
    }


def test_choosing_again_with_another_bound_changes_the_choice_alone(tmp_path):
    results = made_up([(0.69, 0.36), (0.66, 0.42), (0.60, 0.45), (0.65, 0.41)])
    strict, loose = weigh(results, 0.97), weigh(results, 0.85)
    middle = weigh(results, 0.9)
    assert [w["choice"]["settings"]["alpha"] for w in (strict, middle, loose)] == [0.0, 1.0, 2.0]
    assert [p["acceptable"] for p in middle["points"]] == [True, True, False, True]
    assert [p["pareto"] for p in middle["points"]] == [True, True, True, False]
    path = write_results(tmp_path / "results.json", middle)
    assert weigh(read_results(path), 0.85)["choice"] == loose["choice"]
    none = weigh(made_up([(0.5, 0.5)]), 0.9)["choice"]
    assert none["settings"] is None
    assert "no point has R0/U0 >= 0.9 and RD/UD > 1; nearest is alpha 0 (R0/U0 = 0.71" in none["reason"]


@pytest.mark.parametrize(
    ("accuracies", "reference", "found"),
    [
        ([(0.69, 0.36), (0.66, 0.42)], (0.7, 0.35), []),
        ([(0.14, 0.15), (0.14, 0.1)], (0.14, 0.1), ["near chance (14.1 % clean, 10 classes)"]),
        ([(0.6, 0.5), (0.5, 0.4)], (0.5, 0.3), ["R0/U0 is above 1.1 for 1 of 2 points"]),
        ([(0.6, 0.5), (0.5, 0.4), (0.49, 0.4)], (0.5, 0.3), []),
        ([(0.6, 0.5), (0.14, 0.4)], (0.14, 0.1), ["near chance", "for 1 of 2 points"]),
    ],
)
def test_nets_that_were_trained_too_little_are_pointed_out(accuracies, reference, found):
    results = made_up(accuracies, reference) | {"data": {"classes": list("0123456789")}}
    notes = weigh(results, 0.9)["notes"]
    assert len(notes) == len(found)
    assert all(words in note for note, words in zip(notes, found, strict=True))
    assert all("Train longer" in note for note in notes)


def test_weighing_needs_results_of_a_selection():
    with pytest.raises(ValueError, match="results of kind 'comparison', wanted those of a selection"):
        weigh({"kind": "comparison"}, 0.9)


def test_table_marks_front_and_choice():
    text = selection_text(weigh(made_up([(0.69, 0.36), (0.66, 0.42)]), 0.9))
    lines = text.splitlines()
    assert lines[0].split() == ["point", "clean", "gaussian", "0.1", "R0/U0", "RD/UD", "acceptable", "front", "chosen"]
    assert lines[1].split()[:3] == ["unregularized", "70.1", "35.1"]
    assert lines[3].rstrip().endswith("<-")
    assert "1.20 [" in lines[3]
    assert lines[-1].startswith("choice: largest RD/UD of the 2 of 2 points")


@pytest.mark.parametrize(
    ("options", "count", "name"),
    [
        ({}, 4, "simreg:alpha=1.0"),
        ({"target": "threshold"}, 12, "simreg-threshold:alpha=1.0:threshold=0.6"),
        ({"target": "threshold", "threshold": (0.5,)}, 4, "simreg-threshold:alpha=1.0:threshold=0.5"),
        (
            {"target": "threshold", "mode": "separate", "alpha": (10.0,), "threshold": (0.8,), "pairs": (4, 16)},
            2,
            "simreg-paper:alpha=10.0:threshold=0.8:pairs=4:pool_size=5000:target=threshold",
        ),
        ({"mode": "joint", "pool_size": (100, 1000)}, 8, "simreg-joint:alpha=1.0:pairs=16:pool_size=100:target=pixel"),
    ],
)
def test_grid_makes_every_combination(options, count, name):
    grid = Grid(**options)
    points = grid.points()
    assert len(points) == count
    method = grid.method(points[0])
    assert method.name == name
    assert all(method.settings[key] == value for key, value in points[0].items() if value is not None)
    assert len({grid.method(point).name for point in points}) == count


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"alpha": ()}, "alpha: the grid needs"),
        ({"alpha": (0.0,)}, "alpha must be"),
        ({"alpha": (1.0, 1.0)}, "alpha names a value twice"),
        ({"threshold": (0.5,)}, "threshold has no effect"),
        ({"target": "threshold", "threshold": (1.5,)}, r"threshold must be in \(0, 1\)"),
        ({"pairs": (4,)}, "pairs and pool_size have no effect"),
        ({"target": "label"}, "target='label'"),
    ],
)
def test_grids_that_make_no_sense_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Grid(**options)


@pytest.mark.parametrize("validation", [1, 39])
def test_validation_must_leave_images_on_either_side(run, validation):
    with pytest.raises(ValueError, match="validation must leave at least 2 of the 40 training images"):
        run(validation=validation)


def test_the_command_never_reads_test_images(monkeypatch, tmp_path):
    import argparse

    from simreg.cli import _training
    from simreg.cli import select as command

    seen = []

    def load(name, split, **options):
        seen.append((name, split))
        return as_split(random_split(n=40), name)

    monkeypatch.setattr(_training, "load_split", load)
    arguments = ["--data", "digits", "--alpha", "10", "--epochs", "1", "--width", "8", "--validation-images", "10"]
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    args = parser.parse_args(["select", *arguments, "--out", str(tmp_path / "run"), "--quiet", "--device", "cpu"])
    assert args.run(args) == 0
    assert seen == [("digits", "train")]
    assert (tmp_path / "run" / "results.json").exists()


def test_ratio_bounds_survive_json(run):
    results = run(grid=Grid(alpha=(1.0,)), seeds=[0])
    low, high = results["points"][0]["clean_ratio_interval"]
    assert math.isfinite(low)
    assert low < high


def test_seeds_are_checked(run):
    with pytest.raises(ValueError, match="seeds must be numbers from 0"):
        run(seeds=[-1])


def test_progress_counts_nets_and_measurements(run, capsys):
    run(grid=Grid(alpha=(1.0,)), seeds=[0], progress=True, train=as_split(random_split(n=40)))
    said = capsys.readouterr().err
    assert "2 nets to train" in said
    assert "measured simreg:alpha=1.0-seed0" in said
