from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simreg.robustness import NOISE_EPSILONS, NOISES, add_noise, noise_sweep
from simreg.robustness._random import draw_per_image


def gray(n=4, c=1, size=6, seed=0):
    return 0.2 + 0.6 * torch.rand(n, c, size, size, generator=torch.Generator().manual_seed(seed))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def loop_noise(images, kind, epsilon, values):
    """The formula of the protocol, one value at a time, from the same base values."""
    out = np.empty_like(images)
    for i in range(images.shape[0]):
        low, high = images[i].min(), images[i].max()
        for index in np.ndindex(images.shape[1:]):
            v = values[i][index]
            if kind == "gaussian":
                noise = epsilon * v
            elif kind == "uniform":
                noise = -epsilon + 2 * epsilon * v
            else:
                noise = 1.0 if v < epsilon / 2 else -1.0 if v < epsilon else 0.0
            out[i][index] = min(max(images[i][index] + noise, low), high)
    return out


@pytest.mark.parametrize("kind", NOISES)
@pytest.mark.parametrize("channels", [1, 3])
def test_add_noise_matches_numpy_loop(kind, channels):
    images = gray(c=channels)
    base = torch.empty_like(images)
    base = base.normal_(generator=generator(3)) if kind == "gaussian" else base.uniform_(generator=generator(3))
    wanted = loop_noise(images.double().numpy(), kind, 0.3, base.double().numpy())
    got = add_noise(images, kind, 0.3, generator=generator(3))
    np.testing.assert_allclose(got.numpy(), wanted, atol=1e-6)


@pytest.mark.parametrize(("kind", "std"), [("gaussian", 0.02), ("uniform", 0.02 / 3**0.5)])
def test_noise_has_the_stated_moments(kind, std):
    images = torch.full((1, 1, 400, 400), 0.5)
    images[0, 0, 0, 0], images[0, 0, 0, 1] = 0.0, 1.0  # leaves room: nothing is clamped
    difference = (add_noise(images, kind, 0.02, generator=generator()) - images)[0, 0, 1:]
    assert difference.mean().abs() < 4 * std / 400
    assert difference.std().item() == pytest.approx(std, rel=0.02)
    if kind == "uniform":
        assert difference.abs().max() <= 0.02 + 1e-6


def test_salt_and_pepper_hits_with_probability_epsilon_and_both_signs_equally():
    images = torch.full((1, 1, 400, 400), 0.5)
    images[0, 0, 0, 0], images[0, 0, 0, 1] = 0.1, 0.8
    noisy = add_noise(images, "salt_and_pepper", 0.1, generator=generator())[0, 0, 1:]
    up, down = (noisy == 0.8).float().mean().item(), (noisy == 0.1).float().mean().item()
    error = 4 * (0.05 * 0.95 / noisy.numel()) ** 0.5
    assert up == pytest.approx(0.05, abs=error)
    assert down == pytest.approx(0.05, abs=error)
    assert up + down + (noisy == 0.5).float().mean().item() == pytest.approx(1)


@settings(max_examples=30, deadline=None)
@given(kind=st.sampled_from(NOISES), epsilon=st.floats(0, 1), seed=st.integers(0, 2**31))
def test_noise_stays_within_each_image_and_epsilon_zero_changes_nothing(kind, epsilon, seed):
    images = gray(seed=seed)
    noisy = add_noise(images, kind, epsilon, generator=generator(seed))
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    assert ((noisy >= low) & (noisy <= high)).all()
    assert torch.equal(add_noise(images, kind, 0.0, generator=generator(seed)), images)


class Spy:
    """Two-class model that keeps what it saw."""

    def __init__(self):
        self.seen = []

    def __call__(self, x):
        self.seen.append(x.clone())
        m = x.mean(dim=(1, 2, 3))
        return torch.stack([0.5 - m, m - 0.5], dim=1)


@pytest.mark.parametrize("kind", NOISES)
def test_sweep_noise_depends_on_seed_and_image_but_not_on_batch_size(kind):
    images, labels = gray(n=11), torch.zeros(11, dtype=torch.long)
    seen = []
    for batch_size, seed in ((11, 0), (4, 0), (1, 0), (11, 1)):
        spy = Spy()
        noise_sweep(spy, images, labels, kind, [0.1], batch_size=batch_size, seed=seed)
        seen.append(torch.cat(spy.seen))
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], seen[3])
    differences = (seen[0] - images).flatten(1)
    assert not torch.equal(differences[0], differences[1])  # no two images share their noise


@pytest.mark.parametrize("kind", NOISES)
def test_parts_of_a_set_meet_the_noise_of_the_whole_set(kind):
    images, labels = gray(n=7), torch.zeros(7, dtype=torch.long)
    whole, part, first = Spy(), Spy(), Spy()
    noise_sweep(whole, images, labels, kind, [0.1])
    sweep = noise_sweep(part, images[3:], labels[3:], kind, [0.1], first_index=3, batch_size=2)
    noise_sweep(first, images[3:], labels[3:], kind, [0.1])
    assert torch.equal(torch.cat(part.seen), whole.seen[0][3:])
    assert not torch.equal(first.seen[0], whole.seen[0][3:])
    assert sweep.settings["first_index"] == 3
    with pytest.raises(TypeError, match="first_index must be an integer"):
        noise_sweep(part, images, labels, kind, [0.1], first_index=0.5)


def test_sweep_noise_at_an_epsilon_does_not_depend_on_the_others():
    images, labels = gray(n=5), torch.zeros(5, dtype=torch.long)
    alone, among = Spy(), Spy()
    noise_sweep(alone, images, labels, "gaussian", [0.1])
    noise_sweep(among, images, labels, "gaussian", torch.linspace(0, 0.1, 11))
    assert torch.equal(alone.seen[0], among.seen[-1])
    assert not torch.equal(among.seen[-2], among.seen[-1])


def test_sweep_noise_has_the_distribution_of_add_noise():
    images = torch.full((50, 1, 30, 30), 0.5)
    images[:, :, 0, 0], images[:, :, 0, 1] = 0.0, 1.0
    spy = Spy()
    noise_sweep(spy, images, torch.zeros(50, dtype=torch.long), "gaussian", [0.05])
    difference = (torch.cat(spy.seen) - images)[:, :, 1:]
    assert difference.std().item() == pytest.approx(0.05, rel=0.02)
    assert difference.mean().abs() < 4 * 0.05 / difference.numel() ** 0.5
    rows = difference.flatten(1)
    assert (torch.corrcoef(rows) - torch.eye(50)).abs().max() < 0.2  # streams of images are independent


def test_draws_per_image_ignore_position():
    like = torch.empty(3, 1, 2, 2)
    whole = draw_per_image(like, [4, 5, 6], 7, "normal")
    assert torch.equal(draw_per_image(like[:1], [6], 7, "normal")[0], whole[2])


def test_noise_leaves_global_generator_alone():
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    noise_sweep(Spy(), gray(), torch.zeros(4, dtype=torch.long), "gaussian", [0.1])
    add_noise(gray(), "uniform", 0.1, generator=generator())
    assert torch.equal(torch.rand(3), wanted)


def test_sweep_reports_grid_errors_and_perturbations():
    images, labels = gray(n=10, size=8), torch.tensor([0, 1] * 5)
    sweep = noise_sweep(Spy(), images, labels, "uniform", seed=3)
    assert sweep.epsilons == NOISE_EPSILONS == (0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.1)
    assert (sweep.n, sweep.seed, sweep.name) == (10, 3, "uniform")
    p = sweep.at(0.05)
    assert sweep.standard_errors[5] == pytest.approx((p * (1 - p) / 10) ** 0.5)
    measured = sweep.settings["max_perturbation"]
    assert measured[0] == 0
    assert all(0.8 * e < m <= e + 1e-6 for e, m in zip(sweep.epsilons[1:], measured[1:], strict=True))


@pytest.mark.parametrize(
    ("kind", "epsilons", "error", "words"),
    [
        ("gausian", [0.1], ValueError, "Did you mean 'gaussian'"),
        ("gaussian", [], ValueError, "epsilons is empty"),
        ("gaussian", [-0.1], ValueError, "epsilons must be a finite number >= 0"),
        ("gaussian", [float("nan")], ValueError, "epsilons must be a finite number"),
        ("gaussian", ["0.1"], TypeError, "epsilons must be a number"),
        ("gaussian", "0.1", TypeError, "epsilons must be a sequence"),
        ("salt_and_pepper", [1.5], ValueError, "probability"),
    ],
)
def test_bad_noise_arguments_are_named(kind, epsilons, error, words):
    with pytest.raises(error, match=words):
        noise_sweep(Spy(), gray(), torch.zeros(4, dtype=torch.long), kind, epsilons)


def test_bad_seed_and_generator_are_named():
    with pytest.raises(TypeError, match="seed must be an integer"):
        noise_sweep(Spy(), gray(), torch.zeros(4, dtype=torch.long), "gaussian", seed=0.5)
    with pytest.raises(TypeError, match=r"generator must be a torch.Generator"):
        add_noise(gray(), "gaussian", 0.1, generator=0)


@pytest.mark.parametrize("epsilon", [0.1, np.float32(0.1), np.float64(0.1), torch.tensor(0.1)])
def test_one_strength_needs_no_list(epsilon):
    images, labels = torch.rand(4, 1, 3, 3), torch.zeros(4, dtype=torch.int64)
    sweep = noise_sweep(lambda x: x.mean(dim=(2, 3)).repeat(1, 2), images, labels, "gaussian", epsilon)
    assert sweep.epsilons == pytest.approx((0.1,), abs=1e-7)
