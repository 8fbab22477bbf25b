"""`evaluate_model`: preflight, one results file, and folders that hold something else."""

import pytest
import torch
from torch import nn

from simreg.evaluation import EvaluationData, LoadedModel, build_suite, evaluate_model, strengths_of, text_summary
from simreg.robustness import Classifier, read_results


def linear(classes=3, channels=3):
    model = nn.Sequential(nn.Flatten(), nn.Linear(channels * 16, classes))
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=g))
    return model


@pytest.fixture
def data():
    images = torch.rand(12, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return EvaluationData("toy", images, Classifier(linear()).predict(images), ("a", "b", "c"))


SUITE = build_suite("quick", strengths_of("cifar10")).only(["clean", "fgsm_linf", "pgd_linf"])


def evaluate(model, data, out, **options):
    return evaluate_model(model, data, suite=SUITE, out=out, progress=False, **options)


def test_results_file_has_all_it_needs(data, tmp_path):
    results = evaluate(LoadedModel(Classifier(linear()), "net", "my:net"), data, tmp_path)
    assert results == read_results(tmp_path / "results.json")
    assert results["kind"] == "evaluation"
    assert results["model"]["name"] == "net"
    assert len(results["model"]["fingerprint"]) == 64
    assert results["data"]["shape"] == [3, 4, 4]
    assert results["measurements"]["clean"]["result"]["accuracies"] == [1.0]
    assert results["verdicts"]
    assert results["masking"]["checks"]
    text = text_summary(results)
    assert "pgd_linf" in text
    assert "100.0" in text


def test_folder_of_another_evaluation_is_refused(data, tmp_path):
    evaluate(linear(), data, tmp_path)
    evaluate(linear(), data, tmp_path)
    other = linear()
    with torch.no_grad():
        other[1].bias += 1
    with pytest.raises(ValueError, match="another model"):
        evaluate(other, data, tmp_path)
    with pytest.raises(ValueError, match=r"another data: toy, 12 images .* instead of toy, 12 images"):
        evaluate(linear(), EvaluationData("toy", data.images.flip(3), data.labels), tmp_path)
    with pytest.raises(ValueError, match="another seed"):
        evaluate(linear(), data, tmp_path, seed=1)


def test_one_more_measurement_keeps_those_before(data, tmp_path):
    model = linear()
    first = evaluate(model, data, tmp_path)
    more = build_suite("quick", strengths_of("cifar10")).only(["gaussian"])
    second = evaluate_model(model, data, suite=more, out=tmp_path, progress=False)
    assert set(second["measurements"]) == {*first["measurements"], "gaussian"}
    assert second["measurements"]["pgd_linf"] == first["measurements"]["pgd_linf"]
    with pytest.raises(ValueError, match="another suite"):
        evaluate_model(model, data, suite="standard", out=tmp_path, progress=False)


def test_stopped_run_names_what_is_missing(data, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("simreg.evaluation.suites.pgd_accuracy", stop)
    with pytest.raises(KeyboardInterrupt):
        evaluate(linear(), data, tmp_path)
    entry = read_results(tmp_path / "results.json")["measurements"]["pgd_linf"]
    assert (entry["status"], entry["reason"][:16]) == ("not run", "not measured yet")


def test_model_near_chance_is_noted(data, tmp_path):
    results = evaluate(linear(), EvaluationData("toy", data.images, (data.labels + 1) % 3, data.classes), tmp_path)
    assert "near chance" in results["model"]["notes"][0]


class Tuple(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :3], x


class Softmax(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = linear()

    def forward(self, x):
        return self.net(x).softmax(1)


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = linear()

    def forward(self, x):
        return self.net(x + 0.01 * torch.randn_like(x))


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (Tuple(), TypeError, "tensor of logits"),
        (linear(classes=4), ValueError, "4 logits, but toy has 3 classes"),
        (linear(classes=2), ValueError, "2 classes"),
        (linear(channels=1), ValueError, "fails on images of 3x4x4"),
        (nn.Identity(), ValueError, "logits of shape"),
    ],
)
def test_models_that_do_not_fit(data, tmp_path, model, error, message):
    with pytest.raises(error, match=message):
        evaluate(model, data, tmp_path)
    assert not list(tmp_path.iterdir())


def test_normalised_images_are_refused(data, tmp_path):
    with pytest.raises(ValueError, match="before normalisation"):
        evaluate(linear(), EvaluationData("toy", 5 * (data.images - 0.5), data.labels), tmp_path)


def test_probabilities_are_attacked_through_their_logarithm(data, tmp_path):
    results = evaluate(Softmax(), data, tmp_path / "softmax")
    plain = evaluate(linear(), data, tmp_path / "logits")
    assert results["model"]["probabilities"] is True
    assert "logarithm" in results["model"]["notes"][0]
    for key in ("fgsm_linf", "pgd_linf"):
        assert (
            results["measurements"][key]["result"]["accuracies"] == plain["measurements"][key]["result"]["accuracies"]
        )


def test_random_models_are_measured_on_their_mean(data, tmp_path):
    model = Noisy()
    state = torch.random.get_rng_state()
    results = evaluate(model, data, tmp_path, samples=8)
    assert torch.equal(state, torch.random.get_rng_state())
    assert (results["model"]["random"], results["model"]["samples"]) == (True, 8)
    assert "expectation over transformation" in results["model"]["notes"][0]
    assert (
        evaluate(Noisy(), data, tmp_path / "again", samples=8)["measurements"]["pgd_linf"]["result"]
        == results["measurements"]["pgd_linf"]["result"]
    )


def test_other_classes_in_the_file_are_refused(data, tmp_path):
    loaded = LoadedModel(Classifier(linear()), "net", "net", ("a", "c", "b"), 3)
    with pytest.raises(ValueError, match="in this order"):
        evaluate(loaded, data, tmp_path)


def test_mean_answers_are_told_from_single_ones(data, tmp_path):
    steady = linear()

    def noisy(x):
        return steady(x) + 3 * torch.randn(len(x), 3)

    results = evaluate(noisy, data, tmp_path, samples=32)
    settings = results["measurements"]["clean"]["result"]["settings"]
    assert settings["samples"] == 32
    assert settings["single_pass_accuracy"] < results["measurements"]["clean"]["result"]["accuracies"][0]
    assert "a single answer is right on" in results["verdicts"][0]["verdict"]


def test_randomness_that_no_seed_reaches_fails_the_panel(data, tmp_path):
    steady, own = linear(), torch.Generator().manual_seed(0)
    results = evaluate(lambda x: steady(x) + torch.randn(len(x), 3, generator=own), data, tmp_path, samples=2)
    (check,) = (c for c in results["masking"]["checks"] if c["name"] == "deterministic")
    assert check["passed"] is False
    assert any("generator of its own" in note for note in results["model"]["notes"])


def test_answers_that_depend_on_the_batch_are_noted_and_measured_anew_with_another(data, tmp_path):
    steady = linear()

    def beside(x):
        return steady(x - x.mean(dim=0))

    first = evaluate(beside, data, tmp_path, batch_size=12)
    assert any("images beside it" in note for note in first["model"]["notes"])
    assert evaluate(beside, data, tmp_path, batch_size=4)["subject"] != first["subject"]
    plain = [evaluate(steady, data, tmp_path / "plain", batch_size=b) for b in (12, 4)]
    assert plain[0]["subject"] == plain[1]["subject"]
    assert plain[0]["model"]["notes"] == []


def test_a_constant_answer_to_a_frequent_class_is_near_chance(data, tmp_path):
    labels = torch.zeros(12, dtype=torch.int64)
    labels[0] = 1
    often = EvaluationData("toy", data.images, labels, ("a", "b", "c"))
    results = evaluate(lambda x: x.mean(dim=(2, 3)) * 0 + torch.tensor([1.0, 0.0, 0.0]), often, tmp_path)
    assert any("near chance" in note for note in results["model"]["notes"])


def test_a_file_in_the_way_is_named(data, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="is a file: pass a folder"):
        evaluate(linear(), data, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_what_was_left_out_is_named_until_it_is_measured(data, tmp_path):
    whole = build_suite("quick", strengths_of("cifar10"))
    first = evaluate(linear(), data, tmp_path)
    assert set(first["left_out"]) == {m.key for m in whole.measurements} - {"clean", "fgsm_linf", "pgd_linf"}
    assert "left out: gaussian" in text_summary(first)
    second = evaluate_model(linear(), data, suite=whole.only(["gaussian"]), out=tmp_path, progress=False)
    assert set(first["left_out"]) - set(second["left_out"]) == {"gaussian"}
    with pytest.raises(TypeError, match=r"pass \['clean'\]"):
        whole.only("clean")


def test_the_terminal_says_what_the_panel_found(data, tmp_path):
    text = text_summary(evaluate(linear(), data, tmp_path))
    assert "Masked gradients: not established from" in text
    assert "not possible: black_box" in text
