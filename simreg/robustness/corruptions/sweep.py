"""Accuracy under the common corruptions, made for the images at hand."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from simreg._checks import check_choice, describe
from simreg.robustness._progress import progress as show_progress
from simreg.robustness._random import check_seed
from simreg.robustness.classifier import (
    Model,
    as_classifier,
    batches,
    check_count,
    check_evaluation_set,
    count_correct,
    unit_float,
)
from simreg.robustness.corruptions.apply import (
    CORRUPTIONS,
    SEVERITIES,
    Corruption,
    check_corruptible,
    check_severity,
    corrupt,
)
from simreg.robustness.corruptions.result import CorruptionResult

SOURCE = "simreg's 32-pixel corruptions, not the CIFAR-10-C arrays"
"""What a result says about corruptions that were made here."""


@torch.no_grad()
def corruption_sweep(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    corruptions: Iterable[Corruption] | None = None,
    severities: Iterable[int] = SEVERITIES,
    batch_size: int = 256,
    seed: int = 0,
    first_index: int = 0,
    progress: bool = False,
) -> CorruptionResult:
    """Accuracy under common corruptions; every model meets the same images at a given seed.

    The corruptions are those of ``corrupt``: in the strengths of CIFAR-10-C, but not its arrays. To compare with
    published accuracies use the arrays themselves, with ``published_sweep``.

    Args:
        model: ``Classifier``, module or callable: images in [0, 1] to logits (N, K).
        images: Shape (N, C, H, W), C = 1 or 3, H and W at least 8; uint8 or floating point in [0, 1].
        labels: Shape (N,), integers in [0, K).
        corruptions: Names out of ``CORRUPTIONS``; None takes all 15.
        severities: Out of 1 to 5.
        batch_size: Images per call of the model; does not change the images.
        seed: Seed of the random draws.
        first_index: Index of the first image, for parts of a larger set; see ``CorruptionResult.join``.
        progress: Show progress on standard error.

    Returns:
        Accuracies by corruption and severity, and the clean one.

    Raises:
        TypeError: If images, labels or the model's output are not tensors of the right kind.
        ValueError: If images leave [0, 1] or cannot be corrupted, labels do not fit, or a name or severity is unknown.

    Example:
        >>> brightness = lambda x: torch.stack([1 - x.mean(dim=(1, 2, 3)), x.mean(dim=(1, 2, 3))], dim=1)
        >>> images = torch.tensor([0.1, 0.9]).view(2, 1, 1, 1).expand(2, 1, 32, 32)
        >>> result = corruption_sweep(brightness, images, torch.tensor([0, 1]), corruptions=["fog"])
        >>> result.accuracies, result.clean
        ({'fog': (1.0, 1.0, 1.0, 1.0, 1.0)}, 1.0)
    """
    classifier = as_classifier(model)
    check_evaluation_set(images, labels, batch_size)
    check_corruptible(images)
    names, levels = check_corruptions(corruptions), check_severities(severities)
    check_seed(seed)
    check_count("first_index", first_index, minimum=0)
    parts = batches(len(images), batch_size)
    clean, correct = 0, {(name, level): 0 for name in names for level in levels}
    for part in show_progress(parts, description="common corruptions", enabled=progress):
        pixels = unit_float(images[part])
        pixels = pixels if classifier.device is None else pixels.to(classifier.device)
        clean += count_correct(classifier, pixels, labels[part])
        for name, level in correct:
            changed = corrupt(pixels, name, level, seed=seed, first_index=first_index + part.start)
            correct[name, level] += count_correct(classifier, changed, labels[part])
    n = len(images)
    return CorruptionResult(
        SOURCE,
        False,
        {name: tuple(correct[name, level] / n for level in levels) for name in names},
        n,
        severities=levels,
        clean=clean / n,
        seed=seed,
        not_run={name: "not asked for" for name in CORRUPTIONS if name not in names},
        settings={"shape": list(images.shape[1:]), "first_index": first_index},
    )


def check_corruptions(corruptions: Iterable[str] | None) -> tuple[Corruption, ...]:
    """The names, each one once, in the published order; raises unless there is at least one and all are known."""
    if corruptions is None:
        return CORRUPTIONS
    if isinstance(corruptions, str) or not isinstance(corruptions, Iterable):
        raise TypeError(f"corruptions must be a sequence of names or None, got {describe(corruptions)}.")
    names = list(corruptions)
    for name in names:
        check_choice("corruptions", name, CORRUPTIONS)
    if not names:
        raise ValueError("corruptions is empty: pass at least one name, or None for all 15.")
    return tuple(name for name in CORRUPTIONS if name in names)


def check_severities(severities: Iterable[int]) -> tuple[int, ...]:
    """The severities, each one once, in order; raises unless there is at least one and all are from 1 to 5."""
    if not isinstance(severities, Iterable):
        raise TypeError(f"severities must be a sequence of integers, got {describe(severities)}.")
    levels = list(severities)
    for level in levels:
        check_severity(level)
    if not levels:
        raise ValueError("severities is empty: pass at least one from 1 to 5.")
    return tuple(sorted(set(levels)))
