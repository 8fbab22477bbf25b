"""The published arrays: CIFAR-10-C and CIFAR-100-C as they are distributed, and accuracy on them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from simreg._checks import check_choice, describe
from simreg.robustness._progress import progress as show_progress
from simreg.robustness.classifier import Model, as_classifier, batches, check_count, count_correct, unit_float
from simreg.robustness.corruptions.apply import CORRUPTIONS, SEVERITIES, Corruption, check_severity
from simreg.robustness.corruptions.result import CorruptionResult
from simreg.robustness.corruptions.sweep import check_corruptions, check_severities

_LEVELS = len(SEVERITIES)


@dataclass(frozen=True)
class PublishedCorruptions:
    """A folder of published arrays, read from disk where they are asked for.

    Args:
        folder: The folder.
        arrays: Memory-mapped uint8 arrays (5 n, H, W, 3) by corruption, severity 1 first.
        labels: Classes of the n test images, (n,), int64.
        missing: Corruptions without an array.
    """

    folder: Path
    arrays: dict[str, Any]
    labels: Tensor
    missing: tuple[str, ...]

    def __len__(self) -> int:
        """Number of test images n."""
        return len(self.labels)

    def images(
        self, corruption: Corruption, severity: int, rows: Iterable[int] | Tensor | None = None, *, color: bool = True
    ) -> Tensor:
        """Images of one corruption at one severity.

        Args:
            corruption: One of ``CORRUPTIONS``.
            severity: 1 to 5.
            rows: Test images, by their place in the published order; None takes all n.
            color: ``False`` gives the ITU-R 601 luma of each pixel.

        Returns:
            Shape (N, 3, H, W) or (N, 1, H, W), uint8.

        Raises:
            FileNotFoundError: If the folder has no array of the corruption.
            ValueError: If the corruption is unknown, the severity out of range, or a row is none of the n.
        """
        check_choice("corruption", corruption, CORRUPTIONS)
        check_severity(severity)
        if corruption not in self.arrays:
            raise FileNotFoundError(f"{corruption}.npy was not loaded from {self.folder}.")
        chosen = check_rows(rows, len(self))
        pixels = np.asarray(self.arrays[corruption][(severity - 1) * len(self) + chosen.numpy()])  # (N, H, W, 3)
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
        return images if color else _to_gray(images)


def load_published(folder: str | os.PathLike[str], *, corruption: Corruption | None = None) -> PublishedCorruptions:
    """Open a folder of published arrays: ``<corruption>.npy`` and ``labels.npy``, as CIFAR-10-C is distributed.

    Arrays are memory-mapped: opening is quick, and only what is asked for is read.

    Args:
        folder: The unpacked folder, such as ``CIFAR-10-C`` or ``CIFAR-100-C``.
        corruption: The only array to open; None opens all that are there.

    Returns:
        Arrays, labels and the names of missing corruptions.

    Raises:
        FileNotFoundError: If the folder, the labels, the one wanted array or all arrays are missing.
        ValueError: If a file is no readable array, or not uint8 of shape (5 n, H, W, 3) beside 5 n labels.

    Source: Hendrycks and Dietterich, 2019 (https://arxiv.org/abs/1903.12261); the arrays are at
    https://zenodo.org/records/2535967 (CIFAR-10-C) and https://zenodo.org/records/3555552 (CIFAR-100-C).

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(Path(folder) / "labels.npy", np.zeros(10, dtype=np.int64))
        ...     np.save(Path(folder) / "fog.npy", np.zeros((10, 32, 32, 3), dtype=np.uint8))
        ...     len(load_published(folder, corruption="fog").labels)
        2
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(
            f"folder {path} does not exist. Unpack CIFAR-10-C.tar (zenodo.org/records/2535967) and pass that folder."
        )
    names = CORRUPTIONS if corruption is None else check_corruptions([corruption])
    missing = tuple(name for name in names if not (path / f"{name}.npy").is_file())
    if len(missing) == len(names):
        wanted = f"{corruption}.npy" if corruption else "one of the 15 arrays: gaussian_noise.npy, ..."
        raise FileNotFoundError(f"folder {path} does not hold {wanted}. Pass the folder that the archive unpacks to.")
    labels = _load_labels(path / "labels.npy")
    arrays: dict[str, Any] = {
        name: _open_images(path / f"{name}.npy", len(labels)) for name in names if name not in missing
    }
    return PublishedCorruptions(path, arrays, labels[: len(labels) // _LEVELS], missing)


@torch.no_grad()
def published_sweep(
    model: Model,
    folder: str | os.PathLike[str] | PublishedCorruptions,
    *,
    corruptions: Iterable[Corruption] | None = None,
    severities: Iterable[int] = SEVERITIES,
    n: int | None = None,
    rows: Iterable[int] | Tensor | None = None,
    color: bool = True,
    batch_size: int = 256,
    first_index: int = 0,
    progress: bool = False,
) -> CorruptionResult:
    """Accuracy on published arrays of common corruptions, in the strict sense of CIFAR-10-C.

    A corruption whose array is missing is named in ``not_run`` with its reason, and left out of the means.

    Args:
        model: ``Classifier``, module or callable: images in [0, 1] to logits (N, K).
        folder: Folder of the arrays, or what ``load_published`` returned.
        corruptions: Names out of ``CORRUPTIONS``; None takes all 15.
        severities: Out of 1 to 5.
        n: Number of test images, from ``first_index`` on; None takes all that follow.
        rows: Test images by their place in the published order, in place of ``n``.
        color: ``False`` evaluates the ITU-R 601 luma, for models of gray images.
        batch_size: Images per call of the model.
        first_index: First test image where ``rows`` is None; with ``rows``, how many came in earlier parts.
        progress: Show progress on standard error.

    Returns:
        Accuracies by corruption and severity. The arrays have no clean images: ``clean`` is None.

    Raises:
        FileNotFoundError: If the folder, its labels or all wanted arrays are missing.
        TypeError: If an argument is not of the right kind.
        ValueError: If an array is damaged, labels do not fit the model, or an option is out of range.

    Source: Hendrycks and Dietterich, 2019 (https://arxiv.org/abs/1903.12261).

    Example:
        >>> import tempfile
        >>> brightness = lambda x: torch.stack([1 - x.mean(dim=(1, 2, 3)), x.mean(dim=(1, 2, 3))], dim=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(Path(folder) / "labels.npy", np.zeros(10, dtype=np.int64))
        ...     np.save(Path(folder) / "fog.npy", np.zeros((10, 32, 32, 3), dtype=np.uint8))
        ...     published_sweep(brightness, folder, corruptions=["fog"]).accuracies
        {'fog': (1.0, 1.0, 1.0, 1.0, 1.0)}
    """
    classifier = as_classifier(model)
    names, levels = check_corruptions(corruptions), check_severities(severities)
    check_count("batch_size", batch_size)
    check_count("first_index", first_index, minimum=0)
    published = folder if isinstance(folder, PublishedCorruptions) else load_published(folder)
    chosen = _choose_rows(rows, n, first_index, len(published))
    present = [name for name in names if name in published.arrays]
    if not present:
        raise FileNotFoundError(f"{published.folder} has none of the arrays of {', '.join(names)}.")
    jobs = [(name, level, part) for name in present for level in levels for part in batches(len(chosen), batch_size)]
    correct = {(name, level): 0 for name in present for level in levels}
    for name, level, part in show_progress(jobs, description="published corruptions", enabled=progress):
        pixels = unit_float(published.images(name, level, chosen[part], color=color))
        correct[name, level] += count_correct(classifier, pixels, published.labels[chosen[part]])
    not_run: dict[str, str] = {name: "not asked for" for name in CORRUPTIONS if name not in names}
    not_run |= {name: f"{name}.npy is not in {published.folder.name}" for name in names if name not in present}
    total = len(chosen)
    return CorruptionResult(
        f"{_set_name(published)} arrays in {published.folder.name}",
        True,
        {name: tuple(correct[name, level] / total for level in levels) for name in present},
        total,
        severities=levels,
        not_run=not_run,
        settings={"color": color, "first_index": first_index},
    )


def check_rows(rows: Iterable[int] | Tensor | None, n: int) -> Tensor:
    """Rows as int64 (N,) on the CPU; raises unless there is at least one and all are below ``n``."""
    if rows is None:
        return torch.arange(n)
    if isinstance(rows, (str, bytes)) or not isinstance(rows, (Tensor, Iterable)):
        raise TypeError(f"rows must be integers, got {describe(rows)}.")
    chosen = torch.as_tensor(rows if isinstance(rows, Tensor) else list(rows)).cpu()
    if chosen.ndim != 1 or len(chosen) == 0:
        raise ValueError(f"rows must name at least one image, shape (N,), got shape {tuple(chosen.shape)}.")
    if chosen.is_floating_point() or chosen.dtype == torch.bool:
        raise TypeError(f"rows must be integers, got {chosen.dtype}.")
    low, high = int(chosen.min()), int(chosen.max())
    if low < 0 or high >= n:
        raise ValueError(f"rows must be between 0 and {n - 1}, got {low} to {high}.")
    return chosen.to(torch.int64)


def _choose_rows(rows: Iterable[int] | Tensor | None, n: int | None, first_index: int, size: int) -> Tensor:
    if rows is not None:
        if n is not None:
            raise ValueError("pass n or rows, not both: rows says how many images there are.")
        return check_rows(rows, size)
    if n is not None:
        check_count("n", n)
    count = size - first_index if n is None else n
    if count < 1 or first_index + count > size:
        raise ValueError(
            f"first_index={first_index} and n={n} ask for images beyond the {size} published ones, 0 to {size - 1}."
        )
    return torch.arange(first_index, first_index + count)


def _set_name(published: PublishedCorruptions) -> str:
    """CIFAR-10-C or CIFAR-100-C, by the labels."""
    classes = int(published.labels.max()) + 1
    return {10: "CIFAR-10-C", 100: "CIFAR-100-C"}.get(classes, "published")


def _load_labels(path: Path) -> Tensor:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: the classes of the images are in it.")
    labels = _load(path)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) == 0 or len(labels) % _LEVELS:
        raise ValueError(
            f"{path} must hold integers of shape (5 n,), severity after severity, got {labels.dtype} {labels.shape}."
        )
    values = torch.from_numpy(np.array(labels, dtype=np.int64))
    if not bool((values.view(_LEVELS, -1) == values[: len(values) // _LEVELS]).all()):
        raise ValueError(f"{path} must repeat the same labels for each of the 5 severities, and does not.")
    return values


def _open_images(path: Path, length: int) -> Any:
    array = _load(path)
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3 or array.shape[0] != length:
        raise ValueError(
            f"{path} must hold uint8 images of shape ({length}, H, W, 3) to fit its labels, "
            f"got {array.dtype} {array.shape}. Unpack it again."
        )
    return array


def _load(path: Path) -> Any:
    """The array of a file, memory-mapped."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path} is no readable NumPy array ({error}): unpack it again.") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path} must hold one NumPy array, got an archive of several.")
    return array


def _to_gray(images: Tensor) -> Tensor:
    """ITU-R 601 luma (N, 1, H, W) of uint8 colour images, in the integer arithmetic of PIL's mode "L"."""
    weights = torch.tensor([19595, 38470, 7471], dtype=torch.int32).view(1, 3, 1, 1)
    return (((images.int() * weights).sum(dim=1, keepdim=True) + 32768) >> 16).to(torch.uint8)
