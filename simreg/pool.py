"""Regularization images and the endless stream of their pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from simreg._checks import check_choice, check_images, check_unit_range, describe, to_tensor, unit_float, warn
from simreg.batch import PairBatch, Pairing
from simreg.functional import all_pairs
from simreg.health import TargetHealth, measure_health
from simreg.targets import Target

Sampling = Literal["uniform", "stratified"]
Stratum = Literal["any", "nonzero", "zero"]

_CHUNK = 1024  # images looked at together at set-up
_SCAN = 256  # a scan compares this many images with as many others
_SCAN_HITS = 64  # hits kept of a scan: more would make long runs of steps share images
_SCANS_WITHOUT_HIT = 50
_KINDS = {"any": "that the target selects", "nonzero": "with a target other than 0", "zero": "with target 0"}


class RegularizationPool:
    """Regularization images, their targets, and an endless, resumable stream of their pairs.

    The pool keeps the raw images; targets are computed from the raw pixels of the images of a step, so a step costs
    O(k) and set-up O(N): there is no N x N matrix and no list of pairs.

    Args:
        images: Shape (N, C, H, W), N >= 2, uint8 or floating point in [0, 1]; kept by reference, on its device.
        target: Such as ``ThresholdTarget(0.8)``; fitted on the pool (`Target.fit`).
        labels: Shape (N,), for `LabelTarget`.
        transform: What turns raw images in [0, 1], shape (n, C, H, W), into the model's input, such as normalisation;
            targets do not see it.
        seed: Of the private generator that draws pairs.

    Raises:
        ValueError: If there are fewer than 2 images, images outside [0, 1], NaN or blank ones (all pixels equal), or
            target or labels for another number of images.
        TypeError: If an argument has the wrong type.

    Example:
        >>> from simreg import PixelTarget
        >>> images = torch.rand(100, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> pool = RegularizationPool(images, PixelTarget())
        >>> batch = next(pool.batches(pairs_per_batch=4))
        >>> batch.images.shape, batch.targets.shape
        (torch.Size([8, 1, 8, 8]), torch.Size([4]))
    """

    def __init__(
        self,
        images: Tensor,
        target: Target,
        *,
        labels: Tensor | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
        seed: int = 0,
    ) -> None:
        if not isinstance(target, Target):
            raise TypeError(f"target must be a target such as PixelTarget(), got {describe(target)}.")
        n = check_images("images", images).shape[0]
        if n < 2:
            raise ValueError(f"images must hold at least 2 images to form a pair, got {n}.")
        _check_content(images)
        if labels is not None:
            labels = to_tensor("labels", labels)
            if labels.shape != (n,) or labels.is_floating_point() or int(labels.min()) < 0:
                raise ValueError(f"labels must have shape ({n},) and be integers >= 0, got {describe(labels)}.")
        target.check_size(n)
        self.images = images
        self.labels = None if labels is None else labels.to(images.device)
        self.target = target.fit(images, self.labels)
        self.transform = transform
        self._generator = torch.Generator().manual_seed(seed)
        self._found: dict[str, Tensor] = {}  # stratum -> pairs found by scans and not used yet, (H, 2)

    def __len__(self) -> int:
        return self.images.shape[0]

    def __repr__(self) -> str:
        return f"RegularizationPool({len(self)} images {tuple(self.images.shape[1:])}, {type(self.target).__name__})"

    @property
    def num_pairs(self) -> int:
        """Number of pairs i < j of the pool, N (N - 1) / 2."""
        return math.comb(len(self), 2)

    def batches(
        self,
        pairs_per_batch: int = 16,
        *,
        sampling: Sampling = "uniform",
        share: float = 0.25,
        pairing: Pairing = "pairs",
    ) -> Iterator[PairBatch]:
        """Endless stream of batches; all streams of a pool draw from its one generator.

        Args:
            pairs_per_batch: k, pairs of a step, distinct within it.
            sampling: ``"uniform"`` draws every pair i < j that the target selects equally often; ``"stratified"``
                draws the share ``share`` from the pairs whose target is not 0 and the rest from those whose target is.
            share: Of non-zero targets, for ``"stratified"``; the expected number each step.
            pairing: ``"pairs"`` gives 2k images, row i paired with row k + i; ``"all"`` gives m distinct images and
                all their pairs, where k = m (m - 1) / 2 (the cheaper way to many pairs).

        Returns:
            Iterator of `PairBatch`.

        Raises:
            ValueError: If the pool has too few pairs, ``share`` is outside [0, 1], k is no such number with
                ``"all"``, or no pair of a wanted kind can be found.
        """
        check_choice("sampling", sampling, ("uniform", "stratified"))
        check_choice("pairing", pairing, ("pairs", "all"))
        if isinstance(pairs_per_batch, bool) or not isinstance(pairs_per_batch, int) or pairs_per_batch < 1:
            raise ValueError(f"pairs_per_batch must be an integer >= 1, got {pairs_per_batch!r}.")
        if pairs_per_batch > self.num_pairs:
            raise ValueError(
                f"pairs_per_batch={pairs_per_batch}: a pool of {len(self)} images has only {self.num_pairs} pairs."
            )
        if not 0 <= share <= 1:
            raise ValueError(f"share must be in [0, 1], got {share!r}.")
        if pairing == "all":
            if sampling != "uniform":
                raise ValueError(
                    'pairing="all" takes all pairs of random images: it goes with sampling="uniform" only.'
                )
            return self._all_batches(_images_for(pairs_per_batch))
        return self._pair_batches(pairs_per_batch, share if sampling == "stratified" else None)

    def health(self, pairs_per_batch: int = 16, *, bins: int = 40) -> TargetHealth:
        """Share of +1, 0 and -1 targets and histogram of the base similarity.

        Exact for pools of up to 8192 images (fewer when images are large), else of the pairs of a random subset of
        the images. Warns when fewer than 1% of the targets differ from 0: most steps then only ask for orthogonal
        features.

        Args:
            pairs_per_batch: k, for ``expected_per_step``.
            bins: Of the histogram over [-1, 1].

        Returns:
            The shares and the histogram.
        """
        health = measure_health(
            self.target, self._representation, len(self), pairs_per_batch=pairs_per_batch, bins=bins
        )
        if health.selected == 0:
            warn("the target selects no pair of the pool: change its threshold or select=.")
        elif 1.0 - health.zero < 0.01:
            warn(
                f"only {1.0 - health.zero:.3%} of the targets differ from 0 ({health.expected_per_step:.2f} of "
                f'{pairs_per_batch} pairs a step): lower the threshold, or draw with sampling="stratified".'
            )
        return health

    def state_dict(self) -> dict[str, Any]:
        """State of the pair stream: tensors only, so that it loads with ``weights_only=True``."""
        return {"generator": self._generator.get_state(), "found": {k: v.clone() for k, v in self._found.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the pair stream of `state_dict`.

        Raises:
            ValueError: If ``state`` is not one.
        """
        if set(state) != {"generator", "found"}:
            raise ValueError(f"state must be that of RegularizationPool.state_dict(), got keys {sorted(state)}.")
        self._generator.set_state(state["generator"].cpu())
        self._found = {k: v.clone() for k, v in state["found"].items()}

    def _pair_batches(self, k: int, share: float | None) -> Iterator[PairBatch]:
        while True:
            if share is None:
                pairs = self._draw(k, "any")
            else:
                wanted = share * k
                extra = float(torch.rand((), generator=self._generator)) < wanted % 1
                nonzero = int(wanted) + int(extra)
                pairs = torch.cat([self._draw(nonzero, "nonzero"), self._draw(k - nonzero, "zero")])
            indices = pairs.T.reshape(-1)
            raw, base = self._raw_and_base(indices, _halves(k))
            yield PairBatch(self._transformed(raw), self.target.shape(base), None, indices)

    def _all_batches(self, m: int) -> Iterator[PairBatch]:
        while True:
            for _ in range(_SCANS_WITHOUT_HIT):
                indices, pairs = torch.randperm(len(self), generator=self._generator)[:m], all_pairs(m)
                raw, base = self._raw_and_base(indices, pairs)
                targets, pairs = self.target.taking_part(base, pairs)
                if len(pairs):
                    yield PairBatch(self._transformed(raw), targets, pairs.to(raw.device), indices)
                    break
            else:
                raise ValueError(
                    f"no pair {_KINDS['any']} was found among all pairs of {m} images in {_SCANS_WITHOUT_HIT} draws: "
                    "take more pairs a step, or change the threshold or select=."
                )

    def _transformed(self, raw: Tensor) -> Tensor:
        return raw if self.transform is None else self.transform(raw)

    def _raw_and_base(self, indices: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Images in rows ``indices`` of the pool, in [0, 1], and the base similarity of ``pairs`` of them."""
        on_device = indices.to(self.images.device, non_blocking=True)
        raw = unit_float(self.images[on_device])
        return raw, self.target.paired(pairs, raw, labels=self._labels(on_device), indices=on_device)

    def _labels(self, indices: Tensor) -> Tensor | None:
        return None if self.labels is None else self.labels[indices]

    def _representation(self, indices: Tensor) -> Tensor:
        indices = indices.to(self.images.device)
        return self.target.representation(self.images[indices], labels=self._labels(indices), indices=indices)

    def _uniform(self, k: int) -> Tensor:
        """Distinct pairs i < j, each equally likely, (k, 2)."""
        if self.num_pairs <= 16 * k:
            flat = torch.randperm(self.num_pairs, generator=self._generator)[:k]
            return all_pairs(len(self))[flat]
        pairs = torch.empty(0, 2, dtype=torch.int64)
        while pairs.shape[0] < k:
            i = torch.randint(len(self), (k,), generator=self._generator)
            j = torch.randint(len(self) - 1, (k,), generator=self._generator)
            j = j + (j >= i)  # uniform over j != i
            pairs = torch.cat([pairs, torch.stack([torch.minimum(i, j), torch.maximum(i, j)], dim=1)])
            pairs = _distinct(pairs)
        return pairs[:k]

    def _draw(self, k: int, stratum: Stratum) -> Tensor:
        """Pairs of a stratum, (k, 2), each equally likely: by rejection while common, by scans of blocks when rare."""
        if k == 0:
            return torch.empty(0, 2, dtype=torch.int64)
        if stratum == "any" and self.target.selected(torch.zeros(1)) is None:
            return self._uniform(k)
        pairs = self._uniform(min(4 * k, self.num_pairs))
        _, base = self._raw_and_base(pairs.T.reshape(-1), _halves(pairs.shape[0]))
        pairs = pairs[self._belongs(base, stratum).cpu()]
        stalled = 0
        while pairs.shape[0] < k:
            found = self._found.get(stratum)
            if found is None or found.shape[0] == 0:
                found = self._scan(stratum)
            before, missing = pairs.shape[0], k - pairs.shape[0]
            pairs = _distinct(torch.cat([pairs, found[:missing]]))
            self._found[stratum] = found[missing:]
            stalled = stalled + 1 if pairs.shape[0] == before else 0
            if stalled == _SCANS_WITHOUT_HIT:
                raise ValueError(
                    f"only {before} distinct pairs {_KINDS[stratum]} were found, but a step wants {k}: lower share= or "
                    "pairs_per_batch, or change the threshold."
                )
        return pairs[:k]

    def _scan(self, stratum: Stratum) -> Tensor:
        """Pairs of a stratum between two random blocks of images, in random order, (H, 2) with 1 <= H <= 64."""
        for _ in range(_SCANS_WITHOUT_HIT):
            order = torch.randperm(len(self), generator=self._generator)
            half = min(_SCAN, len(self) // 2)
            first, second = order[:half], order[half : 2 * half]
            base = self.target.outer(self._representation(first), self._representation(second))
            hits = self._belongs(base, stratum).nonzero().cpu()
            if hits.shape[0]:
                hits = hits[torch.randperm(hits.shape[0], generator=self._generator)[:_SCAN_HITS]]
                return torch.stack([first[hits[:, 0]], second[hits[:, 1]]], dim=1).sort(dim=1).values
        raise ValueError(
            f"no pair {_KINDS[stratum]} was found among {_SCANS_WITHOUT_HIT * half * half:,} pairs of the pool: "
            "change the threshold, select= or share=; pool.health() shows the similarities."
        )

    def _belongs(self, base: Tensor, stratum: Stratum) -> Tensor:
        selected = self.target.selected(base)
        keep = torch.ones_like(base, dtype=torch.bool) if selected is None else selected
        if stratum == "any":
            return keep
        nonzero = self.target.shape(base) != 0
        return keep & (nonzero if stratum == "nonzero" else ~nonzero)


def _halves(k: int) -> Tensor:
    return torch.stack([torch.arange(k), torch.arange(k) + k], dim=1)


def _distinct(pairs: Tensor) -> Tensor:
    """Rows of ``pairs`` without repetitions, in order of first appearance."""
    _, inverse = torch.unique(pairs, dim=0, return_inverse=True)
    first = torch.full((len(pairs),), len(pairs)).scatter_reduce(0, inverse, torch.arange(len(pairs)), "amin")
    return pairs[first[first < len(pairs)].sort().values]


def _images_for(pairs: int) -> int:
    m = (1 + math.isqrt(1 + 8 * pairs)) // 2
    if math.comb(m, 2) != pairs:
        raise ValueError(
            f'pairs_per_batch={pairs}: pairing="all" takes all pairs of m images, so {math.comb(m, 2)} ({m} images) or '
            f"{math.comb(m + 1, 2)} ({m + 1} images)."
        )
    return m


def _check_content(images: Tensor) -> None:
    blank: list[int] = []
    for start in range(0, images.shape[0], _CHUNK):
        chunk = images[start : start + _CHUNK]
        check_unit_range("images", chunk)
        low, high = torch.aminmax(chunk.flatten(1), dim=1)
        blank += (start + (low == high).nonzero().flatten()).tolist()
    if blank:
        rows = ", ".join(map(str, blank[:5])) + (", ..." if len(blank) > 5 else "")
        raise ValueError(
            f"images: {len(blank)} are blank, all their pixels equal, and have no similarity to others (rows {rows}): "
            "leave them out of the pool."
        )
