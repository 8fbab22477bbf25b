"""The Triton backend: forward in two launches over all layers (three for more than 32 images), backward in one.

Rows are views (N, O, I) whose images are dense in memory; ``axes`` says for each layer which of O and I is the
channels (1 or 2). Kernels are imported when they are first needed, so this module needs no triton.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from simreg.kernels import closed_form

_MOST_IMAGES = 256
_MOST_LAYERS = 64  # tensors and shapes are arguments of the launch
_OLDEST = (3, 4)
_LARGE_SHARED_MEMORY = ((8, 0), (9, 0), (10, 0))
_MOST_UNITS = 2**22  # chunks of 64 units are one dimension of the grid, which ends at 65535


def supports(rows: Sequence[Tensor], paired: bool) -> str | None:
    """Why the kernels cannot run on ``rows``, one view (N, O, I) or features (N, ...) per layer; None if they can.

    Args:
        rows: Features of all layers.
        paired: Whether only the pairs (p, k + p) are wanted.
    """
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if _triton_version() < _OLDEST:
        return f"it needs triton {_OLDEST[0]}.{_OLDEST[1]}"
    device, n = rows[0].device, rows[0].shape[0]
    if os.environ.get("TRITON_INTERPRET") != "1":
        if device.type != "cuda" or torch.version.hip is not None:
            return f"it is for CUDA, the features are on {device}"
        if torch.cuda.get_device_capability(device) < (8, 0):
            return "it needs a GPU of compute capability 8.0"
        if not paired and torch.cuda.get_device_capability(device) not in _LARGE_SHARED_MEMORY:
            return "matrices need the shared memory of a data-centre GPU"
    if any(x.device != device for x in rows):
        return "the layers are on several devices"
    if any(x.dtype not in (torch.float16, torch.bfloat16, torch.float32) for x in rows):
        return "it is for float16, bfloat16 and float32"
    if any(x.shape[0] != n or x[:1].numel() == 0 or x[:1].numel() >= 2**31 for x in rows):
        return "each layer must have the same number of images and between 1 and 2**31 units"
    if len(rows) > _MOST_LAYERS:
        return f"it takes up to {_MOST_LAYERS} layers, got {len(rows)}"
    if paired and (n % 2 or not 2 <= n <= 2**16):
        return f"pairs need an even number of images up to 65536, got {n}"
    if not paired and any(x[:1].numel() > _MOST_UNITS for x in rows):
        return f"a matrix takes up to {_MOST_UNITS} units of a layer"
    if not paired and not 2 <= n <= _MOST_IMAGES:
        return f"a matrix takes 2 to {_MOST_IMAGES} images, got {n}"
    return None


def products(
    rows: Sequence[Tensor],
    means: Sequence[Tensor],
    axes: Sequence[int],
    centering: str,
    paired: bool,
    momentum: float,
) -> tuple[Tensor, list[Tensor]]:
    r"""Inner products of centred rows.

    .. math:: x_i \leftarrow x_i - c, \qquad G_{ij} = \langle x_i, x_j \rangle

    Args:
        rows: One view (N, O, I) per layer, float16, bfloat16 or float32.
        means: Old channel means, (C,) float32 per layer, for ``"channel"``; else empty.
        axes: 1 or 2 per layer: whether O or I is the channels.
        centering: ``"channel"`` subtracts the mean of each channel after a step of ``momentum`` to that of these rows,
            ``"image"`` each row's mean, ``"batch"`` the mean row, ``"none"`` nothing.
        paired: Whether only the pairs (p, k + p) of N = 2k rows are wanted.
        momentum: Weight of these rows in the channel means; 0 leaves them.

    Returns:
        Shape (L, 3, k) of pairs: inner product, squared norm of the first, of the second; or Gram matrices (L, N, N);
        float64. And what backward subtracts, float32, for each layer: the new channel means (C,), the row means (N,),
        or nothing (0,).
    """
    with _on(rows[0]):
        if paired:
            from simreg.kernels.triton_pairs import paired_products

            return paired_products(rows, means, axes, centering, momentum)
        from simreg.kernels.triton_matrices import gram_products

        return gram_products(rows, means, axes, centering, momentum)


def penalty(
    rows: Sequence[Tensor],
    means: Sequence[Tensor],
    axes: Sequence[int],
    logits: Tensor,
    targets: Tensor,
    pairs: Tensor | None,
    centering: str,
    paired: bool,
    momentum: float,
    eps: float,
    convention: str,
    transform: str,
    target_clamp: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    r"""`products` and L_sim of them, with all that backward needs.

    .. math:: S = \sum_l \gamma_l S^{(l)}, \qquad \gamma = \operatorname{softmax}(\text{logits})

    Args:
        rows: As for `products`.
        means: As for `products`.
        axes: As for `products`.
        logits: Shape (L,).
        targets: Shape (P,), in [-1, 1].
        pairs: Shape (P, 2), int64, for a matrix; None for all i < j, or with ``paired``.
        centering: As for `products`.
        paired: As for `products`.
        momentum: As for `products`.
        eps: Floor on a row's norm.
        convention: See `simreg.functional.similarity_loss`.
        transform: As above.
        target_clamp: Bound on the targets' magnitude; 1 leaves them.

    Returns:
        Loss (), mixed similarity (P,), similarities (L, P), coefficients of the gradient in the shape of the products,
        gradient (L,) of the logits, all float64; and what backward subtracts, as for `products`.
    """
    if pairs is not None:
        found, centers = products(rows, means, axes, centering, paired, momentum)
        parts = closed_form.penalty(
            found,
            logits,
            targets,
            pairs,
            eps=eps,
            slack=closed_form.rounding(rows[0].dtype),
            convention=convention,
            transform=transform,
            target_clamp=target_clamp,
        )
        return *parts, centers
    from simreg.kernels.triton_results import Results

    layers, n = len(rows), rows[0].shape[0]
    shape = (layers, 3, n // 2) if paired else (layers, n, n)
    results = Results.empty(
        logits, targets, shape, eps=eps, convention=convention, transform=transform, clamp=target_clamp
    )
    with _on(rows[0]):
        if paired:
            from simreg.kernels.triton_pairs import paired_products

            _, centers = paired_products(rows, means, axes, centering, momentum, results)
        else:
            from simreg.kernels.triton_matrices import gram_products

            _, centers = gram_products(rows, means, axes, centering, momentum, results)
    return (*results.outputs, centers)


def gradients(
    rows: Sequence[Tensor],
    coefficients: Tensor,
    scale: Tensor | None,
    centers: Sequence[Tensor],
    axes: Sequence[int],
    centering: str,
    paired: bool,
    add: Sequence[Tensor | None] | None = None,
) -> list[Tensor]:
    r"""Gradient of all rows, in one launch.

    .. math:: dX = s\,A\,(x - c) + \text{add}

    and for ``"batch"`` the column mean of the first term is taken off.

    Args:
        rows: As for `products`.
        coefficients: A, shape (L, N, N); of pairs its entries (L, 3, k): off the diagonal, on it for the first and for
            the second.
        scale: s, shape (), or None for 1; read on the device.
        centers: From `products` or `penalty`.
        axes: As for `products`.
        centering: As for `products`.
        paired: As for `products`.
        add: One (N, O, I) tensor or None per layer, its images dense, added in float32.

    Returns:
        One dense (N, O, I) tensor per layer, in the dtype of its rows.
    """
    with _on(rows[0]):
        if paired:
            from simreg.kernels.triton_pairs import paired_gradients

            return paired_gradients(rows, coefficients, scale, centers, axes, centering, add)
        from simreg.kernels.triton_matrices import gram_gradients

        return gram_gradients(rows, coefficients, scale, centers, axes, centering, add)


def _on(rows: Tensor) -> AbstractContextManager[Any]:
    """Launches go to the current device: make it that of ``rows``."""
    return torch.cuda.device(rows.device) if rows.is_cuda else nullcontext()


def _triton_version() -> tuple[int, ...]:
    import triton  # type: ignore[import-untyped, unused-ignore]

    return tuple(int(part) for part in triton.__version__.split(".")[:2])
