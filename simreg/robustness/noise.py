"""Accuracy under random noise: Gaussian, uniform, salt and pepper."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

import torch
from torch import Tensor

from simreg._checks import check_choice, check_images, check_positive, check_unit_range, describe
from simreg.robustness._progress import progress as show_progress
from simreg.robustness._random import Draw, check_seed, derive_seed, draw_per_image
from simreg.robustness._tally import Tally, check_epsilons, indices_of
from simreg.robustness.classifier import (
    Model,
    as_classifier,
    batches,
    check_count,
    check_evaluation_set,
    count_correct,
    unit_float,
)
from simreg.robustness.results import Sweep

Noise = Literal["gaussian", "uniform", "salt_and_pepper"]
NOISES: tuple[Noise, ...] = get_args(Noise)
"""The kinds of noise."""

NOISE_EPSILONS: tuple[float, ...] = tuple(i / 100 for i in range(11))
"""Strengths for CIFAR-10: ten steps from 0 to 0.1."""


def add_noise(images: Tensor, kind: Noise, epsilon: float, *, generator: torch.Generator) -> Tensor:
    r"""Images with noise, clamped to each image's own minimum and maximum.

    .. math:: x' = \mathrm{clamp}(x + \epsilon z, \min x, \max x)

    with z standard normal ("gaussian") or uniform on [-1, 1] ("uniform"); "salt_and_pepper" adds +1 or -1, equally
    likely, to each value with probability epsilon. Each channel of a pixel is a value of its own.

    Args:
        images: Shape (N, C, H, W), uint8 or floating point in [0, 1].
        kind: "gaussian", "uniform" or "salt_and_pepper".
        epsilon: Strength in pixel units (a probability for "salt_and_pepper").
        generator: Source of the noise, on the CPU.

    Returns:
        Shape (N, C, H, W), floating point; ``images`` is not written to.

    Raises:
        ValueError: If ``kind`` is unknown, epsilon is negative (or above 1 for "salt_and_pepper"), or images
            leave [0, 1].

    Source: evaluation protocol of Attias, Pehlevan, Obeid, 2024 (https://arxiv.org/abs/2410.03952).

    Example:
        >>> images = torch.tensor([0.2, 0.4, 0.6, 0.8]).view(1, 1, 2, 2)
        >>> noisy = add_noise(images, "salt_and_pepper", 1.0, generator=torch.Generator().manual_seed(0))
        >>> sorted(set(noisy.flatten().tolist())) == sorted({images.min().item(), images.max().item()})
        True
    """
    check_unit_range("images", check_images("images", images))
    _check_noise(kind, epsilon)
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator on the CPU, got {describe(generator)}.")
    values = torch.empty(images.shape, dtype=torch.float32)
    values = values.normal_(generator=generator) if kind == "gaussian" else values.uniform_(generator=generator)
    return _apply(unit_float(images), kind, epsilon, values.to(images.device))


def noise_sweep(
    model: Model,
    images: Tensor,
    labels: Tensor,
    kind: Noise,
    epsilons: Iterable[float] | Tensor | None = None,
    *,
    batch_size: int = 256,
    seed: int = 0,
    first_index: int = 0,
    progress: bool = False,
) -> Sweep:
    """Accuracy at several strengths of noise; every model meets the same noise at a given seed.

    The noise of an image depends on (seed, kind, epsilon, index of the image) alone: not on batch size, device or the
    other epsilons. The global random generator is not touched.

    Args:
        model: ``Classifier``, module or callable: images in [0, 1] to logits (N, K).
        images: Shape (N, C, H, W), uint8 or floating point in [0, 1].
        labels: Shape (N,), integers in [0, K).
        kind: "gaussian", "uniform" or "salt_and_pepper"; see ``add_noise``.
        epsilons: Strengths in pixel units; None takes ``NOISE_EPSILONS``, ten steps from 0 to 0.1.
        batch_size: Images per call of the model.
        seed: Seed of the noise.
        first_index: Index of the first image, for parts of a larger set; see ``Sweep.join``.
        progress: Show progress on standard error.

    Returns:
        Accuracies by epsilon; ``settings["max_perturbation"]`` has the largest measured change of a value at each.

    Raises:
        TypeError: If images, labels or the model's output are not tensors of the right kind.
        ValueError: If images leave [0, 1], labels do not fit, or kind or epsilons are not valid.

    Source: evaluation protocol of Attias, Pehlevan, Obeid, 2024 (https://arxiv.org/abs/2410.03952).

    Example:
        >>> brightness = lambda x: torch.stack([1 - x.mean(dim=(1, 2, 3)), x.mean(dim=(1, 2, 3))], dim=1)
        >>> images = torch.tensor([0.1, 0.9]).view(2, 1, 1, 1).expand(2, 1, 4, 4)
        >>> noise_sweep(brightness, images, torch.tensor([0, 1]), "gaussian", [0.0, 0.1]).accuracies
        (1.0, 1.0)
    """
    classifier = as_classifier(model)
    check_evaluation_set(images, labels, batch_size)
    check_seed(seed)
    check_count("first_index", first_index, minimum=0)
    strengths = check_epsilons(NOISE_EPSILONS if epsilons is None else epsilons)
    for epsilon in strengths:
        _check_noise(kind, epsilon)
    tally = Tally(strengths)
    jobs = [(i, part) for i in range(len(strengths)) for part in batches(len(images), batch_size)]
    for i, part in show_progress(jobs, description=f"{kind} noise", enabled=progress):
        clean = unit_float(images[part])
        values = _draw(clean, indices_of(part, first_index), seed, kind, strengths[i])
        noisy = _apply(clean, kind, strengths[i], values)
        tally.add(i, count_correct(classifier, noisy, labels[part]), float((noisy - clean).abs().max()))
    if kind == "uniform":
        tally.check_budgets()
    settings = {"clamp": "each image's own minimum and maximum", "first_index": first_index}
    return tally.sweep(kind, len(images), seed, settings)


def _check_noise(kind: str, epsilon: float) -> None:
    check_choice("kind", kind, NOISES)
    check_positive("epsilon", epsilon, zero=True)
    if kind == "salt_and_pepper" and epsilon > 1:
        raise ValueError(f"epsilon is a probability for salt_and_pepper noise, at most 1, got {epsilon!r}.")


def _draw(images: Tensor, indices: range, seed: int, kind: Noise, epsilon: float) -> Tensor:
    """Base values of the noise, (N, C, H, W): standard normal for "gaussian", else uniform on [0, 1)."""
    draw: Draw = "normal" if kind == "gaussian" else "uniform"
    return draw_per_image(images, indices, derive_seed("noise", seed, kind, round(epsilon * 1e6)), draw)


def _apply(images: Tensor, kind: Noise, epsilon: float, values: Tensor) -> Tensor:
    """Add the noise that base values (N, C, H, W) stand for, and clamp."""
    values = values.to(images.dtype)
    if kind == "gaussian":
        noise = epsilon * values
    elif kind == "uniform":
        noise = epsilon * (2 * values - 1)
    else:  # the lower half of [0, epsilon) is salt, the upper half pepper
        noise = (values < epsilon / 2).to(images.dtype) - ((values >= epsilon / 2) & (values < epsilon)).to(
            images.dtype
        )
    low, high = images.amin(dim=(1, 2, 3), keepdim=True), images.amax(dim=(1, 2, 3), keepdim=True)
    return torch.minimum(torch.maximum(images + noise, low), high)
