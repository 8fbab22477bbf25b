"""Private random draws: one stream per image, so that neither batch size nor the global generator matters."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal

import torch
from torch import Tensor

from simreg._checks import describe

Draw = Literal["normal", "uniform"]


def check_seed(seed: object) -> None:
    """Raise ``TypeError`` unless ``seed`` is an integer."""
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed must be an integer, got {describe(seed)}.")


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part and on nothing else.

    Example:
        >>> derive_seed(0, "gaussian") == derive_seed(0, "gaussian"), derive_seed(0, "a") == derive_seed(1, "a")
        (True, False)
    """
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def draw_per_image(like: Tensor, indices: Iterable[int], seed: int, draw: Draw) -> Tensor:
    """Standard normal or [0, 1) uniform values (N, C, H, W), float32 on the device of ``like``.

    Each row comes from a generator of its own, seeded with ``seed`` and the image's index: an image meets the same
    values in any batch and on any device.
    """
    generator = torch.Generator()
    values = torch.empty(like.shape, dtype=torch.float32)
    for value, index in zip(values, indices, strict=True):
        generator.manual_seed((seed + index) % 2**32)  # the Mersenne twister keeps 32 bits of its seed
        if draw == "normal":
            value.normal_(generator=generator)
        else:
            value.uniform_(generator=generator)
    return values.to(like.device)


@contextmanager
def seeded_global_rng(device: torch.device, seed: int) -> Iterator[None]:
    """Seed the global generators of the CPU and of ``device``; afterwards they are where they were before."""
    state = torch.random.get_rng_state()
    try:
        torch.default_generator.manual_seed(seed)
        with nullcontext() if device.type == "cpu" else _seeded_device(device, seed):
            yield
    finally:
        torch.random.set_rng_state(state)


@contextmanager
def _seeded_device(device: torch.device, seed: int) -> Iterator[None]:
    """The same for one accelerator; its siblings are not touched."""
    backend = getattr(torch, device.type)  # torch.cuda, torch.mps, torch.xpu
    with backend.device(device) if hasattr(backend, "device") else nullcontext():
        state = backend.get_rng_state()
        try:
            backend.manual_seed(seed)
            yield
        finally:
            backend.set_rng_state(state)
