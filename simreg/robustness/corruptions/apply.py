"""``corrupt``: one of the 15 common corruptions, at one severity, on a batch of images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from simreg._checks import check_choice, check_images, check_unit_range, describe
from simreg.robustness._random import check_seed
from simreg.robustness.classifier import check_count, unit_float
from simreg.robustness.corruptions import blur, digital, noise, weather
from simreg.robustness.corruptions._draws import Draws
from simreg.robustness.corruptions._filters import luma, round_levels, truncate_levels

Corruption = Literal[
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
]
CORRUPTIONS: tuple[Corruption, ...] = get_args(Corruption)
"""The 15 common corruptions, in the order of the published sets."""

SEVERITIES: tuple[int, ...] = (1, 2, 3, 4, 5)
"""Severities of a corruption, weakest parameters first."""

_SMALLEST = 8  # pixels of a side: below it a blur of a pixel leaves nothing

_CHUNK = 2**23  # values at a time: 64 MiB in float64

_BY_CHANNEL = ("gaussian_noise", "shot_noise", "impulse_noise")  # draw a value for each channel of a pixel

_FUNCTIONS: dict[str, Callable[[Tensor, int, Draws], Tensor]] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": weather.brightness,
    "contrast": digital.contrast,
    "elastic_transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
}


@torch.no_grad()
def corrupt(images: Tensor, corruption: Corruption, severity: int, *, seed: int = 0, first_index: int = 0) -> Tensor:
    """Images with one of the 15 common corruptions, in the strengths of CIFAR-10-C.

    The definitions and strengths are those of the script that made CIFAR-10-C; the random draws are not, so that the
    images differ from the published arrays one by one, and frost uses a synthetic texture in place of photographs.
    Severity counts the published parameters: in three corruptions (glass_blur, frost, elastic_transform) a higher
    severity changes pixels less, as in the published set.

    Strengths are made for 32 x 32 pixels. At other sizes lengths (radii, displacements, flakes) grow with the short
    side, so that the picture as a whole looks alike; noise and JPEG blocks keep their size in pixels. Gray images get
    what an equal image in three channels would get, where noise has one value instead of three.

    The draws of an image depend on (seed, corruption, severity, index of the image) alone: not on batch or device.

    Args:
        images: Shape (N, C, H, W), C = 1 (gray) or 3 (RGB), H and W at least 8; uint8 or floating point in [0, 1],
            which is rounded to 8 bits first.
        corruption: One of ``CORRUPTIONS``.
        severity: 1 to 5.
        seed: Seed of the draws.
        first_index: Index of the first image, for parts of a larger set.

    Returns:
        Shape (N, C, H, W), floating point on the images' device, cut to multiples of 1/255 towards zero as the
        published sets are stored.

    Raises:
        TypeError: If an argument is not of the right kind.
        ValueError: If the corruption is unknown, the severity out of range, the images leave [0, 1], are smaller than
            8 x 8 or have a number of channels other than 1 and 3.

    Source: Hendrycks and Dietterich, 2019 (https://arxiv.org/abs/1903.12261), 32-pixel parameters of their
    ``make_cifar_c.py``.

    Example:
        >>> images = torch.full((2, 3, 32, 32), 100, dtype=torch.uint8)
        >>> (255 * corrupt(images, "brightness", 3)).unique()  # 100 + 0.15 * 255 = 138.25
        tensor([138.])
    """
    check_corruptible(images)
    check_choice("corruption", corruption, CORRUPTIONS)
    check_severity(severity)
    check_seed(seed)
    check_count("first_index", first_index, minimum=0)
    pixels = unit_float(images)
    if not len(pixels):
        return pixels.clone()
    chunk = max(1, _CHUNK // pixels[0].numel())
    parts = [
        _corrupt(part, corruption, severity, seed, first_index + i * chunk)
        for i, part in enumerate(torch.split(pixels, chunk))
    ]
    return torch.cat(parts)


def _corrupt(pixels: Tensor, corruption: Corruption, severity: int, seed: int, first_index: int) -> Tensor:
    """One chunk, computed in float64 so that the order of sums does not show in 8 bits."""
    device = torch.device("cpu") if pixels.device.type == "mps" else pixels.device  # mps has no float64
    levels = round_levels(pixels.to(device, torch.float64))
    if levels.shape[1] == 1 and corruption in _BY_CHANNEL:
        levels = levels.expand(-1, 3, -1, -1)
    draws = Draws(levels, first_index, seed, corruption, severity)
    changed = truncate_levels(_FUNCTIONS[corruption](levels, severity, draws))
    if pixels.shape[1] == 1:
        changed = round_levels(luma(changed))
    return changed.to(pixels.device, pixels.dtype)


def check_corruptible(images: object) -> Tensor:
    """Raise unless ``images`` are gray or RGB images in [0, 1] of at least 8 x 8 pixels."""
    pixels = check_images("images", images)
    check_unit_range("images", pixels)
    channels, height, width = pixels.shape[1:]
    if channels not in (1, 3):
        raise ValueError(f"images must have 1 (gray) or 3 (RGB) channels for common corruptions, got {channels}.")
    if min(height, width) < _SMALLEST:
        raise ValueError(
            f"images must be at least {_SMALLEST} x {_SMALLEST} pixels for common corruptions, got {height} x {width}."
        )
    return pixels


def check_severity(severity: object) -> None:
    """Raise unless ``severity`` is an integer from 1 to 5."""
    if isinstance(severity, bool) or not isinstance(severity, int):
        raise TypeError(f"severity must be an integer from 1 to 5, got {describe(severity)}.")
    if severity not in SEVERITIES:
        raise ValueError(f"severity must be from 1 to 5, got {severity}.")
