"""Models as single files: weights in safetensors, with what builds the network and normalises its input beside them."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from simreg._checks import describe, near_matches
from simreg.robustness.storage import replace_file

_MARK = "simreg_model"  # key of our entry in a safetensors file's metadata
_FORMAT = 1
_BUILDERS = ("simreg.nets", "torchvision.models", "timm")
"""Modules whose functions a file may name: a file cannot make any other code run."""


@dataclass(frozen=True)
class SavedModel:
    """What `load_model` found.

    Attributes:
        model: The network with its weights, on the CPU, in evaluation mode.
        mean: Subtracted from images in [0, 1]: one value, or one per channel.
        std: Divides them.
        classes: Class names in the order of the logits; empty if they were not given.
        builder: What built the network, ``"module:function"``.
        arguments: Keyword arguments of the builder.
        info: Whatever was noted beside it.
    """

    model: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    builder: str
    arguments: dict[str, Any]
    info: dict[str, Any] = field(default_factory=dict)


def save_model(
    path: str | os.PathLike[str],
    model: nn.Module,
    *,
    builder: str,
    arguments: Mapping[str, Any],
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
    classes: Sequence[str] = (),
    info: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model as one safetensors file, whole or not at all.

    Args:
        path: File to write, usually ``*.safetensors``; folders are made.
        model: The network whose ``state_dict()`` is kept.
        builder: ``"simreg.nets:ResNet18"``, ``"torchvision.models:<name>"`` or ``"timm:create_model"``.
        arguments: Its keyword arguments: JSON data.
        mean: Subtracted from images in [0, 1] before the model.
        std: Divides them.
        classes: Class names in the order of the logits.
        info: Anything else to keep: JSON data.

    Returns:
        The path.

    Raises:
        ImportError: If safetensors is missing.
        ValueError: If ``builder`` is not one that `load_model` accepts.
        TypeError: If ``arguments`` or ``info`` is no JSON data.

    Example:
        >>> import tempfile
        >>> from simreg.nets import ResNet18
        >>> arguments = {"num_classes": 10, "channels": 1, "width": 8}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save_model(
        ...         Path(folder) / "net.safetensors", ResNet18(**arguments),
        ...         builder="simreg.nets:ResNet18", arguments=arguments, mean=0.5, std=0.2)
        ...     load_model(path).std
        (0.2,)
    """
    metadata = model_metadata(builder=builder, arguments=arguments, mean=mean, std=std, classes=classes, info=info)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, safetensors_module().save(tensors, metadata=metadata))
    return path


def model_metadata(
    *,
    builder: str,
    arguments: Mapping[str, Any],
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
    classes: Sequence[str] = (),
    info: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """What makes any safetensors file of a state dict readable for `load_model`; arguments as for `save_model`."""
    _builder(builder)
    record = {
        "format": _FORMAT,
        "builder": builder,
        "arguments": dict(arguments),
        "mean": _values(mean),
        "std": _values(std),
        "classes": [str(name) for name in classes],
        "info": dict(info or {}),
    }
    try:
        return {_MARK: json.dumps(record)}
    except (TypeError, ValueError) as error:
        raise TypeError(f"arguments and info must be dicts of numbers, text, lists and dicts ({error}).") from None


def load_model(path: str | os.PathLike[str]) -> SavedModel:
    """Read a file of `save_model`: the network is built by what the file names and gets its weights.

    Only networks of simreg, torchvision and timm are built, so that a file of unknown origin runs no code of its own.

    Args:
        path: File to read.

    Returns:
        The model and what is known about it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, not written by `save_model`, or its weights do not fit what it names.
        ImportError: If safetensors, or the package that builds the network, is missing.
    """
    record = model_record(path)
    if record is None:
        raise ValueError(
            f"{path} holds weights but not what builds the network: it was not written by simreg.model_files."
            "save_model. Name the architecture, and pass this file as its checkpoint."
        )
    if record.get("format") != _FORMAT:
        raise ValueError(f"{path} has format {record.get('format')!r}, this simreg reads {_FORMAT}: update simreg.")
    model = _builder(record["builder"])(**record["arguments"])
    try:
        model.load_state_dict(safetensors_module().load(Path(path).read_bytes()))
    except Exception as error:  # safetensors has its own error type
        raise ValueError(f"the weights in {path} do not fit {record['builder']}: {error}") from error
    return SavedModel(
        model.eval(),
        tuple(record["mean"]),
        tuple(record["std"]),
        tuple(record["classes"]),
        record["builder"],
        record["arguments"],
        record["info"],
    )


def model_record(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What `save_model` noted in a safetensors file; None if the file has no such note.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no readable safetensors file.
    """
    with Path(path).open("rb") as file:  # 8 bytes of length, then JSON
        length = int.from_bytes(file.read(8), "little")
        try:
            if length > Path(path).stat().st_size:
                raise ValueError("its header is longer than the file")
            metadata = json.loads(file.read(length)).get("__metadata__", {})
            return dict(json.loads(metadata[_MARK])) if _MARK in metadata else None
        except (ValueError, AttributeError, TypeError) as error:
            raise ValueError(f"{path} is no readable safetensors file ({error}).") from None


def safetensors_module() -> Any:
    """``safetensors.torch``, or an ImportError that says how to get it."""
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError('model files need safetensors: pip install "simreg[eval]"') from error
    return safetensors.torch


def _builder(name: object) -> Callable[..., nn.Module]:
    module, _, function = name.partition(":") if isinstance(name, str) else ("", "", "")
    if module not in _BUILDERS or not function:
        raise ValueError(
            f"builder must be 'module:function' with a module of {', '.join(_BUILDERS)}, got {describe(name)}."
        )
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"the model needs {module.partition('.')[0]}: pip install it.") from error
    if not callable(getattr(found, function, None)):
        near = near_matches(function, dir(found), limit=3)
        raise ValueError(f"{module} has no {function!r}." + (f" Did you mean {', '.join(near)}?" if near else ""))
    builder: Callable[..., nn.Module] = getattr(found, function)
    return builder


def _values(value: float | Sequence[float]) -> list[float]:
    return [float(value)] if isinstance(value, (int, float)) else [float(v) for v in value]
