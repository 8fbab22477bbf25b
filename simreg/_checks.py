"""Argument checks and warnings shared by every module: what came, what was wanted, and the remedy."""

import difflib
import sys
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise ``ValueError`` unless ``value`` is one of ``choices``; near matches are suggested."""
    if value in choices:
        return
    near = near_matches(str(value), choices)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{name}={value!r} is not one of {', '.join(map(repr, choices))}.{hint}")


def near_matches(name: str, names: Iterable[str], limit: int = 3) -> list[str]:
    """Names that look like ``name``, best first."""
    return difflib.get_close_matches(name, list(names), n=limit, cutoff=0.5)


def check_tensor(name: str, value: object, *, wanted: str = "a tensor") -> Tensor:
    """Raise ``TypeError`` unless ``value`` is a tensor; returns it."""
    if isinstance(value, Tensor):
        return value
    raise TypeError(f"{name} must be {wanted}, got {describe(value)}.")


def to_tensor(name: str, value: object) -> Tensor:
    """``value`` as a tensor: tensors pass, NumPy arrays are wrapped; anything else raises ``TypeError``."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    return check_tensor(name, value, wanted="a tensor or NumPy array")


def check_images(name: str, images: object) -> Tensor:
    """Raise unless ``images`` is an image batch of shape (N, C, H, W), uint8 or floating point; returns it."""
    tensor = check_tensor(name, images, wanted="an image tensor (N, C, H, W), uint8 or floating point in [0, 1]")
    if tensor.ndim != 4:
        raise ValueError(f"{name} must have shape (N, C, H, W), got {tuple(tensor.shape)}.")
    if tensor.dtype != torch.uint8 and not tensor.is_floating_point():
        raise TypeError(f"{name} must be uint8 or floating point, got {tensor.dtype}.")
    return tensor


def check_unit_range(name: str, images: Tensor, *, tolerance: float = 0.0) -> None:
    """Raise ``ValueError`` unless all values lie in [0, 1] and none is NaN; uint8 always passes. Synchronises."""
    if images.dtype == torch.uint8 or images.numel() == 0:
        return
    low, high = (float(v) for v in torch.aminmax(images.detach()))
    if low >= -tolerance and high <= 1.0 + tolerance:
        return
    remedy = "Pass the images before normalisation, which belongs to the model or to its wrapper."
    if low != low:  # NaN
        remedy = "Some values are NaN: leave those images out."
    elif low >= 0.0 and high <= 255.0:
        remedy = "Divide them by 255, or pass uint8."
    raise ValueError(f"{name} must lie in [0, 1], got values from {low:.4g} to {high:.4g}. {remedy}")


def check_positive(name: str, value: float, *, zero: bool = False) -> None:
    """Raise unless ``value`` is a finite real number above zero (or at least zero with ``zero=True``)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {describe(value)}.")
    if not (value > 0 or (zero and value == 0)) or value == float("inf"):
        raise ValueError(f"{name} must be a finite number {'>= 0' if zero else '> 0'}, got {value!r}.")


def readable(tensor: Tensor) -> bool:
    """Whether values can be looked at for free: on CUDA that synchronises, in a trace there are none."""
    return not tensor.is_cuda and not torch.compiler.is_compiling()


def check_pairs(pairs: object, n: int, *, none: bool = False) -> Tensor:
    """Raise unless ``pairs`` are integers (P, 2), P >= 1 (or ``none``); on CPU also unless rows of ``n`` images."""
    tensor = check_tensor("pairs", pairs, wanted="an integer tensor (P, 2)")
    integers = tensor.dtype in (torch.int32, torch.int64)  # others of torch's index as masks
    if tensor.ndim != 2 or tensor.shape[1] != 2 or not integers or not (none or tensor.shape[0]):
        raise ValueError(f"pairs must have shape (P, 2) of integers with P >= 1, got {describe(tensor)}.")
    if readable(tensor) and tensor.numel():
        low, high = (int(v) for v in torch.aminmax(tensor))
        if low < 0 or high >= n:
            raise ValueError(f"pairs must be rows of the {n} images, 0 to {n - 1}, got {low} to {high}.")
    return tensor


def describe(value: Any) -> str:
    """Type of ``value``, with the types inside when it is a tuple, list or dict, and the shape when a tensor."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and dtype {value.dtype}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of ({', '.join(type(v).__name__ for v in value)})"
    if isinstance(value, dict):
        return f"a dict with keys {list(value)!r}"
    if isinstance(value, type):
        return f"the class {value.__name__}, not an instance of it"
    return f"{type(value).__name__} {value!r}" if isinstance(value, (str, int, float)) else type(value).__name__


def warn(message: str) -> None:
    """Emit a ``UserWarning`` attributed to the first caller outside this package and torch, which calls its modules."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(("simreg.", "torch.")):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)


def check_similarities(name: str, values: Tensor) -> None:
    """Raise ``ValueError`` unless all similarities are in [-1, 1] (up to rounding) and none is NaN. Synchronises."""
    if values.numel() and not bool((values.abs() <= 1.0 + 1e-4).all()):
        raise ValueError(
            f"{name} must be similarities in [-1, 1], got values from {float(values.min()):.4g} to "
            f"{float(values.max()):.4g}: use cosines or correlations, not distances."
        )


def unit_float(images: Tensor) -> Tensor:
    """Images as floating point in [0, 1]: uint8 is divided by 255, floats pass."""
    return images.float() / 255.0 if images.dtype == torch.uint8 else images


def as_float(values: Tensor) -> Tensor:
    """``values`` in float32, or in float64 if they already are."""
    return values if values.dtype == torch.float64 else values.float()
