from __future__ import annotations

import colorsys
import io
import json
import math
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from simreg.robustness import Classifier, accuracy
from simreg.robustness.corruptions import (
    CORRUPTIONS,
    SEVERITIES,
    CorruptionResult,
    _filters,
    _jpeg,
    blur,
    corrupt,
    corruption_sweep,
    digital,
    frequency_group,
    frequency_groups,
    weather,
)
from simreg.robustness.corruptions._draws import Draws
from simreg.robustness.frequency import mean_frequency

NOISES = ("gaussian_noise", "shot_noise", "impulse_noise")
RISING = tuple(name for name in CORRUPTIONS if name not in ("glass_blur", "frost", "elastic_transform"))


def pictures(n=12, channels=3, size=32, seed=0):
    """Smooth random colour pictures, as fine as photographs of CIFAR-10, uint8."""
    g = torch.Generator().manual_seed(seed)
    f = torch.hypot(torch.fft.fftfreq(size, 1 / size).view(-1, 1), torch.fft.fftfreq(size, 1 / size)).clamp(min=1)
    noise = torch.fft.fft2(torch.randn(n, channels, size, size, generator=g)) / f**1.5
    values = torch.fft.ifft2(noise).real
    values = values.mean(dim=1, keepdim=True) + 0.3 * values
    values = 0.5 + 0.2 * values / values.std(dim=(1, 2, 3), keepdim=True)
    return (255 * values.clamp(0, 1)).round().to(torch.uint8)


def flat(level, n=40, channels=3, size=32):
    return torch.full((n, channels, size, size), level, dtype=torch.uint8)


def rms(changed, images):
    """Mean over images of the root mean squared change per value."""
    return (changed.double() - images.double() / 255).square().mean(dim=(1, 2, 3)).sqrt().mean().item()


class Mean:
    """Two classes: dark and bright."""

    def __init__(self):
        self.seen = []

    def __call__(self, x):
        self.seen.append(x.clone())
        m = x.mean(dim=(1, 2, 3))
        return torch.stack([0.5 - m, m - 0.5], dim=1)


# What holds for every corruption


def test_the_published_names_in_their_order():
    assert len(CORRUPTIONS) == 15
    assert CORRUPTIONS[:3] == NOISES
    assert CORRUPTIONS[3:7] == ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur")
    assert CORRUPTIONS[7:11] == ("snow", "frost", "fog", "brightness")
    assert CORRUPTIONS[11:] == ("contrast", "elastic_transform", "pixelate", "jpeg_compression")


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_results_are_images_at_eight_bits_and_the_input_is_not_written(name, channels):
    images = pictures(4, channels)
    before = images.clone()
    for severity in SEVERITIES:
        changed = corrupt(images, name, severity)
        assert changed.shape == images.shape
        assert changed.dtype == torch.float32
        assert torch.equal(changed, (255 * changed).round().to(torch.uint8).float() / 255)  # exactly what uint8 gives
        assert not torch.equal(changed, images.float() / 255)
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_meets_the_same_corruption_in_any_batch(name, channels):
    images = pictures(7, channels)
    whole = corrupt(images, name, 4, seed=3, first_index=10)
    parts = [corrupt(images[a:b], name, 4, seed=3, first_index=10 + a) for a, b in ((0, 1), (1, 5), (5, 7))]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(corrupt(images.float() / 255, name, 4, seed=3, first_index=10), whole)
    assert torch.equal(corrupt(images.double() / 255, name, 4, seed=3, first_index=10).float(), whole)


def test_large_sets_are_worked_on_in_chunks_without_a_trace(monkeypatch):
    images = pictures(7)
    whole = {name: corrupt(images, name, 2) for name in CORRUPTIONS}
    monkeypatch.setattr(sys.modules[corrupt.__module__], "_CHUNK", 2 * 3 * 32 * 32)
    for name, wanted in whole.items():
        assert torch.equal(corrupt(images, name, 2), wanted)


@pytest.mark.parametrize(
    "name",
    [
        n
        for n in CORRUPTIONS
        if n not in ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")
    ],
)
def test_draws_depend_on_seed_index_and_severity_but_not_on_the_global_generator(name):
    image = pictures(1)
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    base = corrupt(image, name, 3)
    assert not torch.equal(corrupt(image, name, 3, seed=1), base)
    assert not torch.equal(corrupt(image, name, 3, first_index=1), base)
    both = corrupt(image.expand(2, -1, -1, -1), name, 3)
    assert not torch.equal(both[0], both[1])  # no two images share their draws
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.parametrize("name", RISING)
def test_strength_rises_with_severity(name):
    images = pictures(60)
    strengths = [rms(corrupt(images, name, severity), images) for severity in SEVERITIES]
    assert all(low < high for low, high in pairwise(strengths)), strengths


@pytest.mark.parametrize("name", ["glass_blur", "frost", "elastic_transform"])
def test_strength_of_the_other_three_falls_where_the_published_parameters_fall(name):
    images = pictures(60)
    strengths = [rms(corrupt(images, name, severity), images) for severity in SEVERITIES]
    if name == "glass_blur":  # blur smooths what two rounds of displacement tear up
        assert strengths[2] < strengths[0] < strengths[3] > strengths[4]
    elif name == "frost":
        assert strengths[0] < strengths[1] < strengths[2]
    else:  # the affine part shrinks from 0.08 to 0.03 of the side
        assert strengths[0] > strengths[4]


def expected_rms(name, severity):
    """Strength on flat images of level 102 = 0.4, by formula; None where there is none."""
    x = 0.4
    if name == "gaussian_noise":
        return (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1]
    if name == "shot_noise":  # variance of Poisson(c x) / c
        return math.sqrt(x / (500, 250, 100, 75, 50)[severity - 1])
    if name == "impulse_noise":  # half of the share to 0, half to 1
        return math.sqrt((0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1] * (x**2 + (1 - x) ** 2) / 2)
    if name == "brightness":
        return (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]
    return None


@pytest.mark.parametrize("name", ["gaussian_noise", "shot_noise", "impulse_noise", "brightness"])
def test_strength_on_flat_images_is_that_of_the_formula(name):
    images = flat(102)
    for severity in SEVERITIES:
        wanted = expected_rms(name, severity)
        assert rms(corrupt(images, name, severity), images) == pytest.approx(wanted, rel=0.06)


@pytest.mark.parametrize(
    "name",
    [
        "defocus_blur",
        "glass_blur",
        "motion_blur",
        "zoom_blur",
        "contrast",
        "elastic_transform",
        "pixelate",
    ],
)
@pytest.mark.parametrize("level", [0, 17, 200, 255])
def test_flat_images_stay_as_they_are(name, level):
    images = flat(level, n=2)
    for severity in SEVERITIES:
        assert torch.equal(corrupt(images, name, severity), images.float() / 255), (name, severity)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 48, 40), (1, 8, 8), (3, 64, 64)])
def test_other_sizes_work(name, shape):
    images = pictures(2, shape[0], 64)[..., : shape[1], : shape[2]]
    for severity in (1, 5):
        assert corrupt(images, name, severity).shape == images.shape


@pytest.mark.parametrize("name", ["motion_blur", "zoom_blur", "elastic_transform", "fog", "contrast", "brightness"])
def test_an_enlarged_picture_is_changed_as_much(name):
    small = pictures(30, size=32)
    large = F.interpolate(small.float(), scale_factor=2, mode="bicubic").clamp(0, 255).round().to(torch.uint8)
    for severity in (4, 5):
        wanted, got = (rms(corrupt(x, name, severity), x) for x in (small, large))
        assert got == pytest.approx(wanted, rel=0.2), (name, severity)


@pytest.mark.parametrize("name", NOISES)
def test_noise_of_a_gray_image_is_the_luma_of_its_colour_noise(name):
    gray = pictures(5, 1)
    colour = (255 * corrupt(gray.expand(-1, 3, -1, -1), name, 3)).round()
    luma = (19595 * colour[:, 0] + 38470 * colour[:, 1] + 7471 * colour[:, 2] + 32768) // 65536
    assert torch.equal((255 * corrupt(gray, name, 3)[:, 0]).round(), luma)


@pytest.mark.parametrize("name", [n for n in CORRUPTIONS if n not in (*NOISES, "frost")])
def test_a_gray_image_gets_what_three_equal_channels_get(name):
    gray = pictures(5, 1)
    colour = corrupt(gray.expand(-1, 3, -1, -1), name, 4)
    difference = 255 * (corrupt(gray, name, 4) - colour).abs()
    assert difference.max() <= (1.01 if name == "jpeg_compression" else 0.01)


# Definitions


def test_gaussian_noise_is_clipped_at_black():
    wanted = np.floor(255 * np.clip(np.random.default_rng(0).normal(0, 0.1, 200_000), 0, 1)) / 255
    got = corrupt(flat(0), "gaussian_noise", 5)
    assert got.mean().item() == pytest.approx(wanted.mean(), rel=0.02)
    assert got.std().item() == pytest.approx(wanted.std(), rel=0.02)


def test_noise_has_a_value_for_each_channel():
    for name in NOISES:
        change = corrupt(flat(102, n=100), name, 5).double() - 0.4
        channels = change.transpose(0, 1).flatten(1)
        assert (torch.corrcoef(channels) - torch.eye(3)).abs().max() < 0.02


def test_shot_noise_counts_photons():
    level = corrupt(flat(51), "shot_noise", 5)  # 10 photons of 50
    counts = (50 * level.double() + 0.1).round()
    values, times = counts.unique(return_counts=True)
    share = dict(zip(values.int().tolist(), (times / times.sum()).tolist(), strict=True))
    for k in (5, 10, 15):
        assert share[k] == pytest.approx(math.exp(-10) * 10**k / math.factorial(k), rel=0.05)


def test_impulse_noise_makes_half_of_the_impulses_white():
    changed = corrupt(flat(102), "impulse_noise", 5)
    white, black = (changed == 1).float().mean().item(), (changed == 0).float().mean().item()
    error = 4 * (0.035 / changed.numel()) ** 0.5
    assert white == pytest.approx(0.035, abs=error)
    assert black == pytest.approx(0.035, abs=error)
    assert (changed == 0.4).float().mean().item() == pytest.approx(1 - white - black)


@pytest.mark.parametrize(("radius", "sigma", "taps"), [(0.3, 0.4, 1), (0.5, 0.6, 1), (1, 0.2, 5), (1.5, 0.1, 9)])
def test_defocus_kernel_is_a_softened_disk(radius, sigma, taps):
    kernel = blur.defocus_kernel(radius, sigma, 1.0)
    assert kernel.sum().item() == pytest.approx(1)
    torch.testing.assert_close(kernel, kernel.T)
    torch.testing.assert_close(kernel, kernel.flip(0))
    sharp = blur.defocus_kernel(radius, 1e-3, 1.0)
    assert (sharp > 1e-9).sum() == taps
    torch.testing.assert_close(sharp[sharp > 1e-9], torch.full((taps,), 1 / taps, dtype=torch.float64))


def test_defocus_blur_matches_numpy_loop():
    images = pictures(1)
    padded = np.pad(images[0].double().numpy() / 255, ((0, 0), (3, 3), (3, 3)), mode="reflect")
    offsets = np.arange(-3, 4)
    for severity, (radius, sigma) in enumerate([(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)], start=1):
        disk = (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(float)
        side = math.exp(-0.5 / sigma**2)
        line = np.array([side, 1, side]) / (1 + 2 * side)
        kernel = np.zeros((7, 7))
        for dy, dx in np.ndindex(3, 3):
            kernel += line[dy] * line[dx] * np.roll(disk / disk.sum(), (dy - 1, dx - 1), (0, 1))
        wanted = np.zeros((3, 32, 32))
        for dy, dx in np.ndindex(7, 7):
            wanted += kernel[dy, dx] * padded[:, dy : dy + 32, dx : dx + 32]
        got = corrupt(images, "defocus_blur", severity)[0]
        np.testing.assert_allclose(got, np.floor(255 * wanted + 1e-6) / 255, atol=1e-6)


def test_glass_blur_copies_from_left_and_above_and_spares_the_first_two_lines():
    image = torch.arange(32 * 32).view(1, 1, 32, 32) % 251  # neighbours differ
    changed = (255 * corrupt(image.to(torch.uint8), "glass_blur", 1)).round().long()[0, 0]
    image = image[0, 0]
    assert torch.equal(changed[:2], image[:2])
    assert torch.equal(changed[:, :2], image[:, :2])
    sources = torch.stack([image[2 - dy : 32 - dy, 2 - dx : 32 - dx] for dy in (0, 1) for dx in (0, 1)])
    hits = sources == changed[2:, 2:]
    assert (hits.sum(dim=0) == 1).all()
    shares = hits.double().mean(dim=(1, 2))
    assert (shares - 0.25).abs().max() < 4 * (0.25 * 0.75 / 900) ** 0.5


def numpy_blur(images, sigma):
    """Gaussian filter of (N, H, W), four standard deviations wide, edges repeated."""
    radius = int(4 * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    padded = np.pad(images, ((0, 0), (radius, radius), (radius, radius)), mode="edge")
    rows = sum(w * padded[:, i : i + 32] for i, w in enumerate(weights / weights.sum()))
    return sum(w * rows[:, :, i : i + 32] for i, w in enumerate(weights / weights.sum()))


def test_glass_blur_is_as_strong_as_a_numpy_simulation():
    g = np.random.default_rng(0)
    images = g.integers(40, 216, (30, 1, 32, 32), dtype=np.uint8)
    number, row, column = np.ogrid[0:30, 2:32, 2:32]
    for severity, (sigma, rounds) in enumerate([(0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2)], start=1):
        x = np.floor(numpy_blur(images[:, 0].astype(float), sigma))
        for _ in range(rounds):
            dy, dx = g.integers(-1, 1, (2, 30, 30, 30))
            x[:, 2:, 2:] = x[number, row + dy, column + dx]
        change = np.floor(numpy_blur(x, sigma)) - images[:, 0]
        wanted = np.sqrt((change**2).mean(axis=(1, 2))).mean() / 255
        got = rms(corrupt(torch.from_numpy(images), "glass_blur", severity), torch.from_numpy(images))
        assert got == pytest.approx(wanted, rel=0.03), severity


def test_gaussian_blur_matches_numpy_loop_at_every_edge_rule():
    line = torch.rand(9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rules = {"edge": _filters.clamp_index, "symmetric": _filters.reflect_index, "reflect": _filters.mirror_index}
    for mode, rule in rules.items():
        padded = np.pad(line.numpy(), 4, mode=mode)
        weights = np.exp(-0.5 * (np.arange(-4, 5) / 1.2) ** 2)
        wanted = np.convolve(padded, weights / weights.sum(), mode="valid")
        got = _filters.gaussian_blur(line.view(1, 1, 1, 9), 1.2, truncate=3, boundary=rule)
        np.testing.assert_allclose(got.flatten(), wanted, atol=1e-12)


@pytest.mark.parametrize("degrees", [-130.0, -45.0, 0.0, 20.0, 90.0])
def test_motion_blur_matches_numpy_loop(degrees):
    image = pictures(1, size=12)[0].double().numpy() / 255
    radius, sigma = 4, 1.5
    taps = 2 * radius + 1
    weights = np.exp(-0.5 * (np.arange(taps) / sigma) ** 2)
    weights /= weights.sum()
    wanted = np.zeros_like(image)
    for step in range(taps):
        dy = math.ceil(step * math.sin(math.radians(degrees)) - 0.5)
        dx = math.ceil(step * math.cos(math.radians(degrees)) - 0.5)
        for y in range(12):
            for x in range(12):
                wanted[:, y, x] += weights[step] * image[:, min(max(y + dy, 0), 11), min(max(x + dx, 0), 11)]
    angle = torch.tensor([degrees], dtype=torch.float64)
    got = _filters.motion_blur(torch.from_numpy(image).unsqueeze(0), radius, sigma, angle)
    np.testing.assert_allclose(got[0], wanted, atol=1e-12)


def test_motion_blur_of_white_noise_is_as_strong_as_its_weights_say():
    images = torch.randint(40, 216, (40, 1, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    std = images.double().std().item() / 255
    for severity, (radius, sigma) in enumerate([(6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5)], start=1):
        weights = np.exp(-0.5 * (np.arange(2 * radius + 1) / sigma) ** 2)
        weights /= weights.sum()
        wanted = std * math.sqrt((1 - weights[0]) ** 2 + (weights[1:] ** 2).sum())
        assert rms(corrupt(images, "motion_blur", severity), images) == pytest.approx(wanted, rel=0.03), severity
    trail = flat(0, n=20, channels=1)
    trail[:, :, 16, 16] = 255
    changed = corrupt(trail, "motion_blur", 5)
    assert not changed[..., 17:].any()  # one-sided: the light of a dot is seen from its left
    rows, columns = changed[:, 0].nonzero(as_tuple=True)[1:]
    assert ((rows - 16).abs() <= 16 - columns).all()  # within 45 degrees
    assert (rows > 16).any()
    assert (rows < 16).any()


@pytest.mark.parametrize(
    ("factor", "kept", "enlarged"), [(1.0, 32, 32), (1.05, 31, 33), (1.11, 29, 32), (1.75, 19, 33)]
)
def test_zoom_matches_numpy_interpolation(factor, kept, enlarged):
    line = np.random.default_rng(0).random(32)
    start, cut = (32 - kept) // 2, (enlarged - 32) // 2
    wanted = np.interp(np.linspace(0, kept - 1, enlarged), np.arange(kept), line[start : start + kept])[cut : cut + 32]
    np.testing.assert_allclose(_filters.zoom_matrix(32, factor) @ torch.from_numpy(line), wanted, atol=1e-12)


def test_zoom_blur_is_the_mean_of_image_and_enlargements():
    images = pictures(1)
    pixels = images[0].double().numpy() / 255
    for severity, steps in zip(SEVERITIES, (7, 12, 16, 21, 26), strict=True):
        total = pixels.copy()
        for step in range(steps):
            factor = 1 + (1.01 - 1) * step
            kept = math.ceil(32 / factor)
            enlarged = round(kept * factor)
            start, cut = (32 - kept) // 2, (enlarged - 32) // 2
            line = np.linspace(0, kept - 1, enlarged)[cut : cut + 32]
            matrix = np.stack(
                [np.interp(line, np.arange(kept), row[start : start + kept]) for row in np.eye(32)], axis=1
            )
            total += matrix @ pixels @ matrix.T
        wanted = np.floor(255 * total / (steps + 1) + 1e-6) / 255
        np.testing.assert_allclose(corrupt(images, "zoom_blur", severity)[0], wanted, atol=1e-6)


def test_snow_whitens_and_its_flakes_are_symmetric_about_the_centre():
    flakes = (255 * corrupt(flat(20, n=30), "snow", 1)).round()
    base = 0.95 * 20 + 0.05 * (1.5 * 20 + 127.5)
    assert flakes.min() == math.floor(base)
    unclipped = flakes.flatten(1).amax(dim=1) < 255
    assert unclipped.any()
    assert torch.equal(flakes[unclipped], flakes[unclipped].flip((2, 3)))
    assert torch.equal(flakes[:, 0], flakes[:, 2])
    cover = [(corrupt(flat(20, n=30), "snow", s) > 0.4).float().mean().item() for s in SEVERITIES]
    assert 0 < cover[0] < cover[2] < cover[4] < 0.8


def numpy_snow(g, severity):
    """One picture of snow on a flat level of 20, by the published definition."""
    mean, std, zoom, threshold, radius, sigma, keep = (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )[severity - 1]
    kept = math.ceil(32 / zoom)
    enlarged = round(kept * zoom)
    start, cut = (32 - kept) // 2, (enlarged - 32) // 2
    line = np.linspace(0, kept - 1, enlarged)[cut : cut + 32]
    layer = g.normal(mean, std, (32, 32))[start : start + kept, start : start + kept]
    for _ in range(2):
        layer = np.stack([np.interp(line, np.arange(kept), row) for row in layer]).T
    layer[layer < threshold] = 0
    layer = np.floor(255 * layer.clip(0, 1))
    weights = np.exp(-0.5 * (np.arange(2 * radius + 1) / sigma) ** 2)
    angle = math.radians(g.uniform(-135, -45))
    smeared = np.zeros((32, 32))
    for step, weight in enumerate(weights / weights.sum()):
        y = (np.arange(32) + math.ceil(step * math.sin(angle) - 0.5)).clip(0, 31)
        x = (np.arange(32) + math.ceil(step * math.cos(angle) - 0.5)).clip(0, 31)
        smeared += weight * layer[y][:, x]
    layer = np.floor(smeared) / 255
    u = 20 / 255
    return np.floor(255 * (keep * u + (1 - keep) * (1.5 * u + 0.5) + layer + layer[::-1, ::-1]).clip(0, 1))


def test_snow_is_as_strong_as_a_numpy_simulation():
    g, images = np.random.default_rng(0), flat(20, n=150, channels=1)
    for severity in SEVERITIES:
        wanted = np.stack([numpy_snow(g, severity) for _ in range(150)])
        got = 255 * corrupt(images, "snow", severity)
        assert got.mean().item() == pytest.approx(wanted.mean(), rel=0.04), severity
        wanted_rms = np.sqrt(((wanted - 20) ** 2).mean(axis=(1, 2))).mean() / 255
        assert rms(corrupt(images, "snow", severity), images) == pytest.approx(wanted_rms, rel=0.05), severity


def test_frost_has_the_published_weights():
    mean = np.mean([0.511, 0.800, 0.800, 0.614, 0.452])  # of the five textures
    for severity, (keep, add) in enumerate([(1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)], start=1):
        black, gray = (corrupt(flat(level, n=300), "frost", severity) for level in (0, 60))
        assert black.mean().item() == pytest.approx(add * mean, rel=0.06)
        assert ((gray - black) * 255 - keep * 60).abs().max() <= 1.01


def test_frost_is_a_weighted_sum_with_bluish_textures_of_the_measured_spread():
    keep, add = 0.85, 0.4
    frost = (corrupt(flat(0, n=400), "frost", 4).double()) / add
    colour = frost.mean(dim=(2, 3))
    assert (colour[:, 0] < colour[:, 1]).all()
    assert (colour[:, 1] < colour[:, 2]).all()
    means = torch.tensor([[0.305, 0.582, 0.647], [0.776, 0.794, 0.830], [0.559, 0.617, 0.667], [0.407, 0.451, 0.497]])
    weights = torch.tensor([0.2, 0.4, 0.2, 0.2])
    torch.testing.assert_close(frost.mean(dim=(0, 2, 3)).float(), weights @ means, atol=0.03, rtol=0)
    spread = frost[:, 1].flatten(1).std(dim=1)
    assert spread.mean().item() == pytest.approx((0.057 + 2 * 0.072 + 0.103 + 0.135) / 5, rel=0.08)
    gray = corrupt(flat(100, n=4), "frost", 4) - corrupt(flat(0, n=4), "frost", 4)
    assert (gray * 255 - keep * 100).abs().max() <= 1


def test_frost_pattern_has_power_of_inverse_square_frequency_above_a_floor():
    pattern = weather._frost_pattern(torch.randn(2000, 1, 32, 32, generator=torch.Generator().manual_seed(0)).double())
    assert pattern.mean().abs() < 1e-9
    assert pattern.var().item() == pytest.approx(1, rel=0.02)
    power = torch.fft.fft2(pattern).abs().square().mean(dim=(0, 1))
    assert (power[0, 1] / power[0, 4]).item() == pytest.approx((1 + 0.035) / (1 / 16 + 0.035), rel=0.15)


def loop_plasma(values, size, decay):
    """Diamond-square on a torus, point by point, in the order of the published script."""
    points = {(0, 0): 0.0}
    draw, step, amplitude = iter(values), size, 1.0
    while step > 1:
        half = step // 2
        grid = range(0, size, step)
        for y in grid:
            for x in grid:
                corners = [points[(y + a) % size, (x + b) % size] for a in (0, step) for b in (0, step)]
                points[y + half, x + half] = sum(corners) / 4 + amplitude * next(draw)
        for dy, dx in ((0, half), (half, 0)):
            for y in grid:
                for x in grid:
                    cy, cx = y + dy, x + dx
                    around = [
                        points[(cy + a) % size, (cx + b) % size]
                        for a, b in ((half, 0), (-half, 0), (0, half), (0, -half))
                    ]
                    points[cy, cx] = sum(around) / 4 + amplitude * next(draw)
        step, amplitude = half, amplitude / decay**2
    table = np.array([[points[y, x] for x in range(size)] for y in range(size)])
    return (table - table.min()) / (table.max() - table.min())


@pytest.mark.parametrize("decay", [3.0, 1.75])
def test_plasma_fractal_matches_diamond_square_loop(decay):
    values = 2 * torch.rand(2, 255, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1
    got = weather.plasma_fractal(values, decay)
    for row in range(2):
        np.testing.assert_allclose(got[row, 0], loop_plasma(values[row].tolist(), 16, decay), atol=1e-12)


def test_fog_is_bounded_by_the_brightest_value_and_spares_black():
    images = pictures(8)
    foggy = corrupt(images, "fog", 3)
    assert (foggy.amax(dim=(1, 2, 3)) <= images.amax(dim=(1, 2, 3)) / 255).all()
    assert corrupt(flat(0, n=2), "fog", 3).max() == 0
    level = (255 * corrupt(flat(120, n=2), "fog", 4)).round()  # (120 / 255 + f) m / (m + 1) with f in [0, 1]
    m = 120 / 255
    assert level.min() == math.floor(255 * m * m / (m + 1) + 1e-6)
    assert level.max() == 120


def test_fog_is_as_thick_and_rough_as_the_published_one():
    g, images, m = np.random.default_rng(0), flat(240, n=150, channels=1), 240 / 255
    for severity, (thickness, decay) in enumerate([(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)], start=1):
        foggy = (255 * corrupt(images, "fog", severity)).round()
        assert foggy.min() == math.floor(255 * m * m / (m + thickness) + 1e-6)
        fractal = (foggy / 255 * (m + thickness) / m - m) / thickness
        loops = np.stack([loop_plasma(2 * g.random(1023) - 1, 32, decay) for _ in range(60)])
        rough = np.abs(np.diff(loops, axis=2)).mean()
        assert fractal.diff(dim=3).abs().mean().item() == pytest.approx(rough, rel=0.1), severity
        assert fractal.mean().item() == pytest.approx(loops.mean(), rel=0.1), severity


def test_brightness_raises_the_value_of_hsv_colours():
    image = pictures(1, size=8)
    got = corrupt(image, "brightness", 4)[0]
    for y in range(8):
        for x in range(8):
            h, s, v = colorsys.rgb_to_hsv(*(image[0, :, y, x] / 255.0).tolist())
            wanted = np.floor(255 * np.array(colorsys.hsv_to_rgb(h, s, min(v + 0.2, 1))) + 1e-6)
            np.testing.assert_allclose(255 * got[:, y, x], wanted, atol=0.01)
    assert torch.equal(255 * corrupt(flat(0, n=1), "brightness", 5), torch.full((1, 3, 32, 32), 76.0))


def test_contrast_shrinks_the_distance_from_each_channels_mean():
    images = pictures(3)
    pixels = images.double().numpy() / 255
    for severity, factor in zip(SEVERITIES, (0.75, 0.5, 0.4, 0.3, 0.15), strict=True):
        means = pixels.mean(axis=(2, 3), keepdims=True)
        wanted = np.floor(255 * (means + factor * (pixels - means)) + 1e-6) / 255
        np.testing.assert_allclose(corrupt(images, "contrast", severity), wanted, atol=1e-6)
        strength = (1 - factor) * np.sqrt(pixels.var(axis=(2, 3)).mean(axis=1)).mean()
        assert rms(corrupt(images, "contrast", severity), images) == pytest.approx(strength, rel=0.1)


def test_affine_map_undoes_the_shift_of_its_corners():
    shifts = 2 * torch.rand(5, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = digital.affine_map(shifts, 32, 32)
    corners = torch.tensor([[26.0, 26.0], [26.0, 6.0], [6.0, 6.0]], dtype=torch.float64)
    targets = torch.cat([corners + shifts, torch.ones(5, 3, 1, dtype=torch.float64)], dim=2)
    torch.testing.assert_close(targets @ matrix, corners.expand(5, 3, 2))


def test_bilinear_sampling_matches_numpy_loop():
    g = torch.Generator().manual_seed(0)
    image = torch.rand(1, 2, 7, 7, generator=g, dtype=torch.float64)
    rows, columns = (12 * torch.rand(1, 7, 7, generator=g, dtype=torch.float64) - 3 for _ in range(2))
    for mode, rule in (("symmetric", _filters.reflect_index), ("reflect", _filters.mirror_index)):
        padded = np.pad(image[0].numpy(), ((0, 0), (5, 5), (5, 5)), mode=mode)
        got = _filters.sample_bilinear(image, rows, columns, rule)[0]
        for y, x in np.ndindex(7, 7):
            r, c = rows[0, y, x].item() + 5, columns[0, y, x].item() + 5
            top, left = int(r), int(c)
            square = padded[:, top : top + 2, left : left + 2]
            wanted = np.einsum("cij,i,j->c", square, [1 - r + top, r - top], [1 - c + left, c - left])
            np.testing.assert_allclose(got[:, y, x], wanted, atol=1e-12)


ELASTIC = ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))


def ramp_shift(severity):
    """Root mean square of the horizontal shift in pixels about the centre, from what it makes of a ramp."""
    images = (7 * torch.arange(32)).to(torch.uint8).expand(300, 1, 32, 32).contiguous()
    changed = 255 * corrupt(images, "elastic_transform", severity).double()[:, 0, 11:21, 11:21] + 0.5
    return math.sqrt((changed - images[0, 0, 11:21, 11:21]).square().mean().item() - 1 / 12) / 7


def test_elastic_transform_displaces_as_far_as_its_smooth_fields_say(monkeypatch):
    identity = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    monkeypatch.setattr(digital, "affine_map", lambda shifts, height, width: identity.expand(len(shifts), 3, 2))
    for severity, (strength, smoothness, _) in enumerate(ELASTIC[2:], start=3):  # severity 2: less than a level
        sigma = 32 * smoothness
        radius = int(3 * sigma + 0.5)
        weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
        place = (16 + np.arange(-radius, radius + 1)) % 64
        folded = np.bincount(np.where(place < 32, place, 63 - place), weights / weights.sum())  # edges reflect
        wanted = 32 * strength * math.sqrt(1 / 3) * (folded**2).sum()
        assert ramp_shift(severity) == pytest.approx(wanted, rel=0.1), severity


def test_elastic_transform_moves_its_corners_as_far_as_published(monkeypatch):
    monkeypatch.setattr(_filters, "gaussian_blur", lambda fields, *args, **options: 0 * fields)
    u, v = np.meshgrid(np.arange(-5, 5), np.arange(-5, 5))  # columns and rows about the centre
    shares = np.stack([(v + 10) / 20, (u - v) / 20, (10 - u) / 20])  # of the corners (10, 10), (10, -10), (-10, -10)
    for severity, (_, _, reach) in enumerate(ELASTIC, start=1):
        wanted = 32 * reach * math.sqrt((shares**2).sum(axis=0).mean() / 3)
        assert ramp_shift(severity) == pytest.approx(wanted, rel=0.1), severity


def test_elastic_transform_moves_a_dot_no_further_than_its_shifts():
    image = flat(0, n=200, channels=1)
    image[:, :, 16, 16] = 255
    changed = corrupt(image, "elastic_transform", 1).double()[:, 0]
    grid = torch.arange(32, dtype=torch.float64)
    total = changed.sum(dim=(1, 2))
    y = (changed.sum(dim=2) * grid).sum(dim=1) / total - 16
    x = (changed.sum(dim=1) * grid).sum(dim=1) / total - 16
    assert y.isfinite().all()
    assert (y.abs() < 2.56 + 0.5).all()  # the centre is the mean of two corners, each shifted by up to 0.08 * 32
    assert y.std() > 0.5
    assert x.std() > 0.5


@pytest.mark.parametrize("channels", [1, 3])
def test_pixelate_is_what_pillow_makes_of_box_filters(channels):
    module = pytest.importorskip("PIL.Image")
    images = pictures(4, channels)
    for severity, side in zip(SEVERITIES, (30, 28, 27, 24, 20), strict=True):
        got = (255 * corrupt(images, "pixelate", severity)).round().to(torch.uint8)
        for image, mine in zip(images, got, strict=True):
            picture = module.fromarray(image.permute(1, 2, 0).squeeze(-1).numpy())
            back = picture.resize((side, side), module.Resampling.BOX).resize((32, 32), module.Resampling.BOX)
            assert np.array_equal(np.asarray(back).reshape(32, 32, channels), mine.permute(1, 2, 0).numpy())


def test_box_filter_rows_sum_to_one_and_keep_the_mean_of_whole_blocks():
    matrix = _filters.box_matrix(32, 20)
    assert matrix.shape == (20, 32)
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(20, dtype=torch.float64))
    torch.testing.assert_close(_filters.box_matrix(8, 2), torch.eye(2).repeat_interleave(4, dim=1).double() / 4)
    assert torch.equal(_filters.box_matrix(2, 4), torch.eye(2).repeat_interleave(2, dim=0).double())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [32, 24])
def test_jpeg_is_what_libjpeg_makes(channels, size):
    module = pytest.importorskip("PIL.Image")
    images = pictures(12, channels, size)
    for severity, quality in zip(SEVERITIES, (80, 65, 58, 50, 40), strict=True):
        got = 255 * corrupt(images, "jpeg_compression", severity).permute(0, 2, 3, 1).double()
        wanted = []
        for image in images:
            file = io.BytesIO()
            module.fromarray(image.permute(1, 2, 0).squeeze(-1).numpy()).save(file, "JPEG", quality=quality)
            wanted.append(np.asarray(module.open(file)).reshape(size, size, channels))
        wanted = torch.from_numpy(np.stack(wanted)).double()
        assert (got - wanted).abs().mean() < (2.0 if size % 16 and channels == 3 else 0.5)
        original = images.permute(0, 2, 3, 1).double()
        strengths = [(x - original).square().mean().sqrt().item() for x in (got, wanted)]
        assert strengths[0] == pytest.approx(strengths[1], rel=0.03)


def test_jpeg_of_flat_gray_levels_rounds_as_libjpeg_does():
    module = pytest.importorskip("PIL.Image")
    levels = torch.arange(256).view(256, 1, 1, 1).expand(256, 1, 8, 8) / 255
    for quality in (80, 50, 40):  # at 50 every odd level is halfway between two steps
        got = 255 * _jpeg.jpeg(levels.double(), quality)[:, 0, 0, 0]
        for level in range(256):
            file = io.BytesIO()
            module.new("L", (8, 8), level).save(file, "JPEG", quality=quality)
            assert module.open(file).getpixel((3, 3)) == round(got[level].item())


def test_jpeg_steps_and_cosines_are_those_of_the_standard():
    cosines = _jpeg._cosines()
    torch.testing.assert_close(cosines @ cosines.T, torch.eye(8, dtype=torch.float64))
    assert _jpeg._steps(_jpeg._LUMA_STEPS, 50)[0, :3].tolist() == [16, 11, 10]
    assert _jpeg._steps(_jpeg._LUMA_STEPS, 80)[0, :3].tolist() == [6, 4, 4]
    assert _jpeg._steps(_jpeg._CHROMA_STEPS, 40)[7, 7].item() == 124
    assert _jpeg._steps(_jpeg._LUMA_STEPS, 100).max() == 1


def test_jpeg_of_quality_100_changes_gray_images_by_rounding_alone():
    gray = pictures(2, 1).double() / 255
    assert 255 * (_jpeg.jpeg(gray, 100) - gray).abs().max() <= 2


def test_poisson_draws_follow_the_index():
    images = torch.zeros(5, 1, 4, 4, dtype=torch.float64)
    rates = torch.full((5, 1, 4, 4), 7.0, dtype=torch.float64)
    whole = Draws(images, 3, 0, "x").poisson("noise", rates)
    part = Draws(images[2:], 5, 0, "x").poisson("noise", rates[2:])
    assert torch.equal(whole[2:], part)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x: corrupt(x, "fogg", 1), ValueError, "Did you mean 'fog'"),
        (lambda x: corrupt(x, "fog", 0), ValueError, "severity must be from 1 to 5, got 0"),
        (lambda x: corrupt(x, "fog", 2.0), TypeError, "severity must be an integer"),
        (lambda x: corrupt(x, "fog", 1, seed="a"), TypeError, "seed must be an integer"),
        (lambda x: corrupt(x, "fog", 1, first_index=-1), ValueError, "first_index must be at least 0"),
        (lambda x: corrupt(x[:, :2], "fog", 1), ValueError, "1 .gray. or 3 .RGB. channels"),
        (lambda x: corrupt(x[..., :6], "fog", 1), ValueError, "at least 8 x 8 pixels"),
        (lambda x: corrupt(x.float(), "fog", 1), ValueError, "Divide them by 255"),
        (lambda x: corrupt(x[0], "fog", 1), ValueError, "shape .N, C, H, W."),
        (
            lambda x: corruption_sweep(Mean(), x, torch.zeros(2).long(), corruptions="fog"),
            TypeError,
            "sequence of names",
        ),
        (
            lambda x: corruption_sweep(Mean(), x, torch.zeros(2).long(), corruptions=[]),
            ValueError,
            "corruptions is empty",
        ),
        (
            lambda x: corruption_sweep(Mean(), x, torch.zeros(2).long(), corruptions=["smog"]),
            ValueError,
            "corruptions='smog'",
        ),
        (
            lambda x: corruption_sweep(Mean(), x, torch.zeros(2).long(), severities=[6]),
            ValueError,
            "from 1 to 5, got 6",
        ),
        (
            lambda x: corruption_sweep(Mean(), x, torch.zeros(2).long(), severities=[]),
            ValueError,
            "severities is empty",
        ),
        (lambda x: corruption_sweep(Mean(), x, torch.zeros(2).long(), severities=3), TypeError, "sequence of integers"),
        (lambda x: corruption_sweep(Mean(), x, torch.zeros(3).long()), ValueError, "one per image"),
        (lambda x: frequency_group("smog"), ValueError, "corruption='smog'"),
    ],
)
def test_bad_arguments_are_named(call, error, words):
    with pytest.raises(error, match=words):
        call(pictures(2))


def test_no_images_give_no_images():
    assert corrupt(pictures(2)[:0], "snow", 1).shape == (0, 3, 32, 32)


# Sweeps and their results


def test_sweep_counts_what_corrupt_makes():
    images, labels = pictures(9), torch.arange(9) % 2
    result = corruption_sweep(
        Mean(), images, labels, corruptions=["snow", "fog", "impulse_noise"], severities=(5, 1), seed=2, batch_size=4
    )
    assert list(result.accuracies) == ["impulse_noise", "snow", "fog"]
    assert result.severities == (1, 5)
    for name, values in result.accuracies.items():
        for severity, value in zip((1, 5), values, strict=True):
            assert value == accuracy(Mean(), corrupt(images, name, severity, seed=2), labels)
    assert result.clean == accuracy(Mean(), images, labels)
    assert (result.n, result.seed, result.is_published) == (9, 2, False)
    assert "not" in result.source
    assert "CIFAR-10-C" in result.source


def test_sweep_shows_every_model_the_same_images_in_any_batch_size():
    images, labels = pictures(5), torch.zeros(5).long()
    one, other = Mean(), Mean()
    corruption_sweep(one, images, labels, corruptions=["snow"], severities=[3], batch_size=5)
    corruption_sweep(other, images, labels, corruptions=["snow"], severities=[3], batch_size=2)
    assert torch.equal(one.seen[1], torch.cat(other.seen[1::2]))


def test_sweep_leaves_the_mode_of_a_module_alone():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(3 * 32 * 32, 2)).train()
    corruption_sweep(Classifier(model), pictures(2), torch.zeros(2).long(), corruptions=["contrast"], severities=[1])
    assert model.training


def test_parts_joined_are_one_run_over_all():
    images, labels = pictures(11), torch.arange(11) % 2
    options = {"corruptions": ["shot_noise", "frost"], "severities": (1, 4), "seed": 1}
    whole = corruption_sweep(Mean(), images, labels, **options)
    parts = [
        corruption_sweep(Mean(), images[a:b], labels[a:b], first_index=a, **options)
        for a, b in ((0, 3), (3, 10), (10, 11))
    ]
    assert CorruptionResult.join(parts) == whole
    loaded = [CorruptionResult.from_dict(json.loads(json.dumps(part.to_dict()))) for part in parts]
    assert CorruptionResult.join(loaded).to_dict() == whole.to_dict()
    with pytest.raises(ValueError, match="not consecutive"):
        CorruptionResult.join([parts[0], parts[2]])
    with pytest.raises(ValueError, match="parts disagree on severities"):
        CorruptionResult.join(
            [
                parts[0],
                corruption_sweep(
                    Mean(),
                    images[3:],
                    labels[3:],
                    first_index=3,
                    corruptions=["shot_noise", "frost"],
                    severities=(1, 5),
                    seed=1,
                ),
            ]
        )
    with pytest.raises(ValueError, match="parts is empty"):
        CorruptionResult.join([])


def test_dictionary_says_what_was_not_run_and_survives_json():
    result = corruption_sweep(Mean(), pictures(4), torch.zeros(4).long(), corruptions=["fog", "pixelate"])
    data = json.loads(json.dumps(result.to_dict()))
    assert data["name"] == "corruptions"
    assert data["groups"] == {"fog": "low", "pixelate": "medium"}
    assert data["group_accuracies"]["high"] is None
    assert data["group_accuracies"]["low"] == pytest.approx(sum(data["accuracies"]["fog"]) / 5)
    assert data["mean"] == pytest.approx(sum(data["accuracies"]["fog"] + data["accuracies"]["pixelate"]) / 10)
    assert data["incomplete_groups"]["high"] == list(NOISES)
    assert set(data["not_run"]) == set(CORRUPTIONS) - {"fog", "pixelate"}
    assert CorruptionResult.from_dict(data) == result


def test_groups_are_means_over_their_corruptions():
    accuracies = {name: (0.1 * i,) for i, name in enumerate(CORRUPTIONS[:10])}
    result = CorruptionResult("example", True, accuracies, 10, severities=(2,))
    assert result.group_accuracies["high"] == pytest.approx(0.1)
    assert result.group_accuracies["medium"] == pytest.approx(0.45)
    assert result.group_accuracies["low"] == pytest.approx(0.8)
    assert result.incomplete_groups["low"] == ("brightness", "contrast")
    assert "high" not in result.incomplete_groups


@pytest.mark.parametrize(
    ("accuracies", "n", "words"),
    [
        ({}, 1, "something was run"),
        ({"fog": (0.5,)}, 0, "n=0"),
        ({"fog": (0.5, 0.4)}, 3, "got fog"),
        ({"smog": (0.5,)}, 3, "got smog"),
    ],
)
def test_impossible_results_are_refused(accuracies, n, words):
    with pytest.raises(ValueError, match=words):
        CorruptionResult("example", False, accuracies, n, severities=(1,))


def test_groups_follow_the_measured_frequencies():
    assert [frequency_group(name) for name in NOISES] == ["high"] * 3
    images = pictures(60)
    clean = images.float() / 255
    measured = {n: sum(mean_frequency(corrupt(images, n, s) - clean) for s in (1, 3, 5)) / 3 for n in CORRUPTIONS}
    groups = {g: [measured[n] for n in CORRUPTIONS if frequency_group(n) == g] for g in ("low", "medium", "high")}
    assert max(groups["low"]) < 4 < min(groups["medium"])
    assert max(groups["medium"]) < 12.5
    assert all(value == pytest.approx(12.24, abs=0.25) for value in groups["high"])  # that of white noise
    assert set(frequency_groups()) == set(CORRUPTIONS)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_cuda_makes_the_images_of_the_cpu(name):
    images = pictures(6)
    for severity in (1, 5):
        wanted = corrupt(images, name, severity, first_index=2)
        got = corrupt(images.cuda(), name, severity, first_index=2)
        assert got.device.type == "cuda"
        assert ((got.cpu() - wanted).abs() > 1e-6).float().mean() < 1e-4  # rounding at the edge of a level
