"""One SHA-256 over tensors, for everything that recognises data or weights again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def sha256_of(tensors: Mapping[str, Tensor], header: str = "") -> str:
    """SHA-256 over names, types, shapes and values, as 64 hexadecimal digits; the order of the names does not matter.

    Args:
        tensors: Tensors by name, on any device.
        header: Text that counts too.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256(header.encode())
    for name, tensor in sorted(tensors.items()):
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
