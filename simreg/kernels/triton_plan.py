"""How the layers of one grouped launch are cut into chunks, from shapes and strides alone.

A layer's row is a dense (O, I) matrix of units. A chunk is a rectangle of it and one program's work; a group is a run
of layers that share one compiled body: dtype, alignment, place of the channels and tile shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

_VECTOR_BYTES = 16
_PROGRAMS = 4096  # about 30 for each multiprocessor of a large GPU, and few enough for one program to sum up


@dataclass(frozen=True)
class Plan:
    """Chunks of all layers.

    Attributes:
        layers: Per field one number for each layer: first chunk, O, I, row stride, chunk height, chunk width, start of
            the layer in the buffer of channel sums over N, its splits.
        groups: Per group: first chunk, last chunk + 1, first layer, last layer + 1, tile height, tile width, axis,
            whether a gradient is added.
        chunks: Number of chunks of all layers.
        first: First chunk of each layer, and ``chunks``.
        channels: Number of channels of each layer (0 without channel centring).
        sums: Channel sums per image, over all layers and splits.
    """

    layers: tuple[tuple[int, ...], ...]
    groups: tuple[tuple[int, ...], ...]
    chunks: int
    first: tuple[int, ...]
    channels: tuple[int, ...]
    sums: int


@dataclass(frozen=True)
class Tiling:
    """Sizes that a kernel asks of a plan.

    Attributes:
        units: Units of a chunk, at least one tile.
        tile: Units of a tile, a power of two.
        tile_bytes: Least bytes of a tile's row of units.
        columns: Greatest tile width where the channels are last.
        least: Least units of a tile, padding counted.
        split_positions: For channels first, whether each tile stores sums of its channels; else a chunk holds whole
            channels and stores one sum of each.
    """

    units: int
    tile: int = 1
    tile_bytes: int = 4096
    columns: int = 256
    least: int = 1
    split_positions: bool = False

    def tile_units(self, element_size: int) -> int:
        """Units of a tile of a dtype of that size."""
        return max(self.tile, self.tile_bytes // element_size)


class _Key(NamedTuple):
    """What layers must share to be one group."""

    dtype: torch.dtype
    alignment: int
    high: int
    wide: int
    axis: int
    add: torch.dtype | None


def power_of_two(n: int) -> int:
    """Least power of two that is at least ``n``."""
    return 1 << max(n - 1, 0).bit_length()


def ceil_div(n: int, d: int) -> int:
    """``n / d``, rounded up."""
    return -(-n // d)


def chunk_units(rows: Sequence[Tensor], copies: int, low: int, high: int, programs: int = _PROGRAMS) -> int:
    """Units of a chunk that give about ``programs`` programs, each chunk being worked on by ``copies`` of them."""
    total = sum(x.shape[1] * x.shape[2] for x in rows) * copies
    return min(max(power_of_two(ceil_div(total, programs)), low), high)


def make_plan(
    rows: Sequence[Tensor], axes: Sequence[int], by_channel: bool, tiling: Tiling, add: Sequence[Tensor | None] = ()
) -> Plan:
    """Cut the layers ``rows``, (N, O, I) each, into chunks.

    Args:
        rows: One view per layer.
        axes: 1 or 2 per layer, the dimension of the channels.
        by_channel: Whether chunks follow the channels: for axis 1 a chunk holds whole channels, for axis 2 a range of
            channels at a range of positions. Otherwise a row is a flat (1, O * I).
        tiling: Sizes of chunks and tiles.
        add: Gradients to be added, as in `simreg.kernels.triton_backend.gradients`.
    """
    fields, keys = [], []
    first = sums = 0
    for index, (x, axis) in enumerate(zip(rows, axes, strict=True)):
        outer, inner = (x.shape[1], x.shape[2]) if by_channel else (1, x.shape[1] * x.shape[2])
        axis = axis if by_channel else 0
        high, wide = _tile(outer, inner, axis, tiling.tile_units(x.element_size()), tiling)
        tall, broad = _chunk(outer, inner, axis, high, wide, tiling)
        splits = ceil_div(outer, tall) if axis == 2 else ceil_div(inner, wide) if tiling.split_positions else 1
        count = (inner if axis == 2 else outer) if by_channel else 0
        fields.append((first, outer, inner, x.stride(0), tall, broad, sums, splits))
        other = add[index] if add else None
        adds = None if other is None else other.dtype
        keys.append(_Key(x.dtype, _alignment(x, inner), high, wide, axis, adds))
        first += ceil_div(outer, tall) * ceil_div(inner, broad)
        sums += splits * count
    firsts = (*(field[0] for field in fields), first)
    counts = tuple((x.shape[axis] if by_channel else 0) for x, axis in zip(rows, axes, strict=True))
    return Plan(tuple(zip(*fields, strict=True)), _groups(keys, firsts), first, firsts, counts, sums)


def _tile(outer: int, inner: int, axis: int, units: int, tiling: Tiling) -> tuple[int, int]:
    """Height and width of a tile, powers of two."""
    wide = min(power_of_two(inner), units)
    if axis == 2:
        wide = min(wide, max(tiling.columns, units // power_of_two(outer)))
    return max(min(power_of_two(outer), units // wide), tiling.least // wide), wide


def _chunk(outer: int, inner: int, axis: int, high: int, wide: int, tiling: Tiling) -> tuple[int, int]:
    """Height and width of a chunk: multiples of the tile's, or all."""
    if axis == 0:
        return 1, max(tiling.units // wide, 1) * wide
    if axis == 1 and tiling.split_positions and high * inner > tiling.units:
        return high, max(tiling.units // (high * wide), 1) * wide
    broad = inner if axis == 1 else wide
    return max(tiling.units // (broad * high), 1) * high, broad


def _alignment(x: Tensor, inner: int) -> int:
    """Elements that a vector load may take, a power of two."""
    if x.data_ptr() % _VECTOR_BYTES:
        return 1
    size = _VECTOR_BYTES // x.element_size()
    while inner % size or x.stride(0) % size:
        size //= 2
    return size


def _groups(keys: Sequence[_Key], first: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Runs of layers of equal keys."""
    groups = []
    start = 0
    for stop in range(1, len(keys) + 1):
        if stop == len(keys) or keys[stop] != keys[start]:
            key = keys[start]
            tile = (key.high, key.wide, key.axis, int(key.add is not None))
            groups.append((first[start], first[stop], start, stop, *tile))
            start = stop
    return tuple(groups)


def positions(rows: Sequence[Tensor], axes: Sequence[int]) -> tuple[int, ...]:
    """Number of positions of each channel, for every layer."""
    return tuple(x.shape[3 - axis] for x, axis in zip(rows, axes, strict=True))
