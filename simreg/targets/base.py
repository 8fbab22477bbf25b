"""What every target has: a base similarity and a shape that turns it into the target similarity."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeVar

import torch
from torch import Tensor

Self = TypeVar("Self", bound="Target")


class Target(ABC):
    """Strategy that yields the target similarity of pairs of images."""

    def fit(self: Self, images: Tensor, labels: Tensor | None = None) -> Self:
        """A copy bound to the statistics of these images; the target itself where it needs none.

        Args:
            images: Shape (N, C, H, W), uint8 or in [0, 1].
            labels: Shape (N,): class of each image.
        """
        return self

    def check_size(self, n: int) -> None:
        """Raise ``ValueError`` if the target is tied to another number of images than ``n``."""
        return

    @abstractmethod
    def representation(
        self, images: Tensor | None = None, *, labels: Tensor | None = None, indices: Tensor | None = None
    ) -> Tensor:
        """Unit vectors whose inner products are the base similarity.

        Args:
            images: Shape (N, C, H, W), uint8 or in [0, 1].
            labels: Shape (N,): class of each image.
            indices: Shape (N,): row of each image in the pool that the target is tied to.

        Returns:
            Shape (N, R).

        Raises:
            ValueError: If what the target needs is missing.
        """

    def inner(self, first: Tensor, second: Tensor) -> Tensor:
        """Base similarity of row i of ``first`` with row i of ``second``, representations of shape (P, R)."""
        return (first * second).sum(dim=1).clamp(-1.0, 1.0)

    def outer(self, first: Tensor, second: Tensor) -> Tensor:
        """Base similarity of every row of ``first`` (M, R) with every row of ``second`` (N, R), shape (M, N)."""
        return (first @ second.T).clamp(-1.0, 1.0)

    def shape(self, similarity: Tensor) -> Tensor:
        """Target similarity of a base similarity, elementwise."""
        return similarity

    def selected(self, similarity: Tensor) -> Tensor | None:
        """Which pairs of this base similarity take part, a bool tensor; None where all do."""
        return None

    def paired(
        self,
        pairs: Tensor,
        images: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        indices: Tensor | None = None,
    ) -> Tensor:
        """Base similarity of pairs of rows.

        Args:
            pairs: Shape (P, 2), int64: rows of what follows.
            images: As for `representation`.
            labels: As for `representation`.
            indices: As for `representation`.

        Returns:
            Shape (P,), in [-1, 1].
        """
        rows = self.representation(images, labels=labels, indices=indices)
        return self.inner(rows[pairs[:, 0]], rows[pairs[:, 1]])


def unit_float(images: Tensor) -> Tensor:
    """Images as floating point in [0, 1]: uint8 is divided by 255, floats pass.

    Example:
        >>> unit_float(torch.tensor([0, 255], dtype=torch.uint8))
        tensor([0., 1.])
    """
    return images.float() / 255.0 if images.dtype == torch.uint8 else images


def check_similarity_range(name: str, values: Tensor) -> None:
    """Raise ``ValueError`` unless all similarities are in [-1, 1] (up to rounding) and none is NaN. Synchronises."""
    if values.numel() and not bool((values.abs() <= 1.0 + 1e-4).all()):
        raise ValueError(
            f"{name} must be similarities in [-1, 1], got values from {float(values.min()):.4g} to "
            f"{float(values.max()):.4g}: use cosines or correlations, not distances."
        )


def require_indices(indices: Tensor | None) -> Tensor:
    """Raise ``ValueError`` if there are no pool rows; returns them."""
    if indices is None:
        raise ValueError(
            "indices: this target knows its images by their row in a pool; use it through RegularizationPool, or pass "
            "indices= (N,), or the target similarities themselves."
        )
    return indices


def check_rows(name: str, rows: int, n: int) -> None:
    """Raise ``ValueError`` if a target of ``rows`` images meets a pool of ``n``."""
    if rows != n:
        raise ValueError(f"{name}: {rows} images are described, but the pool has {n}; row i must belong to image i.")
