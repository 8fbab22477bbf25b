"""HopSkipJump on one batch: boundary search, gradient from decisions, step, again; one random stream per image."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from simreg.robustness._norms import Norm, ascent_direction, per_row, row_norms
from simreg.robustness._random import derive_seed, draw_per_image
from simreg.robustness.classifier import Classifier, batches

BLOCK = 10  # directions drawn at a time: a constant, so that the stream does not depend on the batch
RESOLUTION = 2.0**-14  # change of each value that a model in reduced precision still tells from rounding
_SEARCHES = 40  # evaluations kept for step and boundary search when directions are counted


class HopSkipJump:
    """The attack on images (B, C, H, W) that have adversarial starting points.

    Args:
        classifier: Model under attack.
        norm: "l2" or "linf".
        originals: Images, (B, C, H, W).
        labels: Classes to leave, (B,).
        starts: Adversarial images, (B, C, H, W).
        indices: Index of each image in the whole set.
        budget: Model evaluations that each image may still take, (B,), on the CPU.
        marks: Evaluations at which the curve is read.
        gradient_queries: Directions of the first gradient estimate, B_0 in the paper.
        batch_size: Images per call of the model.
        seed: Seed of the directions.
    """

    def __init__(
        self,
        classifier: Classifier,
        norm: Norm,
        originals: Tensor,
        labels: Tensor,
        starts: Tensor,
        indices: list[int],
        *,
        budget: Tensor,
        marks: list[int],
        gradient_queries: int,
        batch_size: int,
        seed: int,
    ) -> None:
        self.classifier, self.norm, self.gradient_queries = classifier, norm, gradient_queries
        self.originals, self.labels, self.indices, self.seed = originals, labels, indices, seed
        self.batch_size = batch_size
        self.budget, self.spent = budget, torch.zeros(len(labels), dtype=torch.int64)
        self.marks = torch.tensor(marks)
        self.current, self.best = starts.clone(), starts.clone()
        self.distances = row_norms(starts - originals, norm)
        self.curve = self.distances.cpu().view(-1, 1).repeat(1, len(marks))
        self.size = originals.shape[1:].numel()  # d in the paper

    def run(self) -> Iterator[float]:
        """Attack until no image has evaluations left for another gradient estimate; yields the share of them spent."""
        if not len(self.labels):
            return
        rows = torch.arange(len(self.labels))
        self._to_boundary(rows)
        for step in range(1, 1 + int(self.marks[-1])):
            left = self.budget - self.spent - _SEARCHES
            rows = (left >= BLOCK).nonzero().flatten()
            if not len(rows):
                return
            yield float(self.spent.sum() / self.budget.sum())
            counts = left[rows].clamp(max=int(self.gradient_queries * math.sqrt(step)))
            direction = self._direction(rows, counts, step)
            self._step(rows, direction, step)
            self._to_boundary(rows)

    def _to_boundary(self, rows: Tensor) -> None:
        """Bisection between original and adversarial image, down to the paper's theta; keeps what is closest."""
        ends = self.current[rows]
        high = row_norms(ends - self.originals[rows], self.norm)
        low, full = torch.zeros_like(high), high.clone()
        theta, least = (self.size**-1.5, 1.0) if self.norm == "l2" else (self.size**-2.0, self.size**-0.5)
        tolerance = (theta * full).clamp_min(least * RESOLUTION / 2)
        while True:
            middles = (low + high) / 2
            open_ = (high - low > tolerance) & (middles > low) & (middles < high)  # or float32 has nothing between
            searching = (open_.cpu() & (self.spent[rows] < self.budget[rows])).nonzero().flatten()
            if not len(searching):
                break
            middle = middles[searching]
            trial = self._between(rows[searching], ends[searching], full[searching], middle)
            adversarial = self._adversarial(rows[searching], trial)
            high[searching] = torch.where(adversarial, middle, high[searching])
            low[searching] = torch.where(adversarial, low[searching], middle)
        self.current[rows] = self._between(rows, ends, full, high)
        self._keep(rows)

    def _between(self, rows: Tensor, ends: Tensor, full: Tensor, radius: Tensor) -> Tensor:
        """Images at distance ``radius`` (b,) on the way from the originals to ``ends``, which are at ``full`` (b,)."""
        originals, offset = self.originals[rows], ends - self.originals[rows]
        if self.norm == "l2":
            return originals + per_row(radius / full.clamp_min(1e-30), ends) * offset
        bound = per_row(radius, ends)
        return originals + torch.minimum(torch.maximum(offset, -bound), bound)

    def _direction(self, rows: Tensor, counts: Tensor, step: int) -> Tensor:
        """Estimated gradient of the decision at the current images, of length 1 in the norm, (b, C, H, W)."""
        group = max(1, self.batch_size // BLOCK)
        parts = [self._estimate(rows[i : i + group], counts[i : i + group], step) for i in range(0, len(rows), group)]
        return ascent_direction(torch.cat(parts), self.norm)

    def _estimate(self, rows: Tensor, counts: Tensor, step: int) -> Tensor:
        r"""Mean of :math:`(\phi_b - \bar\phi) u_b` over ``counts`` directions :math:`u_b` for each of a few rows."""
        points = self.current[rows].unsqueeze(1)  # (b, 1, C, H, W)
        distances = row_norms(points.squeeze(1) - self.originals[rows], self.norm)
        delta = per_row((distances / self.size).clamp_min(RESOLUTION * math.sqrt(self.size)), points)
        weighted, plain = (torch.zeros_like(self.current[rows]) for _ in range(2))
        total = torch.zeros(len(rows), device=points.device)
        numbers = [self.indices[row] for row in rows.tolist()]
        for block in range(math.ceil(int(counts.max()) / BLOCK)):
            used = block * BLOCK + torch.arange(BLOCK).view(1, -1) < counts.view(-1, 1)  # (b, BLOCK)
            like = points.expand(-1, BLOCK, -1, -1, -1)
            draws = draw_per_image(like, numbers, derive_seed("hopskipjump", self.seed, step, block), "normal")
            draws = draws / draws.flatten(2).norm(dim=2).view(len(rows), BLOCK, 1, 1, 1)
            trial = (points + delta * draws).clamp(0, 1)
            answers = torch.zeros(len(rows), BLOCK, device=points.device)
            where = used.to(points.device)
            adversarial = self._adversarial(rows.repeat_interleave(BLOCK)[used.flatten()], trial[where])
            answers[where] = 2 * adversarial.to(answers.dtype) - 1
            moved = (trial - points) / delta * where.view(*where.shape, 1, 1, 1)  # after the clamp
            weighted += (answers.view(*answers.shape, 1, 1, 1) * moved).sum(dim=1)
            plain += moved.sum(dim=1)
            total += answers.sum(dim=1)
        mean = total / counts.to(total.device)
        mean = torch.where(mean.abs() == 1, torch.zeros_like(mean), mean)  # all agree: their mean direction, or away
        return weighted - per_row(mean, plain) * plain

    def _step(self, rows: Tensor, direction: Tensor, step: int) -> None:
        """Go along ``direction``, half as far each time until the image is adversarial."""
        size = row_norms(self.current[rows] - self.originals[rows], self.norm) / math.sqrt(step)
        trying = torch.arange(len(rows))
        for _ in range(_SEARCHES // 2):
            trying = trying[self.spent[rows[trying]] < self.budget[rows[trying]]]
            if not len(trying):
                break
            moved = self.current[rows[trying]] + per_row(size[trying], direction) * direction[trying]
            trial = moved.clamp(0, 1)
            adversarial = self._adversarial(rows[trying], trial)
            self.current[rows[trying][adversarial.cpu()]] = trial[adversarial]
            trying = trying[~adversarial.cpu()]
            size[trying] /= 2

    def _keep(self, rows: Tensor) -> None:
        """Remember the current images that are closer than any before, and what each took."""
        distances = row_norms(self.current[rows] - self.originals[rows], self.norm)
        closer = distances < self.distances[rows]
        self.best[rows[closer.cpu()]] = self.current[rows][closer]
        self.distances[rows[closer.cpu()]] = distances[closer]
        later = self.marks.view(1, -1) >= self.spent[rows].view(-1, 1)  # (b, number of marks)
        self.curve[rows] = torch.where(later, self.distances[rows].cpu().view(-1, 1), self.curve[rows])

    def _adversarial(self, rows: Tensor, images: Tensor) -> Tensor:
        """Which images (M, C, H, W), candidates of these rows, the model puts in another class, (M,)."""
        self.spent.index_add_(0, rows, torch.ones_like(rows))
        labels = self.labels[rows]
        answers = [self.classifier.predict(images[part]) for part in batches(len(images), self.batch_size)]
        return torch.cat(answers).to(labels.device) != labels
