"""Command line of the main job, and the settings that the presets and the dataset make of it."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from typing import Any, Literal

import torch

from simreg.data import ImageData

Preset = Literal["fast", "paper"]
DIGIT_LIKE = ("mnist", "fashionmnist", "digits")  # dark background, no flips, larger distortions

PRESETS: dict[str, dict[str, Any]] = {
    "fast": {
        "width": 16,
        "stem_stride": 2,
        "epochs": 3,
        "schedule": "one-cycle",
        "target": "pixel",
        "mode": "same-batch",
        "layers": ("stem", "layer1"),
        "batch_norm": "update",
        "validation_share": 0.04,
        "keep_best": False,
        "controls": True,
    },
    "paper": {
        "width": 64,
        "stem_stride": 1,
        "epochs": 40,
        "schedule": "steps",
        "target": "threshold",
        "mode": "separate",
        "layers": ("stem", "layer1", "layer2", "layer3", "layer4"),
        "batch_norm": "official",
        "validation_share": 0.01,
        "keep_best": True,
        "controls": False,
    },
}
# (alpha, threshold) of the paper by (task, regularization) dataset; (10, 0.8) for all others
PAPER_STRENGTHS = {("mnist", "mnist"): (4.0, 0.2), ("fashionmnist", "mnist"): (10.0, 0.4)}
MOST_EPOCHS = 30
LEAST_IMAGES = 60_000  # the fast preset shows a net about as many images as this, in at most 30 epochs
SMOKE = {"width": 8, "epochs": 2}  # 4 channels corrupt memory in the convolutions of torch 2.15 on AVX2


@dataclass(frozen=True)
class Settings:
    """Everything that decides the numbers of a run; a resumed run must have the same."""

    preset: Preset
    dataset: str
    reg_data: str
    color: bool
    seed: int
    device: str
    amp: bool
    smoke: bool
    width: int
    stem_stride: int
    epochs: int
    batch_size: int
    schedule: Literal["one-cycle", "steps"]
    target: Literal["pixel", "threshold", "label"]
    alpha: float
    threshold: float
    target_clamp: float | None
    pairs: int
    mode: Literal["same-batch", "separate", "joint"]
    layers: tuple[str, ...] | str
    batch_norm: str
    validation_share: float
    keep_best: bool
    controls: bool  # also the noise-augmented net and the net of equal clean accuracy

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {**asdict(self), "layers": self.layers if isinstance(self.layers, str) else list(self.layers)}

    @property
    def digit_like(self) -> bool:
        """Whether the images are digits or clothes: no flips, larger distortions."""
        return self.dataset in DIGIT_LIKE


def build_parser() -> argparse.ArgumentParser:
    """The command line; options without a default take the preset's value."""
    parser = argparse.ArgumentParser(
        description="Train the paper's ResNet18 without and with the similarity regularizer, from the same seed, and "
        "measure how robust both are. Values in brackets are the defaults; two stand for the presets fast / paper.",
    )
    add = parser.add_argument
    add(
        "--preset",
        choices=list(PRESETS),
        default="fast",
        help="fast: minutes on a CPU; paper: its scheme, for a GPU [fast]",
    )
    add(
        "--dataset",
        metavar="NAME|FOLDER",
        help="cifar10, cifar100, mnist, fashionmnist, digits, or a folder with train/<class>/* and test/<class>/*; "
        "[cifar10, or digits where cifar10 can be neither found nor downloaded]",
    )
    add(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="where datasets are and are downloaded to [~/.cache/simreg]",
    )
    add(
        "--reg-data",
        default="same",
        metavar="NAME|FOLDER",
        help="images of the modes separate and joint: a dataset, a folder, or the training images [same]",
    )
    add(
        "--out",
        type=Path,
        metavar="DIR",
        help="where everything is written [runs/<dataset>-<preset>-seed<seed>]",
    )
    add("--resume", action="store_true", help="go on with the run in --out")
    add("--seed", type=int, default=0, help="seed of weights, order, augmentation and pairs [0]")
    model = parser.add_argument_group("model and training")
    add = model.add_argument
    add("--width", type=_positive, help="channels of the first section [16 / 64]")
    add(
        "--epochs",
        type=_positive,
        help=f"[3, on small datasets as many as show {LEAST_IMAGES} images, at most {MOST_EPOCHS} as on digits / 40]",
    )
    add("--batch-size", type=_positive, default=64, help="task images per step [64]")
    colors = model.add_mutually_exclusive_group()
    colors.add_argument("--color", action="store_true", help="three channels")
    colors.add_argument("--gray", action="store_false", dest="color", help="one channel [this]")
    group = parser.add_argument_group("regularizer")
    add = group.add_argument
    add("--target", choices=["pixel", "threshold", "label"], help="what similarities should be [pixel / threshold]")
    add("--alpha", type=float, help="strength, official convention [10; preset paper on mnist 4]")
    add(
        "--threshold",
        type=float,
        help="of the threshold target [0.8; preset paper on mnist 0.2, on fashionmnist with mnist 0.4]",
    )
    add("--target-clamp", type=float, help="bound on the targets' magnitude [0.95 for label targets, else none]")
    add("--pairs", type=_positive, default=16, help="image pairs per step, modes separate and joint [16]")
    add("--mode", choices=["same-batch", "separate", "joint"], help="whose images are compared [same-batch / separate]")
    add("--layers", metavar="NAMES", help="comma list, auto or early [stem,layer1 / stem,layer1,layer2,layer3,layer4]")
    hardware = parser.add_argument_group("hardware")
    add = hardware.add_argument
    add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: cuda where there is one [auto]")
    add("--amp", action="store_true", help="bfloat16 autocast while training")
    add("--threads", type=_positive, help="CPU threads [torch's choice]")
    add("--smoke", action="store_true", help="a tiny run that only shows that everything works; dataset digits")
    add("--debug", action="store_true", help="show the traceback of an error")
    return parser


def resolve(args: argparse.Namespace, data: ImageData) -> Settings:
    """Settings from the command line, the preset and the dataset."""
    preset = PRESETS[args.preset] | (SMOKE if args.smoke else {})
    given = {
        name: getattr(args, name) for name in ("width", "epochs", "target", "mode") if getattr(args, name) is not None
    }
    if args.layers is not None:
        names = tuple(name.strip() for name in args.layers.split(",") if name.strip())
        given["layers"] = args.layers if args.layers in ("auto", "early") else names
    values = {"epochs": default_epochs(args, len(data.train_labels)), **given}
    values = preset | {name: value for name, value in values.items() if value is not None}
    reg_data = data.name if args.reg_data == "same" else args.reg_data
    alpha, threshold = (
        PAPER_STRENGTHS.get((data.name, reg_data), (10.0, 0.8)) if args.preset == "paper" else (10.0, 0.8)
    )
    if values["mode"] == "same-batch" and args.reg_data != "same":
        raise ValueError("--reg-data needs images of their own: add --mode separate or --mode joint.")
    if values["batch_norm"] == "official" and values["mode"] != "separate":
        values["batch_norm"] = "update"  # two half-batch passes exist in separate mode only
    return Settings(
        preset=args.preset,
        dataset=data.name,
        reg_data=args.reg_data,
        color=args.color,
        seed=args.seed,
        device=pick_device(args.device),
        amp=args.amp,
        smoke=args.smoke,
        batch_size=args.batch_size,
        alpha=alpha if args.alpha is None else args.alpha,
        threshold=threshold if args.threshold is None else args.threshold,
        target_clamp=0.95 if args.target_clamp is None and values["target"] == "label" else args.target_clamp,
        pairs=args.pairs,
        **values,
    )


def default_epochs(args: argparse.Namespace, images: int) -> int | None:
    """Epochs of the fast preset: 3 on CIFAR, more on smaller datasets; None leaves the preset's number."""
    if args.preset != "fast" or args.smoke:
        return None
    return min(MOST_EPOCHS, max(PRESETS["fast"]["epochs"], ceil(LEAST_IMAGES / images)))


def pick_device(name: str) -> str:
    """``auto`` made definite; ``ValueError`` if CUDA is asked for and missing."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no CUDA device here. Use --device cpu or auto.")
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text}")
    return value
