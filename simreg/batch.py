"""A step's regularization images and the target similarity of their pairs."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from simreg._checks import (
    check_images,
    check_pairs,
    check_similarities,
    check_tensor,
    check_unit_range,
    describe,
    readable,
    unit_float,
)
from simreg.targets import Target

Pairing = Literal["pairs", "all"]

_AUGMENTED = 0.3  # how far augmentation, such as added noise, may take images out of [0, 1]


@dataclass(frozen=True)
class PairBatch:
    """Images and the target similarity of their pairs.

    Args:
        images: Shape (2k, C, H, W): input of the model. Row i is paired with row k + i unless ``pairs`` is given.
        targets: Shape (k,), or (P,) with ``pairs``: target similarities in [-1, 1].
        pairs: Shape (P, 2), int64: rows of ``images``. P may be 0, where a target with ``select=`` chose none.
        indices: Shape of the images' first dimension: row of each image in its pool.

    Raises:
        ValueError: If shapes do not fit, or (on CPU) targets leave [-1, 1] or pairs the batch.

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
            raise ValueError(f"images: a pair needs at least 2 rows, got {n}.")
        if self.pairs is None and n % 2:
            raise ValueError(f"images: {n} rows cannot be split into pairs (i, k + i); pass 2k images, or pairs=.")
        wanted = n // 2 if self.pairs is None else check_pairs(self.pairs, n, none=True).shape[0]
        if self.targets.shape != (wanted,):
            raise ValueError(f"targets must have shape ({wanted},), one for each pair, got {describe(self.targets)}.")
        if readable(self.targets):
            check_similarities("targets", self.targets)

    def __len__(self) -> int:
        return self.targets.shape[0]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "PairBatch":
        """The batch on another device."""
        rest = (None if t is None else t.to(device, non_blocking=non_blocking) for t in (self.pairs, self.indices))
        images, targets = (t.to(device, non_blocking=non_blocking) for t in (self.images, self.targets))
        return PairBatch(images, targets, *rest)


def complete_batch(
    batch: PairBatch | Tensor,
    targets: Tensor | None,
    pairs: Tensor | None,
    *,
    target: Target | None,
    pairing: Pairing,
    device: torch.device,
    look: bool,
) -> PairBatch:
    """The batch of a step on ``device``: pairs (P, 2) as ``pairing`` says and targets of ``target`` if none are given.

    ``batch`` is a `PairBatch` or images (N, C, H, W), ``targets`` are (P,) or (N, N); ``target`` may select some of the
    pairs; ``look`` says whether to check values, which on a GPU synchronises.
    """
    if isinstance(batch, PairBatch):
        if targets is not None or pairs is not None:
            raise ValueError("targets and pairs belong to images; a PairBatch has its own.")
        if batch.pairs is None and pairing == "all":
            raise ValueError('pairing="all" needs targets of all pairs: draw with pool.batches(..., pairing="all").')
        return _looked(batch.to(device, non_blocking=True), look)
    images = unit_float(check_images("images", batch)).to(device)
    n = images.shape[0]
    if pairs is not None:
        pairs = check_pairs(pairs, n).to(device)
    elif pairing == "all":
        pairs = torch.triu_indices(n, n, 1, device=device).T
    elif n % 2:
        raise ValueError(f'images: pairing="pairs" needs an even number of rows, at least 2, got {n}; or pass pairs=.')
    rows = torch.arange(n, device=device).view(2, -1).T if pairs is None else pairs  # (P, 2)
    if targets is not None:
        targets = check_tensor("targets", targets).detach().to(device)
        targets = targets if targets.is_floating_point() else targets.float()
        if targets.ndim == 2:
            if targets.shape != (n, n):
                raise ValueError(f"targets: a matrix must be ({n}, {n}) for {n} images, got {tuple(targets.shape)}.")
            targets = targets[rows[:, 0], rows[:, 1]]
        return _looked(PairBatch(images, targets, pairs), look)
    if target is None:
        raise ValueError("target: images came without target similarities; set target=PixelTarget(), or pass them.")
    if look:
        check_unit_range("images", images, tolerance=_AUGMENTED)
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        targets, chosen = target.taking_part(target.paired(rows, images), rows)
    return PairBatch(images, targets, pairs if chosen is rows else chosen)


def _looked(batch: PairBatch, look: bool) -> PairBatch:
    """The batch, with the targets checked that it could not check itself."""
    if look and not readable(batch.targets):
        check_similarities("targets", batch.targets)
    return batch
