"""Options and settings that ``compare`` and ``select`` share: data, network, recipe, hardware."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from simreg.comparison import Recipe
from simreg.comparison.recipe import DIGIT_LIKE
from simreg.data import DATASETS, ImageSplit, load_split


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Which images."""
    data = parser.add_argument_group("data")
    add = data.add_argument
    add("--data", metavar="NAME|FOLDER", help=f"{', '.join(DATASETS)}, or a folder with train/<class>/*")
    add("--data-dir", type=Path, metavar="DIR", help="where datasets are and are downloaded to [~/.cache/simreg]")
    colors = data.add_mutually_exclusive_group()
    colors.add_argument("--color", action="store_true", help="three channels")
    colors.add_argument("--gray", action="store_false", dest="color", help="one channel, as in the paper [this]")
    add("--size", type=positive, metavar="PIXELS", help="side of the square images [as they are]")
    add("--train-images", type=positive, metavar="N", help="at most so many training images [all]")


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """Network and recipe."""
    group = parser.add_argument_group("network and training, the same for all nets")
    add = group.add_argument
    add("--width", type=positive, default=16, help="channels of the ResNet18's first section; the paper's has 64 [16]")
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
    """The device, after setting the threads; raises if CUDA is asked for and missing."""
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {args.device}: torch sees no CUDA device here. Use --device cpu or auto.")
    return str(torch.device(args.device))


def load_images(args: argparse.Namespace, split: Any, limit: int | None) -> ImageSplit:
    """Training or test images."""
    if args.data is None:
        raise ValueError(f"--data is missing: one of {', '.join(DATASETS)}, or a folder with train/<class>/*.")
    return load_split(
        args.data,
        split,
        limit=limit,
        data_dir=args.data_dir,
        color=args.color,
        size=args.size,
        progress=not args.quiet,
    )


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
