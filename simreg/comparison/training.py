"""The training loop that all methods share. It can be stopped at any step and goes on the same."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from simreg.comparison.augment import EpochPlan
from simreg.comparison.checkpoints import load_checkpoint, save_checkpoint
from simreg.comparison.clock import Clock
from simreg.comparison.methods import Trainer
from simreg.comparison.parts import Site
from simreg.comparison.recipe import learning_rate

CHECKPOINT_SECONDS = 20.0
LOGGED_STEPS = 100  # points of the history of one training
_WARM_UP, _LEAST_TIMED, _MOST_TIMED, _TIMED_SECONDS = 3, 5, 30, 2.0


class TrainingDiverged(ValueError):
    """The loss is no longer a finite number."""


@dataclass(frozen=True)
class TrainingRecord:
    """What is known of a finished training.

    Attributes:
        steps: Made; fewer than planned after a collapse.
        epochs: The same in passes over the training images.
        training_seconds: Of the steps alone, and of the method's own checks.
        milliseconds_per_step: Median.
        collapse: What happened, if one-step adversarial training collapsed, and which weights were kept.
        history: "step", "loss", "learning_rate", and what the method logs, such as "layer_weights".
    """

    steps: int
    epochs: float
    training_seconds: float
    milliseconds_per_step: float
    collapse: dict[str, Any] | None
    history: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainingRecord:
        """The record that ``to_dict`` described."""
        return cls(**{name: data[name] for name in cls.__dataclass_fields__})


def train(
    site: Site,
    trainer: Trainer,
    *,
    checkpoint: Path,
    identity: Mapping[str, Any] | None = None,
    on_step: Callable[[int, float], None] | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> TrainingRecord:
    """Train the site's model in place, from ``checkpoint`` where there is one.

    A training that was stopped and goes on ends with the weights of one that was not, bit by bit on a CPU.

    Args:
        site: Model, images, recipe, seed and number of steps.
        trainer: The method at work on it.
        checkpoint: File that a stopped training goes on from.
        identity: What decides the training, JSON data: a checkpoint of another one is refused.
        on_step: Called after each step with the steps made and the mean seconds of a step.
        checkpoint_seconds: Between two checkpoints.

    Returns:
        The record.

    Raises:
        TrainingDiverged: If the loss becomes infinite or NaN.
        ValueError: If the checkpoint is damaged, or of another training.
    """
    state = _State(site, trainer, checkpoint, identity)
    epoch, collapse = EpochPlan(site.data, site.recipe, site.seed, 0), None
    per_epoch = epoch.steps
    while state.step < site.steps and collapse is None:
        number, position = divmod(state.step, per_epoch)
        if epoch.number != number:
            epoch = EpochPlan(site.data, site.recipe, site.seed, number)
        state.advance(epoch.batch(position))
        if trainer.watch is not None and trainer.watch.due(state.step):
            with state.clock.extra():
                collapse = trainer.watch.check(site.model, state.step)
        if collapse is None and time.monotonic() - state.saved >= checkpoint_seconds:
            state.save()
        if on_step is not None:
            on_step(state.step, state.clock.seconds / state.step)
    if trainer.watch is not None:
        state.history["watch"] = {"step": trainer.watch.steps, "accuracy": trainer.watch.accuracies}
    seconds, median = state.clock.seconds, state.clock.median
    return TrainingRecord(state.step, state.step / per_epoch, seconds, median, collapse, state.history)


def check_identity(path: Path | None, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` naming what differs between a kept training and the one that is wanted."""
    differences = [
        f"{key} (was {before.get(key)!r}, now {now.get(key)!r})"
        for key in dict.fromkeys([*now, *before])
        if before.get(key) != now.get(key)
    ]
    if differences:
        raise ValueError(
            f"{path} is of a training with other settings: {', '.join(differences)}. Choose another folder, or delete "
            "this file to train anew."
        )


@dataclass(frozen=True)
class Timing:
    """Expected time of a training.

    Attributes:
        step: Seconds of a step.
        fixed: Seconds that do not depend on the number of steps: the checks of a watch.
    """

    step: float
    fixed: float = 0.0

    def seconds(self, steps: int) -> float:
        """Of a training of so many steps."""
        return self.fixed + steps * self.step

    def steps(self, seconds: float) -> int:
        """That fit into so many seconds, at least 1."""
        return max(1, int((seconds - self.fixed) / self.step))


def time_training(site: Site, trainer: Trainer) -> Timing:
    """Make up to 30 steps, or two seconds of them, after three to warm up; the site's model is spoilt by it."""
    state = _State(site, trainer, None)
    epoch = EpochPlan(site.data, site.recipe, site.seed, 0)
    for step in range(_WARM_UP + _MOST_TIMED):
        if step == _WARM_UP:
            state.clock = Clock(site.data.images.device)
        state.advance(epoch.batch(step % epoch.steps))
        if step >= _WARM_UP + _LEAST_TIMED and state.clock.seconds > _TIMED_SECONDS:
            break
    per_step = state.clock.seconds / len(state.clock.milliseconds)
    if trainer.watch is None:
        return Timing(per_step)
    state.clock = Clock(site.data.images.device)
    with state.clock.extra():
        trainer.watch.measure(site.model)
    return Timing(per_step, trainer.watch.checks * state.clock.seconds)


class _State:
    """What changes from step to step, and its checkpoint."""

    def __init__(
        self, site: Site, trainer: Trainer, path: Path | None, identity: Mapping[str, Any] | None = None
    ) -> None:
        self.site, self.trainer, self.path = site, trainer, path
        self.identity = {"steps": site.steps, "seed": site.seed, **(identity or {})}
        self.step = 0
        self.saved = time.monotonic()
        self.clock = Clock(site.data.images.device)
        self.history: dict[str, Any] = {"step": [], "loss": [], "learning_rate": []}
        groups = [{"params": list(site.model.parameters())}, *trainer.objective.parameter_groups()]
        recipe = site.recipe
        self.optimizer = torch.optim.SGD(
            groups, lr=recipe.peak_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
        if path is not None and path.exists():
            self._restore(load_checkpoint(path))

    def advance(self, batch: Any) -> None:
        """Make one step."""
        rate = learning_rate(self.site.recipe, self.step, self.site.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.site.model.train()
        with self.clock.step():
            loss = self.trainer.loss(batch)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        logged = self.step % max(1, self.site.steps // LOGGED_STEPS) == 0 or self.step == self.site.steps - 1
        if logged and self.path is not None:
            self._log(loss.detach(), rate)
        self.step += 1

    def save(self) -> None:
        """Write the checkpoint."""
        state = {
            "identity": self.identity,
            "step": self.step,
            "history": self.history,
            "clock": self.clock.state_dict(),
            "model": self.site.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "trainer": self.trainer.state_dict(),
        }
        assert self.path is not None
        save_checkpoint(self.path, state)
        self.saved = time.monotonic()

    def _restore(self, state: dict[str, Any]) -> None:
        check_identity(self.path, state["identity"], self.identity)
        self.step, self.history = state["step"], state["history"]
        self.clock.load_state_dict(state["clock"])
        self.site.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for parameter, values in self.optimizer.state.items():  # momentum in the memory layout of its parameter
            if values.get("momentum_buffer") is not None:
                values["momentum_buffer"] = torch.empty_like(parameter).copy_(values["momentum_buffer"])
        self.trainer.load_state_dict(state["trainer"])

    def _log(self, loss: Tensor, rate: float) -> None:
        """Append one point to the history; the only place of the loop that reads values."""
        value = float(loss)
        if not math.isfinite(value):
            raise TrainingDiverged(f"training diverged: the loss is {value} at step {self.step}")
        self.history["step"].append(self.step)
        self.history["loss"].append(value)
        self.history["learning_rate"].append(rate)
        self.trainer.objective.log(self.history)
