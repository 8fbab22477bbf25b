"""The training loop: where simreg enters is marked ``<- simreg``. It can be stopped at any step and goes on the same.

All randomness of an epoch is a function of (seed, epoch), so that every model sees the same images in the same order
with the same crops, and a resumed run needs no generator states but that of the regularization pool.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import simreg
from simreg.comparison.checkpoints import load_checkpoint, save_checkpoint
from simreg.robustness._progress import progress

Mode = Literal["same-batch", "separate", "joint"]
Schedule = Literal["one-cycle", "steps"]
PEAK_RATE = 0.1
CHECKPOINT_SECONDS = 20  # at the end of every epoch there is one too
LOGGED_STEPS = 100  # points of the history of one training


@dataclass(frozen=True)
class Recipe:
    """Everything but data, model and regularizer that fixes a training run."""

    epochs: int
    batch_size: int
    seed: int
    schedule: Schedule
    flip: bool  # horizontal flips: for photographs, not for digits or clothes seen from one side
    amp: bool = False
    keep_best: bool = False  # keep the weights of the epoch with the lowest validation loss, else the last ones
    noise: float = 0.0  # standard deviation of Gaussian noise added to the training images
    snapshots: tuple[int, ...] = ()  # steps after which `on_snapshot` is called


@dataclass(frozen=True)
class Split:
    """Images (N, C, H, W) uint8 and labels (N,) on the device that trains."""

    images: Tensor
    labels: Tensor


@dataclass
class Regularization:
    """The regularizer and what feeds it; ``pool`` is None in same-batch mode."""

    regularizer: simreg.SimilarityRegularizer
    mode: Mode
    pool: simreg.RegularizationPool | None = None
    pairs: int = 16
    by_label: bool = False  # same-batch mode: targets from the labels of the batch instead of its images
    batches: Iterator[simreg.PairBatch] | None = field(default=None, repr=False)

    def next_batch(self) -> simreg.PairBatch:
        """The next regularization images, from wherever the pool's stream of pairs stands."""
        if self.pool is None:
            raise RuntimeError(f"mode {self.mode!r} needs a pool")
        if self.batches is None:
            self.batches = self.pool.batches(self.pairs)
        return next(self.batches)


def normalise(images: Tensor) -> Tensor:
    """Network input of images in [0, 1], as in the paper; evaluation does it with ``Classifier(mean=0.5, std=0.2)``."""
    return 5 * (images - 0.5)


def compute_loss(model: nn.Module, x: Tensor, y: Tensor, regularization: Regularization | None) -> Tensor:
    """Task loss plus regularization of one step; ``x`` is the augmented batch in [0, 1]."""
    if regularization is None:
        return F.cross_entropy(model(normalise(x)), y)
    reg = regularization.regularizer
    if regularization.mode == "same-batch":  # the task images are the regularization images: no extra forward
        with reg.observe():  # <- simreg
            logits = model(normalise(x))
        return F.cross_entropy(logits, y) + reg.penalty(same_class(y) if regularization.by_label else x)  # <- simreg
    batch = regularization.next_batch()
    if regularization.mode == "separate":  # the paper's: pairs of images of their own
        return F.cross_entropy(model(normalise(x)), y) + reg(batch)  # <- simreg
    logits, penalty = reg.joint(normalise(x), batch)  # <- simreg: both through the model in one forward
    return F.cross_entropy(logits, y) + penalty


def same_class(labels: Tensor) -> Tensor:
    """Targets (P,) of all pairs i < j of a batch: 1 where the classes agree, else 0."""
    i, j = torch.triu_indices(len(labels), len(labels), offset=1, device=labels.device)
    return (labels[i] == labels[j]).float()


def train(
    model: nn.Module,
    data: Split,
    recipe: Recipe,
    *,
    description: str,
    checkpoint: Path,
    validation: Split | None = None,
    regularization: Regularization | None = None,
    on_snapshot: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Train ``model`` in place, from ``checkpoint`` where there is one; returns the history."""
    state = TrainingState(model, recipe, regularization, checkpoint)
    batch_size = min(recipe.batch_size, len(data.labels))
    steps = len(data.labels) // batch_size  # a last, smaller batch is left out
    total = recipe.epochs * steps
    epoch = EpochPlan(data, recipe, state.step // steps)
    for step in progress(range(state.step, total), description=description, total=total - state.step):
        if step // steps != epoch.number:
            epoch = EpochPlan(data, recipe, step // steps)
        x, y = epoch.batch(step % steps, batch_size)
        rate = learning_rate(recipe.schedule, step, total, epoch.number)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        model.train()
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=recipe.amp):
            loss = compute_loss(model, x, y, regularization)
        state.optimizer.zero_grad()
        loss.backward()
        state.optimizer.step()
        if step % max(1, total // LOGGED_STEPS) == 0 or step == total - 1:
            log(state.history, step, loss, rate, regularization)
        if (step + 1) in recipe.snapshots and on_snapshot is not None:
            on_snapshot(step + 1)
        if recipe.keep_best and validation is not None and (step + 1) % steps == 0:
            state.keep_best(validation_loss(model, validation), epoch.number)
        if (step + 1) % steps == 0 or time.monotonic() - state.saved > CHECKPOINT_SECONDS:
            state.save(step + 1)
    state.restore_best()
    return state.history


class TrainingState:
    """What changes from step to step, and its checkpoint."""

    def __init__(self, model: nn.Module, recipe: Recipe, regularization: Regularization | None, path: Path) -> None:
        self.model = model
        self.regularization = regularization
        self.path = path
        self.step = 0
        self.saved = time.monotonic()
        self.history: dict[str, Any] = {"step": [], "loss": [], "learning_rate": []}
        self.best: dict[str, Tensor] = {}
        groups = [{"params": list(model.parameters())}]
        if regularization is not None:
            groups.append(regularization.regularizer.parameter_group())  # <- simreg: the layer weights are learned too
        self.optimizer = torch.optim.SGD(groups, lr=PEAK_RATE, momentum=0.9)
        if path.exists():
            self._restore(load_checkpoint(path))

    def save(self, step: int) -> None:
        """Write the checkpoint of a run that has made ``step`` steps."""
        state = {
            "step": step,
            "history": self.history,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
        }
        if self.regularization is not None:
            state["regularizer"] = self.regularization.regularizer.state_dict()
            pool = self.regularization.pool
            state["pool"] = None if pool is None else pool.state_dict()
        save_checkpoint(self.path, state)
        self.saved = time.monotonic()

    def _restore(self, state: dict[str, Any]) -> None:
        self.step, self.history, self.best = state["step"], state["history"], state["best"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for parameter, values in self.optimizer.state.items():  # momentum in the memory layout of its parameter
            values["momentum_buffer"] = torch.empty_like(parameter).copy_(values["momentum_buffer"])
        if self.regularization is not None:
            self.regularization.regularizer.load_state_dict(state["regularizer"])
            if self.regularization.pool is not None:
                self.regularization.pool.load_state_dict(state["pool"])

    def keep_best(self, loss: float, epoch: int) -> None:
        """Remember the model if ``loss`` is the lowest so far."""
        losses = self.history.setdefault("validation_loss", [])
        losses.append(loss)
        if loss == min(losses):
            self.history["kept_epoch"] = epoch + 1
            self.best = {name: value.clone() for name, value in self.model.state_dict().items()}

    def restore_best(self) -> None:
        """Put the remembered weights back, if any."""
        if self.best:
            self.model.load_state_dict(self.best)


class EpochPlan:
    """Order, crops and flips of one epoch, drawn at once from (seed, epoch)."""

    PADDING = 4

    def __init__(self, data: Split, recipe: Recipe, number: int) -> None:
        self.data, self.recipe, self.number = data, recipe, number
        device, n = data.images.device, len(data.labels)
        generator = torch.Generator().manual_seed(derive_seed(recipe.seed, number))
        self.order = torch.randperm(n, generator=generator).to(device)
        self.offsets = torch.randint(0, 2 * self.PADDING + 1, (n, 2), generator=generator).to(device)
        self.flips = (torch.rand(n, generator=generator) < 0.5 * recipe.flip).to(device)

    def batch(self, step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        """Augmented images in [0, 1] and labels of one step of the epoch."""
        part = slice(step * batch_size, (step + 1) * batch_size)
        rows = self.order[part]
        images = crop_and_flip(self.data.images[rows], self.offsets[part], self.flips[part], padding=self.PADDING)
        if self.recipe.noise:
            generator = torch.Generator(images.device).manual_seed(derive_seed(self.recipe.seed, self.number, step))
            noise = torch.randn(images.shape, generator=generator, device=images.device)
            images = (images + self.recipe.noise * noise).clamp(0, 1)
        return images.to(memory_format=torch.channels_last), self.data.labels[rows]


def crop_and_flip(images: Tensor, offsets: Tensor, flips: Tensor, *, padding: int) -> Tensor:
    """Random crop of the reflect-padded images and horizontal flip, all images at once.

    Args:
        images: Shape (N, C, H, W), uint8.
        offsets: Shape (N, 2): upper left corner of each crop, 0 to ``2 * padding``.
        flips: Shape (N,): whether to flip.
        padding: Pixels added on each side.

    Returns:
        Shape (N, C, H, W), float in [0, 1].
    """
    n, channels, height, width = images.shape
    padded = F.pad(images.float() / 255, (padding,) * 4, mode="reflect")
    columns = torch.arange(width, device=images.device).expand(n, -1)
    columns = torch.where(flips[:, None], columns.flip(1), columns) + offsets[:, 1:]  # (N, W)
    rows = torch.arange(height, device=images.device) + offsets[:, :1]  # (N, H)
    image = torch.arange(n, device=images.device).view(-1, 1, 1, 1)
    channel = torch.arange(channels, device=images.device).view(1, -1, 1, 1)
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def learning_rate(schedule: Schedule, step: int, total: int, epoch: int) -> float:
    """Rate of one step: up to the peak in the first fifth and down, or the paper's steps (x0.3 per 4 epochs, twice)."""
    if schedule == "steps":
        return PEAK_RATE * 0.3 ** ((epoch % 20) // 4)
    return float(np.interp(step, [0, 0.2 * total, total], [0.0002, PEAK_RATE, 0.0002]))


def log(history: dict[str, Any], step: int, loss: Tensor, rate: float, regularization: Regularization | None) -> None:
    """Append one point to the history; the only place of the loop that waits for the device."""
    value = float(loss.detach())
    if not math.isfinite(value):
        raise ValueError(f"the loss is {value} at step {step}: training diverged. Try a smaller --alpha.")
    history["step"].append(step)
    history["loss"].append(value)
    history["learning_rate"].append(rate)
    if regularization is None:
        return
    stats = regularization.regularizer.stats  # empty while alpha is 0
    for name in ("correlation", "target_share"):
        history.setdefault(name, []).append(stats.get(name, math.nan))
    for layer, weight in regularization.regularizer.layer_weights.items():
        history.setdefault("layer_weights", {}).setdefault(layer, []).append(float(weight))


@torch.no_grad()
def validation_loss(model: nn.Module, data: Split, batch_size: int = 500) -> float:
    """Mean cross entropy in evaluation mode."""
    model.eval()
    losses = [
        F.cross_entropy(model(normalise(x.float() / 255)), y, reduction="sum")
        for x, y in zip(data.images.split(batch_size), data.labels.split(batch_size), strict=True)
    ]
    return float(sum(losses)) / len(data.labels)


def derive_seed(*parts: int) -> int:
    """One seed from several numbers, unrelated for different ones."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
