"""Suites in parts: killed and resumed, out of memory, impossible measurements, and the same numbers in any batches."""

import json
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

from simreg.evaluation import Measurement, Strengths, Subject, Suite, build_suite, run_suite, runner, strengths_of
from simreg.evaluation.runner import _Batch
from simreg.robustness import (
    Classifier,
    ExpectedClassifier,
    Surrogate,
    Sweep,
    layer_features,
    noise_sweep,
    pgd_accuracy,
)


class Killed(BaseException):
    """What a signal does: nothing catches it."""


@pytest.fixture
def subject():
    g = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=g))
    images = torch.rand(23, 3, 4, 4, generator=g)
    classifier = Classifier(model, mean=0.5, std=0.25)
    return Subject(classifier, images, classifier.predict(images))


def counted(key, calls, *, images=100, chunk=5, fail_at=None, obstacle=None, work=None):
    """A measurement that notes which images it was asked for."""

    def run(subject, part, batch):
        if fail_at is not None and part.start == fail_at and not calls.count(("failed", part.start)):
            calls.append(("failed", part.start))
            raise Killed
        calls.append((key, part.start, part.stop))
        if work is not None:
            return work(subject, part, batch)
        return Sweep(
            key,
            (0.0, 0.1),
            (1.0, (part.start % 2) / 1.0),
            part.stop - part.start,
            subject.seed,
            {"max_perturbation": [0.0, 0.1]},
        )

    return Measurement(key, "sweep", "noise", images, 1, {"chunk": chunk}, run, obstacle or (lambda _: None), chunk)


def run(subject, suite, out, **options):
    return run_suite(subject, suite, out=out, progress=False, **options)


def test_parts_cover_each_image_once_and_join(subject, tmp_path):
    calls = []
    found = run(subject, Suite("own", (counted("a", calls),)), tmp_path)
    assert calls == [("a", i, min(i + 5, 23)) for i in range(0, 23, 5)]
    assert found["a"]["result"]["n"] == 23
    assert found["a"]["result"]["accuracies"] == pytest.approx([1.0, 10 / 23])  # parts that start at 5 and 15


def test_killed_run_repeats_nothing_and_ends_alike(subject, tmp_path):
    calls, plain = [], []
    suite = Suite("own", (counted("a", calls), counted("b", calls, fail_at=10)))
    with pytest.raises(Killed):
        run(subject, suite, tmp_path / "killed")
    found = run(subject, suite, tmp_path / "killed")
    done = [call for call in calls if call[0] != "failed"]
    assert len(done) == len(set(done)) == 10
    whole = run(subject, Suite("own", (counted("a", plain), counted("b", plain))), tmp_path / "whole")
    for entry in (*found.values(), *whole.values()):
        entry.pop("seconds")
    assert found == whole


def test_finished_run_measures_nothing_again(subject, tmp_path):
    calls = []
    suite = Suite("own", (counted("a", calls),))
    first = run(subject, suite, tmp_path)
    calls.clear()
    assert run(subject, suite, tmp_path) == first
    assert calls == []


@pytest.mark.parametrize("change", ["weights", "images", "labels", "seed", "mean", "surrogate"])
def test_parts_count_only_for_what_they_were_measured_on(subject, tmp_path, change):
    calls = []
    suite = Suite("own", (counted("a", calls),))
    run(subject, suite, tmp_path)
    calls.clear()
    other: dict = {"seed": 1}
    if change == "weights":
        with torch.no_grad():
            subject.classifier.model[1].bias += 1e-3
        other = {}
    elif change == "images":
        other = {"images": subject.images.clone()}
        other["images"][7, 0, 0, 0] = 0.5
    elif change == "labels":
        other = {"labels": subject.labels.roll(1)}
    elif change == "mean":
        other = {"classifier": Classifier(subject.classifier.model, mean=0.4, std=0.25)}
    elif change == "surrogate":
        other = {"surrogate": Surrogate(nn.Linear(2, 2), name="other")}
    run(replace(subject, **other), suite, tmp_path)
    assert len(calls) == 5


def test_parts_of_a_random_model_count_only_for_their_batch_size(subject, tmp_path):
    calls = []
    suite = Suite("own", (counted("a", calls),))
    random = replace(subject, classifier=ExpectedClassifier(subject.classifier, samples=2))
    for one, batch_size, measured in ((random, 8, 5), (random, 8, 0), (random, 4, 5), (subject, 8, 5), (subject, 4, 0)):
        calls.clear()
        run(one, suite, tmp_path, batch_size=batch_size)
        assert len(calls) == measured


def test_results_name_every_machine_that_measured(subject, tmp_path, monkeypatch):
    calls = []
    suite = Suite("own", (counted("a", calls, fail_at=10),))
    monkeypatch.setattr(runner, "hardware", lambda _: "first machine")
    with pytest.raises(Killed):
        run(subject, suite, tmp_path)
    monkeypatch.setattr(runner, "hardware", lambda _: "second machine")
    assert run(subject, suite, tmp_path)["a"]["machines"] == ["first machine", "second machine"]


def test_other_budget_is_measured_again(subject, tmp_path):
    calls = []
    run(subject, Suite("own", (counted("a", calls),)), tmp_path)
    run(subject, Suite("own", (counted("a", calls, chunk=6),)), tmp_path)
    assert len(calls) == 5 + 4


def test_damaged_part_is_measured_again(subject, tmp_path):
    calls = []
    suite = Suite("own", (counted("a", calls),))
    first = run(subject, suite, tmp_path)
    (part,) = tmp_path.glob("parts/a-*/000005-000010.json")
    part.write_text(part.read_text()[:-30])
    calls.clear()
    again = run(subject, suite, tmp_path)
    assert calls == [("a", 5, 10)]
    assert again["a"]["result"] == first["a"]["result"]


def test_impossible_measurements_are_named_and_the_rest_goes_on(subject, tmp_path):
    def missing(*_):
        raise ImportError("needs a package: pip install it")

    suite = Suite(
        "own", (counted("a", [], obstacle=lambda _: "no folder"), counted("b", [], work=missing), counted("c", []))
    )
    found = run(subject, suite, tmp_path)
    assert found["a"] == {"status": "not run", "reason": "no folder", "threat": "noise", "type": "sweep"}
    assert found["b"]["reason"] == "needs a package: pip install it"
    assert found["c"]["status"] == "ok"


def test_model_that_gets_nothing_right_is_not_attacked(subject, tmp_path):
    suite = build_suite("quick", strengths_of("cifar10")).only(["clean", "gaussian", "pgd_linf", "corruptions"])
    found = run(replace(subject, labels=(subject.labels + 1) % 3), suite, tmp_path)
    assert found["clean"]["result"]["accuracies"] == [0.0]
    assert "none of 23 clean images" in found["gaussian"]["reason"]
    assert found["pgd_linf"]["status"] == found["corruptions"]["status"] == "not run"


def test_a_failing_attack_is_a_named_row(subject, tmp_path):
    def bug(subject, part, batch):
        if part.start < 10:
            return Sweep("a", (0.0,), (1.0,), part.stop - part.start)
        raise RuntimeError("a perturbation left its budget")

    found = run(subject, Suite("own", (counted("a", [], work=bug), counted("b", []))), tmp_path)
    assert found["a"]["reason"] == "after 2 of 5 parts: RuntimeError: a perturbation left its budget"
    assert found["b"]["status"] == "ok"


@pytest.mark.parametrize("change", ["layers", "forward", "gradient", "arrays"])
def test_parts_know_more_than_weights(subject, tmp_path, change):
    classifier, images, labels = subject.classifier, subject.images, subject.labels

    class Net(nn.Module):
        def __init__(self, scale=1.0, masked=False):
            super().__init__()
            self.net, self.scale, self.masked = classifier.model, scale, masked

        def forward(self, x):
            return self.scale * self.net(x.round() if self.masked else x) if self.scale else self.net(x)

    binary = images.round()  # rounding leaves these as they are, and their gradient not
    (tmp_path / "arrays").mkdir()
    (tmp_path / "arrays" / "fog.npy").write_bytes(b"1")
    calls = []
    suite = Suite("own", (counted("a", calls),))

    def measure(net, layers=None):
        features = None if layers is None else layer_features(classifier, layers)
        one = Subject(Classifier(net), binary, labels, features=features, corruptions=str(tmp_path / "arrays"))
        run(one, suite, tmp_path / "out")

    measure(Net())
    calls.clear()
    measure(Net())
    assert calls == []
    if change == "arrays":
        (tmp_path / "arrays" / "fog.npy").write_bytes(b"12")
    measure(
        Net(scale=2.0 if change == "forward" else 1.0, masked=change == "gradient"),
        ["1"] if change == "layers" else None,
    )
    assert len(calls) == 5


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_lack_of_memory_halves_the_batch_for_good(error):
    batch, sizes = _Batch(64), []

    def work(size):
        sizes.append(size)
        if size > 16:
            raise error
        return size

    with pytest.warns(UserWarning, match="batches of 16"):
        assert batch.run(work, "attack") == 16
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert batch.run(work, "attack") == 16
    assert sizes == [64, 32, 16, 16]


def test_one_image_that_does_not_fit_is_an_error():
    def work(size):
        raise MemoryError

    with pytest.raises(MemoryError), pytest.warns(UserWarning, match="batches of 1"):
        _Batch(2).run(work, "attack")


@pytest.mark.parametrize("batch_size", [1, 7, 128])
def test_suite_gives_what_one_call_gives(subject, tmp_path, batch_size):
    classifier, images, labels = subject.classifier, subject.images, subject.labels
    s = Strengths({"gaussian": 0.1, "uniform": 0.1, "salt_and_pepper": 0.1}, 0.02, (0.01, 0.02), (0.1,))
    suite = build_suite("quick", s).only(["gaussian", "pgd_linf"])
    small = Suite("own", tuple(Measurement(**{**vars(m), "chunk": 4}) for m in suite.measurements))
    found = run(subject, small, tmp_path, batch_size=batch_size)
    noise = noise_sweep(classifier, images, labels, "gaussian", found["gaussian"]["result"]["epsilons"])
    assert found["gaussian"]["result"]["accuracies"] == pytest.approx(noise.accuracies)
    pgd = pgd_accuracy(classifier, images, labels, found["pgd_linf"]["result"]["epsilons"], steps=10)
    assert found["pgd_linf"]["result"]["accuracies"] == pytest.approx(pgd.accuracies)
    assert max(found["pgd_linf"]["result"]["settings"]["max_perturbation"]) <= 0.02 + 1e-6


@pytest.mark.parametrize("name", ["quick", "standard", "full"])
@pytest.mark.parametrize("dataset", ["cifar10", "digits"])
def test_suites_are_plain_data_with_distinct_keys(name, dataset):
    suite = build_suite(name, strengths_of(dataset))
    keys = [m.key for m in suite.measurements]
    assert len(keys) == len(set(keys))
    assert keys[0] == "clean"
    json.dumps([m.settings for m in suite.measurements])
    assert all(m.passes > 0 and m.images > 0 and m.chunk > 0 for m in suite.measurements)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="Did you mean 'quick'"):
        build_suite("quik", strengths_of("cifar10"))
    with pytest.raises(ValueError, match="gaussian"):
        build_suite("quick", strengths_of("cifar10")).only(["gausian"])
