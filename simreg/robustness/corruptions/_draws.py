"""Random draws of the corruptions: a stream for each image, corruption, severity and purpose."""

from __future__ import annotations

import torch
from torch import Tensor

from simreg.robustness._random import Draw, derive_seed, draw_per_image


class Draws:
    """Private random values for the images of one batch; what an image gets depends on its index, not on the batch.

    Args:
        images: Shape (N, C, H, W): number of images and device of the values.
        first_index: Index of the first image.
        key: Whatever else the values depend on: seed, corruption, severity.
    """

    def __init__(self, images: Tensor, first_index: int, *key: int | str) -> None:
        self.images, self.key = images, key
        self.indices = range(first_index, first_index + len(images))

    def normal(self, purpose: str, *shape: int) -> Tensor:
        """Standard normal values (N, *shape), float64."""
        return self._draw(purpose, shape, "normal")

    def uniform(self, purpose: str, low: float, high: float, *shape: int) -> Tensor:
        """Uniform values in [low, high), (N, *shape), float64."""
        return low + (high - low) * self._draw(purpose, shape, "uniform")

    def poisson(self, purpose: str, rates: Tensor) -> Tensor:
        """Poisson counts with these rates (N, ...); drawn on the CPU, where each image has its generator."""
        seed, generator = self._seed(purpose), torch.Generator()
        counts = torch.empty(rates.shape, dtype=torch.float64)
        for count, rate, index in zip(counts, rates.cpu(), self.indices, strict=True):
            generator.manual_seed((seed + index) % 2**32)
            count.copy_(torch.poisson(rate, generator=generator))
        return counts.to(rates.device)

    def _draw(self, purpose: str, shape: tuple[int, ...], draw: Draw) -> Tensor:
        like = self.images.new_empty((len(self.images), *shape), dtype=torch.float32)
        return draw_per_image(like, self.indices, self._seed(purpose), draw).to(torch.float64)

    def _seed(self, purpose: str) -> int:
        return derive_seed("corruption", *self.key, purpose)
