"""Checkpoints that are either whole or not there: safetensors with a JSON header, no pickle anywhere.

A checkpoint is a nested dict (what ``state_dict()`` methods return). Its tensors become named tensors of the file, the
rest, with the places of the tensors, becomes JSON in the header, beside a checksum of the tensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from simreg.robustness._hashing import sha256_of
from simreg.robustness.storage import replace_file


def save_checkpoint(path: Path, state: dict[str, Any], notes: Mapping[str, str] | None = None) -> None:
    """Write ``state``, with ``notes`` in the header; until the new file is complete the old one stays in its place.

    Raises:
        ImportError: If safetensors is missing.
    """
    tensors: dict[str, Tensor] = {}
    layout = _take_tensors(state, "", tensors)
    header = {**(notes or {}), "layout": json.dumps(layout), "sha256": sha256_of(tensors)}
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, _safetensors().torch.save(tensors, header))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote, tensors on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged; the message has the remedy.
        ImportError: If safetensors is missing.
    """
    safetensors = _safetensors()
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        if header["sha256"] != sha256_of(tensors):
            raise ValueError("its contents do not match its checksum")
        state: dict[str, Any] = _put_tensors(json.loads(header["layout"]), tensors)
        return state
    except FileNotFoundError:
        raise
    except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"checkpoint {path} is damaged ({type(error).__name__}: {error}). Delete this file and let the run "
            "go on: what it held is redone, everything else is kept."
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


def _safetensors() -> Any:
    try:
        import safetensors
        import safetensors.torch
    except ImportError as error:
        raise ImportError('checkpoints need safetensors: pip install "simreg[eval]"') from error
    return safetensors
