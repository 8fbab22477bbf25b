"""Checkpoints that are either whole or not there: safetensors with a JSON header, no pickle anywhere.

A checkpoint is a nested dict (what ``state_dict()`` methods return). Its tensors become named tensors of the file, the
rest, with the places of the tensors, becomes JSON in the header, beside a checksum of the tensors.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor


def save_checkpoint(path: Path, state: dict[str, Any], notes: dict[str, str] | None = None) -> None:
    """Write ``state``, with ``notes`` in the header; until the new file is complete the old one stays in its place."""
    tensors: dict[str, Tensor] = {}
    layout = _take_tensors(state, "", tensors)
    header = {**(notes or {}), "layout": json.dumps(layout), "sha256": _digest(tensors)}
    partial = path.with_name(path.name + ".part")
    with partial.open("wb") as file:
        file.write(save(tensors, header))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what ``save_checkpoint`` wrote, tensors on the CPU; ``ValueError`` with the remedy if it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        if header["sha256"] != _digest(tensors):
            raise ValueError("its contents do not match its checksum")
        return _put_tensors(json.loads(header["layout"]), tensors)
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"checkpoint {path} is damaged ({type(error).__name__}: {error}). Delete this file and run with --resume "
            "again: what it held is redone, everything else is kept."
        ) from error


def _take_tensors(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """JSON form of ``value``; its tensors go to ``tensors`` under their place, e.g. ``model.fc.weight``."""
    if isinstance(value, Tensor):
        tensors[place] = value.detach().cpu().contiguous()
        return {"tensor": place}
    if isinstance(value, dict):
        return {
            "dict": [[key, _take_tensors(item, f"{place}.{key}".strip("."), tensors)] for key, item in value.items()]
        }
    if isinstance(value, (list, tuple)):
        return {"list": [_take_tensors(item, f"{place}.{i}", tensors) for i, item in enumerate(value)]}
    return {"value": value}


def _put_tensors(layout: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    ((kind, value),) = layout.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {key: _put_tensors(item, tensors) for key, item in value}
    return [_put_tensors(item, tensors) for item in value] if kind == "list" else value


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
