"""Image datasets as uint8 tensors: torchvision's, folders of image files, and the digits that scikit-learn ships.

Everything is decoded once and kept as ``(N, C, H, W)`` uint8, what ``RegularizationPool`` and the example take.
Shape letters: N images, C channels (1 gray, 3 colour), H height, W width.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from simreg._checks import check_choice, describe, near_matches
from simreg._downloads import TORCHVISION, torchvision_splits
from simreg._images import decode, require, resize, with_channels

DATASETS = ("cifar10", "cifar100", "mnist", "fashionmnist", "digits")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")

_NUM_CLASSES = {"cifar10": 10, "cifar100": 100, "mnist": 10, "fashionmnist": 10}
_CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class ImageData:
    """A classification dataset in memory.

    Attributes:
        name: What was asked for: a dataset's name, or the folder's name.
        train_images: Shape ``(N, C, H, W)``, uint8.
        train_labels: Shape ``(N,)``, int64.
        test_images: Shape ``(M, C, H, W)``, uint8.
        test_labels: Shape ``(M,)``, int64.
        classes: Class names in the order of the labels.
        source: Where the images came from, in words.
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]
    source: str


def load_dataset(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = True,
    color: bool = False,
    size: int | None = None,
    progress: bool = False,
) -> ImageData:
    """Load a dataset by name, or an image folder, as uint8 tensors.

    A named dataset is looked for in ``data_dir`` first, as torchvision stores it and as image folders
    (``data_dir/<name>/train/<class>/*`` or ``data_dir/train/<class>/*``, and ``test`` likewise), then downloaded.
    Gray images are the ITU-R 601 luma, ``0.299 R + 0.587 G + 0.114 B``, as PIL's mode ``"L"`` computes it.

    Args:
        name: One of ``DATASETS``, or a folder that holds ``train/<class>/*`` and ``test/<class>/*``.
        data_dir: Where datasets are kept; default ``~/.cache/simreg``.
        download: Whether a dataset that is not in ``data_dir`` may be downloaded into it.
        color: Three channels instead of one.
        size: Side of the square images wanted; by default images keep their size (``digits``: 32).
        progress: Whether long work shows its progress.

    Returns:
        Training and test images and labels.

    Raises:
        FileNotFoundError: If the dataset is neither found nor downloadable; the message lists what can be done.
        ValueError: If the name is unknown, a class folder empty, a file unreadable, or sizes differ without ``size``.
        ImportError: If a package of the extra ``simreg[examples]`` is missing.

    Example:
        >>> load_dataset("cifar11")
        Traceback (most recent call last):
        ...
        ValueError: name='cifar11' is neither a folder nor one of cifar10, cifar100, mnist, fashionmnist, digits. ...
    """
    _check_size(size)
    key = str(name).lower().replace("-", "").replace("_", "")
    if key not in DATASETS:
        return _load_folder_dataset(_existing_folder(str(name)), color=color, size=size, progress=progress)
    if key == "digits":
        return _load_digits(size=32 if size is None else size, color=color)
    root = Path.home() / ".cache" / "simreg" if data_dir is None else Path(data_dir).expanduser()
    folder = _find_folder_dataset(key, root)
    if folder is not None:
        return replace(_load_folder_dataset(folder, color=color, size=size, progress=progress), name=key)
    return _load_torchvision(key, root, download=download, color=color, size=size, progress=progress)


@dataclass(frozen=True)
class ImageSplit:
    """One part of a dataset, or some of its images.

    Attributes:
        name: What was asked for: a dataset's name, or the folder's name.
        images: Shape ``(N, C, H, W)``, uint8.
        labels: Shape ``(N,)``, int64.
        classes: Class names in the order of the labels.
        rows: Shape ``(N,)``, int64: where each image stands in the whole part.
        source: Where the images came from, in words.
    """

    name: str
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    rows: Tensor
    source: str


def load_split(
    name: str,
    split: Literal["train", "test"] = "test",
    *,
    limit: int | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = True,
    color: bool = False,
    size: int | None = None,
    progress: bool = False,
) -> ImageSplit:
    """Load one part of a dataset, as `load_dataset` finds it; of image folders only the files wanted are decoded.

    A folder may also hold classes directly, ``folder/<class>/*``: it then is whatever part is asked for.

    Args:
        name: One of ``DATASETS``, or a folder.
        split: ``"train"`` or ``"test"``.
        limit: At most this many images, in a random order that is always the same: a smaller limit takes the first of
            those of a larger one. None takes all, in the order of the dataset.
        data_dir: As for `load_dataset`.
        download: As for `load_dataset`.
        color: As for `load_dataset`.
        size: As for `load_dataset`.
        progress: As for `load_dataset`.

    Returns:
        Images and labels.

    Raises:
        FileNotFoundError: If the dataset is neither found nor downloadable.
        ValueError: If the name is unknown, a class folder empty, a file unreadable, or sizes differ without ``size``.
        ImportError: If a package of the extra ``simreg[examples]`` is missing.

    Example:
        >>> some = load_split("digits", limit=5)
        >>> some.images.shape, torch.equal(some.rows[:3], load_split("digits", limit=3).rows)
        (torch.Size([5, 1, 32, 32]), True)
    """
    _check_size(size)
    check_choice("split", split, ("train", "test"))
    key = str(name).lower().replace("-", "").replace("_", "")
    root, folder = _location(str(name), data_dir)
    if folder is None:
        data = load_dataset(key, data_dir=root, download=download, color=color, size=size, progress=progress)
        images, labels = getattr(data, f"{split}_images"), getattr(data, f"{split}_labels")
        rows = _subset(len(labels), limit)
        return ImageSplit(data.name, images[rows], labels[rows], data.classes, rows, data.source)
    flat = not (folder / split).is_dir()
    classes = _class_names(folder if flat else folder / "train" if (folder / "train").is_dir() else folder / split)
    if flat and {"train", "test"} & set(classes):
        raise ValueError(f"{folder} has no folder {split!r}. Wanted: {split}/<class>/* in it, or <class>/*.")
    if len(classes) < 2:
        raise ValueError(f"{folder} must hold at least two classes, one folder each; got {classes}.")
    files, all_labels = _list_class_files(folder if flat else folder / split, classes)
    rows = _subset(len(files), limit)
    some = [files[row] for row in rows.tolist()]
    images = decode(some, size=size, color=color, description=f"reading {folder.name}", progress=progress)
    return ImageSplit(
        key if key in DATASETS else folder.name,
        images,
        all_labels[rows],
        tuple(classes),
        rows,
        _folder_source(folder, files),
    )


def _location(name: str, data_dir: str | os.PathLike[str] | None) -> tuple[Path, Path | None]:
    """Where datasets are kept, and the image folder of this one; None if it has none."""
    key = name.lower().replace("-", "").replace("_", "")
    root = Path.home() / ".cache" / "simreg" if data_dir is None else Path(data_dir).expanduser()
    if key not in DATASETS:
        return root, _existing_folder(name)
    return root, None if key == "digits" else _find_folder_dataset(key, root)


def split_key(
    name: str, split: Literal["train", "test"] = "train", *, data_dir: str | os.PathLike[str] | None = None
) -> str:
    """What tells the images of a part from others, without reading them.

    Args:
        name: As for ``load_split``.
        split: "train" or "test".
        data_dir: As for ``load_split``.

    Returns:
        SHA-256 over names and sizes of an image folder's files, wherever it lies; a named dataset's own name.

    Raises:
        ValueError: If the name is unknown.

    Example:
        >>> split_key("digits", "train")
        'digits'
    """
    _, folder = _location(str(name), data_dir)
    if folder is None:
        return str(name).lower().replace("-", "").replace("_", "")
    part = folder / split if (folder / split).is_dir() else folder
    files = sorted(path for path in part.rglob("*") if path.is_file())
    listing = "\n".join(f"{path.relative_to(part).as_posix()} {path.stat().st_size}" for path in files)
    return hashlib.sha256(listing.encode()).hexdigest()


def _subset(n: int, limit: int | None) -> Tensor:
    """Rows (min(limit, n),) of ``n`` images in random order, the same every time; all in order without a limit."""
    if limit is None:
        return torch.arange(n)
    return torch.randperm(n, generator=torch.Generator().manual_seed(0))[:limit]


def _folder_source(folder: Path, files: Sequence[Path]) -> str:
    jpeg = all(path.suffix.lower() in (".jpg", ".jpeg") for path in files)
    return f"image folder {folder}" + (" (images decoded from JPEG files)" if jpeg else "")


def load_images(
    folder: str | os.PathLike[str],
    *,
    size: int | None,
    color: bool = False,
    limit: int | None = None,
    progress: bool = False,
) -> Tensor:
    """Load the images below a folder, sub-folders included, sorted by path: regularization images for a pool.

    Args:
        folder: Any folder with image files.
        size: Side of the square images: the short side is resized to it, then the centre is cut out. None keeps sizes.
        color: Three channels instead of the luma.
        limit: Take this many, evenly spaced over the sorted paths; default all.
        progress: Whether decoding shows its progress.

    Returns:
        Shape ``(N, C, H, W)``, uint8.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If it holds no image, a file cannot be read, or sizes differ and ``size`` is None.
        ImportError: If PIL is missing.
    """
    _check_size(size)
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"folder={str(folder)!r} is not a folder.")
    files = sorted(path for path in root.rglob("*") if _is_image(path))
    if not files:
        raise ValueError(f"{root} holds no image files ({', '.join(IMAGE_SUFFIXES)}), sub-folders included.")
    if limit is not None and limit < len(files):
        files = [files[i * len(files) // limit] for i in range(limit)]
    return decode(files, size=size, color=color, description=f"reading {root.name}", progress=progress)


def _existing_folder(name: str) -> Path:
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise ValueError(f"name={name!r} is a file. Unpack it and pass the folder that holds train/ and test/.")
    near = near_matches(name.lower(), DATASETS, limit=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"name={name!r} is neither a folder nor one of {', '.join(DATASETS)}.{hint}")


def _find_folder_dataset(name: str, root: Path) -> Path | None:
    """The image-folder copy of a named dataset below ``root``, known by its number of classes (CIFAR-10: names)."""
    for folder in (root / name, root):
        if (folder / "train").is_dir() and (folder / "test").is_dir():
            classes = _class_names(folder / "train")
            if len(classes) == _NUM_CLASSES[name] and (name != "cifar10" or tuple(classes) == _CIFAR10_CLASSES):
                return folder
    return None


def _load_folder_dataset(folder: Path, *, color: bool, size: int | None, progress: bool) -> ImageData:
    for split in ("train", "test"):
        if not (folder / split).is_dir():
            raise ValueError(f"{folder} has no folder {split!r}. Wanted: train/<class>/* and test/<class>/* in it.")
    classes = _class_names(folder / "train")
    unknown = sorted(set(_class_names(folder / "test")) - set(classes))
    if len(classes) < 2 or unknown:
        problem = f"test classes without training images: {unknown}" if unknown else f"train classes: {classes}"
        raise ValueError(f"{folder} must hold at least two classes, the same in train and test; got {problem}.")
    train_files, train_labels = _list_class_files(folder / "train", classes)
    test_files, test_labels = _list_class_files(folder / "test", classes)
    images = decode(
        train_files + test_files, size=size, color=color, description=f"reading {folder.name}", progress=progress
    )
    return ImageData(
        name=folder.name,
        train_images=images[: len(train_files)],
        train_labels=train_labels,
        test_images=images[len(train_files) :],
        test_labels=test_labels,
        classes=tuple(classes),
        source=_folder_source(folder, train_files + test_files),
    )


def _class_names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _list_class_files(folder: Path, classes: Sequence[str]) -> tuple[list[Path], Tensor]:
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(p for p in (folder / name).iterdir() if _is_image(p)) if (folder / name).is_dir() else []
        if not found and folder.name == "train":
            raise ValueError(f"class folder {folder / name} holds no image files ({', '.join(IMAGE_SUFFIXES)}).")
        files += found
        labels += [label] * len(found)
    if not files:
        raise ValueError(f"{folder} holds no image files ({', '.join(IMAGE_SUFFIXES)}).")
    return files, torch.tensor(labels)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and not path.is_dir()


def _load_torchvision(
    name: str, root: Path, *, download: bool, color: bool, size: int | None, progress: bool
) -> ImageData:
    train, test = torchvision_splits(name, root, download=download, progress=progress)
    return ImageData(
        name=name,
        train_images=_convert(train.data, color=color, size=size),
        train_labels=torch.as_tensor(train.targets, dtype=torch.int64),
        test_images=_convert(test.data, color=color, size=size),
        test_labels=torch.as_tensor(test.targets, dtype=torch.int64),
        classes=tuple(train.classes),
        source=f"torchvision {TORCHVISION[name]} in {root}",
    )


def _convert(data: Any, *, color: bool, size: int | None) -> Tensor:
    """Torchvision's ``data`` (N, H, W) or (N, H, W, 3) -> (N, C, H, W) uint8."""
    images = torch.as_tensor(data)
    images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
    return resize(with_channels(images, color=color), size)


def _load_digits(*, size: int, color: bool) -> ImageData:
    digits = require("sklearn.datasets", "scikit-learn").load_digits()
    images = (torch.as_tensor(digits.images) * (255 / 16)).round().to(torch.uint8).unsqueeze(1)  # (1797, 1, 8, 8)
    images = resize(with_channels(images, color=color), size)
    labels = torch.as_tensor(digits.target, dtype=torch.int64)
    train, test = _stratified_split(labels, test_share=0.2)
    return ImageData(
        name="digits",
        train_images=images[train],
        train_labels=labels[train],
        test_images=images[test],
        test_labels=labels[test],
        classes=tuple(str(digit) for digit in range(10)),
        source="handwritten digits of scikit-learn, 8x8 enlarged",
    )


def _stratified_split(labels: Tensor, *, test_share: float) -> tuple[Tensor, Tensor]:
    """Row indices of training and test set: the same share of every class, the same rows every time."""
    generator = torch.Generator().manual_seed(0)
    train, test = [], []
    for label in range(int(labels.max()) + 1):
        rows = torch.nonzero(labels == label).flatten()
        rows = rows[torch.randperm(len(rows), generator=generator)]
        cut = round(len(rows) * test_share)
        test.append(rows[:cut])
        train.append(rows[cut:])
    return torch.cat(train).sort().values, torch.cat(test).sort().values


def _check_size(size: object) -> None:
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise ValueError(f"size must be a positive whole number of pixels or None, got {describe(size)}.")
