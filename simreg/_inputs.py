"""What a penalty is given: images, pairs and targets, checked and on the device of the regularizer."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from simreg import functional as F
from simreg._checks import check_pairs, check_unit_range, describe
from simreg.batch import PairBatch
from simreg.pool import Pairing
from simreg.targets import Target, unit_float

_AUGMENTED = 0.3  # how far augmentation, such as added noise, may take images out of [0, 1]


def device_of(model: nn.Module, logits: Tensor) -> torch.device:
    """Device of the layer logits, which must be that of ``model``.

    Raises:
        RuntimeError: If it is another.
    """
    device, parameter = logits.device, next(model.parameters(), None)
    if parameter is not None and parameter.device != device:
        raise RuntimeError(
            f"the model is on {parameter.device}, the regularizer on {device}: call "
            f"reg.to({str(parameter.device)!r}) before creating the optimizer."
        )
    return device


def to_model(images: Tensor, model: nn.Module) -> Tensor:
    """Images in floating point, of the dtype of ``model``."""
    images = unit_float(images)
    parameter = next(model.parameters(), None)
    return images if parameter is None or not parameter.is_floating_point() else images.to(parameter.dtype)


def batch_on(device: torch.device, batch: PairBatch, pairing: Pairing) -> PairBatch:
    """``batch`` on ``device``.

    Raises:
        ValueError: If its pairs are not those of ``pairing``.
    """
    if batch.pairs is None and pairing == "all":
        raise ValueError(
            'pairing="all" needs the targets of all pairs: draw batches with pool.batches(..., pairing="all").'
        )
    return batch.to(device, non_blocking=True) if batch.images.device != device else batch


def given_pairs(pairs: Tensor | None, n: int, pairing: Pairing, device: torch.device) -> Tensor | None:
    """``pairs`` of ``n`` images on ``device``, None if there are none, after checks of shape and number of images.

    Raises:
        ValueError: If the images make no pairs, or ``pairs`` are not (P, 2).
    """
    if n < 2:
        raise ValueError(f"images: a pair needs at least 2 rows, got {n}.")
    if pairs is None:
        if pairing == "pairs" and n % 2:
            raise ValueError(f'images: pairing="pairs" needs an even number of rows, got {n}; or pass pairs=.')
        return None
    return check_pairs(pairs, n).to(device)


def pairs_of(n: int, pairs: Tensor | None, pairing: Pairing, device: torch.device) -> Tensor:
    """``pairs``, or those that ``pairing`` makes of ``n`` images, (P, 2)."""
    if pairs is not None:
        return pairs
    if pairing == "all":
        return F.all_pairs(n, device)
    rows = torch.arange(n // 2, device=device)
    return torch.stack([rows, rows + n // 2], dim=1)


def computed_targets(
    target: Target | None, images: Tensor, pairs: Tensor | None, pairing: Pairing, device: torch.device, *, look: bool
) -> tuple[Tensor, Tensor | None]:
    """Targets of these images and the pairs they belong to: those that ``target`` selects.

    Args:
        target: Of the regularizer.
        images: Shape (N, C, H, W), in [0, 1].
        pairs: Shape (P, 2), or None.
        pairing: Pairs where none are given.
        device: Where pairs that are selected go.
        look: Whether to check the values of the images, which synchronises.

    Raises:
        ValueError: If there is no target, or the images are not in [0, 1].
    """
    if target is None:
        raise ValueError("target: images came without target similarities; set target=PixelTarget(), or pass them.")
    if look:
        check_unit_range("images", images, tolerance=_AUGMENTED)
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        rows = target.representation(images)  # (N, R)
        chosen = pairs_of(images.shape[0], pairs, pairing, device).to(images.device)
        i, j = chosen.unbind(1)
        # One matrix product for all pairs, instead of a copy of both rows for each of them.
        base = target.outer(rows, rows)[i, j] if pairing == "all" else target.inner(rows[i], rows[j])
        selected = target.selected(base)
        if selected is not None:
            base, pairs = base[selected], chosen[selected].to(device)
        return target.shape(base), pairs


def targets_of_pairs(targets: Tensor, pairs: Tensor | None, n: int, pairing: Pairing, device: torch.device) -> Tensor:
    """Targets of the pairs of ``n`` images, (P,) in floating point, from such or from a matrix (N, N).

    Raises:
        ValueError: If their shape does not fit.
    """
    targets = targets.to(device).detach()
    targets = targets if targets.is_floating_point() else targets.float()
    if targets.ndim == 2:
        if targets.shape != (n, n):
            raise ValueError(f"targets: a matrix must be ({n}, {n}) for {n} images, got {tuple(targets.shape)}.")
        i, j = pairs_of(n, pairs, pairing, device).unbind(1)
        targets = targets[i, j]
    wanted = pairs.shape[0] if pairs is not None else math.comb(n, 2) if pairing == "all" else n // 2
    if targets.shape != (wanted,):
        raise ValueError(f"targets must have shape ({wanted},), one for each pair, got {describe(targets)}.")
    return targets


def check_features(layer: str, features: Tensor, n: int, device: torch.device) -> None:
    """Raise unless the features of ``layer`` are rows of ``n`` images on ``device`` that carry a gradient."""
    if features.ndim < 2 or features.shape[0] != n or not features.is_floating_point():
        raise ValueError(
            f"layer {layer!r} gives {describe(features)} for {n} images: similarity needs one floating-point row "
            "for each image, (N, ...). Tap another layer, or reshape with select=."
        )
    if features.device != device:
        raise RuntimeError(
            f"features of layer {layer!r} are on {features.device}, the regularizer on {device}: "
            f"call reg.to({str(features.device)!r}) before creating the optimizer."
        )
    if torch.is_grad_enabled() and not features.requires_grad:
        raise ValueError(
            f"layers: the features of {layer!r} carry no gradient, so the penalty cannot change the model: the "
            "layers up to it are frozen, the model ran under no_grad, or re-entrant activation checkpointing hides "
            "the graph (use_reentrant=False mends that). Tap a layer after the frozen ones."
        )
