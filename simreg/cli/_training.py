"""Options and settings that ``compare`` and ``select`` share: data, network, recipe, hardware."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from simreg.comparison import Recipe
from simreg.comparison.recipe import DIGIT_LIKE
from simreg.data import DATASETS, ImageSplit, load_split, resize, with_channels
from simreg.evaluation.data import read_arrays

_ARRAYS = "an .npz with train_images, train_labels, test_images, test_labels"


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Which images."""
    data = parser.add_argument_group("data")
    add = data.add_argument
    kinds = f"{', '.join(DATASETS)}; a folder with train/<class>/* and test/<class>/*; or {_ARRAYS}"
    add("--data", metavar="NAME|FOLDER|FILE", help=kinds)
    add("--data-dir", type=Path, metavar="DIR", help="where datasets are and are downloaded to [~/.cache/simreg]")
    colors = data.add_mutually_exclusive_group()
    colors.add_argument("--color", action="store_true", help="three channels")
    colors.add_argument("--gray", action="store_false", dest="color", help="one channel, as in the paper [this]")
    add("--size", type=positive, metavar="PIXELS", help="side of the square images [as they are; digits: 32]")
    add("--train-images", type=positive, metavar="N", help="at most so many training images [all]")


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """Network and recipe."""
    group = parser.add_argument_group("network and training, the same for all nets")
    add = group.add_argument
    add("--width", type=positive, default=16, help="channels of the ResNet18's first section, from 8; paper: 64 [16]")
    add("--stem-stride", type=positive, default=2, help="of the first convolution; 1 in the paper, slower [2]")
    add("--batch-size", type=positive, default=64, help="[64]")
    add("--rate", type=float, default=0.1, metavar="LR", help="largest learning rate of SGD [0.1]")
    add("--schedule", choices=["one-cycle", "steps"], default="one-cycle", help="steps: the paper's [one-cycle]")


def add_hardware_options(parser: argparse.ArgumentParser) -> None:
    """Device, threads, progress."""
    add = parser.add_argument_group("hardware").add_argument
    add("--device", default="auto", help="cpu, cuda, cuda:1; auto: cuda where there is one [auto]")
    add("--threads", type=positive, help="CPU threads [torch's choice]")
    add("--quiet", action="store_true", help="no progress")


def pick_device(args: argparse.Namespace) -> str:
    """The device, after setting the threads; raises if there is none of that name."""
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {args.device}: torch sees no CUDA device here. Use --device cpu or auto.")
    try:
        torch.zeros(1, device=args.device).item()  # "meta" holds no values
    except (RuntimeError, AssertionError, NotImplementedError):
        raise ValueError(f"--device {args.device}: there is no such device here, only {_devices()}.") from None
    return str(torch.device(args.device))


def _devices() -> str:
    """What torch can compute on here."""
    names = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    return ", ".join([*names, "mps"] if torch.backends.mps.is_available() else names)


def load_images(args: argparse.Namespace, split: Any, limit: int | None) -> ImageSplit:
    """Training or test images."""
    if args.data is None:
        raise ValueError(
            f"--data is missing: one of {', '.join(DATASETS)}, a folder with train/<class>/* and test/<class>/*, "
            f"or {_ARRAYS}."
        )
    suffix = Path(args.data).suffix
    if suffix == ".npy":
        raise ValueError(f"--data {args.data} holds one array; training takes {_ARRAYS}.")
    if suffix == ".npz":
        return _from_arrays(args, split, limit)
    return load_split(
        args.data,
        split,
        limit=limit,
        data_dir=args.data_dir,
        color=args.color,
        size=args.size,
        progress=not args.quiet,
    )


def _from_arrays(args: argparse.Namespace, split: Any, limit: int | None) -> ImageSplit:
    """A part of an .npz file; classes are the numbers of its training labels."""
    path = Path(args.data).expanduser()
    images, labels = read_arrays(path, split)
    known = labels if split == "train" else read_arrays(path, "train")[1]
    low, classes = int(known.min()), int(known.max()) + 1
    if low > 0 or int(labels.max()) >= classes:
        found = (
            f"{low} to {classes - 1}"
            if low > 0
            else f"up to {int(labels.max())}, those of training up to {classes - 1}"
        )
        raise ValueError(
            f"--data {path}: labels must count from 0, the same in both parts; {split}_labels are {found}."
        )
    rows = torch.arange(len(labels))
    if limit is not None:  # the same ones every time
        rows = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[:limit]
    pixels = resize(with_channels(images[rows], color=args.color), args.size)
    names = tuple(str(label) for label in range(classes))
    return ImageSplit(path.stem, pixels, labels[rows], names, rows, f"arrays in {path}")


def recipe(args: argparse.Namespace, dataset: str) -> Recipe:
    """The recipe; digits and clothes are not mirrored."""
    return Recipe(
        batch_size=args.batch_size, peak_rate=args.rate, schedule=args.schedule, flip=dataset not in DIGIT_LIKE
    )


def whole_numbers(text: str) -> tuple[int, ...]:
    """A comma list of whole numbers."""
    return tuple(int(value) for value in text.split(","))


def numbers(text: str) -> tuple[float, ...]:
    """A comma list of numbers."""
    return tuple(float(value) for value in text.split(","))


def fraction(text: str) -> float:
    """A number, or a fraction such as 8/255."""
    above, slash, below = text.partition("/")
    return float(above) / float(below) if slash else float(above)


def positive(text: str) -> int:
    """A whole number from 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text}")
    return value
