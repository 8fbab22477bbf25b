"""What every target has: a base similarity and a shape that turns it into the target similarity."""

from abc import ABC, abstractmethod
from typing import TypeVar

from torch import Tensor

from simreg.functional import is_dense

Self = TypeVar("Self", bound="Target")
Maybe = Tensor | None


class Target(ABC):
    """Strategy that yields the target similarity of pairs of images.

    Everywhere, images have shape (N, C, H, W), uint8 or in [0, 1]; labels, (N,), are their classes, and indices, (N,),
    their rows in the pool that the target is tied to.
    """

    def fit(self: Self, images: Tensor, labels: Tensor | None = None) -> Self:
        """A copy bound to the statistics of these images; the target itself where it needs none."""
        return self

    def check_size(self, n: int) -> None:
        """Raise ``ValueError`` if the target is tied to another number of images than ``n``."""
        return

    @abstractmethod
    def representation(self, images: Maybe = None, *, labels: Maybe = None, indices: Maybe = None) -> Tensor:
        """Unit vectors, (N, R), whose products are the base similarity; ``ValueError`` if what they need is missing."""

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

    def paired(self, pairs: Tensor, images: Maybe = None, *, labels: Maybe = None, indices: Maybe = None) -> Tensor:
        """Base similarity, (P,) in [-1, 1], of ``pairs`` (P, 2) of the rows that `representation` is given."""
        rows = self.representation(images, labels=labels, indices=indices)
        i, j = pairs.to(rows.device).unbind(1)
        return self.outer(rows, rows)[i, j] if is_dense(len(rows), pairs) else self.inner(rows[i], rows[j])

    def taking_part(self, base: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Target similarities of those ``pairs`` (P, 2), of ``base`` similarity (P,), that are selected; and these."""
        selected = self.selected(base)
        if selected is None:
            return self.shape(base), pairs
        return self.shape(base[selected]), pairs[selected.to(pairs.device)]


class PoolTarget(Target):
    """Target of the images of one pool: row i of ``rows``, shape (N, R), belongs to image i."""

    rows: Tensor

    def check_size(self, n: int) -> None:
        """Raise ``ValueError`` unless there are ``n`` rows."""
        if len(self.rows) != n:
            name = type(self).__name__
            raise ValueError(f"{name}: {len(self.rows)} images are described, but the pool has {n}; row i is image i.")

    def located(self, indices: Tensor | None) -> Tensor:
        """Pool rows, which must be given, with ``rows`` moved to their device."""
        if indices is None:
            raise ValueError(
                "indices: this target knows its images by their row in a pool; use it through RegularizationPool, or "
                "pass indices= (N,), or the target similarities themselves."
            )
        self.rows = self.rows.to(indices.device)
        return indices
