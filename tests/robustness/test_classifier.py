from __future__ import annotations

import pytest
import torch
from torch import nn

from simreg.robustness import Classifier, accuracy, fgsm_sweep, noise_sweep, pgd_accuracy


class Recorder(nn.Module):
    """Keeps its inputs and the mode in which it was called."""

    def __init__(self, fail: bool = False) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.5))
        self.head = nn.Linear(4, 3)
        self.fail = fail
        self.inputs: list[torch.Tensor] = []
        self.modes: list[list[bool]] = []

    def forward(self, x):
        self.inputs.append(x)
        self.modes.append([m.training for m in self.modules()])
        if self.fail:
            raise RuntimeError("broken model")
        return self.head(self.inner(x).flatten(1))


@pytest.fixture
def images():
    return torch.rand(7, 1, 2, 2, generator=torch.Generator().manual_seed(0))


LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0])


def test_classifier_normalises_per_channel():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    x = torch.rand(3, 3, 2, 2)
    mean, std = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1), torch.tensor([1.0, 2.0, 4.0]).view(1, 3, 1, 1)
    got = Classifier(model, mean=[0.1, 0.2, 0.3], std=(1.0, 2.0, 4.0))(x)
    torch.testing.assert_close(got, model((x - mean) / std))


def test_classifier_paper_input_is_mean_half_std_fifth(images):
    model = Recorder()
    Classifier(model, mean=0.5, std=0.2)(images)
    torch.testing.assert_close(model.inputs[0], 5 * (images - 0.5))


@pytest.mark.parametrize("fail", [False, True])
def test_evaluation_mode_is_on_during_and_each_mode_back_after(images, fail):
    model = Recorder(fail).train()
    model.inner[0].eval()  # a frozen batch norm inside a training model
    before = [m.training for m in model.modules()]
    if fail:
        with pytest.raises(RuntimeError, match="broken model"):
            accuracy(model, images, LABELS)
    else:
        accuracy(model, images, LABELS)
    assert model.modes
    assert not any(any(modes) for modes in model.modes)
    assert [m.training for m in model.modules()] == before


def test_evaluation_leaves_state_gradients_and_inputs_alone(images):
    model = Recorder().train()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    pixels = images.clone()
    for run in (accuracy, fgsm_sweep, lambda m, x, y: pgd_accuracy(m, x, y, 0.05)):
        run(model, images, LABELS)
    noise_sweep(model, images, LABELS, "gaussian")
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(images, pixels)
    assert not images.requires_grad


def test_accuracy_counts_the_last_ragged_batch_and_uint8(images):
    model = Recorder()
    wanted = (Classifier(model).predict(images) == LABELS).float().mean().item()
    assert accuracy(model, images, LABELS, batch_size=3) == pytest.approx(wanted)
    raw = (images * 255).round().to(torch.uint8)
    assert accuracy(model, raw, LABELS) == accuracy(model, raw.float() / 255, LABELS)


def test_classifier_casts_to_the_dtype_of_the_model(images):
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).double()
    assert Classifier(model)(images).dtype == torch.float64
    assert 0 <= fgsm_sweep(model, images, LABELS % 2, [0.01]).at(0.01) <= 1


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda x, y: (5 * (x - 0.5), y), ValueError, r"images must lie in \[0, 1\].*normalisation"),
        (lambda x, y: (x.fill_(float("nan")), y), ValueError, r"images must lie in \[0, 1\]"),
        (lambda x, y: (x[0], y), ValueError, r"images must have shape \(N, C, H, W\)"),
        (lambda x, y: (x[:0], y[:0]), ValueError, "at least one image"),
        (lambda x, y: (x.numpy(), y), TypeError, "images must be an image tensor"),
        (lambda x, y: (x, y.float()), TypeError, "labels must be integers.*labels.long"),
        (lambda x, y: (x, y.tolist()), TypeError, "labels must be an integer tensor"),
        (lambda x, y: (x, y[:3]), ValueError, r"labels must have shape \(7,\)"),
        (lambda x, y: (x, nn.functional.one_hot(y)), ValueError, r"labels must have shape \(7,\)"),
        (lambda x, y: (x, y - 1), ValueError, "labels must be class indices >= 0"),
        (lambda x, y: (x, y + 1), ValueError, "class 3 but the model has 3 classes"),
    ],
)
def test_bad_images_and_labels_say_what_came_and_what_was_wanted(images, change, error, words):
    x, y = change(images.clone(), LABELS.clone())
    for run in (accuracy, lambda m, x, y: noise_sweep(m, x, y, "uniform"), fgsm_sweep):
        with pytest.raises(error, match=words):
            run(Recorder(), x, y)


@pytest.mark.parametrize(
    ("model", "error", "words"),
    [
        (lambda x: (torch.zeros(len(x), 3), None), TypeError, "the model's output must be a tensor.*tuple"),
        (lambda x: {"logits": torch.zeros(len(x), 3)}, TypeError, "dict with keys"),
        (lambda x: torch.zeros(len(x), 1), ValueError, r"shape \(7, K\) with K >= 2"),
        (lambda x: torch.zeros(len(x), 3, 1, 1), ValueError, "flatten"),
        (lambda x: torch.zeros(len(x), 3).long(), ValueError, "floating-point logits"),
        (lambda x: torch.full((len(x), 3), float("nan")), ValueError, "NaN logits for 7 of 7"),
        ("resnet18", TypeError, "model must be callable"),
    ],
)
def test_bad_models_are_named(images, model, error, words):
    with pytest.raises(error, match=words):
        accuracy(model, images, LABELS)


def test_bad_normalisation_is_named(images):
    model = Recorder()
    with pytest.raises(ValueError, match="mean has 3 values but the images have 1 channels"):
        Classifier(model, mean=[0.1, 0.2, 0.3])(images)
    with pytest.raises(ValueError, match="std must be a finite number > 0"):
        Classifier(model, std=0.0)
    with pytest.raises(TypeError, match="mean must be a number"):
        Classifier(model, mean="imagenet")


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (2.5, TypeError), (True, TypeError)])
def test_bad_batch_size_is_named(images, value, error):
    with pytest.raises(error, match="batch_size must be"):
        accuracy(Recorder(), images, LABELS, batch_size=value)
