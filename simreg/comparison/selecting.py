"""Choosing the strength of the regularizer on validation images: train a grid, measure it, weigh it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from simreg.comparison.clock import Timeline
from simreg.comparison.folder import claim_folder, describe_data
from simreg.comparison.grid import Grid
from simreg.comparison.methods import Method, file_name, parse_method
from simreg.comparison.nets import Expected, TrainedNet, Workshop
from simreg.comparison.plans import SelectionPlan
from simreg.comparison.recipe import Network, Split, derive_seed
from simreg.comparison.training import CHECKPOINT_SECONDS, TrainingDiverged
from simreg.comparison.weighing import weigh
from simreg.data import ImageSplit
from simreg.robustness import noise_sweep, read_results, write_results
from simreg.robustness._surrogate import weights_fingerprint

REFERENCE = "none"
_MOST_VALIDATION = 2000


def select(
    train: ImageSplit,
    grid: Grid,
    seeds: Sequence[int],
    *,
    plan: SelectionPlan,
    out: Path,
    progress: bool = True,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> dict[str, Any]:
    """Train an unregularized net and every point of a grid, measure them on held-out training images, and choose.

    Test images have no part in it: there is no way to pass any. Stopped and called again with the same folder, it goes
    on where it was.

    Args:
        train: Training images; some are held out for validation, the same for all nets and seeds.
        grid: Settings to choose from.
        seeds: Of weights, order, augmentation: the same for all points.
        plan: Everything else.
        out: Folder of the run.
        progress: Whether progress is shown on standard error.
        checkpoint_seconds: Between two checkpoints of a training.

    Returns:
        What ``results.json`` holds.

    Raises:
        ValueError: If seeds or settings are not valid, or ``out`` holds a run with others.
    """
    seeds = sorted(set(seeds))
    if not seeds or min(seeds) < 0:
        raise ValueError(f"seeds must be numbers from 0, at least one, got {seeds}.")
    return _Selection(train, grid, seeds, plan, Path(out), progress, checkpoint_seconds).run()


class _Selection:
    """A selection under way."""

    def __init__(
        self,
        train: ImageSplit,
        grid: Grid,
        seeds: list[int],
        plan: SelectionPlan,
        out: Path,
        progress: bool,
        checkpoint_seconds: float,
    ) -> None:
        self.grid, self.seeds, self.plan, self.out, self.progress = grid, seeds, plan, out, progress
        fitted, self.validation = _hold_out(train, plan.validation)
        network = Network(len(train.classes), train.images.shape[1], plan.width, plan.stem_stride)
        data = fitted.to(plan.device)
        self.workshop = Workshop(network, data, plan.recipe, train.classes, out / "nets", checkpoint_seconds)
        self.steps = self.workshop.steps(plan.epochs)
        self.header = _header(train, len(fitted), len(self.validation), grid, plan)
        self.timeline = Timeline({}, 0, enabled=False)

    def run(self) -> dict[str, Any]:
        """All of it."""
        grid = self.grid
        identity = ("kind", "data", "recipe", "network", "epochs", "split", "distortion")
        claim_folder(self.out, {name: self.header[name] for name in identity})
        none, points = parse_method(REFERENCE), grid.points()
        ahead = {self._name(none, seed): Expected(none, self.steps) for seed in self.seeds}
        alike: dict[Any, Method] = {}  # the number of pairs decides how long a step takes
        for point, seed in itertools.product(points, self.seeds):
            method = grid.method(point)
            timed = alike.setdefault(point["pairs"], method)
            ahead[self._name(method, seed)] = Expected(timed, self.steps)
        unmeasured = sum(not self._measured_path(name).exists() for name in ahead)
        self.timeline, _ = self.workshop.plan(ahead, unmeasured, progress=self.progress)
        reference = [self._do(none, seed) for seed in self.seeds]
        failed = [run["reason"] for run in reference if run["status"] != "ok"]
        if failed:
            raise ValueError(f"the unregularized net: {failed[0]}. Lower the learning rate.")
        # seeds outermost: a stopped selection has all points of the first seeds
        runs = {(i, seed): self._do(grid.method(point), seed) for seed in self.seeds for i, point in enumerate(points)}
        entries = [
            {"settings": point, "runs": [runs[i, seed] for seed in self.seeds]} for i, point in enumerate(points)
        ]
        results = {**self.header, "reference": {"runs": reference}, "points": entries}
        path = self.out / "results.json"
        write_results(path, weigh(results, self.plan.minimum_clean_ratio))
        return read_results(path)

    def _do(self, method: Method, seed: int) -> dict[str, Any]:
        """Train and measure one net, or take what was kept of it."""
        name = self._name(method, seed)
        known = self.workshop.finished(name)
        try:
            net = self.workshop.net(
                name,
                method,
                seed=seed,
                steps=self.steps,
                on_step=lambda done, seconds: self.timeline.tick(name, done, self.steps, seconds),
            )
        except TrainingDiverged as error:
            self.timeline.training.pop(name, None)
            return {"seed": seed, "status": "not run", "reason": str(error)}
        if not known:
            self.timeline.trained(name)
        sweep = self._measure(name, net)
        return {
            "seed": seed,
            "status": "ok",
            "clean": sweep["accuracies"][0],
            "robust": sweep["accuracies"][-1],
            "n": sweep["n"],
            "training_seconds": net.record.training_seconds,
            "milliseconds_per_step": net.record.milliseconds_per_step,
            "sweep": sweep,
            "history": net.record.history,
        }

    def _measure(self, name: str, net: TrainedNet) -> dict[str, Any]:
        """Gaussian noise on the validation images, from none to D, or what was kept of it."""
        path = self._measured_path(name)
        key = weights_fingerprint(net.classifier)
        if path.exists():
            kept = read_results(path)
            if kept["fingerprint"] == key:
                return dict(kept["sweep"])
        start = time.monotonic()
        epsilons = [self.plan.epsilon * i / 10 for i in range(11)]
        images, labels = self.validation.images, self.validation.labels
        sweep = noise_sweep(net.classifier, images, labels, "gaussian", epsilons).to_dict()
        write_results(path, {"fingerprint": key, "sweep": sweep})
        self.timeline.has_measured(name, time.monotonic() - start)
        return sweep

    def _name(self, method: Method, seed: int) -> str:
        return f"{method.name}-seed{seed}"

    def _measured_path(self, name: str) -> Path:
        return self.out / "measured" / f"{file_name(name)}.json"


def _hold_out(train: ImageSplit, validation: int | None) -> tuple[Split, Split]:
    """Images to train on and images to measure on, drawn once and for all."""
    n = len(train.labels)
    held = min(_MOST_VALIDATION, n // 10) if validation is None else validation
    if not 2 <= held <= n - 2:
        raise ValueError(f"validation must leave at least 2 of the {n} training images on either side, got {held}.")
    rows = torch.randperm(n, generator=torch.Generator().manual_seed(derive_seed(0, "validation")))
    fitted, rest = rows[held:], rows[:held]
    return Split(train.images[fitted], train.labels[fitted]), Split(train.images[rest], train.labels[rest])


def _header(train: ImageSplit, fitted: int, held: int, grid: Grid, plan: SelectionPlan) -> dict[str, Any]:
    """What results say of the whole run."""
    from simreg.evaluation import hardware

    return {
        "kind": "selection",
        "data": describe_data(train),
        "recipe": plan.recipe.to_dict(),
        "network": {"name": "ResNet18", "width": plan.width, "stem_stride": plan.stem_stride},
        "epochs": plan.epochs,
        "grid": grid.values(),
        "target": grid.target,
        "mode": grid.mode,
        "distortion": {"name": "gaussian", "epsilon": plan.epsilon},
        "split": {"train": fitted, "validation": held},
        "device": plan.device,
        "hardware": hardware(plan.device),
    }
