"""From the settings of a simreg method to its regularizer, target and images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import simreg
from simreg._checks import check_choice
from simreg.comparison.augment import crop_and_flip
from simreg.comparison.objectives import MODES, SimilarityObjective
from simreg.comparison.recipe import Recipe, Split, derive_seed, normalise
from simreg.data import resize, with_channels

TARGETS = ("pixel", "threshold", "label", "neural")


def similarity_objective(
    model: nn.Module, data: Split, recipe: Recipe, seed: int, settings: Mapping[str, Any]
) -> SimilarityObjective:
    """Cross entropy with the regularizer that the settings describe.

    Args:
        model: The network that is trained.
        data: Training images, from which regularization images are taken.
        recipe: Says whether images are mirrored.
        seed: Of the training: of pool and pairs too.
        settings: As in `simreg.comparison.PARTS`, those that `relevant_settings` leaves.

    Returns:
        The objective; its hooks are on the model until it is closed.

    Raises:
        ValueError: If a setting is not valid.
    """
    same_batch, kind = settings["mode"] == "same-batch", settings["target"]
    target = _target(settings)
    layers = settings["layers"]
    regularizer = simreg.SimilarityRegularizer(
        model,
        layers if layers in ("early", "auto") else layers.split("/"),
        target=target.fit(data.images) if same_batch and kind != "label" else None,
        alpha=settings["alpha"],
        target_clamp=settings["target_clamp"],
        pairing="all" if same_batch else "pairs",
        batch_norm="update" if same_batch else settings["batch_norm"],
    )
    if same_batch:
        seen = settings["targets_of"] == "seen"
        return SimilarityObjective(model, regularizer, "same-batch", by_label=kind == "label", of_seen=seen)
    pool = _pool(target, data, recipe, seed, settings)
    return SimilarityObjective(model, regularizer, settings["mode"], pool=pool, pairs=settings["pairs"])


def relevant_settings(text: str, settings: Mapping[str, Any], asked: set[str]) -> dict[str, Any]:
    """The settings that take effect with this mode and target; raises if one was asked for that does not."""
    check_choice("mode", settings["mode"], MODES)
    check_choice("target", settings["target"], TARGETS)
    check_choice("targets_of", settings["targets_of"], ("clean", "seen"))
    same_batch, target = settings["mode"] == "same-batch", settings["target"]
    if same_batch and target == "neural":
        raise ValueError(f"method {text!r}: neural targets belong to images of their own: mode=separate or mode=joint.")
    idle = {"pairs", "pool_size", "batch_norm"} if same_batch else {"targets_of"}
    idle |= set() if target == "threshold" else {"threshold"}
    idle |= {"pool_size"} if target == "neural" else {"responses"}
    for name in sorted(asked & idle):
        raise ValueError(f"method {text!r}: {name} has no effect with mode={settings['mode']}, target={target}.")
    return {name: value for name, value in settings.items() if name not in idle}


def neural_obstacle(settings: Mapping[str, Any]) -> str | None:
    """Why a neural target cannot be used; None if it can, or if the target is another."""
    if settings["target"] != "neural":
        return None
    if settings["responses"] is None:
        return "no neural responses were given: name a file as responses=FILE.npz, with images and responses to them"
    if not Path(settings["responses"]).expanduser().is_file():
        return f"there is no file {settings['responses']}"
    return None


def load_responses(path: str | Path, *, channels: int, size: int) -> tuple[Tensor, Tensor]:
    """Images, and the responses of neurons to them, from an ``.npz`` file.

    Args:
        path: File with ``images``, (N, H, W) or (N, C, H, W), uint8 or in [0, 1], and ``responses``, (T, N, A) or
            (N, A): T repeats, A neurons.
        channels: Wanted of the images: 1 or 3.
        size: Wanted side of the images.

    Returns:
        Images (N, channels, size, size), uint8, and responses.

    Raises:
        ValueError: If the file does not hold that.
    """
    try:
        with np.load(Path(path).expanduser(), allow_pickle=False) as content:
            images, responses = torch.as_tensor(content["images"]), torch.as_tensor(content["responses"])
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise ValueError(f"{path} must be an .npz file with images and responses ({error}).") from error
    images = images.unsqueeze(1) if images.ndim == 3 else images
    if images.ndim != 4 or images.shape[1] not in (1, 3) or responses.ndim not in (2, 3):
        raise ValueError(
            f"{path}: images must be (N, H, W) or (N, C, H, W) and responses (T, N, A) or (N, A), "
            f"got {tuple(images.shape)} and {tuple(responses.shape)}."
        )
    if len(images) != responses.shape[-2]:
        raise ValueError(f"{path} has {len(images)} images, but responses to {responses.shape[-2]}.")
    if images.dtype != torch.uint8:
        if not 0 <= float(images.min()) <= float(images.max()) <= 1:
            raise ValueError(f"{path}: images must be uint8 or in [0, 1].")
        images = (images.float() * 255).round().to(torch.uint8)
    return resize(with_channels(images, color=channels == 3), size), responses


def _target(settings: Mapping[str, Any]) -> simreg.Target:
    if settings["target"] == "threshold":
        return simreg.ThresholdTarget(settings["threshold"])
    return simreg.LabelTarget() if settings["target"] == "label" else simreg.PixelTarget()


def _pool(
    target: simreg.Target, data: Split, recipe: Recipe, seed: int, settings: Mapping[str, Any]
) -> simreg.RegularizationPool:
    """Regularization images: those of a file of responses, or training images, augmented once as in the paper."""
    channels, size = data.images.shape[1], data.images.shape[-1]
    if settings["target"] == "neural":
        images, responses = load_responses(settings["responses"], channels=channels, size=size)
        target = simreg.NeuralTarget.from_responses(responses, reliability=responses.ndim == 3)
        labels = None
    else:
        images, labels = _augmented_once(data, recipe, seed, settings["pool_size"])
    return simreg.RegularizationPool(
        images.to(data.images.device),
        target,
        labels=labels,
        transform=lambda x: normalise(x).to(memory_format=torch.channels_last),
        seed=seed,
    )


def _augmented_once(data: Split, recipe: Recipe, seed: int, size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(derive_seed(seed, "pool"))
    rows = torch.randperm(len(data), generator=generator)[:size]
    offsets = torch.randint(0, 2 * recipe.padding + 1, (len(rows), 2), generator=generator)
    flips = torch.rand(len(rows), generator=generator) < 0.5 * recipe.flip
    device = data.images.device
    images = crop_and_flip(data.images[rows.to(device)], offsets.to(device), flips.to(device), padding=recipe.padding)
    return (images * 255).round().to(torch.uint8), data.labels[rows.to(device)]
