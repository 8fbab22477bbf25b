"""Image datasets as uint8 tensors (N, C, H, W): torchvision's, folders of image files, and the digits of scikit-learn.

Shape letters: N images, C channels (1 gray, 3 colour), H height, W width.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from simreg._checks import check_choice, describe, near_matches

DATASETS = ("cifar10", "cifar100", "mnist", "fashionmnist", "digits")
_TORCHVISION = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "mnist": "MNIST", "fashionmnist": "FashionMNIST"}
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
_CHUNK = 5000  # images converted at a time, so that the int32 and float copies stay small
_AnyPath = str | os.PathLike[str]


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
    """Load training and test images of a named dataset, or of a folder.

    Args:
        name: One of ``DATASETS``, or a folder that holds ``train/<class>/*`` and ``test/<class>/*``.
        data_dir: Where datasets are kept, as such folders (in ``data_dir/<name>`` or ``data_dir`` itself) or as
            torchvision stores them; default ``~/.cache/simreg``.
        download: Whether torchvision may download what is not in ``data_dir``.
        color: Three channels instead of the luma, see `with_channels`.
        size: Side of the square images, see `resize`; by default images keep their size (``digits``: 32).
        progress: Whether decoding shows a bar on a terminal.

    Raises:
        FileNotFoundError: If the dataset is neither found nor downloadable; the message lists what can be done.
        ValueError: If the name is unknown, a class folder empty, a file unreadable, or sizes differ without ``size``.
        ImportError: If a package of the extra ``simreg[examples]`` is missing.

    Example:
        >>> load_dataset("digits").train_images.shape
        torch.Size([1438, 1, 32, 32])
    """
    _, _, folder = _locate(name, data_dir)
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
    """Load one part of a dataset, with options and errors of `load_dataset`; only the files wanted are decoded.

    A folder may also hold classes directly, ``folder/<class>/*``: it then is whatever part is asked for. With ``limit``
    come at most so many images, in a random order that is always the same: a smaller limit takes the first of those of
    a larger one. Without it come all, in the order of the dataset.

    Example:
        >>> some = load_split("digits", limit=5)
        >>> some.images.shape, torch.equal(some.rows[:3], load_split("digits", limit=3).rows)
        (torch.Size([5, 1, 32, 32]), True)
    """
    _check_size(size)
    check_choice("split", split, ("train", "test"))
    name, root, folder = _locate(name, data_dir)
    if folder is None:
        whole, labels, classes, source = _named(name, root, split, download=download)
    else:
        files, labels, classes, source = _list_files(folder, split)
    n = len(labels)
    rows = torch.arange(n) if limit is None else torch.randperm(n, generator=torch.Generator().manual_seed(0))[:limit]
    if folder is None:
        images = resize(with_channels(whole[rows], color=color), 32 if (name, size) == ("digits", None) else size)
    else:
        images = _decode([files[row] for row in rows.tolist()], size=size, color=color, progress=progress)
    return ImageSplit(name, images, labels[rows], classes, rows, source)


def split_key(name: str, split: Literal["train", "test"] = "train", *, data_dir: _AnyPath | None = None) -> str:
    """What tells a part from others unread: SHA-256 over its files' names and sizes; a named dataset's own name.

    Example:
        >>> split_key("digits")
        'digits'
    """
    name, _, folder = _locate(name, data_dir)
    if folder is None:
        return name
    part = folder / split if (folder / split).is_dir() else folder
    files = sorted(path for path in part.rglob("*") if path.is_file())
    listing = "\n".join(f"{path.relative_to(part).as_posix()} {path.stat().st_size}" for path in files)
    return hashlib.sha256(listing.encode()).hexdigest()


def load_images(
    folder: _AnyPath, *, size: int | None, color: bool = False, limit: int | None = None, progress: bool = False
) -> Tensor:
    """Load all images below a folder, or ``limit`` evenly spaced ones, sorted by path: regularization images of a pool.

    Other options are those of `load_dataset`, the result is (N, C, H, W), uint8. Raises FileNotFoundError if there is
    no such folder, ValueError if it holds no image, a file cannot be read, or sizes differ and ``size`` is None.
    """
    _check_size(size)
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"folder={str(folder)!r} is not a folder.")
    files = _image_files(root, "**/*")
    if not files:
        raise ValueError(f"{root} holds no image files ({', '.join(_SUFFIXES)}), sub-folders included.")
    n = len(files) if limit is None else min(limit, len(files))
    return _decode([files[i * len(files) // n] for i in range(n)], size=size, color=color, progress=progress)


def with_channels(images: Tensor, *, color: bool) -> Tensor:
    r"""Three channels, or one: the luma of PIL's mode ``"L"``; from and to uint8 images (N, 1 or 3, H, W).

    .. math:: L = (19595\,R + 38470\,G + 7471\,B + 32768) / 65536

    Example:
        >>> with_channels(torch.tensor([255, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1), color=False).item()
        76
    """
    if color or images.shape[1] == 1:
        return images.expand(-1, 3 if color else 1, -1, -1).contiguous()
    weights = torch.tensor([19595, 38470, 7471], dtype=torch.int32).view(1, 3, 1, 1)
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
    scale = size / min(images.shape[-2:])
    sides = [max(size, round(side * scale)) for side in images.shape[-2:]]
    top, left = ((side - size) // 2 for side in sides)
    parts = []
    for part in torch.split(images, _CHUNK):
        large = torch.nn.functional.interpolate(part.float(), sides, mode="bilinear", antialias=True)
        parts.append(large[..., top : top + size, left : left + size].round().clamp(0, 255).to(torch.uint8))
    return torch.cat(parts)


def _decode(files: list[Path], *, size: int | None, color: bool, progress: bool) -> Tensor:
    """Images (N, C, H, W), uint8; raises if some cannot be read, or differ in size."""
    pil = _require("PIL.Image", "pillow")

    def read(path: Path) -> Any:
        try:
            with pil.open(path) as file:
                image = file.convert("RGB" if color else "L")
            if size is not None and image.size != (size, size):
                scale = size / min(image.size)
                sides = [max(size, round(side * scale)) for side in image.size]
                left, top = ((side - size) // 2 for side in sides)
                image = image.resize(sides, pil.BILINEAR).crop((left, top, left + size, top + size))
        except Exception as error:  # PIL raises OSError, SyntaxError, ValueError and more on damaged files
            return f"{path}: {type(error).__name__}"
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        return pixels.view(image.height, image.width, -1).permute(2, 0, 1).contiguous()  # (C, H, W)

    with ThreadPoolExecutor(4) as pool:  # PIL releases the interpreter lock while it decodes
        found: Any = pool.map(read, files)
        if progress:
            found = _require("tqdm", "tqdm").tqdm(found, "reading images", len(files), leave=False, disable=None)
        found = list(found)
    if broken := [image for image in found if isinstance(image, str)]:
        some = "; ".join(broken[:3] + ["..."] * (len(broken) > 3))
        raise ValueError(f"{len(broken)} of {len(files)} image files cannot be read: {some}. Replace or remove them.")
    _check_sizes(found)
    return torch.stack(found)


def _locate(name: str, data_dir: _AnyPath | None) -> tuple[str, Path, Path | None]:
    """A dataset's name, where datasets are kept, and its image folder if it has one: CIFAR-10's has an airplane."""
    root = Path("~/.cache/simreg" if data_dir is None else data_dir).expanduser()
    key, path = str(name).lower().replace("-", "").replace("_", ""), Path(name).expanduser()
    if key in DATASETS:
        for folder in (root / key, root) if key in _TORCHVISION else ():
            classes = _class_names(folder / "train")
            if len(classes) == (100 if key == "cifar100" else 10) and ("airplane" in classes) == (key == "cifar10"):
                return key, root, folder
        return key, root, None
    if path.is_dir():
        return path.name, root, path
    near = [f"Did you mean {other!r}?" for other in near_matches(key, DATASETS, limit=1)]
    hint = "It is a file: unpack it and pass the folder in it." if path.is_file() else "".join(near)
    raise ValueError(f"name={str(name)!r} is neither a folder nor one of {', '.join(DATASETS)}. {hint}")


def _list_files(folder: Path, split: str) -> tuple[list[Path], Tensor, tuple[str, ...], str]:
    """Files, labels, classes and source of one part; a folder of classes is any part."""
    part = folder / split if (folder / split).is_dir() else folder
    train = folder / "train" if (folder / "train").is_dir() else part
    classes, unknown = _class_names(train), sorted({*_class_names(part)} - {*_class_names(train)})
    if part == folder and {"train", "test"} & {*_class_names(folder)}:
        raise ValueError(f"{folder} has no folder {split!r}. Wanted: {split}/<class>/* in it, or <class>/*.")
    if len(classes) < 2 or unknown:
        problem = f"test classes without training images: {unknown}" if unknown else f"classes: {classes}"
        raise ValueError(f"{folder} must hold at least two classes, the same in train and test; got {problem}.")
    by_class = [_image_files(part / name, "*") for name in classes]
    for name, files in zip(classes, by_class, strict=True):
        if not files and (part.name == "train" or not any(by_class)):
            raise ValueError(f"class folder {part / name} holds no image files ({', '.join(_SUFFIXES)}).")
    paths = [path for files in by_class for path in files]
    labels = torch.tensor([label for label, files in enumerate(by_class) for _ in files])
    jpeg = all(path.suffix.lower() in (".jpg", ".jpeg") for path in paths)
    source = f"image folder {folder}" + (" (images decoded from JPEG files)" if jpeg else "")
    return paths, labels, tuple(classes), source


def _class_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*") if path.is_dir() and not path.name.startswith("."))


def _image_files(folder: Path, pattern: str) -> list[Path]:
    files = (path for path in folder.glob(pattern) if path.suffix.lower() in _SUFFIXES and not path.is_dir())
    return sorted(path for path in files if not path.name.startswith("."))


def _named(name: str, root: Path, split: str, *, download: bool) -> tuple[Tensor, Tensor, tuple[str, ...], str]:
    """Images, labels, classes and source of a part of the digits (a fifth of each is for testing), or torchvision's."""
    if name == "digits":
        digits = _require("sklearn.datasets", "scikit-learn").load_digits()
        images = (torch.as_tensor(digits.images) * (255 / 16)).round().to(torch.uint8).unsqueeze(1)  # (1797, 1, 8, 8)
        labels, chosen = torch.as_tensor(digits.target, dtype=torch.int64), torch.full([1797], split == "train")
        generator = torch.Generator().manual_seed(0)
        for label in range(10):
            rows = torch.nonzero(labels == label).flatten()
            rows = rows[torch.randperm(len(rows), generator=generator)]
            chosen[rows[: round(len(rows) * 0.2)]] = split == "test"
        return images[chosen], labels[chosen], tuple("0123456789"), "handwritten digits of scikit-learn, 8x8 enlarged"
    dataset = getattr(_require("torchvision.datasets", "torchvision"), _TORCHVISION[name])
    try:
        part = dataset(root, train=split == "train", download=download)
    except (RuntimeError, OSError) as error:  # no connection is an OSError, a wrong checksum a RuntimeError
        archives = [path.name for path in root.glob("*") if path.name.endswith((".tar.gz", ".tgz", ".zip"))]
        unpack = f" {root} holds {', '.join(archives[:3])}: if that is it, unpack it first." if archives else ""
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FileNotFoundError(
            f"dataset {name!r} cannot be loaded from {root} (download={download}): {reason}.{unpack} "
            "Either point data_dir (--data-dir) to a folder that holds it, as torchvision stores it or as "
            "train/<class>/* and test/<class>/*, or name an image folder, or use 'digits', which needs no network."
        ) from error
    images = torch.as_tensor(part.data)  # (N, H, W) or (N, H, W, 3)
    images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
    labels = torch.as_tensor(part.targets, dtype=torch.int64)
    return images, labels, tuple(part.classes), f"torchvision {_TORCHVISION[name]} in {root}"


def _check_sizes(images: list[Tensor]) -> None:
    sizes = sorted({tuple(image.shape[1:]) for image in images})
    if len(sizes) > 1:
        some = ", ".join(f"{height}x{width}" for height, width in sizes[:3])
        remedy = "Pass size=, e.g. size=32, to resize the short side and cut out the centre."
        raise ValueError(f"found {len(sizes)} image sizes (height x width: {some}). {remedy}")


def _check_size(size: object) -> None:
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise ValueError(f"size must be a positive whole number of pixels or None, got {describe(size)}.")


def _require(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{package} is needed for this: pip install 'simreg[examples]'.") from error
