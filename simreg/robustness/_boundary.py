"""Bookkeeping of the Boundary Attack: the closest adversarial image of each row, and how runs are put together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from simreg.robustness._starts import Starts
from simreg.robustness.classifier import Classifier
from simreg.robustness.results import BoundaryResult

STATS_EVERY = 10  # steps between two looks at the success rates, foolbox's default


@dataclass
class Run:
    """One repeat on some images: everything by image, on the CPU."""

    distances: Tensor  # (B,)
    curve: Tensor  # (B, number of marks)
    adversarials: Tensor  # (B, C, H, W)
    queries: Tensor  # (B,)
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
    curve: dict[int, Tensor] = field(default_factory=dict)

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
            self.curve[self.step] = self.distances
        return adversarial

    def finish(self) -> None:
        """Let the progress bar skip the steps that were not needed."""
        for _ in range(max(self.step, 0), self.marks[-1]):
            next(self.ticks, None)

    def table(self) -> Tensor:
        """Distances by image and mark (B, number of marks); a run that converged early keeps its last."""
        rows = [self.curve.get(mark, self.distances) for mark in self.marks]
        return torch.stack(rows, dim=1)

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
    nothing = torch.full(images.shape, torch.nan)
    return Run(
        torch.full((n,), torch.inf),
        torch.full((n, marks), torch.inf),
        nothing,
        starts.queries + 1,
        ["no_start"] * n,
        starts.kinds,
    )


def record_results(run: Run, rows: list[int], tracker: Tracker, classifier: Classifier) -> None:
    """Put the tracker's results into these rows, after asking the model once more about each final image."""
    adversarial = (classifier.predict(tracker.best).to(tracker.labels.device) != tracker.labels).tolist()
    run.queries[rows] += tracker.calls + 1
    table, distances, best = tracker.table().cpu(), tracker.distances.cpu(), tracker.best.cpu()
    for i, row in enumerate(rows):
        run.statuses[row] = "ok" if adversarial[i] else "not_adversarial"
        if adversarial[i]:
            run.distances[row], run.curve[row], run.adversarials[row] = distances[i], table[i], best[i]


def join_batches(runs: list[Run]) -> Run:
    """The batches of one repeat as one run."""
    return Run(
        distances=torch.cat([run.distances for run in runs]),
        curve=torch.cat([run.curve for run in runs]),
        adversarials=torch.cat([run.adversarials for run in runs]),
        queries=torch.cat([run.queries for run in runs]),
        statuses=[status for run in runs for status in run.statuses],
        kinds=[kind for run in runs for kind in run.kinds],
    )


def merge_repeats(runs: list[Run], marks: list[int], seed: int, settings: dict[str, Any]) -> BoundaryResult:
    """The closest image of all repeats."""
    best = torch.stack([run.distances for run in runs]).argmin(dim=0).tolist()
    curve = torch.stack([run.curve for run in runs]).amin(dim=0)
    return BoundaryResult(
        distances=tuple(float(runs[r].distances[i]) for i, r in enumerate(best)),
        statuses=tuple(_best_status([run.statuses[i] for run in runs]) for i in range(len(best))),
        queries=tuple(torch.stack([run.queries for run in runs]).sum(dim=0).tolist()),
        starts=tuple(runs[r].kinds[i] for i, r in enumerate(best)),
        steps=marks[-1],
        repeats=len(runs),
        seed=seed,
        curve_steps=tuple(marks),
        curve_medians=tuple(_median(column) for column in curve.T),
        repeat_medians=tuple(_median(run.distances) for run in runs),
        settings=settings,
        adversarials=torch.stack([runs[r].adversarials[i] for i, r in enumerate(best)]),
    )


def _best_status(statuses: list[str]) -> str:
    return next(status for status in ("ok", "not_adversarial", "no_start") if status in statuses)


def _median(values: Tensor) -> float:
    """Median with the mean of the two middle values, inf included."""
    ordered = values.sort().values
    return float(ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
