"""A step's regularization images and the target similarity of their pairs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from simreg._checks import check_pairs, check_tensor, describe, readable
from simreg.targets import check_similarity_range


@dataclass(frozen=True)
class PairBatch:
    """Images and the target similarity of their pairs.

    Args:
        images: Shape (2k, C, H, W): input of the model. Row i is paired with row k + i unless ``pairs`` is given.
        targets: Shape (k,), or (P,) with ``pairs``: target similarities in [-1, 1].
        pairs: Shape (P, 2), int64: rows of ``images``.
        indices: Shape of the images' first dimension: row of each image in its pool.

    Raises:
        ValueError: If shapes do not fit, there are no pairs, or (on CPU) targets leave [-1, 1] or pairs the batch.

    Example:
        >>> batch = PairBatch(torch.rand(4, 3, 8, 8), torch.tensor([0.5, -0.5]))
        >>> len(batch)
        2
    """

    images: Tensor
    targets: Tensor
    pairs: Tensor | None = None
    indices: Tensor | None = None

    def __post_init__(self) -> None:
        """Check shapes, and values where that needs no device synchronisation."""
        if check_tensor("images", self.images).ndim < 2:
            raise ValueError(f"images must have shape (2k, C, H, W), got {describe(self.images)}.")
        n = self.images.shape[0]
        check_tensor("targets", self.targets)
        if n < 2:
            raise ValueError(f"images: a pair needs at least 2 images, got {n}.")
        if self.pairs is None and n % 2:
            raise ValueError(f"images: {n} rows cannot be split into pairs (i, k + i); pass 2k images, or pairs=.")
        wanted = n // 2 if self.pairs is None else check_pairs(self.pairs, n).shape[0]
        if self.targets.shape != (wanted,):
            raise ValueError(f"targets must have shape ({wanted},), one for each pair, got {describe(self.targets)}.")
        if readable(self.targets):
            check_similarity_range("targets", self.targets)

    def __len__(self) -> int:
        return self.targets.shape[0]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> PairBatch:
        """The batch on another device."""
        moved = [
            None if t is None else t.to(device, non_blocking=non_blocking)
            for t in (self.images, self.targets, self.pairs, self.indices)
        ]
        return PairBatch(*moved)  # type: ignore[arg-type]
