"""Datasets as uint8 tensors of N images, C channels (1 gray, 3 colour), H height, W width: torchvision's and others."""

import importlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from simreg._checks import check_choice, describe, near_matches

_TORCHVISION = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "mnist": "MNIST", "fashionmnist": "FashionMNIST"}
DATASETS = (*_TORCHVISION, "digits")
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
_CHUNK = 5000  # images converted at a time, so that the int32 and float copies stay small
_AnyPath = str | Path


@dataclass(frozen=True)
class ImageData:
    """A dataset: images (N, C, H, W), uint8, labels (N,), int64, the classes they count, and its source in words."""

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class ImageSplit:
    """One part of a dataset, or some of its images: ``rows`` (N,), int64, says where they stand in the whole part."""

    name: str
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    rows: Tensor
    source: str


def load_dataset(
    name: str,
    *,
    data_dir: _AnyPath | None = None,
    download: bool = True,
    color: bool = False,
    size: int | None = None,
    progress: bool = False,
) -> ImageData:
    """Load both parts of a dataset, with the options of `load_split`; ValueError if their images differ in size.

    Example:
        >>> load_dataset("digits", size=16).train_images.shape
        torch.Size([1438, 1, 16, 16])
    """
    folder = locate(name, data_dir)[2]
    if folder is not None and not (folder / "train").is_dir():
        raise ValueError(f"{folder} has no folder 'train'. Wanted: train/<class>/* and test/<class>/* in it.")
    load = partial(load_split, name, data_dir=data_dir, download=download, color=color, size=size, progress=progress)
    train, test = load("train"), load("test")
    _check_sizes([train.images[0], test.images[0]])
    return ImageData(train.name, train.images, train.labels, test.images, test.labels, train.classes, train.source)


def load_split(
    name: str,
    split: Literal["train", "test"] = "test",
    *,
    limit: int | None = None,
    data_dir: _AnyPath | None = None,
    download: bool = True,
    color: bool = False,
    size: int | None = None,
    progress: bool = False,
) -> ImageSplit:
    """Load one part of a dataset, one of ``DATASETS`` or a folder of image files; only the files wanted are decoded.

    A folder holds ``train/<class>/*`` and ``test/<class>/*``, or ``<class>/*`` for whatever part is asked for. Named
    datasets lie as such folders in ``data_dir`` (``~/.cache/simreg``) or ``data_dir/<name>``, or as torchvision stores
    them, which may ``download`` them. ``limit`` takes the first so many of a random order that is always the same.
    ``color`` gives three channels instead of the luma (`with_channels`), ``size`` squares of so many pixels a side
    (`resize`; by default images keep theirs, and ``digits`` have 32), ``progress`` a bar on a terminal.

    Raises FileNotFoundError, which says what can be done, if a named dataset is missing, ValueError if the name is not
    known, a training class empty, a file unreadable, or sizes differ, ImportError without ``simreg[examples]``.

    Example:
        >>> some = load_split("digits", limit=5)
        >>> some.images.shape, torch.equal(some.rows[:3], load_split("digits", limit=3).rows)
        (torch.Size([5, 1, 32, 32]), True)
    """
    check_choice("split", split, ("train", "test"))
    name, root, folder = locate(name, data_dir)
    whole, labels, classes, source = _named(name, root, split, download) if folder is None else _files(folder, split)
    n = len(labels)
    rows = torch.arange(n) if limit is None else torch.randperm(n, generator=torch.Generator().manual_seed(0))[:limit]
    if isinstance(whole, Tensor):
        images = resize(with_channels(whole[rows], color=color), 32 if (name, size) == ("digits", None) else size)
    else:
        images = _decode([whole[row] for row in rows.tolist()], size=size, color=color, progress=progress)
    return ImageSplit(name, images, labels[rows], classes, rows, source)


def load_images(
    folder: _AnyPath, *, size: int | None, color: bool = False, limit: int | None = None, progress: bool = False
) -> Tensor:
    """Load all images below a folder, or ``limit`` evenly spaced ones, by path: (N, C, H, W), uint8, to fill a pool.

    Other options and errors are those of `load_split`; FileNotFoundError if there is no such folder.
    """
    files = _image_files(Path(folder).expanduser().resolve(strict=True), "**/*")
    n = len(files) if limit is None else min(limit, len(files))
    return _decode([files[i * len(files) // n] for i in range(n)], size=size, color=color, progress=progress)


def with_channels(images: Tensor, *, color: bool) -> Tensor:
    """Three channels, or one: the luma of PIL's mode ``"L"``; from and to uint8 images (N, 1 or 3, H, W).

    Example:
        >>> with_channels(torch.tensor([255, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1), color=False).item()
        76
    """
    if color or images.shape[1] == 1:
        return images.expand(-1, 3 if color else 1, -1, -1).contiguous()
    weights = torch.tensor([19595, 38470, 7471], dtype=torch.int32).view(1, 3, 1, 1)  # of 65536, as PIL has them
    parts = [((part.int() * weights).sum(1, keepdim=True) + 32768) >> 16 for part in torch.split(images, _CHUNK)]
    return torch.cat(parts).to(torch.uint8)


def resize(images: Tensor, size: int | None) -> Tensor:
    """Bilinear, the short side to ``size``, then the centre: (N, C, size, size), uint8; None keeps images as they are.

    Example:
        >>> resize(torch.zeros(2, 1, 8, 12, dtype=torch.uint8), 4).shape
        torch.Size([2, 1, 4, 4])
    """
    if size is None or tuple(images.shape[-2:]) == (size, size):
        return images.contiguous()
    sides, (top, left) = _sides(images.shape[-2:], size)
    large = (interpolate(part.float(), sides, mode="bilinear", antialias=True) for part in torch.split(images, _CHUNK))
    return torch.cat([part[..., top : top + size, left : left + size].round().to(torch.uint8) for part in large])


def _sides(sides: tuple[int, ...], size: int) -> tuple[list[int], list[int]]:
    """Sides of an image once the short one is ``size``, and where the square in its centre starts."""
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ValueError(f"size must be a positive whole number of pixels or None, got {describe(size)}.")
    large = [max(size, round(side * (size / min(sides)))) for side in sides]
    return large, [(side - size) // 2 for side in large]


def locate(name: str, data_dir: _AnyPath | None) -> tuple[str, Path, Path | None]:
    """A dataset's name, where datasets are kept, and its image folder if it has one; ValueError if it is unknown."""
    root = Path("~/.cache/simreg" if data_dir is None else data_dir).expanduser()
    key, path = str(name).lower().replace("-", "").replace("_", ""), Path(name).expanduser()
    for folder in (root / key, root) if key in _TORCHVISION else ():
        classes = _class_names(folder / "train")
        if len(classes) == (100 if key == "cifar100" else 10) and ("airplane" in classes) == (key == "cifar10"):
            return key, root, folder
    if key in DATASETS:
        return key, root, None
    if path.is_dir():
        return path.name, root, path
    near = [f"Did you mean {other!r}?" for other in near_matches(key, DATASETS, limit=1)]
    hint = "It is a file: unpack it and pass the folder in it." if path.is_file() else "".join(near)
    raise ValueError(f"name={str(name)!r} is neither a folder nor one of {', '.join(DATASETS)}. {hint}")


def _decode(files: list[Path], *, size: int | None, color: bool, progress: bool) -> Tensor:
    """Images (N, C, H, W), uint8; raises if some cannot be read, or differ in size."""
    pil = _require("PIL.Image", "pillow")

    def read(path: Path) -> Any:
        try:
            with pil.open(path) as file:
                image = file.convert("RGB" if color else "L")
        except Exception as error:  # PIL raises OSError, SyntaxError, ValueError and more on damaged files
            return f"{path}: {type(error).__name__}"
        if size is not None:
            sides, (left, top) = _sides(image.size, size)
            image = image.resize(sides, pil.BILINEAR).crop((left, top, left + size, top + size))
        return torch.from_numpy(np.array(image)).view(image.height, image.width, -1).permute(2, 0, 1).contiguous()

    bar = {"desc": "reading images", "leave": False, "disable": None if progress else True}
    found = _require("tqdm.contrib.concurrent", "tqdm").thread_map(read, files, max_workers=4, **bar)
    if broken := [image for image in found if isinstance(image, str)]:
        some = "; ".join(broken[:3] + ["..."] * (len(broken) > 3))
        raise ValueError(f"{len(broken)} of {len(files)} image files cannot be read: {some}. Replace or remove them.")
    _check_sizes(found)
    return torch.stack(found)


def _files(folder: Path, split: str) -> tuple[Any, Tensor, tuple[str, ...], str]:
    """Files, labels, classes and source of one part; a folder of classes is any part."""
    part = folder / split if (folder / split).is_dir() else folder
    classes = _class_names(folder / "train") or _class_names(part)
    unknown = sorted({*_class_names(part)} - {*classes})
    if len(classes) < 2 or unknown:
        problem = f"classes are {classes}, without training images: {unknown}"
        raise ValueError(f"{folder} has no folder {split!r} of two or more classes that train has too: {problem}.")
    files = _image_files(part, "[!.]*/*")
    names = [path.parent.name for path in files]
    if part.name == "train" and (empty := sorted({*classes} - {*names})):
        raise ValueError(f"class folder {part / empty[0]} holds no image files.")
    labels = torch.from_numpy(np.searchsorted(classes, names))
    jpeg = all(path.suffix.lower() in (".jpg", ".jpeg") for path in files)
    return files, labels, tuple(classes), f"image folder {folder}" + " (images decoded from JPEG files)" * jpeg


def _class_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("[!.]*") if path.is_dir())


def _image_files(folder: Path, pattern: str) -> list[Path]:
    """Image files by name, hidden ones left out; raises if there are none."""
    files = (path for path in folder.glob(pattern) if path.suffix.lower() in _SUFFIXES and not path.is_dir())
    if shown := sorted(path for path in files if not path.name.startswith(".")):
        return shown
    raise ValueError(f"{folder} holds no image files ({', '.join(_SUFFIXES)}), sub-folders included.")


def _named(name: str, root: Path, split: str, download: bool) -> tuple[Any, Tensor, tuple[str, ...], str]:
    """Images, labels, classes and source of a part of the digits (a fifth of each is for testing), or torchvision's."""
    if name == "digits":
        digits = _require("sklearn.datasets", "scikit-learn").load_digits()
        images = (torch.as_tensor(digits.images) * (255 / 16)).round().to(torch.uint8).unsqueeze(1)  # (1797, 1, 8, 8)
        labels, chosen = torch.as_tensor(digits.target, dtype=torch.int64), torch.full([1797], split == "train")
        generator = torch.Generator().manual_seed(0)
        for label in range(10):
            rows = torch.nonzero(labels == label).flatten()
            tested = torch.randperm(len(rows), generator=generator)[: round(len(rows) * 0.2)]
            chosen[rows[tested]] = split == "test"
        return images[chosen], labels[chosen], tuple("0123456789"), "handwritten digits of scikit-learn, 8x8 enlarged"
    dataset = getattr(_require("torchvision.datasets", "torchvision"), _TORCHVISION[name])
    try:
        part = dataset(root, train=split == "train", download=download)
    except (RuntimeError, OSError) as error:  # no connection is an OSError, a wrong checksum a RuntimeError
        archives = [path.name for path in root.glob("*") if path.suffix in (".gz", ".tgz", ".zip")]
        unpack = f" {root} holds {', '.join(archives[:3])}: if that is it, unpack it first." if archives else ""
        raise FileNotFoundError(
            f"dataset {name!r} cannot be loaded from {root} (download={download}): {error}.{unpack} "
            "Either point data_dir (--data-dir) to a folder that holds it, as torchvision stores it or as "
            "train/<class>/* and test/<class>/*, or name an image folder, or use 'digits', which needs no network."
        ) from error
    images, labels = torch.as_tensor(part.data), torch.as_tensor(part.targets, dtype=torch.int64)
    images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)  # (N, H, W) or (N, H, W, 3)
    return images, labels, tuple(part.classes), f"torchvision {_TORCHVISION[name]} in {root}"


def _check_sizes(images: list[Tensor]) -> None:
    sizes = list(dict.fromkeys("x".join(map(str, image.shape[1:])) for image in images))
    if len(sizes) > 1:
        remedy = "Pass size=, e.g. size=32, to resize the short side and cut out the centre."
        raise ValueError(f"found {len(sizes)} image sizes (height x width: {', '.join(sizes[:3])}). {remedy}")


def _require(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{package} is needed for this: pip install 'simreg[examples]'.") from error
