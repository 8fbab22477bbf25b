"""Baseline JPEG without its lossless part: colour conversion, subsampling, block cosines, quantisation and back."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

_TIE = 1e-6  # exact halves are common here: they must go the same way on any device

# Tables K.1 and K.2 of ITU-T T.81 (1992), for quality 50.
_LUMA_STEPS = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA_STEPS = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)


def jpeg(images: Tensor, quality: int) -> Tensor:
    """Images after JPEG at a quality of 1 to 100, colour at half resolution (4:2:0), (N, C, H, W) in [0, 1].

    The steps and roundings are those of libjpeg with its default settings; its integer cosine transform is replaced by
    an exact one, so that a few values differ by some levels. At sides that are no multiple of 16 (8 for gray) the edge
    pixels are repeated; libjpeg fills up colour in a slightly different way.
    """
    height, width = images.shape[-2:]
    block = 8 if images.shape[1] == 1 else 16
    padded = F.pad(255 * images, (0, -width % block, 0, -height % block), mode="replicate")
    levels = _round(padded)
    if images.shape[1] == 1:
        decoded = _code(levels, _steps(_LUMA_STEPS, quality))
    else:
        luma, chroma = _to_ycc(levels)
        chroma = _code(_halve(chroma), _steps(_CHROMA_STEPS, quality))
        decoded = _to_rgb(_code(luma, _steps(_LUMA_STEPS, quality)), _double(chroma))
    return decoded[..., :height, :width] / 255


def _steps(table: tuple[tuple[int, ...], ...], quality: int) -> Tensor:
    """Quantisation steps (8, 8) at this quality, between 1 and 255."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return ((torch.tensor(table) * percent + 50) // 100).clamp(1, 255).to(torch.float64)


def _code(channels: Tensor, steps: Tensor) -> Tensor:
    """Block cosines rounded to multiples of their steps and turned back into levels, (N, C, H, W)."""
    n, c, height, width = channels.shape
    steps, cosines = steps.to(channels.device), _cosines().to(channels.device)
    blocks = (channels - 128).view(n, c, height // 8, 8, width // 8, 8).transpose(3, 4)
    coefficients = cosines @ blocks @ cosines.T / steps
    kept = coefficients.sign() * _round(coefficients.abs()) * steps  # halves away from zero
    levels = _round(cosines.T @ kept @ cosines + 128).clamp(0, 255)
    return levels.transpose(3, 4).reshape(n, c, height, width)


def _cosines() -> Tensor:
    """Orthonormal cosine transform of 8 values, (8, 8)."""
    order, sample = torch.arange(8, dtype=torch.float64).view(-1, 1), torch.arange(8, dtype=torch.float64)
    matrix = 0.5 * torch.cos(math.pi / 8 * order * (sample + 0.5))
    matrix[0] = math.sqrt(1 / 8)
    return matrix


def _to_ycc(levels: Tensor) -> tuple[Tensor, Tensor]:
    """Luma (N, 1, H, W) and chroma (N, 2, H, W) of colour levels, rounded (JFIF, full range)."""
    red, green, blue = levels.unbind(dim=1)
    luma = _round(0.299 * red + 0.587 * green + 0.114 * blue)
    chroma_blue = _round(128 - 0.168735892 * red - 0.331264108 * green + 0.5 * blue - 2 * _TIE)  # halves downwards
    chroma_red = _round(128 + 0.5 * red - 0.418687589 * green - 0.081312411 * blue - 2 * _TIE)
    return luma.unsqueeze(1), torch.stack([chroma_blue, chroma_red], dim=1)


def _to_rgb(luma: Tensor, chroma: Tensor) -> Tensor:
    blue, red = (chroma - 128).unbind(dim=1)
    luma = luma[:, 0]
    channels = [luma + 1.402 * red, luma - 0.344136286 * blue - 0.714136286 * red, luma + 1.772 * blue]
    return _round(torch.stack(channels, dim=1)).clamp(0, 255)


def _halve(channels: Tensor) -> Tensor:
    """Mean of 2 x 2 pixels; quarters round down in even columns and up in odd ones."""
    sums = 4 * F.avg_pool2d(channels, 2)
    bias = 1 + torch.arange(sums.shape[-1], device=sums.device) % 2
    return ((sums + bias + _TIE) / 4).floor()


def _double(channels: Tensor) -> Tensor:
    """Twice the size by linear interpolation: 9/16, 3/16, 3/16 and 1/16 of the four nearest pixels."""
    for axis in (2, 3):
        size = channels.shape[axis]
        before = channels.index_select(axis, torch.arange(-1, size - 1, device=channels.device).clamp(min=0))
        after = channels.index_select(axis, torch.arange(1, size + 1, device=channels.device).clamp(max=size - 1))
        pair = torch.stack([3 * channels + before, 3 * channels + after], dim=axis + 1)
        channels = pair.flatten(axis, axis + 1)
    bias = 8 - torch.arange(channels.shape[-1], device=channels.device) % 2
    return ((channels + bias + _TIE) / 16).floor()


def _round(values: Tensor) -> Tensor:
    return (values + 0.5 + _TIE).floor()
