"""Starting points of decision attacks: adversarial images found by blending in noise, or another image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from simreg.robustness._random import derive_seed, draw_per_image
from simreg.robustness.classifier import Classifier, batches, unit_float

_NEAREST = 5  # images of another class tried for each image that noise did not move


@dataclass
class Starts:
    """Starting points of one batch: images (B, C, H, W), kind ("noise", "image", "none") and queries of each."""

    images: Tensor
    kinds: list[str]
    queries: Tensor


class StartFinder:
    """Finds an adversarial starting point for each image, first with uniform noise, then with other images.

    Args:
        classifier: Model under attack.
        pool: Images to start from where noise fails, (M, C, H, W).
        directions: Random noise images tried for each image.
        blend_steps: Steps of the linear search between the image and what it is blended with.
        batch_size: Images per call of the model on the pool.
    """

    def __init__(
        self, classifier: Classifier, pool: Tensor, *, directions: int, blend_steps: int, batch_size: int
    ) -> None:
        self.classifier, self.pool, self.batch_size = classifier, pool, batch_size
        self.directions, self.blend_steps = directions, blend_steps
        self._pool_labels: Tensor | None = None

    @property
    def pool_queries(self) -> int:
        """Model evaluations spent on the pool, for all images together."""
        return 0 if self._pool_labels is None else len(self._pool_labels)

    def __call__(self, images: Tensor, labels: Tensor, indices: range, seed: int) -> Starts:
        """Starting points of images (B, C, H, W) that the model puts in ``labels`` (B,)."""
        starts = Starts(images.clone(), ["none"] * len(images), torch.zeros(len(images), dtype=torch.int64))
        noise, found = self._noise(images, labels, indices, seed, starts)
        rows = found.nonzero().flatten()
        if len(rows):
            starts.images[rows] = self._blend(images[rows], noise[rows], labels[rows], rows, starts)
        for row in rows.tolist():
            starts.kinds[row] = "noise"
        rows = (~found).nonzero().flatten()
        if len(rows):
            self._from_pool(images, labels, rows, starts)
        return starts

    def _noise(
        self, images: Tensor, labels: Tensor, indices: range, seed: int, starts: Starts
    ) -> tuple[Tensor, Tensor]:
        """Uniform noise that the model puts in another class (B, C, H, W), and which rows have some (B,)."""
        noise = torch.zeros_like(images)
        found = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        for direction in range(self.directions):
            rows = (~found).nonzero().flatten()
            if not len(rows):
                break
            numbers = [indices[row] for row in rows.tolist()]
            trial = draw_per_image(images[rows], numbers, derive_seed("start", seed, direction), "uniform")
            adversarial = self._is_adversarial(trial, labels[rows], rows, starts)
            noise[rows[adversarial]] = trial[adversarial]
            found[rows[adversarial]] = True
        return noise, found

    def _blend(self, images: Tensor, ends: Tensor, labels: Tensor, rows: Tensor, starts: Starts) -> Tensor:
        """First adversarial image on the grid from each image to its adversarial end, (B, C, H, W)."""
        result = ends.clone()
        left = torch.arange(len(images), device=images.device)
        for step in range(1, self.blend_steps):
            share = step / self.blend_steps
            trial = (1 - share) * images[left] + share * ends[left]
            adversarial = self._is_adversarial(trial, labels[left], rows[left], starts)
            result[left[adversarial]] = trial[adversarial]
            left = left[~adversarial]
            if not len(left):
                break
        return result

    def _from_pool(self, images: Tensor, labels: Tensor, rows: Tensor, starts: Starts) -> None:
        """Start these rows from the nearest pool images of another class, blended; the closest result stays."""
        distances = self._pool_distances(images[rows], labels[rows])  # (B, M), inf within the class
        values, neighbours = distances.topk(min(_NEAREST, len(self.pool)), dim=1, largest=False)
        best = torch.full((len(rows),), torch.inf, device=images.device)
        for rank in range(values.shape[1]):
            usable = values[:, rank].isfinite().nonzero().flatten()
            if not len(usable):
                break
            chosen = rows[usable]
            ends = self._pool_images(neighbours[usable, rank], images)
            blended = self._blend(images[chosen], ends, labels[chosen], chosen, starts)
            length = (blended - images[chosen]).flatten(1).norm(dim=1)
            closer = length < best[usable]
            best[usable[closer]] = length[closer]
            starts.images[chosen[closer]] = blended[closer]
        for row in rows[best.isfinite()].tolist():
            starts.kinds[row] = "image"

    def _pool_distances(self, images: Tensor, labels: Tensor) -> Tensor:
        """L2 distance of each image to each pool image, (B, M); inf where the model sees the image's own class."""
        if self._pool_labels is None:
            parts = batches(len(self.pool), self.batch_size)
            self._pool_labels = torch.cat([self.classifier.predict(self._pool_images(p, images)) for p in parts])
            self._pool_labels = self._pool_labels.to(images.device)
        columns = []
        for part in batches(len(self.pool), 1024):
            block = torch.cdist(images.flatten(1), self._pool_images(part, images).flatten(1))
            same = labels.view(-1, 1) == self._pool_labels[part].view(1, -1)
            columns.append(block.masked_fill(same, torch.inf))
        return torch.cat(columns, dim=1)

    def _pool_images(self, rows: slice | Tensor, like: Tensor) -> Tensor:
        chosen = self.pool[rows if isinstance(rows, slice) else rows.to(self.pool.device)]
        return unit_float(chosen).to(like.device, like.dtype)

    def _is_adversarial(self, trial: Tensor, labels: Tensor, rows: Tensor, starts: Starts) -> Tensor:
        starts.queries[rows.to(starts.queries.device)] += 1
        return self.classifier.predict(trial).to(labels.device) != labels
