"""Similarity kernels and their dispatch.

``reference`` defines correct. A backend is chosen by name; ``"auto"`` takes the fastest one that can run on the
tensor, a named backend that cannot run raises.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from simreg._checks import check_choice
from simreg.kernels import reference
from simreg.kernels.reference import as_float, bounded, unit_rows

Backend = Literal["auto", "torch"]
BACKENDS = ("auto", "torch")

__all__ = ["BACKENDS", "Backend", "as_float", "bounded", "paired_cosine", "pairwise_cosine", "unit_rows"]


def pairwise_cosine(features: Tensor, eps: float, backend: Backend = "auto") -> Tensor:
    """Cosine of every pair of rows of ``features`` (N, D), shape (N, N); see `simreg.functional.pairwise_cosine`."""
    check_choice("backend", backend, BACKENDS)
    with torch.autocast(features.device.type, enabled=False):  # a half-precision product cannot hold 1 - S
        return reference.pairwise_cosine(as_float(features), eps)


def paired_cosine(first: Tensor, second: Tensor, eps: float, backend: Backend = "auto") -> Tensor:
    """Cosine of row i of ``first`` with row i of ``second``, (P,); see `simreg.functional.paired_cosine`."""
    check_choice("backend", backend, BACKENDS)
    with torch.autocast(first.device.type, enabled=False):
        return reference.paired_cosine(as_float(first), as_float(second), eps)
