"""Blur corruptions: defocus, glass, motion, zoom. Images (N, C, H, W) are float64 in [0, 1]; lengths are for 32 px."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from simreg.robustness.corruptions import _filters as filters
from simreg.robustness.corruptions._draws import Draws

_DEFOCUS = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))  # radius of the disk, sigma that softens it
_GLASS = ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))  # sigma, rounds of displacement
_MOTION = ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))  # radius, sigma of the smear
_ZOOM_STEPS = (7, 12, 16, 21, 26)  # enlargements by 1.00, 1.01, 1.02, ...


def defocus_blur(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Correlation with a softened disk, the image mirrored at its edges."""
    radius, sigma = _DEFOCUS[severity - 1]
    kernel = defocus_kernel(radius, sigma, filters.relative_size(images)).to(images.device)
    margin = kernel.shape[-1] // 2
    n, channels, height, width = images.shape
    padded = F.pad(images, (margin,) * 4, mode="reflect")
    single = padded.reshape(n * channels, 1, *padded.shape[-2:])
    return F.conv2d(single, kernel.view(1, 1, *kernel.shape)).view(n, channels, height, width)


def defocus_kernel(radius: float, sigma: float, scale: float) -> Tensor:
    """Disk of a radius in pixels, all pixels whose centre it covers, blurred by 3 x 3 Gaussian taps; sum 1.

    Args:
        radius: Radius of the disk in a 32 px image.
        sigma: Standard deviation of the softening in a 32 px image.
        scale: Image side in units of 32 px; multiplies both, and the reach of the softening.
    """
    soft = max(1, round(scale))
    margin = int(radius * scale) + soft
    offsets = torch.arange(-margin, margin + 1, dtype=torch.float64)
    disk = (offsets.view(-1, 1) ** 2 + offsets.view(1, -1) ** 2 <= (radius * scale) ** 2).to(torch.float64)
    weights = filters.gaussian_weights(sigma * scale, soft)
    kernel = F.conv2d(
        (disk / disk.sum()).view(1, 1, *disk.shape), torch.outer(weights, weights)[None, None], padding=soft
    )
    return kernel[0, 0]


def glass_blur(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Gaussian blur, pixels copied from a neighbour up to one pixel up and to the left, Gaussian blur.

    The published script means to swap neighbours; its colour pixels are views, so that each is overwritten by its
    neighbour instead, which in its order of visits is a copy from the unchanged image.
    """
    sigma, rounds = _GLASS[severity - 1]
    scale = filters.relative_size(images)
    reach = max(1, round(scale))
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device).view(1, -1, 1)
    columns = torch.arange(width, device=images.device).view(1, 1, -1)
    moves = (rows > reach) & (rows <= height - reach) & (columns > reach) & (columns <= width - reach)
    result = filters.truncate_levels(_soften(images, sigma * scale))
    for turn in range(rounds):
        shift = draws.uniform(f"displacement {turn}", -reach, reach, 2, height, width).floor().long()
        shift = torch.where(moves.unsqueeze(1), shift, 0)
        result = filters.gather_pixels(result, rows + shift[:, 0], columns + shift[:, 1])
    return _soften(result, sigma * scale)


def motion_blur(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """A one-sided smear within 45 degrees of the horizontal."""
    radius, sigma = _MOTION[severity - 1]
    scale = filters.relative_size(images)
    degrees = draws.uniform("direction", -45, 45)
    return filters.motion_blur(images, radius * scale, sigma * scale, degrees)


def zoom_blur(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Mean of the image and of its enlargements in steps of 1 %."""
    steps = _ZOOM_STEPS[severity - 1]
    total = images.clone()
    for step in range(steps):
        factor = 1 + (1.01 - 1) * step  # slightly above 1.25 at step 25, which decides a rounding there
        total += filters.by_axis(images, *(filters.zoom_matrix(size, factor) for size in images.shape[-2:]))
    return total / (steps + 1)


def _soften(images: Tensor, sigma: float) -> Tensor:
    if math.floor(4 * sigma + 0.5) == 0:
        return images
    return filters.gaussian_blur(images, sigma, truncate=4, boundary=filters.clamp_index)
