from __future__ import annotations

import json
import math
import sys

import numpy as np
import pytest
import torch
from torch import nn

from simreg.robustness.frequency import mean_frequency, power_spectrum, radial_frequency, radial_profile
from simreg.robustness.spectra import SpectrumResult, minimal_perturbation_spectrum, perturbation_spectrum


def wave(rows, columns, *, size=16, amplitude=1.0, phase=0.3):
    """A cosine with this many cycles from top to bottom and from left to right, (H, W)."""
    y, x = torch.arange(size).view(-1, 1), torch.arange(size)
    return amplitude * torch.cos(2 * torch.pi * (rows * y + columns * x) / size + phase)


def noise(n, c=1, size=16, std=0.05, seed=0):
    return std * torch.randn(n, c, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("rows", "columns"), [(0, 3), (2, 0), (3, 4), (-1, 5)])
def test_a_wave_has_its_power_at_its_two_frequencies(rows, columns):
    power = power_spectrum(wave(rows, columns, amplitude=0.2).expand(1, 3, 16, 16))[0]
    wanted = torch.zeros(16, 16, dtype=torch.float64)
    wanted[8 + rows, 8 + columns] = wanted[8 - rows, 8 - columns] = 0.2**2 / 4
    torch.testing.assert_close(power, wanted, atol=1e-7, rtol=0)
    assert mean_frequency(wave(rows, columns).view(1, 1, 16, 16)) == pytest.approx(math.hypot(rows, columns))


def test_a_shift_of_all_values_is_zero_frequency_in_the_centre():
    for height, width in ((6, 6), (5, 8), (7, 7)):
        power = power_spectrum(torch.full((1, 1, height, width), 0.3))[0]
        assert power[height // 2, width // 2].item() == pytest.approx(0.09)
        assert power.sum().item() == pytest.approx(0.09)
        assert radial_frequency(height, width)[height // 2, width // 2] == 0
    assert mean_frequency(torch.full((2, 1, 6, 6), 0.3)) == pytest.approx(0, abs=1e-6)


def test_power_matches_the_sum_written_out():
    values = noise(1, 2, 5).double()
    power = power_spectrum(values)[0]
    y, x = np.mgrid[0:5, 0:5]
    for k in range(-2, 3):
        for m in range(-2, 3):
            terms = values[0].numpy() * np.exp(-2j * np.pi * (k * y + m * x) / 5)
            wanted = (np.abs(terms.sum(axis=(1, 2)) / 25) ** 2).mean()
            assert power[2 + k, 2 + m].item() == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("shape", [(4, 1, 16, 16), (3, 3, 9, 12)])
def test_power_sums_to_the_mean_square(shape):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(power_spectrum(values).sum(dim=(1, 2)), values.square().mean(dim=(1, 2, 3)))


def test_white_noise_is_flat():
    result = perturbation_spectrum(torch.zeros(3000, 1, 16, 16), noise(3000))
    flat = 0.05**2 / 256
    torch.testing.assert_close(result.power, torch.full((16, 16), flat, dtype=torch.float64), rtol=0.15, atol=0)
    torch.testing.assert_close(result.radial, torch.full((12,), flat, dtype=torch.float64), rtol=0.1, atol=0)
    assert result.mean_frequency == pytest.approx(radial_frequency(16, 16).mean().item(), rel=0.01)
    assert result.power_of_mean.sum().item() == pytest.approx(0.05**2 / 3000, rel=0.3)  # averages out


def test_radial_profile_is_the_mean_over_rings():
    radius = radial_frequency(17, 17)
    profile = radial_profile(radius.square())
    assert len(profile) == round(radius.max().item()) + 1
    for ring, value in enumerate(profile):
        inside = radius[(radius >= ring - 0.5) & (radius < ring + 0.5)]
        assert value.item() == pytest.approx(inside.square().mean().item())
    counts = [1, 8, 12]
    power = torch.zeros(9, 9, dtype=torch.float64)
    power[4, 6] = power[4, 2] = 1.0
    torch.testing.assert_close(radial_profile(power)[:3], torch.tensor([0, 0, 2 / counts[2]], dtype=torch.float64))


def test_power_of_each_and_of_the_mean_differ_where_signs_do():
    waves = torch.stack([wave(0, 2), -wave(0, 2), wave(3, 0), wave(3, 0)]).unsqueeze(1)
    result = perturbation_spectrum(torch.zeros_like(waves), waves)
    assert result.power[8, 10].item() == pytest.approx(0.125)
    assert result.power_of_mean[8, 10].item() == pytest.approx(0, abs=1e-9)
    assert result.power_of_mean[11, 8].item() == pytest.approx(0.25 / 4)
    assert result.frequencies == tuple(range(12))
    assert result.radial_of_mean.argmax() == 3


def test_images_without_adversarial_one_are_counted_but_in_no_mean():
    images = torch.full((4, 1, 16, 16), 100, dtype=torch.uint8)
    found = images / 255 + wave(0, 2, amplitude=0.1)
    found[1] = torch.nan
    found[2, 0, 3, 4] = torch.nan
    result = perturbation_spectrum(images, found)
    assert (result.n, result.failures) == (4, 2)
    assert result.distances[1] == result.distances[2] == math.inf
    assert result.distances[0] == pytest.approx(0.005, rel=1e-4)
    assert result.median == math.inf
    assert result.power.sum().item() == pytest.approx(0.005, rel=1e-4)
    assert result.mean_frequency == pytest.approx(2, rel=1e-3)


def test_nothing_found_gives_nan_and_survives_json():
    result = perturbation_spectrum(torch.zeros(2, 1, 4, 4), torch.full((2, 1, 4, 4), torch.nan))
    assert result.failures == 2
    assert result.power.isnan().all()
    assert math.isnan(result.mean_frequency)
    text = json.dumps(result.to_dict()).replace("NaN", "null").replace("Infinity", '"inf"')
    loaded = SpectrumResult.from_dict(json.loads(text))
    assert loaded.failures == 2
    assert not loaded.power_sum.any()
    other = perturbation_spectrum(torch.zeros(1, 1, 4, 4), torch.full((1, 1, 4, 4), 0.1))
    joined = SpectrumResult.join([loaded, other])
    assert (joined.n, joined.failures) == (3, 2)
    assert joined.power.sum().item() == pytest.approx(0.01)


def test_parts_joined_are_one_run_over_all():
    images, found = torch.zeros(11, 3, 8, 8), noise(11, 3, 8)
    found[4] = torch.nan
    whole = perturbation_spectrum(images, found)
    parts = [perturbation_spectrum(images[a:b], found[a:b]) for a, b in ((0, 3), (3, 10), (10, 11))]
    loaded = [SpectrumResult.from_dict(json.loads(json.dumps(part.to_dict()))) for part in parts]
    for pieces in (parts, loaded):
        joined = SpectrumResult.join(pieces)
        assert joined.distances == whole.distances
        assert joined.median == whole.median
        for name in ("power", "radial", "power_of_mean", "radial_of_mean", "mean_perturbation"):
            torch.testing.assert_close(getattr(joined, name), getattr(whole, name), rtol=1e-12, atol=1e-18)


def test_many_images_are_worked_on_in_batches(monkeypatch):
    found = noise(7)
    whole = perturbation_spectrum(torch.zeros_like(found), found)
    monkeypatch.setattr(sys.modules[perturbation_spectrum.__module__], "_BATCH", 3)
    torch.testing.assert_close(perturbation_spectrum(torch.zeros_like(found), found).power, whole.power)


def test_dictionary_has_what_a_report_shows():
    result = perturbation_spectrum(torch.zeros(2, 1, 6, 6), noise(2, size=6), settings={"attack": "given"})
    data = json.loads(json.dumps(result.to_dict()))
    assert data["name"] == "spectrum"
    assert np.shape(data["power"]) == (6, 6)
    assert len(data["radial"]) == len(data["frequencies"])
    assert {"n", "failures", "median", "steps", "seed"} <= set(data)
    assert data["settings"] == {"attack": "given"}
    assert SpectrumResult.from_dict(data) == result


def linear(direction):
    """A two-class linear model with this normal (H, W) through the middle of [0, 1], its nearest changes known."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(direction.numel(), 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.stack([torch.zeros(direction.numel()), direction.flatten()]))
        model[1].bias.copy_(torch.tensor([0.0, -0.5 * direction.sum().item()]))
    return model


@pytest.mark.parametrize(
    ("size", "steps", "share", "excess"),
    [(4, 1000, 0.4, 3.0), pytest.param(8, 4000, 0.95, 1.05, marks=pytest.mark.slow)],
)
def test_minimal_perturbations_of_a_linear_model_have_the_spectrum_of_its_weights(size, steps, share, excess):
    pytest.importorskip("foolbox")
    direction = wave(0, 1, size=size)
    images = 0.5 + 0.25 * torch.rand(4, 1, size, size, generator=torch.Generator().manual_seed(0)) * direction
    exact = ((images - 0.5).flatten(1) @ direction.flatten()).square() / direction.square().sum() / size**2
    result = minimal_perturbation_spectrum(linear(direction), images, steps=steps)
    assert result.failures == 0
    assert all(1 - 1e-4 < found / best < excess for found, best in zip(result.distances, exact.tolist(), strict=True))
    middle = size // 2
    at_weights = result.power[middle, middle - 1] + result.power[middle, middle + 1]
    assert at_weights / result.power.sum() > share  # white noise has 2 / size^2
    assert result.radial.argmax() == 1
    assert (result.steps, result.seed) == (steps, 0)
    assert result.settings["norm"] == "squared L2 per pixel"


def test_minimal_perturbation_parts_join():
    pytest.importorskip("foolbox")
    direction = wave(0, 1, size=6)
    images = 0.5 + 0.2 * torch.rand(5, 1, 6, 6, generator=torch.Generator().manual_seed(0)) * direction
    options = {"steps": 30, "start_images": images}
    whole = minimal_perturbation_spectrum(linear(direction), images, **options)
    parts = [minimal_perturbation_spectrum(linear(direction), images[:3], **options)]
    parts += [minimal_perturbation_spectrum(linear(direction), images[3:], first_index=3, **options)]
    joined = SpectrumResult.join(parts)
    assert joined.distances == pytest.approx(whole.distances, rel=1e-4)
    assert joined.settings == {**whole.settings, "start_image_queries": joined.settings["start_image_queries"]}
    torch.testing.assert_close(joined.power, whole.power, rtol=1e-3, atol=1e-9)
    with pytest.raises(ValueError, match="not consecutive"):
        SpectrumResult.join([parts[1], parts[0]])
    own = [
        minimal_perturbation_spectrum(linear(direction), images[p], first_index=p.start, steps=5)
        for p in (slice(0, 3), slice(3, 5))
    ]
    assert SpectrumResult.join(own).n == 5  # parts of other sizes have other start images


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x: perturbation_spectrum(x, x[:1]), ValueError, "same shape"),
        (lambda x: perturbation_spectrum(x[:0], x[:0]), ValueError, "at least one image"),
        (lambda x: perturbation_spectrum(x, x.numpy()), TypeError, "adversarials must be"),
        (lambda x: power_spectrum(x[0]), ValueError, r"shape \(N, C, H, W\)"),
        (lambda x: power_spectrum(x.to(torch.uint8)), TypeError, "floating point"),
        (lambda x: mean_frequency(x + torch.nan), ValueError, "NaN"),
        (lambda x: SpectrumResult.join([]), ValueError, "parts is empty"),
        (lambda x: SpectrumResult.from_dict({"power": []}), ValueError, "lacks mean_perturbation, distances"),
        (lambda x: SpectrumResult((), x[0, 0], x[0]), ValueError, "distances is empty"),
        (lambda x: SpectrumResult((1.0,), x[0, 0], x[0, :, :2]), ValueError, "power_sum must be"),
    ],
)
def test_bad_arguments_are_named(call, error, words):
    with pytest.raises(error, match=words):
        call(torch.zeros(2, 1, 4, 4))
