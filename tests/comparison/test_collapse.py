import pytest
import torch

from simreg.comparison import CollapseWatch, parse_method, train
from simreg.comparison.clock import Clock
from simreg.robustness import Classifier, pgd_accuracy


@pytest.fixture
def watch(data):
    return CollapseWatch(data, 8 / 255, seed=0, total=200)


def judge_all(watch, model, accuracies):
    """What the watch says of each accuracy; the model's first bias is the number of the check."""
    said = []
    for i, accuracy in enumerate(accuracies):
        with torch.no_grad():
            model.fc.bias[0] = i
        said.append(watch.judge(model, 10 * (i + 1), accuracy))
    return said


def test_a_sudden_fall_puts_back_the_weights_before_it(watch, make_net):
    model = make_net()
    said = judge_all(watch, model, [0.1, 0.3, 0.35, 0.33, 0.02])
    assert said[:4] == [None] * 4
    assert said[4] == {"step": 50, "kept_step": 40, "best": 0.35, "accuracy": 0.02, "epsilon": 8 / 255}
    assert model.fc.bias[0].item() == 3.0


@pytest.mark.parametrize(
    "accuracies",
    [
        [0.4, 0.35, 0.3, 0.25, 0.21],  # a slow decline, as of overfitting, still above half
        [0.15, 0.06],  # half of little: noise
        [0.0, 0.0, 0.0],  # never robust
    ],
)
def test_ups_and_downs_are_no_collapse(watch, make_net, accuracies):
    assert judge_all(watch, make_net(), accuracies) == [None] * len(accuracies)


@pytest.mark.parametrize(
    ("total", "steps"),
    [(2000, range(100, 2001, 100)), (312, [50, 100, 150, 200, 250, 300, 312]), (45, [45]), (100, [50, 100])],
)
def test_watch_looks_up_to_twenty_times_and_at_the_end(data, total, steps):
    watch = CollapseWatch(data, 0.1, seed=0, total=total)
    assert [s for s in range(1, total + 1) if watch.due(s)] == list(steps)
    assert watch.checks == len(steps)


def test_watch_measures_pgd_accuracy_without_touching_the_model(watch, make_net):
    model = make_net().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    measured = watch.measure(model)
    assert measured == watch.measure(model)
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    sweep = pgd_accuracy(Classifier(model, mean=0.5, std=0.2), watch.images, watch.labels, 8 / 255, steps=10)
    assert measured == pytest.approx(sweep.at(8 / 255), abs=0.15)


def test_a_collapse_ends_the_training_and_is_recorded(make_site, tmp_path, monkeypatch):
    pytest.importorskip("safetensors")
    monkeypatch.setattr("simreg.comparison.collapse.LEAST_STEPS", 1)
    script = iter([0.1, 0.5, 0.6, 0.0])
    monkeypatch.setattr(CollapseWatch, "measure", lambda self, model: next(script))
    kept = {}

    def on_step(done, seconds):
        if done == 3:
            kept.update({k: v.clone() for k, v in site.model.state_dict().items()})

    site = make_site(steps=12)
    record = train(site, parse_method("fgsm-rs").trainer(site), checkpoint=tmp_path / "c", on_step=on_step)
    assert record.steps == 4
    assert record.collapse["kept_step"] == 3
    assert record.history["watch"] == {"step": [1, 2, 3, 4], "accuracy": [0.1, 0.5, 0.6, 0.0]}
    assert all(torch.equal(kept[k], v) for k, v in site.model.state_dict().items())


def test_only_one_step_training_is_watched(make_site):
    watched = {
        name: parse_method(name).trainer(make_site()).watch is not None for name in ("fgsm-rs", "pgd-at", "none")
    }
    assert watched == {"fgsm-rs": True, "pgd-at": False, "none": False}


def test_the_time_of_the_watch_counts_as_training_but_not_as_steps(make_site, tmp_path, monkeypatch):
    pytest.importorskip("safetensors")
    now = [0.0]

    def slow(self, model):
        now[0] += 5.0
        return 0.5

    def tick(self):
        now[0] += 1.0
        return now[0]

    monkeypatch.setattr(Clock, "_now", tick)  # one second between any two looks at the clock
    monkeypatch.setattr(CollapseWatch, "measure", slow)
    monkeypatch.setattr("simreg.comparison.collapse.LEAST_STEPS", 1)
    site = make_site(steps=4)
    record = train(site, parse_method("fgsm-rs").trainer(site), checkpoint=tmp_path / "c")
    assert record.training_seconds == 4 * 1.0 + 4 * (5.0 + 1.0)
    assert record.milliseconds_per_step == 1000.0
