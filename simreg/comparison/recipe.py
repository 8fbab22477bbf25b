"""What all nets of a comparison share: network, images, order, schedule; only the method differs.

All randomness is a function of (seed, epoch) or (seed, step): every method sees the same images in the same order with
the same crops, and a resumed training needs no generator states but that of a regularization pool.
"""

from __future__ import annotations

import zlib
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from simreg._checks import check_choice, check_positive, describe
from simreg.nets import ResNet18

Schedule = Literal["one-cycle", "steps"]

MEAN, STD = 0.5, 0.2
"""Normalisation of all nets, as in the paper: they get 5 (x - 0.5)."""

BUILDER = "simreg.nets:ResNet18"
DIGIT_LIKE = ("mnist", "fashionmnist", "digits")
"""Datasets that are not mirrored, and that stand larger distortions."""


@dataclass(frozen=True)
class Recipe:
    """How every net is trained, whatever the method: SGD, one schedule, padded crops.

    Attributes:
        batch_size: Task images of a step; a last, smaller batch of an epoch is left out.
        peak_rate: Largest learning rate.
        momentum: Of SGD.
        weight_decay: Of SGD.
        schedule: "one-cycle" goes up to the peak in the first fifth of all steps and down to 1/500 of it; "steps" is
            the paper's: two cycles of five phases, each with 0.3 times the rate of the one before.
        flip: Whether half of the images are mirrored.
        padding: Pixels of reflection around the image out of which the random crop is cut.

    Raises:
        ValueError: If a number or the schedule is not valid.
    """

    batch_size: int = 64
    peak_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Schedule = "one-cycle"
    flip: bool = True
    padding: int = 4

    def __post_init__(self) -> None:
        check_choice("schedule", self.schedule, ("one-cycle", "steps"))
        check_positive("peak_rate", self.peak_rate)
        for name in ("momentum", "weight_decay", "padding"):
            check_positive(name, getattr(self, name), zero=True)
        if self.batch_size < 2:
            raise ValueError(f"batch_size must be at least 2, got {self.batch_size}.")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {"optimizer": "SGD", **asdict(self), "input": {"mean": MEAN, "std": STD}}


MINIMUM_WIDTH = 8
"""Narrowest network that is trained channels last."""


@dataclass(frozen=True)
class Network:
    """The network of a comparison; its initial weights follow from a seed.

    Attributes:
        num_classes: Outputs.
        channels: Of the images.
        width: Channels of the first section of the ResNet18, at least 8.
        stem_stride: Of its first convolution.
    """

    num_classes: int
    channels: int
    width: int = 16
    stem_stride: int = 2

    def __post_init__(self) -> None:
        if self.width < MINIMUM_WIDTH:
            raise ValueError(
                f"width must be at least {MINIMUM_WIDTH}, got {self.width}: narrower convolutions corrupt memory in "
                "the CPU library (oneDNN) of torch 2.15."
            )

    def arguments(self, seed: int) -> dict[str, Any]:
        """Keyword arguments of `simreg.nets.ResNet18`."""
        return {**asdict(self), "seed": seed}

    def build(self, seed: int, device: str | torch.device = "cpu") -> nn.Module:
        """A fresh network on the device, channels last."""
        model = ResNet18(**self.arguments(seed)).to(device)
        return model.to(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Split:
    """Images (N, C, H, W), uint8, and labels (N,), int64, on the device that trains."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != torch.uint8:
            raise TypeError(f"images must be uint8 of shape (N, C, H, W), got {describe(self.images)}.")
        if self.labels.shape != self.images.shape[:1] or len(self.labels) < 2:
            raise ValueError(f"labels must have shape ({len(self.images)},), at least 2, got {describe(self.labels)}.")

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: str | torch.device) -> Split:
        """The same on another device."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Draws:
    """The random numbers of one training step: independent of method, device and of what was drawn before."""

    seed: int
    step: int

    def generator(self, purpose: str) -> torch.Generator:
        """A CPU generator for one purpose, the same whenever it is asked for."""
        return torch.Generator().manual_seed(self.derive(purpose))

    def derive(self, purpose: str) -> int:
        """Seed of one purpose in this step."""
        return derive_seed(self.seed, self.step, purpose)

    def normal(self, purpose: str, like: Tensor) -> Tensor:
        """Standard normal values in the shape of ``like``, drawn on the CPU."""
        return torch.randn(like.shape, generator=self.generator(purpose)).to(like)

    def uniform(self, purpose: str, like: Tensor) -> Tensor:
        """Values in [0, 1) in the shape of ``like``, drawn on the CPU."""
        return torch.rand(like.shape, generator=self.generator(purpose)).to(like)


@dataclass(frozen=True)
class Batch:
    """What one step gets: images (N, C, H, W) in [0, 1], cropped and mirrored, labels (N,), and its random numbers."""

    images: Tensor
    labels: Tensor
    draws: Draws


def normalise(images: Tensor) -> Tensor:
    """Network input of images in [0, 1]."""
    return (images - MEAN) / STD


def learning_rate(recipe: Recipe, step: int, total: int) -> float:
    """Rate of one step of ``total``.

    Example:
        >>> [round(learning_rate(Recipe(), step, 10), 4) for step in (0, 2, 10)]
        [0.0002, 0.1, 0.0002]
        >>> round(learning_rate(Recipe(schedule="steps"), 1, 10), 4)
        0.03
    """
    if recipe.schedule == "steps":
        return recipe.peak_rate * 0.3 ** ((10 * step // total) % 5)
    low = recipe.peak_rate / 500
    return float(np.interp(step, [0, 0.2 * total, total], [low, recipe.peak_rate, low]))


def derive_seed(*parts: int | str) -> int:
    """One seed from several numbers and words, unrelated for different ones.

    Example:
        >>> derive_seed(0, 1) == derive_seed(0, 1), derive_seed(0, 1) == derive_seed(1, 0)
        (True, False)
    """
    numbers = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in parts]
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
