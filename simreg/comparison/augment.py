"""Augmentation: the crops and mirror images that all methods share, Gaussian noise, and AugMix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simreg._checks import check_positive
from simreg.comparison.recipe import Batch, Draws, Recipe, Split, derive_seed
from simreg.robustness._random import seeded_global_rng


class EpochPlan:
    """Order, crops and mirroring of one epoch, drawn at once from (seed, epoch).

    Args:
        data: Training images.
        recipe: Batch size, padding, and whether to mirror.
        seed: Of the training.
        number: Of the epoch, from 0.
    """

    def __init__(self, data: Split, recipe: Recipe, seed: int, number: int) -> None:
        self.data, self.recipe, self.seed, self.number = data, recipe, seed, number
        self.batch_size = min(recipe.batch_size, len(data))
        device, n = data.images.device, len(data)
        generator = torch.Generator().manual_seed(derive_seed(seed, number))
        self.order = torch.randperm(n, generator=generator).to(device)
        self.offsets = torch.randint(0, 2 * recipe.padding + 1, (n, 2), generator=generator).to(device)
        self.flips = (torch.rand(n, generator=generator) < 0.5 * recipe.flip).to(device)

    @property
    def steps(self) -> int:
        """Batches of the epoch."""
        return len(self.data) // self.batch_size

    def batch(self, position: int) -> Batch:
        """Cropped and mirrored images in [0, 1], channels last, and labels of one step of the epoch."""
        part = slice(position * self.batch_size, (position + 1) * self.batch_size)
        rows = self.order[part]
        images = crop_and_flip(
            self.data.images[rows], self.offsets[part], self.flips[part], padding=self.recipe.padding
        )
        draws = Draws(self.seed, self.number * self.steps + position)
        return Batch(images.to(memory_format=torch.channels_last), self.data.labels[rows], draws)


def crop_and_flip(images: Tensor, offsets: Tensor, flips: Tensor, *, padding: int) -> Tensor:
    """Random crop of the reflect-padded images and horizontal flip, all images at once.

    Args:
        images: Shape (N, C, H, W), uint8.
        offsets: Shape (N, 2): upper left corner of each crop, 0 to ``2 * padding``.
        flips: Shape (N,): whether to flip.
        padding: Pixels added on each side.

    Returns:
        Shape (N, C, H, W), float in [0, 1].

    Example:
        >>> images = torch.arange(4, dtype=torch.uint8).view(1, 1, 2, 2)
        >>> (crop_and_flip(images, torch.tensor([[1, 1]]), torch.tensor([True]), padding=1) * 255).flatten()
        tensor([1., 0., 3., 2.])
    """
    n, channels, height, width = images.shape
    padded = F.pad(images.float() / 255, (padding,) * 4, mode="reflect") if padding else images.float() / 255
    columns = torch.arange(width, device=images.device).expand(n, -1)
    columns = torch.where(flips[:, None], columns.flip(1), columns) + offsets[:, 1:]  # (N, W)
    rows = torch.arange(height, device=images.device) + offsets[:, :1]  # (N, H)
    image = torch.arange(n, device=images.device).view(-1, 1, 1, 1)
    channel = torch.arange(channels, device=images.device).view(1, -1, 1, 1)
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


class GaussianNoise:
    r"""Gaussian noise on a random half of each batch.

    .. math:: x' = \mathrm{clamp}(x + \sigma z, 0, 1), \qquad z \sim N(0, 1)

    Args:
        sigma: Standard deviation in pixel units.

    Raises:
        ValueError: If ``sigma`` is not positive.

    Source: noise on 50% of the images with a standard deviation of 0.1 is the baseline of Kireev, Andriushchenko,
    Flammarion, 2022 (https://arxiv.org/abs/2103.02325).
    """

    def __init__(self, sigma: float) -> None:
        check_positive("sigma", sigma)
        self.sigma = sigma

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """Images (N, C, H, W) of which floor(N / 2), chosen at random, are noisy."""
        rows = torch.randperm(len(images), generator=draws.generator("noisy rows"))[: len(images) // 2]
        chosen = images[rows.to(images.device)]
        noisy = (chosen + self.sigma * draws.normal("noise", chosen)).clamp(0, 1)
        return images.index_copy(0, rows.to(images.device), noisy)


class AugMix:
    """AugMix of torchvision, without the Jensen-Shannon loss, on groups of images.

    Torchvision draws from the global generator and gives all images of a call the same chains of operations, with
    mixing weights of each image's own. So a batch goes through in small groups, under a generator state derived from
    the step, after which the global one is where it was. Operations that resemble corruptions of CIFAR-10-C are left
    out, as in the paper.

    Args:
        severity: 1 to 10.
        group: Images that share their chains of operations; 1 gives each image its own at several times the cost.

    Raises:
        ImportError: If torchvision is missing.
        ValueError: If an option is out of range.

    Source: Hendrycks et al., 2020 (https://arxiv.org/abs/1912.02781).
    """

    def __init__(self, severity: int = 3, group: int = 8) -> None:
        if group < 1:
            raise ValueError(f"group must be at least 1, got {group}.")
        self.group = group
        self.transform: Any = _torchvision().AugMix(severity=severity, all_ops=False)

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """Augmented images (N, C, H, W) in [0, 1]."""
        pixels = (images * 255).round().to(torch.uint8).contiguous()
        with seeded_global_rng(images.device, draws.derive("augmix")):
            mixed = torch.cat([self.transform(group) for group in torch.split(pixels, self.group)])
        return (mixed.to(images.dtype) / 255).to(memory_format=torch.channels_last)


def augmix_obstacle() -> str | None:
    """Why AugMix cannot run here; None if it can."""
    try:
        _torchvision()
    except ImportError as error:
        return str(error)
    return None


def _torchvision() -> Any:
    try:
        from torchvision.transforms import v2
    except ImportError as error:
        raise ImportError('AugMix needs torchvision: pip install "simreg[vision]"') from error
    return v2
