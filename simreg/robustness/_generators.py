"""The global generators that code of others draws from: seeded for a while, then put back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from simreg.robustness._random import seeded_global_rng


@contextmanager
def seeded_generators(device: torch.device, seed: int) -> Iterator[None]:
    """Seed the global generators of torch (CPU and ``device``), NumPy and Python; afterwards they are as before."""
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002  what others draw from
    try:
        np.random.seed(seed % 2**32)  # noqa: NPY002
        random.seed(seed)
        with seeded_global_rng(device, seed):
            yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
