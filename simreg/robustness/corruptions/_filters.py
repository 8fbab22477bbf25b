"""Filters and resampling that the corruptions share: small matrices for rows and columns, gathers for the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

PIXELS = 32  # image side that the strengths are made for
_TIE = 1e-6  # of a level: a value that should be whole is not lost to rounding errors

Boundary = Callable[[Tensor, int], Tensor]


def relative_size(images: Tensor) -> float:
    """Short side of the images in units of 32 pixels: lengths in pixels are multiplied by it."""
    return min(images.shape[-2:]) / PIXELS


def truncate_levels(images: Tensor) -> Tensor:
    """Clamp to [0, 1] and cut to 8 bits towards zero, as a cast to uint8 does; still floating point."""
    return (255 * images.clamp(0, 1) + _TIE).floor() / 255


def round_levels(images: Tensor) -> Tensor:
    """Clamp to [0, 1] and round to 8 bits, halves upwards; still floating point."""
    return (255 * images.clamp(0, 1) + 0.5 + _TIE).floor() / 255


def luma(images: Tensor) -> Tensor:
    """ITU-R 601 luma (N, 1, H, W) of colour images, 0.299 R + 0.587 G + 0.114 B; gray images as they are."""
    if images.shape[1] == 1:
        return images
    weights = torch.tensor([19595, 38470, 7471], dtype=images.dtype, device=images.device) / 65536  # PIL's
    return (images * weights.view(1, 3, 1, 1)).sum(dim=1, keepdim=True)


def clamp_index(index: Tensor, size: int) -> Tensor:
    """Edge pixels go on for ever: a a a | a b c | c c c."""
    return index.clamp(0, size - 1)


def reflect_index(index: Tensor, size: int) -> Tensor:
    """Reflection that repeats the edge pixel: c b a | a b c | c b a."""
    index = index.remainder(2 * size)
    return torch.where(index < size, index, 2 * size - 1 - index)


def mirror_index(index: Tensor, size: int) -> Tensor:
    """Reflection about the edge pixel: c b | a b c | b a."""
    period = max(2 * (size - 1), 1)
    index = index.remainder(period)
    return torch.where(index < size, index, period - index)


def gaussian_weights(sigma: float, radius: int) -> Tensor:
    """Weights at -radius..radius, sum 1; a sigma of 0 leaves the centre."""
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2) if sigma > 0 else (offsets == 0).to(torch.float64)
    return weights / weights.sum()


def gaussian_blur(images: Tensor, sigma: float, *, truncate: float, boundary: Boundary) -> Tensor:
    """Gaussian filter with ``truncate`` standard deviations on either side, (N, C, H, W)."""
    weights = gaussian_weights(sigma, int(truncate * sigma + 0.5))
    return by_axis(images, *(_filter_matrix(size, weights, boundary) for size in images.shape[-2:]))


def by_axis(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Matrices applied along height (H', H) and width (W', W) of images (N, C, H, W)."""
    return rows.to(images.device) @ images @ columns.to(images.device).T


def zoom_matrix(size: int, factor: float) -> Tensor:
    """Linear interpolation (size, size) that enlarges the centre of a line by ``factor`` >= 1 and keeps its length.

    The first and last kept sample stay where they are, the surplus is cut off at both ends.
    """
    kept = math.ceil(size / factor)
    enlarged = max(round(kept * factor), size)
    start, cut = (size - kept) // 2, (enlarged - size) // 2
    position = (torch.arange(size, dtype=torch.float64) + cut) * ((kept - 1) / max(enlarged - 1, 1))
    left = position.floor().clamp(0, max(kept - 2, 0)).long()
    share = (position - left).clamp(0, 1)
    rows, matrix = torch.arange(size), torch.zeros(size, size, dtype=torch.float64)
    matrix[rows, start + left] = 1 - share
    matrix[rows, (start + left + 1).clamp(max=size - 1)] += share
    return matrix


def box_matrix(size: int, target: int) -> Tensor:
    """Box filter (target, size): equal weights for all samples whose centre lies in the target sample."""
    scale = size / target
    centre = (torch.arange(target, dtype=torch.float64) + 0.5) * scale
    if scale < 1:
        return F.one_hot(centre.long(), size).to(torch.float64)
    samples = torch.arange(size, dtype=torch.float64) + 0.5
    distance = (samples.view(1, -1) - centre.view(-1, 1)) / scale
    inside = ((distance > -0.5) & (distance <= 0.5)).to(torch.float64)
    return inside / inside.sum(dim=1, keepdim=True)


def motion_blur(images: Tensor, radius: float, sigma: float, degrees: Tensor) -> Tensor:
    """One-sided Gaussian smear of each image along its own direction, cut at 2 radius; edges go on, (N, C, H, W).

    Args:
        images: Shape (N, C, H, W).
        radius: Half the length of the smear, in pixels.
        sigma: Standard deviation of its weights, in pixels.
        degrees: Direction of each image, (N,); 0 smears along rows.
    """
    taps = 2 * math.ceil(radius) + 1
    weights = gaussian_weights(sigma, taps - 1)[taps - 1 :]
    weights = weights / weights.sum()
    angle = torch.deg2rad(degrees).view(-1, 1, 1)
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device).view(1, -1, 1)
    columns = torch.arange(width, device=images.device).view(1, 1, -1)
    result = torch.zeros_like(images)
    for step, weight in enumerate(weights.tolist()):
        y = rows + torch.ceil(step * torch.sin(angle) - 0.5).long()
        x = columns + torch.ceil(step * torch.cos(angle) - 0.5).long()
        result += weight * gather_pixels(images, clamp_index(y, height), clamp_index(x, width))
    return result


def gather_pixels(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pixels of (N, C, H, W) at integer rows and columns, both of a shape that broadcasts to (N, H', W')."""
    index = rows * images.shape[3] + columns  # (N, H', W')
    n, channels = images.shape[:2]
    flat = index.reshape(n, 1, -1).expand(n, channels, -1)
    return images.flatten(2).gather(2, flat).view(n, channels, *index.shape[1:])


def sample_bilinear(images: Tensor, rows: Tensor, columns: Tensor, boundary: Boundary) -> Tensor:
    """Linear interpolation of (N, C, H, W) at real-valued rows and columns (N, H, W)."""
    height, width = images.shape[-2:]
    top, left = rows.floor(), columns.floor()
    down, right = (rows - top).unsqueeze(1), (columns - left).unsqueeze(1)
    y = [boundary(top.long() + step, height) for step in (0, 1)]
    x = [boundary(left.long() + step, width) for step in (0, 1)]
    upper = (1 - right) * gather_pixels(images, y[0], x[0]) + right * gather_pixels(images, y[0], x[1])
    lower = (1 - right) * gather_pixels(images, y[1], x[0]) + right * gather_pixels(images, y[1], x[1])
    return (1 - down) * upper + down * lower


def _filter_matrix(size: int, weights: Sequence[float] | Tensor, boundary: Boundary) -> Tensor:
    """Matrix (size, size) that correlates a line with ``weights``, centred."""
    matrix, rows = torch.zeros(size, size, dtype=torch.float64), torch.arange(size)
    radius = len(weights) // 2
    for step in range(-radius, radius + 1):
        columns = boundary(rows + step, size)
        values = torch.full((size,), float(weights[step + radius]), dtype=torch.float64)
        matrix.index_put_((rows, columns), values, accumulate=True)
    return matrix
