"""The nets of the main job: without and with the regularizer, the controls, and the source of transferred attacks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from evaluation import choose_budget
from settings import Settings
from torch import Tensor, nn
from training import Recipe, Regularization, Split, crop_and_flip, derive_seed, normalise, train

import simreg
from simreg.comparison.checkpoints import load_checkpoint, save_checkpoint
from simreg.data import DATASETS, ImageData, load_dataset, load_images
from simreg.model_files import model_metadata
from simreg.nets import ResNet18
from simreg.robustness import Classifier, Surrogate, accuracy

POOL_SIZE = 5000
SURROGATE_SEED = 100  # added to the seed
SNAPSHOTS = (
    20  # parts of the unregularized training; those of its second half are kept, to find a net of equal accuracy
)


@dataclass
class Job:
    """One run: settings, data split into training and validation, and the folder everything goes to."""

    settings: Settings
    data: ImageData
    train: Split
    validation: Split
    out: Path
    data_dir: Path | None

    @property
    def recipe(self) -> Recipe:
        """How every model of the run is trained."""
        s = self.settings
        flip = not s.digit_like
        return Recipe(s.epochs, s.batch_size, s.seed, s.schedule, flip=flip, amp=s.amp, keep_best=s.keep_best)

    def build(self, seed: int) -> nn.Module:
        """A fresh network on the device."""
        model = ResNet18(**self._architecture, seed=seed)
        return model.to(self.settings.device, memory_format=torch.channels_last)

    @property
    def notes(self) -> dict[str, str]:
        """What a file of weights must say for ``simreg evaluate`` to take it: architecture, input and classes."""
        return model_metadata(
            builder="simreg.nets:ResNet18",
            arguments=self._architecture,
            mean=0.5,
            std=0.2,
            classes=self.data.classes,
            info={"dataset": self.settings.dataset},
        )

    @property
    def _architecture(self) -> dict[str, int]:
        channels, classes = self.data.train_images.shape[1], len(self.data.classes)
        return {
            "num_classes": classes,
            "channels": channels,
            "width": self.settings.width,
            "stem_stride": self.settings.stem_stride,
        }


def train_all(job: Job) -> tuple[dict[str, Any], Surrogate, dict[str, nn.Module]]:
    """History of the regularized net, the surrogate, and the nets to be measured, by name."""
    s = job.settings
    snapshots = Snapshots(job) if s.controls else None
    regularized, history = train_net(job, "regularized", job.recipe, regularize=make_regularization)
    plain, _ = train_net(job, "unregularized", job.recipe, snapshots=snapshots)
    nets = {"unregularized": plain, "regularized": regularized}
    if snapshots is not None:
        noise = choose_budget(s).noise["gaussian"] / 2  # 0.05 on photographs
        nets["noise-augmented"], _ = train_net(job, "noise-augmented", replace(job.recipe, noise=noise))
        nets["equal-accuracy"] = snapshots.choose(plain, regularized)
    other = replace(job.recipe, seed=s.seed + SURROGATE_SEED)
    source, _ = train_net(job, "surrogate", other)
    info = {"dataset": s.dataset, "epochs": other.epochs, "seed": other.seed}
    return history, Surrogate(Classifier(source, mean=0.5, std=0.2), name="unregularized ResNet18", info=info), nets


def train_net(
    job: Job,
    name: str,
    recipe: Recipe,
    *,
    regularize: Callable[[Job, nn.Module], Regularization] | None = None,
    snapshots: Snapshots | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """A trained net and its history: loaded if it was finished before, else trained or trained on."""
    model = job.build(recipe.seed)
    finished, unfinished = job.out / f"model-{name}.safetensors", job.out / f"training-{name}.safetensors"
    if snapshots is not None:
        recipe = replace(recipe, snapshots=snapshots.steps)
        snapshots.check(finished, unfinished)
    if finished.exists():
        return model, load_model(model, finished)["history"]
    steps = recipe.epochs * (len(job.train.labels) // min(recipe.batch_size, len(job.train.labels)))
    print(f"training {name} ({recipe.epochs} epochs, {steps} steps)", flush=True)
    regularization = None if regularize is None else regularize(job, model)
    history = train(
        model,
        job.train,
        recipe,
        description=name,
        checkpoint=unfinished,
        validation=job.validation,
        regularization=regularization,
        on_snapshot=None if snapshots is None else lambda step: snapshots.take(model, step),
    )
    if regularization is not None:
        regularization.regularizer.close()
    save_checkpoint(finished, {**model.state_dict(), "info": {"history": history}}, job.notes)
    unfinished.unlink(missing_ok=True)
    return model, history


def load_model(model: nn.Module, path: Path) -> dict[str, Any]:
    """Put saved weights into ``model``; returns what was noted beside them."""
    state = load_checkpoint(path)
    info = state.pop("info")
    model.load_state_dict(state)
    return info


def make_regularization(job: Job, model: nn.Module) -> Regularization:
    """The regularizer that the settings describe, and its images."""
    s = job.settings
    target: simreg.Target = simreg.PixelTarget()
    if s.target == "threshold":
        target = simreg.ThresholdTarget(s.threshold)
    elif s.target == "label":
        target = simreg.LabelTarget()
    same_batch = s.mode == "same-batch"
    regularizer = simreg.SimilarityRegularizer(
        model,
        list(s.layers) if isinstance(s.layers, tuple) else s.layers,
        target=target.fit(job.train.images) if same_batch and s.target != "label" else None,
        alpha=s.alpha,
        target_clamp=s.target_clamp,
        pairing="all" if same_batch else "pairs",
        batch_norm=s.batch_norm,
    )
    return Regularization(
        regularizer, s.mode, None if same_batch else make_pool(job, target), s.pairs, s.target == "label"
    )


def make_pool(job: Job, target: simreg.Target) -> simreg.RegularizationPool:
    """Up to 5000 regularization images, augmented once as in the authors' code."""
    s = job.settings
    images, labels = regularization_images(job)
    generator = torch.Generator().manual_seed(derive_seed(s.seed, POOL_SIZE))
    rows = torch.randperm(len(images), generator=generator)[:POOL_SIZE]
    offsets = torch.randint(0, 9, (len(rows), 2), generator=generator)
    flips = torch.rand(len(rows), generator=generator) < 0.5 * (not s.digit_like)
    pool = (crop_and_flip(images[rows], offsets, flips, padding=4) * 255).round().to(torch.uint8)
    return simreg.RegularizationPool(
        pool.to(s.device),
        target,
        labels=None if labels is None else labels[rows].to(s.device),
        transform=lambda x: normalise(x).to(memory_format=torch.channels_last),
        seed=s.seed,
    )


def regularization_images(job: Job) -> tuple[Tensor, Tensor | None]:
    """Images (N, C, H, W) uint8 and, where there are any, labels (N,), on the CPU."""
    s, size = job.settings, job.data.train_images.shape[-1]
    if s.reg_data == "same":
        return job.train.images.cpu(), job.train.labels.cpu()
    folder = Path(s.reg_data).expanduser()
    if s.reg_data.lower() not in DATASETS and folder.is_dir() and not (folder / "train").is_dir():
        if s.target == "label":
            raise ValueError(f"--target label: the images of {folder} have no classes. Use pixel or threshold.")
        return load_images(folder, size=size, color=s.color, limit=POOL_SIZE, progress=True), None
    other = load_dataset(s.reg_data, data_dir=job.data_dir, color=s.color, size=size, progress=True)
    return other.train_images, other.train_labels


class Snapshots:
    """The unregularized net at several points of its training, to find one as accurate as the regularized net.

    Less training also makes a net more robust: without this control, lost accuracy would pass for robustness.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.folder = job.out / "snapshots"
        self.chosen = job.out / "model-equal-accuracy.safetensors"
        self.per_epoch = len(job.train.labels) // min(job.settings.batch_size, len(job.train.labels))
        self.total = self.per_epoch * job.settings.epochs
        self.steps = tuple(sorted({self.total * part // SNAPSHOTS for part in range(SNAPSHOTS // 2, SNAPSHOTS)} - {0}))

    def take(self, model: nn.Module, step: int) -> None:
        """Keep the weights after ``step`` steps."""
        self.folder.mkdir(exist_ok=True)
        save_checkpoint(self._path(step), {**model.state_dict(), "info": {"step": step}})

    def check(self, finished: Path, unfinished: Path) -> None:
        """Have the training start again if a snapshot that it passed is gone."""
        reached = self.total if finished.exists() else load_checkpoint(unfinished)["step"] if unfinished.exists() else 0
        if not self.chosen.exists() and not all(self._path(step).exists() for step in self.steps if step <= reached):
            finished.unlink(missing_ok=True)
            unfinished.unlink(missing_ok=True)

    def choose(self, plain: nn.Module, regularized: nn.Module) -> nn.Module:
        """The net whose clean accuracy on the validation images is nearest to the regularized net's."""
        model = self.job.build(self.job.settings.seed)
        if not self.chosen.exists():
            wanted = self._accuracy(regularized)
            gaps = {self.total: abs(self._accuracy(plain) - wanted)}
            for step in self.steps:
                load_model(model, self._path(step))
                gaps[step] = abs(self._accuracy(model) - wanted)
            best = min(gaps, key=lambda step: (gaps[step], step))
            if best == self.total:
                model.load_state_dict(plain.state_dict())
            else:
                load_model(model, self._path(best))
            info = {"step": best, "epoch": best / self.per_epoch}
            save_checkpoint(self.chosen, {**model.state_dict(), "info": info}, self.job.notes)
        load_model(model, self.chosen)
        shutil.rmtree(self.folder, ignore_errors=True)
        return model

    def _accuracy(self, model: nn.Module) -> float:
        validation = self.job.validation
        return accuracy(Classifier(model, mean=0.5, std=0.2), validation.images, validation.labels)

    def _path(self, step: int) -> Path:
        return self.folder / f"snapshot-{step:06d}.safetensors"
