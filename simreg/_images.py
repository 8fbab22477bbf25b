"""Decoding, gray values and sizes of images: everything ``data`` does to pixels. Internal."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from simreg._progress import progress as show_progress

_DECODERS = 4  # threads; PIL releases the interpreter lock while it decodes
_CHUNK = 5000  # images converted at a time, so that the int32 and float copies stay small


def to_gray(images: Tensor) -> Tensor:
    r"""ITU-R 601 luma of colour images, in the integer arithmetic of PIL's mode ``"L"``.

    .. math:: L = (19595\,R + 38470\,G + 7471\,B + 32768) / 65536

    Args:
        images: Shape ``(N, 3, H, W)`` or ``(N, 1, H, W)``, uint8.

    Returns:
        Shape ``(N, 1, H, W)``, uint8; gray images come back as they are.

    Example:
        >>> to_gray(torch.tensor([255, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1)).item()
        76
    """
    if images.shape[1] == 1:
        return images
    weights = torch.tensor([19595, 38470, 7471], dtype=torch.int32).view(1, 3, 1, 1)
    parts = [((chunk.int() * weights).sum(1, keepdim=True) + 32768) >> 16 for chunk in torch.split(images, _CHUNK)]
    return torch.cat(parts).to(torch.uint8)


def decode(files: Sequence[Path], *, size: int | None, color: bool, description: str, progress: bool) -> Tensor:
    image_module = require("PIL.Image", "pillow")

    def read(path: Path) -> Tensor | str:
        try:
            with image_module.open(path) as image:
                return _pil_to_tensor(image, size=size, color=color)
        except Exception as error:  # PIL raises OSError, SyntaxError, ValueError and more on damaged files
            return f"{path}: {type(error).__name__}"

    with ThreadPoolExecutor(min(_DECODERS, max(2, os.cpu_count() or 1))) as pool:
        results = pool.map(read, files)
        decoded = list(show_progress(results, description=description, total=len(files), enabled=progress))
    broken = [result for result in decoded if isinstance(result, str)]
    if broken:
        raise ValueError(
            f"{len(broken)} of {len(files)} image files cannot be read: {'; '.join(broken[:3])}"
            f"{'; ...' if len(broken) > 3 else ''}. Replace or remove them and start again."
        )
    images = [result for result in decoded if isinstance(result, Tensor)]
    shapes = sorted({tuple(image.shape[1:]) for image in images})
    if len(shapes) > 1:
        some = ", ".join(f"{height}x{width}" for height, width in shapes[:3])
        raise ValueError(
            f"found {len(shapes)} image sizes (height x width: {some}{', ...' if len(shapes) > 3 else ''})."
            " Pass size=, e.g. size=32, to resize the short side and cut out the centre."
        )
    return torch.stack(images)


def _pil_to_tensor(image: Any, *, size: int | None, color: bool) -> Tensor:
    image = image.convert("RGB" if color else "L")
    if size is not None and image.size != (size, size):
        scale = size / min(image.size)
        width, height = (max(size, round(side * scale)) for side in image.size)
        left, top = (width - size) // 2, (height - size) // 2
        image = image.resize((width, height), resample=2).crop((left, top, left + size, top + size))  # 2: bilinear
    flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return flat.view(image.height, image.width, 3 if color else 1).permute(2, 0, 1).contiguous()  # (C, H, W)


def with_channels(images: Tensor, *, color: bool) -> Tensor:
    if not color:
        return to_gray(images)
    return images.expand(-1, 3, -1, -1).contiguous()


def resize(images: Tensor, size: int | None) -> Tensor:
    """Bilinear, short side to ``size``, then the centre; chunked because it runs in float32."""
    if size is None or tuple(images.shape[-2:]) == (size, size):
        return images.contiguous()
    scale = size / min(images.shape[-2:])
    height, width = (max(size, round(side * scale)) for side in images.shape[-2:])
    top, left = (height - size) // 2, (width - size) // 2
    parts = []
    for chunk in torch.split(images, _CHUNK):
        large = F.interpolate(chunk.float(), size=(height, width), mode="bilinear", antialias=True, align_corners=False)
        parts.append(large[..., top : top + size, left : left + size].round().clamp(0, 255).to(torch.uint8))
    return torch.cat(parts)


def require(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{package} is needed for this: pip install 'simreg[examples]'.") from error
