"""Tensors of a joint pass: regularization images made like the task's, and the task's share of the output."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from simreg._checks import describe


def like(images: Tensor, x: Tensor) -> Tensor:
    """``images`` with device, dtype and memory format of ``x``."""
    channels_last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return images.to(x).contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def rows_of(output: Any, n: int) -> Any:
    """First ``n`` rows of every tensor of a model's output."""
    if isinstance(output, Tensor):
        return output[:n] if output.ndim else output
    if output is None or isinstance(output, (str, int, float)):
        return output
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return type(output)(*(rows_of(v, n) for v in output))
    if isinstance(output, (tuple, list)):
        return type(output)(rows_of(v, n) for v in output)
    if isinstance(output, Mapping):
        return type(output)({k: rows_of(v, n) for k, v in output.items()})  # type: ignore[call-arg]
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        fields = {f.name: rows_of(getattr(output, f.name), n) for f in dataclasses.fields(output)}
        return dataclasses.replace(output, **fields)
    raise TypeError(
        f"joint cannot take the task's rows out of the model's output, {describe(output)}: let the model return a "
        "tensor, or a tuple, dict or dataclass of tensors; or use reg(batch)."
    )
