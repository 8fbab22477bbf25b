"""One shape for the features of every layer: rows of units, with the channels in one of two places."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def as_rows(features: Tensor, channel_dim: int = 1) -> tuple[Tensor, int]:
    """Features (N, ...) as a view (N, O, I) whose rows lie densely in memory, and which of O and I is the channels.

    Contiguous and channels_last tensors, slices of the batch and single tokens of a sequence are viewed; only other
    layouts are copied. Cosines do not depend on the order of units, so each layout keeps its own.

    Args:
        features: Shape (N, ...), at least 2-D.
        channel_dim: Dimension of the channels.

    Returns:
        The view (N, O, I), and 1 if the channels are O (N, C, H, W), or 2 if they are I (channels last; units of a
        2-D input).

    Example:
        >>> import torch
        >>> rows, axis = as_rows(torch.zeros(2, 3, 4, 5))
        >>> tuple(rows.shape), axis
        ((2, 3, 20), 1)
        >>> rows, axis = as_rows(torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last))
        >>> tuple(rows.shape), axis
        ((2, 20, 3), 2)
    """
    if features.ndim == 2:
        rows = features if dense(features) else features.contiguous()
        return rows.unsqueeze(1), 2
    n, channels = features.shape[0], features.shape[channel_dim]
    last = features.movedim(channel_dim, -1)
    if not dense(last):
        second = features.movedim(channel_dim, 1)
        return (second if dense(second) else second.contiguous()).view(n, channels, -1), 1
    return last.view(n, -1, channels), 2


def to_rows(gradient: Tensor, channel_dim: int, axis: int) -> Tensor:
    """A tensor of the features' shape in the arrangement (N, O, I) that `as_rows` gave them; a view where possible."""
    if gradient.ndim == 2:
        return gradient.unsqueeze(1)
    n, channels = gradient.shape[0], gradient.shape[channel_dim]
    if axis == 1:
        return gradient.movedim(channel_dim, 1).reshape(n, channels, -1)
    return gradient.movedim(channel_dim, -1).reshape(n, -1, channels)


def from_rows(rows: Tensor, shape: Sequence[int], channel_dim: int, axis: int) -> Tensor:
    """Rows (N, O, I) as features of ``shape``, the inverse of `to_rows`; a view."""
    if len(shape) == 2:
        return rows.squeeze(1)
    others = [size for dim, size in enumerate(shape) if dim not in (0, channel_dim % len(shape))]
    if axis == 1:
        return rows.view(shape[0], shape[channel_dim], *others).movedim(1, channel_dim)
    return rows.view(shape[0], *others, shape[channel_dim]).movedim(-1, channel_dim)


def dense(features: Tensor) -> bool:
    """Whether the entries of each row lie one after the other, in the order of dimensions."""
    expected = 1
    for size, stride in zip(reversed(features.shape[1:]), reversed(features.stride()[1:]), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True
