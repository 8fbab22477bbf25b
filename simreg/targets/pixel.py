"""Similarity of pixels."""

import copy
from typing import Literal

import torch
from torch import Tensor

from simreg._checks import as_float, check_choice, check_images, unit_float
from simreg.functional import unit_rows
from simreg.targets.base import Maybe, Target

PixelCentering = Literal["dataset", "image", "none"]
Color = Literal["gray", "rgb"]

_CHUNK = 1024  # images converted to float at a time
_NORM_FLOOR = 1e-6  # a centred image below this norm, in units of [0, 1] pixels, is blank


class PixelTarget(Target):
    r"""Cosine similarity of pixels.

    .. math:: S^\text{pixel}_{ij} = \cos(p_i - \bar p,\; p_j - \bar p)

    Args:
        centering: ``"dataset"`` subtracts the mean image, of the images given to `fit` (a pool fits its target) or else
            of the images at hand, as the authors' code does; ``"image"`` each image's own mean; ``"none"`` nothing
            (most similarities are then above 0.8: another method).
        color: ``"gray"`` compares the mean over channels, as the authors' code does; ``"rgb"`` all channels.

    Source: the paper, S^pixel; the centring is that of the authors' code.

    Example:
        >>> images = torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]).reshape(3, 1, 1, 2)
        >>> PixelTarget("image").paired(torch.tensor([[0, 1], [0, 2]]), images).round(decimals=4)
        tensor([ 1., -1.])
    """

    def __init__(self, centering: PixelCentering = "dataset", color: Color = "gray") -> None:
        check_choice("centering", centering, ("dataset", "image", "none"))
        check_choice("color", color, ("gray", "rgb"))
        self.centering = centering
        self.color = color
        self.mean: Tensor | None = None  # (R,), of the images given to `fit`

    def fit(self, images: Tensor, labels: Tensor | None = None) -> "PixelTarget":
        """A copy that subtracts the mean image of ``images``, shape (N, C, H, W), uint8 or in [0, 1]."""
        check_images("images", images)
        fitted = copy.copy(self)
        if self.centering == "dataset":
            totals = [self._rows(chunk).sum(dim=0, dtype=torch.float64) for chunk in torch.split(images, _CHUNK)]
            fitted.mean = (torch.stack(totals).sum(dim=0) / len(images)).float()
        return fitted

    def representation(self, images: Maybe = None, *, labels: Maybe = None, indices: Maybe = None) -> Tensor:
        """Centred pixels over their norm, (N, C H W) or (N, H W) in gray; a blank image has a zero row."""
        if images is None:
            raise ValueError("images: a pixel target needs the images themselves, in [0, 1]; pass images, not targets.")
        rows = self._rows(check_images("images", images))
        if self.mean is not None:
            if len(self.mean) != rows.shape[1]:
                raise ValueError(
                    f"images of shape {tuple(images.shape)} have {rows.shape[1]} pixels to compare, but the target was "
                    f"fitted on images with {len(self.mean)}: resize them, or fit the target on images of this size."
                )
            self.mean = self.mean.to(rows.device)  # once, not every step
            rows = rows - self.mean.to(rows.dtype)
        elif self.centering != "none":
            rows = rows - rows.mean(dim=0 if self.centering == "dataset" else 1, keepdim=True)
        return unit_rows(rows, _NORM_FLOOR)

    def _rows(self, images: Tensor) -> Tensor:
        values = as_float(unit_float(images.detach()))
        return (values.mean(dim=1) if self.color == "gray" else values).flatten(1)
