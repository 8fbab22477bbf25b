"""Bookkeeping of decision attacks: the closest adversarial image of each row, and how runs are put together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from simreg.robustness._distances import BoundaryResult, column_medians
from simreg.robustness._norms import per_row
from simreg.robustness._starts import Starts
from simreg.robustness.classifier import Classifier, check_attack_images

STATS_EVERY = 10  # steps between two looks at the success rates, foolbox's default
LENGTHENED = (1e-4, 1e-3, 1e-2)  # shares by which a perturbation is lengthened where the model takes its answer back


@dataclass
class Run:
    """One repeat on some images: everything by image, on the CPU."""

    distances: Tensor  # (B,)
    curve: Tensor  # (B, number of marks)
    adversarials: Tensor  # (B, C, H, W)
    queries: Tensor  # (B,)
    curve_queries: Tensor  # (B, number of marks), what each image took until each mark
    statuses: list[str]
    kinds: list[str]


@dataclass
class Tracker:
    """Sees every candidate of a batch and keeps each image's closest adversarial one.

    foolbox asks once about the starts, then once per step, and in every tenth step a second time (about the candidates
    before their step towards the image).
    """

    originals: Tensor  # (B, C, H, W)
    labels: Tensor  # (B,)
    marks: list[int]  # steps at which the curve is read, last one = number of steps
    ticks: Iterator[int]
    step: int = -1
    calls: int = 0
    second_look: bool = False
    curve: dict[int, tuple[Tensor, int]] = field(default_factory=dict)  # distances and calls at each mark

    def __post_init__(self) -> None:
        self.best = self.originals.clone()
        self.distances = torch.full((len(self.originals),), torch.inf, device=self.originals.device)

    def see(self, candidates: Tensor, logits: Tensor) -> Tensor:
        """Which of the candidates (B, C, H, W) are adversarial, (B,)."""
        self._count()
        adversarial = logits.argmax(dim=1).to(self.labels.device) != self.labels
        if self.step == 0:
            # found adversarial one by one: rounding in another batch must not stop foolbox for all of them
            adversarial = torch.ones_like(adversarial)
        distances = (candidates - self.originals).square().flatten(1).mean(dim=1)
        closer = adversarial & (distances < self.distances)
        self.distances = torch.where(closer, distances, self.distances)
        self.best = torch.where(closer.view(-1, 1, 1, 1), candidates, self.best)
        if self.step in self.marks:
            self.curve.setdefault(self.step, (self.distances, self.calls))
        return adversarial

    def finish(self) -> None:
        """Let the progress bar skip the steps that were not made."""
        for _ in range(max(self.step, 0), self.marks[-1]):
            next(self.ticks, None)

    def table(self) -> tuple[Tensor, Tensor]:
        """Distances (B, number of marks) and model evaluations (number of marks,) at each mark."""
        distances, calls = zip(*(self.curve[mark] for mark in self.marks), strict=True)
        return torch.stack(distances, dim=1), torch.tensor(calls)

    def _count(self) -> None:
        self.calls += 1
        if self.second_look:
            self.second_look = False
            return
        self.step += 1
        if self.step > 0:
            next(self.ticks, None)
            self.second_look = self.step % STATS_EVERY == 0


def empty_run(images: Tensor, starts: Starts, marks: int) -> Run:
    """All images as failed starts."""
    n = len(images)
    queries = starts.queries + 1  # the image's own prediction
    return Run(
        torch.full((n,), torch.inf),
        torch.full((n, marks), torch.inf),
        torch.full(images.shape, torch.nan),
        queries,
        queries.view(-1, 1).repeat(1, marks),
        ["no_start"] * n,
        starts.kinds,
    )


def record_results(run: Run, rows: list[int], tracker: Tracker, classifier: Classifier) -> None:
    """Put the tracker's results into these rows, after asking the model once more about each final image."""
    confirmed = confirm(classifier, tracker.originals, tracker.best, tracker.labels)
    distances = (confirmed.images - tracker.originals).square().flatten(1).mean(dim=1)
    table, calls = tracker.table()
    run.queries[rows] += tracker.calls
    run.curve_queries[rows] += calls
    record_confirmed(run, rows, confirmed, distances, table)


@dataclass
class Confirmed:
    """Final images (B, C, H, W) that the model was asked about again: its answer (B,), and how often each was asked."""

    images: Tensor
    adversarial: Tensor
    queries: Tensor


def confirm(classifier: Classifier, originals: Tensor, images: Tensor, labels: Tensor) -> Confirmed:
    """Ask the model again about images at the decision boundary, where rounding in another batch turns its answer.

    A perturbation that lost its effect is lengthened by the shares of ``LENGTHENED``, one after the other.
    """
    final = images.clone()
    adversarial = classifier.predict(final).to(labels.device) != labels
    queries = torch.ones(len(images), dtype=torch.int64)
    for share in LENGTHENED:
        rows = (~adversarial).nonzero().flatten()
        if not len(rows):
            break
        longer = (originals[rows] + (1 + share) * (images[rows] - originals[rows])).clamp(0, 1)
        again = classifier.predict(longer).to(labels.device) != labels[rows]
        queries[rows.cpu()] += 1
        final[rows[again]] = longer[again]
        adversarial[rows[again]] = True
    return Confirmed(final, adversarial, queries)


def record_confirmed(run: Run, rows: list[int], confirmed: Confirmed, distances: Tensor, table: Tensor) -> None:
    """Put confirmed images, their distances (B,) and curves (B, number of marks) into these rows of ``run``."""
    run.queries[rows] += confirmed.queries
    run.curve_queries[rows, -1] = run.queries[rows]
    distances, images, adversarial = distances.cpu(), confirmed.images.cpu(), confirmed.adversarial.tolist()
    curve = torch.maximum(table.cpu(), per_row(distances, table))  # a lengthened image ends a little farther away
    for i, row in enumerate(rows):
        run.statuses[row] = "ok" if adversarial[i] else "not_adversarial"
        if adversarial[i]:
            run.distances[row], run.curve[row], run.adversarials[row] = distances[i], curve[i], images[i]


def join_batches(runs: list[Run]) -> Run:
    """The batches of one repeat as one run."""
    return Run(
        distances=torch.cat([run.distances for run in runs]),
        curve=torch.cat([run.curve for run in runs]),
        adversarials=torch.cat([run.adversarials for run in runs]),
        queries=torch.cat([run.queries for run in runs]),
        curve_queries=torch.cat([run.curve_queries for run in runs]),
        statuses=[status for run in runs for status in run.statuses],
        kinds=[kind for run in runs for kind in run.kinds],
    )


def merge_repeats(
    runs: list[Run], marks: list[int], seed: int, settings: dict[str, Any], name: str = "boundary"
) -> BoundaryResult:
    """The closest image of all repeats."""
    best = torch.stack([run.distances for run in runs]).argmin(dim=0).tolist()
    curves = tuple(map(tuple, torch.stack([run.curve for run in runs]).amin(dim=0).tolist()))
    repeat_distances = tuple(map(tuple, torch.stack([run.distances for run in runs], dim=1).tolist()))
    queries = torch.stack([run.curve_queries for run in runs]).sum(dim=(0, 1)).tolist()  # by mark, all images
    return BoundaryResult(
        distances=tuple(float(runs[r].distances[i]) for i, r in enumerate(best)),
        statuses=tuple(_best_status([run.statuses[i] for run in runs]) for i in range(len(best))),
        queries=tuple(torch.stack([run.queries for run in runs]).sum(dim=0).tolist()),
        starts=tuple(runs[r].kinds[i] for i, r in enumerate(best)),
        steps=marks[-1],
        repeats=len(runs),
        seed=seed,
        curve_steps=tuple(marks),
        curve_medians=column_medians(curves),
        repeat_medians=column_medians(repeat_distances),
        settings=settings,
        adversarials=torch.stack([runs[r].adversarials[i] for i, r in enumerate(best)]),
        name=name,
        curve_queries=tuple(total / len(best) for total in queries),
        curves=curves,
        repeat_distances=repeat_distances,
    )


def _best_status(statuses: list[str]) -> str:
    return next(status for status in ("ok", "not_adversarial", "no_start") if status in statuses)


def check_start_images(start_images: Tensor, images: Tensor, batch_size: int) -> Tensor:
    """Raise unless ``start_images`` are images in [0, 1] of the same shape; returns them."""
    check_attack_images("start_images", start_images, batch_size)
    if start_images.shape[1:] != images.shape[1:]:
        raise ValueError(
            f"start_images must have the shape of the images, (M, {', '.join(map(str, images.shape[1:]))}), "
            f"got {tuple(start_images.shape)}."
        )
    return start_images
