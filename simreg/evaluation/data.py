"""The images a model is evaluated on: a dataset's test part, an image folder, or arrays."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from simreg._checks import check_choice, check_images, check_unit_range
from simreg.data import DATASETS, load_split, locate
from simreg.evaluation.suites import DIGITS
from simreg.robustness._hashing import sha256_of


@dataclass(frozen=True)
class TrainingImages:
    """Images that a surrogate can be trained on: read when called.

    Attributes:
        load: Reads images and labels.
        key: What tells them from others, without reading them where that takes long.
    """

    load: Callable[[], tuple[Tensor, Tensor]]
    key: Callable[[], str]

    def __call__(self) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) and labels (N,)."""
        return self.load()


StrengthsName = Literal["auto", "photographs", "digits"]
STRENGTHS: tuple[StrengthsName, ...] = ("auto", "photographs", "digits")


@dataclass(frozen=True)
class EvaluationData:
    """Images, their labels, and where they came from.

    Attributes:
        name: Name for results.
        images: Shape (N, C, H, W), uint8 or floating point in [0, 1].
        labels: Shape (N,), integers.
        classes: Class names in the order of the labels; empty if unknown.
        source: Where the images came from, in words.
        dataset: Which named dataset they belong to, which decides how strong distortions are; "" for any other images.
        training: Loads training images and labels, for a surrogate; None where there are none.
    """

    name: str
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...] = ()
    source: str = "images in memory"
    dataset: str = ""
    training: TrainingImages | None = field(default=None, repr=False, compare=False)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over images and labels, as 64 hexadecimal digits."""
        return sha256_of({"images": self.images, "labels": self.labels.to(torch.int64)})

    def to_dict(self) -> dict[str, Any]:
        """What results record."""
        return {
            "name": self.name,
            "source": self.source,
            "strengths": "digits" if self.dataset in DIGITS else "photographs",
            "n": len(self.labels),
            "shape": list(self.images.shape[1:]),
            "classes": list(self.classes),
            "fingerprint": self.fingerprint,
        }


def with_strengths(data: EvaluationData, strengths: StrengthsName) -> EvaluationData:
    """The same images, with distortions as for photographs or as for digits.

    Args:
        data: The images.
        strengths: "photographs", "digits" (the larger distortions of MNIST), or "auto": those of the named dataset,
            photographs' for any other images.

    Returns:
        A copy that names another dataset where another is wanted; results record which strengths were taken.

    Raises:
        ValueError: If ``strengths`` is none of these.

    Example:
        >>> data = EvaluationData("scans", torch.zeros(1, 1, 28, 28), torch.zeros(1, dtype=torch.int64))
        >>> with_strengths(data, "digits").to_dict()["strengths"]
        'digits'
    """
    check_choice("strengths", strengths, STRENGTHS)
    if strengths == "auto" or (data.dataset in DIGITS) == (strengths == "digits"):
        return data
    return replace(data, dataset="mnist" if strengths == "digits" else "")


def load_evaluation_data(
    name: str,
    *,
    limit: int | None = None,
    data_dir: str | Path | None = None,
    labels: str | Path | None = None,
    color: bool = True,
    size: int | None = None,
    progress: bool = False,
) -> EvaluationData:
    """Load the images to evaluate on.

    Args:
        name: A dataset of `simreg.data.load_split`, a folder, an ``.npz`` file with ``images`` (or ``x``, or
            ``test_images``) and ``labels`` (or ``y``, or ``test_labels``), or an ``.npy`` file of images with
            ``labels=``.
        limit: At most this many images. They come in a random order that is always the same, as attacks take the first
            so many of them.
        data_dir: Where datasets are kept.
        labels: ``.npy`` file of the labels of an ``.npy`` file of images.
        color: Three channels instead of one; arrays stay as they are.
        size: Side of the square images; arrays stay as they are.
        progress: Whether reading shows its progress.

    Returns:
        Images, labels and what is known about them.

    Raises:
        FileNotFoundError: If the dataset or a file is missing.
        ValueError: If an array is unreadable, of the wrong shape or kind, or out of range.
    """
    if labels is not None and Path(name).suffix != ".npy":
        raise ValueError(f"--labels is for an .npy file of images; {name} brings its own labels.")
    if Path(name).suffix in (".npz", ".npy"):
        return _load_arrays(Path(name).expanduser(), labels, limit)
    options: dict[str, Any] = {"data_dir": data_dir, "color": color, "size": size, "progress": progress}
    split = load_split(name, "test", limit=sys.maxsize if limit is None else limit, **options)

    def load() -> tuple[Tensor, Tensor]:
        train = load_split(name, "train", **options)
        return train.images, train.labels

    flat = Path(name).is_dir() and not (Path(name) / "train").is_dir()
    return EvaluationData(
        split.name,
        split.images,
        split.labels,
        split.classes,
        split.source,
        split.name if split.name in DATASETS and not Path(name).is_dir() else "",
        None if flat else TrainingImages(load, partial(_training_key, name, data_dir)),
    )


def _training_key(name: str, data_dir: str | Path | None) -> str:
    """What tells training images from others unread: SHA-256 over names and sizes of files; a named dataset's name."""
    name, _, folder = locate(name, data_dir)
    if folder is None:
        return name
    part = folder / "train" if (folder / "train").is_dir() else folder
    files = sorted(path for path in part.rglob("*") if path.is_file())
    listing = "\n".join(f"{path.relative_to(part).as_posix()} {path.stat().st_size}" for path in files)
    return hashlib.sha256(listing.encode()).hexdigest()


def _load_arrays(path: Path, labels: str | Path | None, limit: int | None) -> EvaluationData:
    content = _read(path)
    if path.suffix == ".npy":
        if labels is None:
            raise ValueError(f"{path} holds images alone: pass a second .npy file with their labels, --labels FILE.")
        images, targets = _images_and_labels(content, _array(_read(Path(labels).expanduser()), labels), path)
    else:
        pixels = _entry(content, path, ("images", "x", "test_images"))
        images, targets = _images_and_labels(pixels, _entry(content, path, ("labels", "y", "test_labels")), path)
    rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:limit]
    training = None
    if "train_images" in content:
        training = TrainingImages(
            partial(read_arrays, path, "train"), lambda: hashlib.sha256(path.read_bytes()).hexdigest()
        )
    return EvaluationData(path.stem, images[rows], targets[rows], (), f"arrays in {path}", "", training)


def read_arrays(path: str | Path, part: Literal["train", "test"]) -> tuple[Tensor, Tensor]:
    """One part of an ``.npz`` file with ``train_images``, ``train_labels``, ``test_images`` and ``test_labels``.

    Args:
        path: The file.
        part: "train" or "test".

    Returns:
        Images (N, C, H, W), uint8, floating point ones rounded to 8 bits, and labels (N,), int64.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it lacks an array, or one is unreadable, of the wrong shape or kind, or out of range.
    """
    path = Path(path).expanduser()
    content = _read(path)
    pixels, classes = (_entry(content, path, (f"{part}_{name}",)) for name in ("images", "labels"))
    images, targets = _images_and_labels(pixels, classes, path)
    return images if images.dtype == torch.uint8 else (images.float() * 255).round().to(torch.uint8), targets


def _images_and_labels(pixels: Any, classes: Any, path: Path) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W) and labels (N,), int64, from arrays in any usual layout."""
    pixels = _array(pixels, path)
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.ndim == 4 and pixels.shape[1] not in (1, 3) and pixels.shape[3] in (1, 3):
        pixels = pixels.transpose(0, 3, 1, 2)  # (N, H, W, C), as CIFAR's files have it
    if pixels.dtype == np.float64:
        pixels = pixels.astype(np.float32)
    if pixels.dtype not in (np.uint8, np.float16, np.float32):
        raise ValueError(f"images in {path} must be uint8 or floating point, got {pixels.dtype}.")
    if len(pixels) == 0:
        raise ValueError(f"{path} holds no images.")
    images = check_images(f"images in {path}", torch.from_numpy(np.ascontiguousarray(pixels)))
    check_unit_range(f"images in {path}", images)
    if classes.shape != (len(images),) or classes.dtype.kind not in "iu":
        raise ValueError(
            f"labels of {path} must be {len(images)} integers, got shape {classes.shape} of {classes.dtype}."
        )
    if len(classes) and classes.min() < 0:
        raise ValueError(f"labels of {path} must count from 0, got {classes.min()}.")
    return images, torch.from_numpy(classes.astype(np.int64))


def _read(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise FileNotFoundError(f"file {path} does not exist.") from None
    except (ValueError, OSError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path} is no readable NumPy file ({error}).") from error


def _array(value: Any, path: object) -> Any:
    if not isinstance(value, np.ndarray):
        raise ValueError(f"{path} must hold one array; it is an archive of several: name it .npz.")
    return value


def _entry(content: Any, path: Path, names: tuple[str, ...]) -> Any:
    if isinstance(content, np.ndarray):
        raise ValueError(f"{path} must be an archive of several arrays; it is one array: name it .npy.")
    for name in names:
        if name in content:
            try:
                return content[name]
            except (ValueError, OSError, EOFError, BadZipFile) as error:
                raise ValueError(f"{name!r} in {path} is no readable array ({error}).") from error
    raise ValueError(f"{path} must hold {names[0]!r}; it has {', '.join(content) or 'nothing'}.")
