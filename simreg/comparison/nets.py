"""Nets on disk: trained once, loaded ever after, and refused where they were trained in another way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from simreg.comparison.clock import Timeline, duration
from simreg.comparison.methods import Method, file_name
from simreg.comparison.parts import Site
from simreg.comparison.recipe import BUILDER, MEAN, STD, Network, Recipe, Split
from simreg.comparison.training import CHECKPOINT_SECONDS, Timing, TrainingRecord, check_identity, time_training, train
from simreg.model_files import load_model, save_model
from simreg.robustness import Classifier, Surrogate


@dataclass(frozen=True)
class TrainedNet:
    """A network that was trained, and what is known of it.

    Attributes:
        model: On the device, in evaluation mode.
        record: Of its training.
        layers: That its method regularized.
    """

    model: nn.Module
    record: TrainingRecord
    layers: tuple[str, ...]

    @property
    def classifier(self) -> Classifier:
        """The network on images in [0, 1]."""
        return Classifier(self.model, mean=MEAN, std=STD)


@dataclass(frozen=True)
class Expected:
    """A training that lies ahead.

    Attributes:
        method: To time for a moment: the one that trains, or one as fast.
        steps: Of the training.
        seconds: Of the training, where they are known beforehand.
    """

    method: Method
    steps: int
    seconds: float | None = None


@dataclass(frozen=True)
class Workshop:
    """Where nets are made: network, images, recipe, folder.

    Attributes:
        network: Of every net.
        data: Training images, on the device.
        recipe: Of every net.
        classes: Class names in the order of the labels.
        folder: Where nets and checkpoints are kept.
        checkpoint_seconds: Between two checkpoints.
    """

    network: Network
    data: Split
    recipe: Recipe
    classes: tuple[str, ...]
    folder: Path
    checkpoint_seconds: float = CHECKPOINT_SECONDS

    def site(self, seed: int, steps: int) -> Site:
        """A fresh network of this seed, to be trained for so many steps."""
        model = self.network.build(seed, self.data.images.device)
        return Site(model, self.data, self.recipe, seed, steps)

    def path(self, name: str) -> Path:
        """File of a finished net."""
        return self.folder / f"{file_name(name)}.safetensors"

    def finished(self, name: str) -> bool:
        """Whether the net needs no training."""
        return self.path(name).exists()

    def net(
        self, name: str, method: Method, *, seed: int, steps: int, on_step: Callable[[int, float], None] | None = None
    ) -> TrainedNet:
        """The net of this name: loaded if it was finished before, else trained, or trained on.

        Args:
            name: Of its file.
            method: That trains it.
            seed: Of weights, order, augmentation.
            steps: Of the training.
            on_step: As for `train`.

        Returns:
            The net.

        Raises:
            TrainingDiverged: If its loss becomes infinite or NaN.
            ValueError: If the file holds a net of another training, or is damaged.
        """
        wanted = {"method": method.name, "settings": method.settings, "seed": seed, "planned_steps": steps}
        path, checkpoint = self.path(name), self.folder / f"{file_name(name)}.checkpoint"
        if path.exists():
            checkpoint.unlink(missing_ok=True)  # left over where a process was killed between the two
            return self._load(path, wanted)
        site = self.site(seed, steps)
        trainer = method.trainer(site)
        layers = trainer.objective.layers
        record = train(
            site,
            trainer,
            checkpoint=checkpoint,
            identity=wanted,
            on_step=on_step,
            checkpoint_seconds=self.checkpoint_seconds,
        )
        trainer.objective.close()
        save_model(
            path,
            site.model,
            builder=BUILDER,
            arguments=self.network.arguments(seed),
            mean=MEAN,
            std=STD,
            classes=self.classes,
            info={**wanted, "layers": layers, "record": record.to_dict()},
        )
        checkpoint.unlink(missing_ok=True)
        return self._load(path, wanted)

    def steps(self, epochs: float) -> int:
        """Steps of so many passes over the training images, at least 1."""
        per_epoch = max(1, len(self.data) // min(self.recipe.batch_size, len(self.data)))
        return max(1, round(epochs * per_epoch))

    def surrogate(self, net: TrainedNet, *, seed: int) -> Surrogate:
        """A net as the source of transferred attacks."""
        info = {"steps": net.record.steps, "seed": seed, **self.network.arguments(seed)}
        return Surrogate(net.classifier, name="unregularized ResNet18", info=info)

    def timing(self, method: Method, *, steps: int) -> Timing:
        """What a training of ``steps`` will take, from a few steps on a network that is then let go."""
        site = self.site(0, steps)
        trainer = method.trainer(site)
        try:
            return time_training(site, trainer)
        finally:
            trainer.objective.close()

    def plan(
        self, ahead: Mapping[str, Expected], measurements: int, *, progress: bool
    ) -> tuple[Timeline, dict[str, Timing]]:
        """Time every method that has nets to train for a moment, so that what is left can be told from the beginning.

        Args:
            ahead: Trainings by name; those that are finished are left out.
            measurements: Not made yet.
            progress: Whether lines are printed.

        Returns:
            The time that is left, and what was found, by name of the method.
        """
        talk, timings, seconds = Timeline({}, 0, enabled=progress), {}, {}
        for name, training in ahead.items():
            if self.finished(name):
                continue
            method = training.method
            if method.name not in timings:
                timings[method.name] = self.timing(method, steps=training.steps)
                talk.say(f"{method.name}: {1000 * timings[method.name].step:.0f} ms a step")
            known = training.seconds
            seconds[name] = timings[method.name].seconds(training.steps) if known is None else known
        timeline = Timeline(seconds, measurements, enabled=progress)
        talk.say(f"{len(seconds)} nets to train, about {duration(timeline.left)}, and {measurements} to measure")
        return timeline, timings

    def _load(self, path: Path, wanted: dict[str, Any]) -> TrainedNet:
        saved = load_model(path)
        check_identity(path, {key: saved.info.get(key) for key in wanted}, wanted)
        model = saved.model.to(self.data.images.device).to(memory_format=torch.channels_last)
        return TrainedNet(model, TrainingRecord.from_dict(saved.info["record"]), tuple(saved.info["layers"]))
