"""Many defences, one recipe: train each with the same network, images, order, seeds and clock, and measure them all."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from simreg.comparison.folder import claim_folder, describe_data, fingerprint
from simreg.comparison.measure import Evaluate, evaluate_suite, judge, threat_linf
from simreg.comparison.methods import Method, file_name, parse_method
from simreg.comparison.nets import Expected, TrainedNet, Workshop
from simreg.comparison.plans import Budget, Plan
from simreg.comparison.recipe import Network, Split
from simreg.comparison.remarks import notes_on
from simreg.comparison.training import CHECKPOINT_SECONDS, Timing, TrainingDiverged
from simreg.data import ImageSplit
from simreg.robustness import Surrogate, read_results, write_results
from simreg.robustness._surrogate import weights_fingerprint

SURROGATE_SEED = 10_000
"""Seed of the unregularized net that transferred attacks are made on; seeds of a comparison are smaller."""


def compare(
    train: ImageSplit,
    test: ImageSplit,
    methods: Sequence[Method],
    seeds: Sequence[int],
    *,
    plan: Plan,
    out: Path,
    evaluate: Evaluate = evaluate_suite,
    progress: bool = True,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> dict[str, Any]:
    """Train every method with every seed in every budget, measure each net, and keep it all in ``out``.

    Killed at any time and called again with the same folder, it goes on where it was: finished nets and measurements
    are kept, and a training that goes on ends, on a CPU, as if it had not been stopped. Methods and seeds may be added
    later.

    Args:
        train: Training images.
        test: Test images: only ``evaluate`` gets them, in an order of their own that is always the same.
        methods: From `parse_method`.
        seeds: Of weights, order, augmentation: the same for all methods.
        plan: Everything else.
        out: Folder of the run.
        evaluate: Measures one net.
        progress: Whether progress is shown on standard error.
        checkpoint_seconds: Between two checkpoints of a training.

    Returns:
        What ``results.json`` holds.

    Raises:
        ValueError: If seeds or settings are not valid, or ``out`` holds a run with others.
    """
    seeds = list(dict.fromkeys(seeds))
    if not seeds or not all(0 <= seed < SURROGATE_SEED for seed in seeds):
        raise ValueError(f"seeds must be numbers from 0 to {SURROGATE_SEED - 1}, got {list(seeds)}.")
    run = _Comparison(train, test, plan, Path(out), evaluate, progress, checkpoint_seconds)
    return run.run(list(methods), seeds)


@dataclass(frozen=True)
class _Job:
    """One net: its method, seed and budget."""

    method: Method
    seed: int
    budget: Budget

    @property
    def name(self) -> str:
        return f"{self.method.name}-{self.budget.replace('_', '-')}-seed{self.seed}"


class _Comparison:
    """A comparison under way."""

    def __init__(
        self,
        train: ImageSplit,
        test: ImageSplit,
        plan: Plan,
        out: Path,
        evaluate: Evaluate,
        progress: bool,
        checkpoint_seconds: float,
    ) -> None:
        self.plan, self.out, self.evaluate, self.progress = plan, out, evaluate, progress
        order = torch.randperm(len(test.labels), generator=torch.Generator().manual_seed(0))  # folders come sorted
        self.test_images, self.test_labels = test.images[order], test.labels[order]
        network = Network(len(train.classes), train.images.shape[1], plan.width, plan.stem_stride)
        data = Split(train.images, train.labels).to(plan.device)
        self.workshop = Workshop(network, data, plan.recipe, train.classes, out / "nets", checkpoint_seconds)
        self.name, self.classes = train.name, len(train.classes)
        self.header = _header(train, test, plan)
        self.runs: dict[str, dict[str, Any]] = {}  # finished, by name of the job

    def run(self, methods: list[Method], seeds: list[int]) -> dict[str, Any]:
        """All of it."""
        identity = ("kind", "data", "recipe", "network", "suite", "epochs")
        claim_folder(self.out, {name: self.header[name] for name in identity})
        jobs = [_Job(method, seed, budget) for budget in self.plan.budgets for seed in seeds for method in methods]
        obstacles = {method.name: method.obstacle for method in methods}
        jobs_to_run = [job for job in jobs if obstacles[job.method.name] is None]
        for job in jobs:
            if obstacles[job.method.name] is not None:
                self.runs[job.name] = _not_run(job, str(obstacles[job.method.name]))
        self._plan_time(jobs_to_run)
        surrogate = self._surrogate()
        for job in jobs_to_run:
            self.runs[job.name] = self._do(job, surrogate)
            self._write(jobs)
        return self._write(jobs)

    def _plan_time(self, jobs: list[_Job]) -> None:
        """Say how long it will take."""
        steps, seconds = self._epoch_steps(), self.plan.budget_seconds
        ahead = {"surrogate": Expected(parse_method("none"), steps)}
        for job in jobs:
            ahead[job.name] = Expected(job.method, steps, seconds if job.budget == "equal_time" else None)
        unmeasured = sum(not self._measured_path(job).exists() for job in jobs)
        self.timeline, self.timings = self.workshop.plan(ahead, unmeasured, progress=self.progress)

    def _epoch_steps(self) -> int:
        """Steps of the budget "equal_epochs", and of the surrogate, which gets three epochs where that is left out."""
        return self.workshop.steps(self.plan.epochs or 3)

    def _surrogate(self) -> Surrogate:
        known = self.workshop.finished("surrogate")
        net = self.workshop.net(
            "surrogate",
            parse_method("none"),
            seed=SURROGATE_SEED,
            steps=self._epoch_steps(),
            on_step=self._ticker("surrogate", self._epoch_steps()),
        )
        if not known:
            self.timeline.trained("surrogate")
        return self.workshop.surrogate(net, seed=SURROGATE_SEED)

    def _do(self, job: _Job, surrogate: Surrogate) -> dict[str, Any]:
        """Train and measure one net, or take what was kept of it."""
        steps = self._epoch_steps() if job.budget == "equal_epochs" else self._time_steps(job)
        known = self.workshop.finished(job.name)
        try:
            net = self.workshop.net(
                job.name, job.method, seed=job.seed, steps=steps, on_step=self._ticker(job.name, steps)
            )
        except TrainingDiverged as error:
            self.timeline.training.pop(job.name, None)
            return _not_run(job, str(error))
        if not known:
            self.timeline.trained(job.name)
        measurements = self._measure(job, net, surrogate)
        record = {**net.record.to_dict(), "planned_steps": steps, "measurements": measurements}
        images, labels = self.test_images, self.test_labels
        judged = judge(measurements, images, labels, dataset=self.name, classes=self.classes)
        return {"seed": job.seed, "budget": job.budget, "status": "ok", **record, **judged}

    def _time_steps(self, job: _Job) -> int:
        """Steps that fit into the budget: settled once for a method, and kept."""
        path = self.out / "time-budget.json"
        kept = read_results(path) if path.exists() else {"budget_seconds": self.plan.budget_seconds, "steps": {}}
        if kept["budget_seconds"] != self.plan.budget_seconds:
            raise ValueError(
                f"--out {self.out} holds nets of {kept['budget_seconds']:g} s of training, not "
                f"{self.plan.budget_seconds:g} s: give the same budget, or choose another folder."
            )
        steps: dict[str, int] = kept["steps"]
        if job.method.name not in steps:
            steps[job.method.name] = self._timing(job.method).steps(float(self.plan.budget_seconds or 0))
            write_results(path, {"budget_seconds": self.plan.budget_seconds, "steps": steps})
        return steps[job.method.name]

    def _timing(self, method: Method) -> Timing:
        """From finished trainings of the method if there are any, which is more exact, else from a few steps."""
        done = [
            run
            for name, run in self.runs.items()
            if run["status"] == "ok" and run["budget"] == "equal_epochs" and name.startswith(f"{method.name}-equal")
        ]
        if done:
            return Timing(sum(run["training_seconds"] for run in done) / sum(run["steps"] for run in done))
        if method.name not in self.timings:
            self.timings[method.name] = self.workshop.timing(method, steps=self._epoch_steps())
        return self.timings[method.name]

    def _measure(self, job: _Job, net: TrainedNet, surrogate: Surrogate) -> dict[str, Any]:
        """Measurements of one net, from the file where they are kept if they are of this very net."""
        path = self._measured_path(job)
        key = [weights_fingerprint(net.classifier), surrogate.fingerprint]
        if path.exists():
            kept = read_results(path)
            measurements: dict[str, Any] = kept["measurements"]
            whole = all(entry["status"] == "ok" for entry in measurements.values())  # what could not run may do so now
            if kept["fingerprints"] == key and whole:
                return measurements
        start = time.monotonic()
        found = self.evaluate(
            net.classifier,
            self.test_images,
            self.test_labels,
            suite=self.plan.suite,
            out=path.with_suffix(""),
            model_name=job.name,
            surrogate=surrogate,
            dataset=self.name,
            layers=net.layers,
            seed=0,
            progress=self.progress,
        )
        write_results(path, {"fingerprints": key, "measurements": found})
        self.timeline.has_measured(job.name, time.monotonic() - start)
        return dict(read_results(path)["measurements"])

    def _measured_path(self, job: _Job) -> Path:
        return self.out / "measured" / f"{file_name(job.name)}.json"

    def _write(self, jobs: list[_Job]) -> dict[str, Any]:
        """Write ``results.json`` with all runs so far, those of earlier calls with other methods or seeds included."""
        path = self.out / "results.json"
        methods: dict[str, Any] = dict(read_results(path)["methods"]) if path.exists() else {}
        for job in jobs:
            if job.name not in self.runs:
                continue
            method = job.method
            entry = methods.setdefault(method.name, {"runs": []})
            others = [run for run in entry["runs"] if (run["seed"], run["budget"]) != (job.seed, job.budget)]
            runs = sorted([*others, self.runs[job.name]], key=lambda run: (run["budget"], run["seed"]))
            about = {"label": method.label, "description": method.description, "settings": method.settings}
            methods[method.name] = {**about, "runs": runs}
        write_results(path, {**self.header, "methods": methods, "notes": notes_on(methods, self.header)})
        return read_results(path)

    def _ticker(self, name: str, steps: int) -> Callable[[int, float], None]:
        return lambda done, seconds: self.timeline.tick(name, done, steps, seconds)


def _not_run(job: _Job, reason: str) -> dict[str, Any]:
    return {"seed": job.seed, "budget": job.budget, "status": "not run", "reason": reason}


def _header(train: ImageSplit, test: ImageSplit, plan: Plan) -> dict[str, Any]:
    """What results say of the whole run."""
    from simreg.evaluation import hardware

    return {
        "kind": "comparison",
        "data": {
            **describe_data(train),
            "test": {"n": len(test.labels), "fingerprint": fingerprint(test.images, test.labels)},
        },
        "recipe": plan.recipe.to_dict(),
        "network": {"name": "ResNet18", "width": plan.width, "stem_stride": plan.stem_stride},
        "suite": plan.suite,
        "threat_linf": threat_linf(train.name, train.images),
        "epochs": plan.epochs,
        "budget_seconds": plan.budget_seconds,
        "surrogate": {"method": "none", "seed": SURROGATE_SEED},
        "seed": 0,
        "device": plan.device,
        "hardware": hardware(plan.device),
    }
