"""Digital corruptions: contrast, elastic transform, pixelate, JPEG. Images (N, C, H, W) are float64 in [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor

from simreg.robustness.corruptions import _filters as filters
from simreg.robustness.corruptions import _jpeg
from simreg.robustness.corruptions._draws import Draws

_CONTRAST = (0.75, 0.5, 0.4, 0.3, 0.15)
_ELASTIC = ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))
# displacement, its smoothness, shift of the corners: all in units of the image side
_PIXELATE = (0.95, 0.9, 0.85, 0.75, 0.65)
_JPEG_QUALITY = (80, 65, 58, 50, 40)


def contrast(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Distance from each channel's mean multiplied by a factor."""
    means = images.mean(dim=(2, 3), keepdim=True)
    return (images - means) * _CONTRAST[severity - 1] + means


def elastic_transform(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """A random affine map, then smooth random displacements."""
    displacement, smoothness, shift = _ELASTIC[severity - 1]
    height, width = images.shape[-2:]
    side = min(height, width)
    rows = torch.arange(height, dtype=images.dtype, device=images.device).view(1, -1, 1)
    columns = torch.arange(width, dtype=images.dtype, device=images.device).view(1, 1, -1)
    corners = draws.uniform("affine", -shift * side, shift * side, 3, 2)
    matrix = affine_map(corners, height, width)  # (N, 3, 2): from (x, y, 1) to (x', y')
    x, y = (
        matrix[:, 0, i, None, None] * columns + matrix[:, 1, i, None, None] * rows + matrix[:, 2, i, None, None]
        for i in (0, 1)
    )
    warped = filters.sample_bilinear(images, y, x, filters.mirror_index)
    if displacement == 0:
        return warped
    fields = draws.uniform("displacement", -1, 1, 2, height, width)
    fields = filters.gaussian_blur(fields, smoothness * side, truncate=3, boundary=filters.reflect_index)
    fields = displacement * side * fields
    return filters.sample_bilinear(warped, rows + fields[:, 1], columns + fields[:, 0], filters.reflect_index)


def affine_map(shifts: Tensor, height: int, width: int) -> Tensor:
    """Affine maps (N, 3, 2) from target (x, y, 1) to source (x, y) that undo the shifts (N, 3, 2) of three corners.

    The corners are those of a square about the centre, a third of the short side from it in either direction.
    """
    x, y, reach = width // 2, height // 2, min(height, width) // 3
    source = [[x + reach, y + reach], [x + reach, y - reach], [x - reach, y - reach]]
    points = torch.tensor(source, dtype=shifts.dtype, device=shifts.device).expand(len(shifts), 3, 2)
    targets = torch.cat([points + shifts, torch.ones_like(shifts[..., :1])], dim=2)  # (N, 3, 3)
    solution: Tensor = torch.linalg.solve(targets, points)
    return solution


def pixelate(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Box filter to a smaller size and back, each pass rounded to 8 bits."""
    share, result = _PIXELATE[severity - 1], images
    for axis in (3, 2):  # width first
        size = images.shape[axis]
        result = _resize(result, axis, filters.box_matrix(size, int(size * share)))
    for axis in (3, 2):
        size = images.shape[axis]
        result = _resize(result, axis, filters.box_matrix(int(size * share), size))
    return result


def jpeg_compression(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """What baseline JPEG leaves of the image."""
    return _jpeg.jpeg(images, _JPEG_QUALITY[severity - 1])


def _resize(images: Tensor, axis: int, matrix: Tensor) -> Tensor:
    return filters.round_levels((matrix.to(images.device) @ images.transpose(2, axis)).transpose(2, axis))
