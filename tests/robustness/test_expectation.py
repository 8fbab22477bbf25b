from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
import torch
from torch import nn

from simreg.robustness import Classifier, accuracy, noise_sweep, pgd_accuracy
from simreg.robustness.expectation import (
    ExpectedClassifier,
    LogOfProbabilities,
    depends_on_batch,
    is_random,
    returns_probabilities,
)

N, K = 12, 3


class Noisy(nn.Module):
    """A linear model with noise on its logits, and batch norm and dropout that evaluation mode switches off."""

    def __init__(self, std=0.5, source="torch"):
        super().__init__()
        self.body = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, K))
        self.std, self.source = std, source

    def forward(self, x):
        logits = self.body(x)
        if self.source == "torch":
            noise = torch.randn(logits.shape, device=x.device)
        elif self.source == "numpy":
            noise = torch.from_numpy(np.random.randn(*logits.shape)).float()  # noqa: NPY002  what models draw from
        else:
            noise = torch.tensor([[random.gauss(0, 1) for _ in range(K)] for _ in range(len(x))])
        return logits + self.std * noise


@pytest.fixture
def images(generator):
    return torch.rand(N, 1, 4, 4, generator=generator)


def seeded(build):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build()


def generator_states():
    return torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002


def assert_untouched(before):
    after = generator_states()
    assert torch.equal(before[0], after[0])
    assert (before[1] == after[1]).all()
    assert before[2] == after[2]


@pytest.mark.parametrize("source", ["torch", "numpy", "python"])
def test_randomness_is_found_whatever_it_draws_from(images, source):
    before = generator_states()
    assert is_random(seeded(lambda: Noisy(source=source)), images)
    assert is_random(seeded(lambda: Noisy(std=0.01, source=source)), images)
    assert not is_random(seeded(lambda: Noisy(std=0.0, source=source)), images)
    assert_untouched(before)


def test_randomness_of_one_position_or_one_rare_image_is_found(images):
    def last_row(x):
        logits = x.mean(dim=(2, 3)).repeat(1, K)
        logits[-1] = logits[-1] + torch.randn(K)
        return logits

    def bright_images(x):
        m = x.mean(dim=(1, 2, 3))
        return torch.stack([m, torch.where(m > 0.9, torch.rand(len(x)), 0.0)], dim=1)

    assert is_random(last_row, images)
    assert not is_random(bright_images, images)
    images[9] = 1.0
    assert is_random(bright_images, images, batch_size=4)


@pytest.mark.parametrize("masked", [-1e4, -1e9, -math.inf])
def test_masked_classes_hide_no_randomness(images, masked):
    def logits(x, std):
        answers = x.mean(dim=(2, 3)).repeat(1, K) * torch.arange(K) + std * torch.randn(len(x), K)
        return torch.cat([answers, torch.full((len(x), 2), masked)], dim=1)

    assert is_random(lambda x: logits(x, 0.5), images)
    assert not is_random(lambda x: logits(x, 0.0), images)


def test_rounding_is_no_randomness_at_any_scale(images):
    flips = itertools.cycle([0.0, 1e-6])
    for scale in (1e-6, 1.0, 1e6):
        loud = torch.linspace(-1, 1, K).mul(scale)
        assert not is_random(lambda x, loud=loud: x.mean(dim=(2, 3)) * loud * (1 + next(flips)), images)
        assert is_random(lambda x, loud=loud: x.mean(dim=(2, 3)) * loud * (1 + torch.rand(len(x), 1)), images)


def test_answers_that_depend_on_the_batch_are_found(images):
    norm = nn.BatchNorm2d(1, track_running_stats=False)
    linear = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, K)))
    assert depends_on_batch(nn.Sequential(norm, linear), images)
    assert not depends_on_batch(nn.Sequential(nn.BatchNorm2d(1), linear), images)
    assert not depends_on_batch(lambda x: linear(x).to(torch.bfloat16), images)
    assert not depends_on_batch(nn.Sequential(norm, linear), images[:1])


def test_single_passes_are_what_the_model_itself_gets_right(images):
    labels = torch.zeros(N, dtype=torch.int64)

    def coin(x):  # right in one of four passes, where the others share their votes
        return torch.nn.functional.one_hot(torch.randint(4, (len(x),)), 4).float()

    expected = ExpectedClassifier(coin, samples=400)
    share = expected.single_pass_accuracy(images, labels)
    assert share == pytest.approx(0.25, abs=0.03)
    assert share == expected.single_pass_accuracy(images, labels)
    steady = ExpectedClassifier(lambda x: x.mean(dim=(2, 3)).repeat(1, K) * torch.tensor([2.0, 1.0, 0.0]), samples=2)
    assert steady.single_pass_accuracy(images, labels) == 1.0


def test_a_model_with_its_own_generator_is_random_and_dropout_in_training_mode_is_not(images):
    own = torch.Generator().manual_seed(0)
    assert is_random(lambda x: x.mean(dim=(2, 3)).repeat(1, K) + torch.randn(len(x), K, generator=own), images)
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, K)).train()
    assert not is_random(model, images)
    assert model.training


def test_rounding_is_not_randomness(images):
    flips = iter([0.0, 1e-6, -1e-6] * 10)
    assert not is_random(lambda x: x.mean(dim=(2, 3)).repeat(1, K) * (1 + next(flips)), images)
    jumps = iter([0.0, 1e-2, -1e-2] * 10)
    assert is_random(lambda x: x.mean(dim=(2, 3)).repeat(1, K) * (1 + next(jumps)), images)


@pytest.mark.parametrize("source", ["torch", "numpy", "python"])
def test_expected_classifier_is_deterministic_and_leaves_generators_alone(images, source):
    model = seeded(lambda: Noisy(source=source))
    expected = ExpectedClassifier(model, samples=5, seed=3)
    before = generator_states()
    first = expected(images)
    assert_untouched(before)
    torch.rand(7), np.random.rand(3), random.random()  # noqa: NPY002
    assert torch.equal(expected(images), first)
    assert not is_random(expected, images)
    assert not torch.equal(ExpectedClassifier(model, samples=5, seed=4)(images), first)


def test_expected_classifier_is_the_log_of_the_mean_probabilities(images):
    model = seeded(Noisy)
    expected = ExpectedClassifier(Classifier(model, mean=0.5, std=0.2), samples=6)
    passes = []

    class Record(Classifier):
        def __call__(self, x):
            passes.append(super().__call__(x))
            return passes[-1]

    again = ExpectedClassifier(Record(model, mean=0.5, std=0.2), samples=6)(images)
    wanted = torch.stack([p.double().softmax(dim=1) for p in passes]).mean(dim=0)
    assert len(passes) == 6
    torch.testing.assert_close(again.double().exp(), wanted, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(expected(images), again)
    torch.testing.assert_close(again.exp().sum(dim=1), torch.ones(N))
    assert model.training  # evaluation mode is undone


def test_expected_gradient_is_the_gradient_of_the_mean(images):
    g = torch.Generator().manual_seed(5)
    weight = torch.randn(16, K, generator=g)

    def model(x):
        return x.flatten(1) @ weight * (1 + 0.5 * torch.randn(1))

    x = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(ExpectedClassifier(model, samples=4)(x)[:, 0].sum(), x)
    step = 1e-3 * gradient / gradient.norm()
    with torch.no_grad():
        rise = (
            ExpectedClassifier(model, samples=4)(images + step) - ExpectedClassifier(model, samples=4)(images - step)
        )[:, 0].sum()
    assert rise.item() == pytest.approx(2 * (step * gradient).sum().item(), rel=0.02)


def test_more_samples_come_closer_to_the_expectation(images):
    model = seeded(lambda: Noisy(std=2.0)).eval()
    exact = ExpectedClassifier(model, samples=3000, seed=9)(images)
    few, many = (
        sum((ExpectedClassifier(model, samples=s, seed=seed)(images) - exact).square().mean() for seed in range(5))
        for s in (2, 100)
    )
    assert many < few / 10


def test_wrappers_serve_wherever_a_classifier_does(images):
    model = seeded(Noisy)
    labels = torch.randint(0, K, (N,), generator=torch.Generator().manual_seed(1))
    for wrapped in (
        ExpectedClassifier(Classifier(model, mean=0.5, std=0.2), samples=3),
        LogOfProbabilities(Classifier(nn.Sequential(model.body, nn.Softmax(dim=1)), mean=0.5, std=0.2)),
        ExpectedClassifier(LogOfProbabilities(nn.Sequential(model, nn.Softmax(dim=1))), samples=3),
    ):
        assert isinstance(wrapped, Classifier)
        assert wrapped.device == torch.device("cpu")
        assert wrapped.predict(images).shape == (N,)
        assert 0 <= accuracy(wrapped, images, labels) <= 1
        assert noise_sweep(wrapped, images, labels, "gaussian", [0.1]).n == N
        assert pgd_accuracy(wrapped, images, labels, 0.05, steps=2).n == N
        assert model.training


def test_normalisation_is_applied_once(images):
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, K))
    classifier = Classifier(model, mean=0.5, std=0.2)
    torch.testing.assert_close(ExpectedClassifier(classifier, samples=2)(images), classifier(images).log_softmax(dim=1))


def test_log_of_probabilities_undoes_the_softmax(images):
    model = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, K)))
    probabilities = nn.Sequential(model, nn.Softmax(dim=1))
    logits = LogOfProbabilities(probabilities)
    torch.testing.assert_close(logits(images).softmax(dim=1), probabilities(images))
    x = images.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(nn.functional.cross_entropy(model(x), torch.zeros(N, dtype=torch.long)), x)
    (found,) = torch.autograd.grad(nn.functional.cross_entropy(logits(x), torch.zeros(N, dtype=torch.long)), x)
    torch.testing.assert_close(found, wanted, atol=1e-7, rtol=1e-4)


def test_log_of_probabilities_is_finite_at_zero_also_in_half_precision(images):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        hard = LogOfProbabilities(lambda x, d=dtype: torch.tensor([[1.0, 0.0, 0.0]], dtype=d).expand(len(x), K))
        assert hard(images).isfinite().all()
        assert hard(images)[0, 1] <= math.log(1e-30)


def test_probabilities_are_told_from_logits(images):
    model = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, K)))
    assert returns_probabilities(nn.Sequential(model, nn.Softmax(dim=1)), images)
    assert not returns_probabilities(model, images)
    assert not returns_probabilities(nn.Sequential(model, nn.Sigmoid()), images)
    assert not returns_probabilities(nn.Sequential(model, nn.LogSoftmax(dim=1)), images)

    def one_odd_row(x):
        rows = model(x).softmax(dim=1)
        return torch.cat([rows[:-1], 2 * rows[-1:]])

    assert not returns_probabilities(one_odd_row, images)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x: ExpectedClassifier(3), TypeError, "model must be callable"),
        (lambda x: ExpectedClassifier(lambda x: x, samples=0), ValueError, "samples must be at least 1"),
        (lambda x: ExpectedClassifier(lambda x: x, seed=0.5), TypeError, "seed must be an integer"),
        (lambda x: is_random(lambda x: x, x, passes=1), ValueError, "passes must be at least 2"),
        (lambda x: is_random(lambda x: x, 255 * x), ValueError, r"lie in \[0, 1\]"),
        (lambda x: returns_probabilities(lambda x: x, x), ValueError, "logits of shape"),
    ],
)
def test_bad_arguments_are_named(images, call, error, words):
    with pytest.raises(error, match=words):
        call(images)
