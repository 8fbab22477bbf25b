"""Features to measure on: the shapes that a ResNet18 gives, filled with numbers like those of trained nets."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

LAYER_SETS = {
    "CIFAR": ((64, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)),
    "ImageNet": ((64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7)),
    "tiny": ((4, 8, 8), (8, 4, 4)),
}


@dataclass(frozen=True)
class Case:
    """What similarities are measured on."""

    layers: str  # of LAYER_SETS
    images: int  # N
    pairing: str  # "pairs" (i with N / 2 + i) or "all"
    centering: str
    dtype: str = "float32"

    def __str__(self) -> str:
        parts = [self.layers, str(self.images), self.pairing, self.centering]
        return "-".join(parts if self.dtype == "float32" else [*parts, self.dtype])

    @property
    def paired(self) -> bool:
        return self.pairing == "pairs"


@dataclass(frozen=True)
class Inputs:
    """Everything that a similarity penalty is a function of."""

    features: list[Tensor]  # (N, C, H, W) each, leaves
    means: list[Tensor]  # (C,) each: running channel means
    logits: Tensor  # (L,), a leaf
    targets: Tensor  # (P,)
    pairs: Tensor  # (2, P): rows that are compared

    @property
    def leaves(self) -> list[Tensor]:
        return [*self.features, self.logits]

    @property
    def num_bytes(self) -> int:
        return sum(x.numel() * x.element_size() for x in self.features)

    def double(self) -> Inputs:
        return replace(
            self,
            features=[_leaf(x.detach().double()) for x in self.features],
            means=[m.double() for m in self.means],
            logits=_leaf(self.logits.detach().double()),
            targets=self.targets.double(),
        )

    def halves(self) -> Inputs:
        """The two images of the pairs in tensors of their own: features (2 L tensors), first and second in turn."""
        return replace(self, features=[_leaf(half.detach().clone()) for x in self.features for half in x.chunk(2)])


def make_inputs(case: Case, device: str = "cpu", offset: float = 0.0) -> Inputs:
    """Rectified Gaussian features that images share in part, so that similarities lie around 0.4.

    Args:
        case: Shapes, pairing and dtype.
        device: Where they live.
        offset: Added to all features, in standard deviations.
    """
    generator = torch.Generator().manual_seed(0)
    dtype = getattr(torch, case.dtype)
    features, means = [], []
    for shape in LAYER_SETS[case.layers]:
        common = torch.randn(shape, generator=generator)
        values = (torch.randn(case.images, *shape, generator=generator) + common).relu_()
        shift = offset * values.std()
        means.append((0.9 * values.mean(dim=(0, 2, 3)) + shift).to(device))
        features.append(_leaf((values + shift).to(device, dtype)))
    pairs = index_pairs(case.images, case.paired)
    targets = 1.8 * torch.rand(pairs.shape[1], generator=generator) - 0.9
    return Inputs(
        features,
        means,
        _leaf(torch.linspace(-0.5, 0.5, len(features), device=device)),
        targets.to(device),
        pairs.to(device),
    )


def index_pairs(images: int, paired: bool) -> Tensor:
    """Rows that are compared, (2, P)."""
    if paired:
        rows = torch.arange(images // 2)
        return torch.stack([rows, rows + images // 2])
    return torch.triu_indices(images, images, offset=1)


def _leaf(values: Tensor) -> Tensor:
    return values.requires_grad_()
