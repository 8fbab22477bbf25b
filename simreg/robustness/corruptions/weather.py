"""Weather corruptions: snow, frost, fog, brightness. Images (N, C, H, W) are float64 in [0, 1]; lengths for 32 px."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from simreg.robustness.corruptions import _filters as filters
from simreg.robustness.corruptions._draws import Draws


class _Snow(NamedTuple):
    mean: float  # of the noise that flakes are cut from
    std: float
    zoom: float  # size of the flakes
    threshold: float  # noise below it is no flake
    radius: float  # of the smear
    sigma: float
    keep: float  # share of the image that is not whitened


_SNOW = (
    _Snow(0.1, 0.2, 1, 0.6, 8, 3, 0.95),
    _Snow(0.1, 0.2, 1, 0.5, 10, 4, 0.9),
    _Snow(0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
    _Snow(0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
    _Snow(0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
)
_FROST = ((1.0, 0.2), (1.0, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))  # weight of the image, weight of the frost
_FOG = ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))  # thickness, decay of its roughness
_BRIGHTNESS = (0.05, 0.1, 0.15, 0.2, 0.3)

# Mean colour, spread of a crop's mean and spread within a crop of the five photographs of frost behind CIFAR-10-C
# (two of them have equal pixels), measured on 32 x 32 crops of the reduced pictures.
_FROST_COLOURS = (
    (0.305, 0.582, 0.647),
    (0.776, 0.794, 0.830),
    (0.776, 0.794, 0.830),
    (0.559, 0.617, 0.667),
    (0.407, 0.451, 0.497),
)
_FROST_SPREADS = ((0.045, 0.057), (0.034, 0.072), (0.034, 0.072), (0.042, 0.103), (0.066, 0.135))
_FROST_FLOOR = 0.035  # white part of the texture's power, relative to its power at 1 cycle per image


def snow(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Whitened image plus smeared flakes, once as drawn and once turned by 180 degrees."""
    s, scale = _SNOW[severity - 1], filters.relative_size(images)
    height, width = images.shape[-2:]
    noise = s.mean + s.std * draws.normal("flakes", 1, height, width)
    factor = max(1.0, s.zoom * scale)
    noise = filters.by_axis(noise, filters.zoom_matrix(height, factor), filters.zoom_matrix(width, factor))
    flakes = filters.truncate_levels(torch.where(noise < s.threshold, 0, noise))
    degrees = draws.uniform("direction", -135, -45)
    flakes = filters.truncate_levels(filters.motion_blur(flakes, s.radius * scale, s.sigma * scale, degrees))
    white = torch.maximum(images, 1.5 * filters.luma(images) + 0.5)
    return s.keep * images + (1 - s.keep) * white + flakes + flakes.rot90(2, dims=(2, 3))


def frost(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Weighted sum of the image and a synthetic texture of frost.

    The published arrays use crops of five photographs. Here a texture has the mean colour of one of them (equally
    likely), a shift of its brightness, and a Gaussian pattern with power falling as 1 / f^2 to a white floor, both as
    strong as in crops of that photograph; gray images get its luma.
    """
    keep, add = _FROST[severity - 1]
    n, channels, height, width = images.shape
    kind = draws.uniform("kind", 0, len(_FROST_COLOURS)).long()
    colours = torch.tensor(_FROST_COLOURS, dtype=images.dtype, device=images.device)[kind].view(n, 3, 1, 1)
    spreads = torch.tensor(_FROST_SPREADS, dtype=images.dtype, device=images.device)[kind].view(n, 2, 1, 1, 1)
    colour = filters.luma(colours) if channels == 1 else colours
    shift = spreads[:, 0] * draws.normal("brightness", 1, 1, 1)
    pattern = spreads[:, 1] * _frost_pattern(draws.normal("pattern", 1, height, width))
    return keep * images + add * (colour + shift + pattern).clamp(0, 1)


def _frost_pattern(noise: Tensor) -> Tensor:
    """White noise (N, 1, H, W) with its power shaped to 1 / f^2 plus a floor: mean 0, variance 1."""
    height, width = noise.shape[-2:]
    vertical = torch.fft.fftfreq(height, 1 / height, dtype=noise.dtype, device=noise.device).view(-1, 1)
    horizontal = torch.fft.fftfreq(width, 1 / width, dtype=noise.dtype, device=noise.device)
    squared = vertical**2 + horizontal**2  # cycles per image
    power = torch.where(squared > 0, 1 / squared.clamp(min=1) + _FROST_FLOOR, 0)
    spectrum = torch.fft.fft2(noise) * (power / power.mean()).sqrt()
    pattern: Tensor = torch.fft.ifft2(spectrum).real
    return pattern


def fog(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Image plus a plasma fractal, scaled back to the brightest value of the image."""
    thickness, decay = _FOG[severity - 1]
    height, width = images.shape[-2:]
    size = 1 << (max(height, width) - 1).bit_length()  # next power of two
    fractal = plasma_fractal(draws.uniform("fractal", -1, 1, size * size - 1), decay)[:, :, :height, :width]
    brightest = images.amax(dim=(1, 2, 3), keepdim=True)
    return (images + thickness * fractal) * brightest / (brightest + thickness)


def plasma_fractal(values: Tensor, decay: float) -> Tensor:
    """Cloud-like maps by midpoint displacement on a torus, scaled to [0, 1].

    Squares, then diamonds: each new point is the mean of its four neighbours plus a uniform displacement whose range
    falls by ``decay`` squared from one spacing to the next. Relative to the range the start does not matter: the
    displacement of the first spacing is 1.

    Args:
        values: Uniform on [-1, 1), (N, size^2 - 1), size a power of two.
        decay: Ratio of the roots of the ranges of successive spacings.

    Returns:
        Shape (N, 1, size, size).
    """
    n, size = len(values), int((values.shape[1] + 1) ** 0.5 + 0.5)
    points, amplitude = values.new_zeros((n, 1, 1)), 1.0  # (N, known rows, known columns)
    while (known := points.shape[1]) < size:
        shifts = amplitude * values[:, known**2 - 1 : 4 * known**2 - 1].view(n, 3, known, known)
        below, right = points.roll(-1, dims=1), points.roll(-1, dims=2)
        centres = (points + below + right + below.roll(-1, dims=2)) / 4 + shifts[:, 0]
        tops = (points + right + centres + centres.roll(1, dims=1)) / 4 + shifts[:, 1]
        sides = (points + below + centres + centres.roll(1, dims=2)) / 4 + shifts[:, 2]
        even = torch.stack([points, tops], dim=3).flatten(2)  # rows that hold known points
        odd = torch.stack([sides, centres], dim=3).flatten(2)
        points = torch.stack([even, odd], dim=2).flatten(1, 2)
        amplitude /= decay**2
    low, high = points.amin(dim=(1, 2), keepdim=True), points.amax(dim=(1, 2), keepdim=True)
    return ((points - low) / (high - low)).unsqueeze(1)


def brightness(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Value of the HSV colour, its largest channel, raised and cut at 1; hue and saturation stay."""
    value = images.amax(dim=1, keepdim=True)
    raised = (value + _BRIGHTNESS[severity - 1]).clamp(max=1)
    return torch.where(value > 0, images * (raised / value.clamp(min=1e-12)), raised)
