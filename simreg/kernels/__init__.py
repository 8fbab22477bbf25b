"""Products of centred feature rows and their gradient: the one thing in simreg that touches tensors of features' size.

`products` is the only door. `reference` defines correct and is what a compiler sees, ``"torch"`` loops over chunks
that stay in the cache, on any device, ``"triton"`` is for CUDA; all that comes after works on small tensors.
"""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from simreg._checks import check_choice
from simreg.kernels import reference, torch_loops

Backend = Literal["auto", "reference", "torch", "triton"]
BACKENDS = ("auto", "reference", "torch", "triton")


def products(
    features: Tensor,
    *,
    centering: str,
    running_mean: Tensor | None = None,
    momentum: float = 0.0,
    channel_dim: int = 1,
    paired: bool,
    backend: Backend = "auto",
) -> Tensor:
    r"""Inner products of centred rows, :math:`\langle x_i - m, x_j - m \rangle`, differentiable in the features.

    Float64, (N, N), or with ``paired`` (3, k): the product, the square of the first and of the second row of each pair.

    Args:
        features: Shape (N, ...), any floating dtype.
        centering: ``"channel"``, ``"batch"``, ``"image"`` or ``"none"``, see `simreg.functional.center_features`.
        running_mean: Shape (C,), for ``"channel"``: updated in place by ``momentum``, then subtracted, without a
            gradient; by default the mean of ``features``, with its gradient.
        momentum: Weight of these features in ``running_mean``.
        channel_dim: Dimension of the channels.
        paired: Row i with row k + i of N = 2k only.
        backend: One of `BACKENDS`; one that is named and cannot run raises RuntimeError. ``"auto"`` takes Triton on
            CUDA where it can run; ``"reference"`` alone has a second derivative, and is what a compiler sees.
    """
    loops = _loops(backend, features, paired)
    rows, axis = as_rows(features, channel_dim)
    if centering == "channel" and running_mean is None:
        rows, centering = reference.centred(rows, axis, centering, None, 0.0), "none"
    with _full_precision(rows):
        if loops is None:
            return reference.products(rows, axis, centering, running_mean, momentum, paired)
        found: Tensor = _Products.apply(rows, loops, axis, centering, running_mean, momentum, paired)
        return found


def as_rows(features: Tensor, channel_dim: int = 1) -> tuple[Tensor, int]:
    """Features (N, ...) as rows (N, O, I) in the order of memory, a view where possible, and where the channels are."""
    rows = features.movedim(channel_dim, 1).flatten(2) if features.ndim > 2 else features.unsqueeze(2)
    last = rows.stride(1) == 1 and rows.shape[2] > 1
    return (rows.mT, 2) if last else (rows, 1)


class _Products(torch.autograd.Function):
    """Products by the loops of a backend; keeps the features and what is subtracted from them."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, loops: ModuleType, axis: int, centering: str, *rest: Any) -> Tensor:
        found: Tensor
        found, center = loops.products(rows, axis, centering, *rest)
        ctx.loops, ctx.centering, ctx.paired = loops, centering, rest[-1]
        ctx.save_for_backward(rows, center)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        rows, center = ctx.saved_tensors
        if ctx.paired:
            cross, first, second = slope
            factors = torch.stack([2 * first, cross, cross, 2 * second], dim=1).view(-1, 2, 2)
        else:
            factors = slope + slope.mT
        with _full_precision(rows):
            gradient = ctx.loops.gradient(rows, center, ctx.centering, factors.to(center.dtype))
        return gradient, None, None, None, None, None, None


def _loops(backend: Backend, features: Tensor, paired: bool) -> ModuleType | None:
    """The loops that run, None for the reference."""
    check_choice("backend", backend, BACKENDS)
    if backend == "reference" or torch.compiler.is_compiling():
        return None
    reason = _no_triton(features, paired)
    if backend == "triton" and reason:
        raise RuntimeError(f'backend="triton" cannot run: {reason}. Use backend="auto".')
    if backend == "torch" or reason:
        return torch_loops
    from simreg.kernels import triton_loops

    return triton_loops


def _no_triton(features: Tensor, paired: bool) -> str:
    """Why Triton cannot run on ``features``; empty if it can."""
    if not features.is_cuda:
        return f"it needs CUDA, the features are on {features.device}"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install simreg[triton])"
    if features.dtype == torch.float64:
        return "it computes in float32, the features are float64"
    if not paired and features.shape[0] > 128:  # more do not fit the registers of one program
        return f"all pairs of more than 128 images take a matrix product, got {features.shape[0]}"
    return ""


@contextmanager
def _full_precision(rows: Tensor) -> Iterator[None]:
    """No autocast and no TF32: a product rounded to 10 bits cannot tell 1 - S from 0."""
    with torch.autocast(rows.device.type, enabled=False):
        if not rows.is_cuda or torch.compiler.is_compiling():
            yield
            return
        matmul: Any = torch.backends.cuda.matmul  # a switch of the whole process, back as it was afterwards
        name, exact = ("fp32_precision", "ieee") if hasattr(matmul, "fp32_precision") else ("allow_tf32", False)
        before = getattr(matmul, name)
        setattr(matmul, name, exact)
        try:
            with torch.cuda.device(rows.device):  # where Triton launches
                yield
        finally:
            setattr(matmul, name, before)
