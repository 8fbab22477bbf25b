"""Noise corruptions: gaussian, shot, impulse. Images (N, C, H, W) are float64 in [0, 1]; results may leave it."""

from __future__ import annotations

import torch
from torch import Tensor

from simreg.robustness.corruptions._draws import Draws

_GAUSSIAN_STD = (0.04, 0.06, 0.08, 0.09, 0.10)
_SHOT_PHOTONS = (500, 250, 100, 75, 50)  # expected count of a value of 1
_IMPULSE_SHARE = (0.01, 0.02, 0.03, 0.05, 0.07)


def gaussian_noise(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Sum of x and s z, z standard normal for each value."""
    return images + _GAUSSIAN_STD[severity - 1] * draws.normal("noise", *images.shape[1:])


def shot_noise(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Poisson(c x) / c for each value: the counting noise of c photons."""
    photons = _SHOT_PHOTONS[severity - 1]
    return draws.poisson("noise", photons * images) / photons


def impulse_noise(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """A share of the values becomes 0 or 1, equally likely; each channel of a pixel is a value of its own."""
    share = _IMPULSE_SHARE[severity - 1]
    uniform = draws.uniform("noise", 0, 1, *images.shape[1:])
    impulses = (uniform < share / 2).to(images.dtype)  # the lower half of [0, share) becomes 1, the upper half 0
    return torch.where(uniform < share, impulses, images)
