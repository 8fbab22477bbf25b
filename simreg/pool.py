"""Regularization images and the endless stream of their pairs."""

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
    O(k) and set-up O(N): there is no N x N matrix and no list of pairs. Raises ``ValueError`` if images are fewer than
    2, outside [0, 1], NaN or blank (all pixels equal), or target or labels are for another number of them.

    Args:
        images: Shape (N, C, H, W), N >= 2, uint8 or floating point in [0, 1]; kept by reference, on its device.
        target: Such as ``ThresholdTarget(0.8)``; fitted on the pool (`Target.fit`).
        labels: Shape (N,), for `LabelTarget`.
        transform: What turns raw images in [0, 1], shape (n, C, H, W), into the model's input, such as normalisation;
            targets do not see it.
        seed: Of the private generator that draws pairs.

    Example:
        >>> from simreg import PixelTarget
        >>> images = torch.rand(100, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> batch = next(RegularizationPool(images, PixelTarget()).batches(pairs_per_batch=4))
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
            labels = to_tensor("labels", labels).to(images.device)
            if labels.shape != (n,) or labels.is_floating_point() or int(labels.min()) < 0:
                raise ValueError(f"labels must have shape ({n},) and be integers >= 0, got {describe(labels)}.")
        target.check_size(n)
        self.images = images
        self.labels = labels
        self.target = target.fit(images, labels)
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

        Raises ``ValueError`` if an argument is out of range or, at a step, no pair of a wanted kind can be found.

        Args:
            pairs_per_batch: k, pairs of a step, distinct within it.
            sampling: ``"uniform"`` draws every pair i < j that the target selects equally often; ``"stratified"``
                draws the share ``share`` from the pairs whose target is not 0 and the rest from those whose target is.
            share: Of non-zero targets, for ``"stratified"``; the expected number each step.
            pairing: ``"pairs"`` gives 2k images, row i paired with row k + i; ``"all"`` gives m distinct images and
                all their pairs, where k = m (m - 1) / 2 (the cheaper way to many pairs).
        """
        check_choice("sampling", sampling, ("uniform", "stratified"))
        check_choice("pairing", pairing, ("pairs", "all"))
        k = pairs_per_batch
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= self.num_pairs:
            have = f"a pool of {len(self)} images has only {self.num_pairs} pairs"
            raise ValueError(f"pairs_per_batch must be an integer >= 1, and {have}, got {k!r}.")
        if not 0 <= share <= 1:
            raise ValueError(f"share must be in [0, 1], got {share!r}.")
        if pairing == "pairs":
            return self._pair_batches(k, share if sampling == "stratified" else None)
        if sampling != "uniform":
            raise ValueError('pairing="all" takes all pairs of random images: it goes with sampling="uniform" only.')
        m = (1 + math.isqrt(1 + 8 * k)) // 2
        if math.comb(m, 2) != k:
            fitting = " or ".join(f"{math.comb(i, 2)} ({i} images)" for i in (m, m + 1))
            raise ValueError(f'pairs_per_batch={k}: pairing="all" takes all pairs of m images, so {fitting}.')
        return self._all_batches(m)

    def health(self, pairs_per_batch: int = 16, *, bins: int = 40) -> TargetHealth:
        """Share of +1, 0 and -1 targets, of which k pairs a step hold some, and histogram of the base similarity.

        Exact for pools of up to 8192 images (fewer when images are large), else of the pairs of a random subset. Warns
        when fewer than 1% of the targets differ from 0: most steps then only ask for orthogonal features.
        """
        health = measure_health(self.target, self._represent, len(self), pairs_per_batch=pairs_per_batch, bins=bins)
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
        """Continue the pair stream of `state_dict`; ``ValueError`` if ``state`` is not one."""
        if set(state) != {"generator", "found"}:
            raise ValueError(f"state must be that of RegularizationPool.state_dict(), got keys {sorted(state)}.")
        self._generator.set_state(state["generator"].cpu())
        self._found = {k: v.clone() for k, v in state["found"].items()}

    def _pair_batches(self, k: int, share: float | None) -> Iterator[PairBatch]:
        while True:
            if share is None:
                pairs = self._draw(k, "any")
            else:
                extra = float(torch.rand((), generator=self._generator)) < share * k % 1
                nonzero = int(share * k) + int(extra)
                pairs = torch.cat([self._draw(nonzero, "nonzero"), self._draw(k - nonzero, "zero")])
            indices = pairs.T.flatten()
            raw, base = self._look(indices)
            yield PairBatch(self._transformed(raw), self.target.shape(base), None, indices)

    def _all_batches(self, m: int) -> Iterator[PairBatch]:
        misses = 0
        while misses < _SCANS_WITHOUT_HIT:
            indices = torch.randperm(len(self), generator=self._generator)[:m]
            raw, base = self._look(indices, all_pairs(m))
            targets, pairs = self.target.taking_part(base, all_pairs(m))
            misses = 0 if len(pairs) else misses + 1
            if len(pairs):
                yield PairBatch(self._transformed(raw), targets, pairs.to(raw.device), indices)
        raise ValueError(
            f"no pair {_KINDS['any']} was found among all pairs of {m} images in {_SCANS_WITHOUT_HIT} draws: take more "
            "pairs a step, or change the threshold or select=."
        )

    def _transformed(self, raw: Tensor) -> Tensor:
        return raw if self.transform is None else self.transform(raw)

    def _given(self, indices: Tensor) -> dict[str, Any]:
        """What a target is given of the images in rows ``indices`` of the pool."""
        indices = indices.to(self.images.device, non_blocking=True)
        labels = None if self.labels is None else self.labels[indices]
        return {"images": unit_float(self.images[indices]), "labels": labels, "indices": indices}

    def _represent(self, indices: Tensor) -> Tensor:
        return self.target.representation(**self._given(indices))

    def _look(self, indices: Tensor, pairs: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Images in rows ``indices``, and base similarity of ``pairs`` of them, by default of i and k + i of 2k."""
        pairs = torch.arange(len(indices)).view(2, -1).T if pairs is None else pairs
        given = self._given(indices)
        return given["images"], self.target.paired(pairs, **given)

    def _uniform(self, k: int) -> Tensor:
        """Distinct pairs i < j, each equally likely, (k, 2)."""
        if self.num_pairs <= 16 * k:
            return all_pairs(len(self))[torch.randperm(self.num_pairs, generator=self._generator)[:k]]
        pairs = torch.empty(0, 2, dtype=torch.int64)
        while len(pairs) < k:
            i, j = (torch.randint(n, (k,), generator=self._generator) for n in (len(self), len(self) - 1))
            drawn = torch.stack([i, j + (j >= i)], dim=1)  # uniform over j != i
            pairs = _distinct(torch.cat([pairs, drawn.sort(dim=1).values]))
        return pairs[:k]

    def _draw(self, k: int, stratum: Stratum) -> Tensor:
        """Pairs of a stratum, (k, 2), each equally likely: by rejection while common, by scans of blocks when rare."""
        if k == 0 or (stratum == "any" and self.target.selected(torch.zeros(1)) is None):
            return self._uniform(k)
        pairs = self._uniform(min(4 * k, self.num_pairs))
        _, base = self._look(pairs.T.flatten())
        pairs = pairs[self._belongs(base, stratum).cpu()]
        stalled = 0
        while len(pairs) < k:
            found = self._found.get(stratum, pairs[:0])
            found = found if len(found) else self._scan(stratum)
            before, missing = len(pairs), k - len(pairs)
            pairs = _distinct(torch.cat([pairs, found[:missing]]))
            self._found[stratum] = found[missing:]
            stalled = stalled + 1 if len(pairs) == before else 0
            if stalled == _SCANS_WITHOUT_HIT:
                raise ValueError(
                    f"only {before} distinct pairs {_KINDS[stratum]} were found, but a step wants {k}: lower share= or "
                    "pairs_per_batch, or change the threshold."
                )
        return pairs[:k]

    def _scan(self, stratum: Stratum) -> Tensor:
        """Pairs of a stratum between two random blocks of images, in random order, (H, 2) with 1 <= H <= 64."""
        half = min(_SCAN, len(self) // 2)
        for _ in range(_SCANS_WITHOUT_HIT):
            first, second = torch.randperm(len(self), generator=self._generator)[: 2 * half].view(2, half)
            base = self.target.outer(self._represent(first), self._represent(second))
            hits = self._belongs(base, stratum).nonzero().cpu()
            if len(hits):
                i, j = hits[torch.randperm(len(hits), generator=self._generator)[:_SCAN_HITS]].T
                return torch.stack([first[i], second[j]], dim=1).sort(dim=1).values
        raise ValueError(
            f"no pair {_KINDS[stratum]} was found among {_SCANS_WITHOUT_HIT * half * half:,} pairs of the pool: "
            "change the threshold, select= or share=; pool.health() shows the similarities."
        )

    def _belongs(self, base: Tensor, stratum: Stratum) -> Tensor:
        selected = self.target.selected(base)
        keep = torch.ones_like(base, dtype=torch.bool) if selected is None else selected
        return keep if stratum == "any" else keep & ((self.target.shape(base) != 0) == (stratum == "nonzero"))


def _distinct(pairs: Tensor) -> Tensor:
    """Rows of ``pairs`` (P >= 1, 2) without repetitions, in order of first appearance."""
    return torch.tensor(list(dict.fromkeys(map(tuple, pairs.tolist()))))


def _check_content(images: Tensor) -> None:
    flat = []
    for chunk in torch.split(images, _CHUNK):
        check_unit_range("images", chunk)
        low, high = torch.aminmax(chunk.flatten(1), dim=1)
        flat.append(low == high)
    blank = torch.cat(flat).nonzero().flatten().tolist()
    if blank:
        rows = ", ".join(map(str, blank[:5])) + ", ..." * (len(blank) > 5)
        raise ValueError(
            f"images: {len(blank)} are blank, all their pixels equal, and have no similarity to others (rows {rows}): "
            "leave them out of the pool."
        )
