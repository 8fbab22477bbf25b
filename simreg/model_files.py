"""Models as single files: weights in safetensors, with what builds the network and normalises its input beside them."""

from __future__ import annotations

import importlib
import json
import os
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from simreg._checks import describe, near_matches

_MARK, _FORMAT = "simreg_model", 1  # key of our entry in a safetensors file's metadata
_BUILDERS = {"simreg.nets": ["ResNet18"], "timm": ["create_model"], "torchvision.models": None}  # None: list_models()
_LOADING = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_backbone"}
_LOADING |= {"weights", "weights_backbone", "checkpoint_path", "cache_dir"}  # only None and False pass
_TEXT = ("model_name", "global_pool", "act_layer", "norm_layer", "pool_type", "pad_type", "stem_type", "weight_init")


@dataclass(frozen=True)
class SavedModel:
    """What `load_model` found: the network on the CPU in evaluation mode, and what `model_metadata` noted."""

    model: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    builder: str
    arguments: dict[str, Any]
    info: dict[str, Any] = field(default_factory=dict)


def save_model(path: str | os.PathLike[str], model: nn.Module, **notes: Any) -> Path:
    """Write a model's ``state_dict()`` and what `model_metadata` makes of ``notes`` as one file, whole or not at all.

    Example:
        >>> import tempfile
        >>> from simreg.nets import ResNet18
        >>> arguments = {"num_classes": 10, "channels": 1, "width": 8}
        >>> notes = {"builder": "simreg.nets:ResNet18", "arguments": arguments, "mean": 0.5, "std": 0.2}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     load_model(save_model(Path(folder) / "net.safetensors", ResNet18(**arguments), **notes)).std
        (0.2,)
    """
    metadata = model_metadata(**notes)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        part.write_bytes(safetensors_module().save(tensors, metadata=metadata))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
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
    """What makes any safetensors file of a state dict readable for `load_model`.

    Args:
        builder: ``"simreg.nets:ResNet18"``, ``"torchvision.models:<name>"`` or ``"timm:create_model"``.
        arguments: Its keyword arguments: numbers, and plain names for ``model_name``, ``act_layer`` and their like.
        mean: Subtracted from images in [0, 1] before the model: one value, or one per channel.
        std: Divides them.
        classes: Class names in the order of the logits.
        info: Anything else to keep: JSON data.

    Raises:
        ValueError: If `load_model` would refuse ``builder`` or ``arguments``.
        TypeError: If ``info`` is no JSON data.
    """
    _find_builder(builder, arguments)
    values = {k: torch.as_tensor(v, dtype=torch.float64).flatten().tolist() for k, v in (("mean", mean), ("std", std))}
    record = {"format": _FORMAT, "builder": builder, "arguments": dict(arguments), **values, "info": dict(info or {})}
    try:
        return {_MARK: json.dumps({**record, "classes": [str(name) for name in classes]})}
    except (TypeError, ValueError) as error:
        raise TypeError(f"info must be a dict of numbers, text, lists and dicts ({error}).") from None


def load_model(path: str | os.PathLike[str]) -> SavedModel:
    """Read a file of `save_model`; one of unknown origin can neither run code nor read files or the network.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, not written by `save_model`, names anything but a network of simreg, torchvision
            or timm with harmless arguments, or its weights do not fit.
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
    builder, arguments = record["builder"], record["arguments"]
    model = _find_builder(builder, arguments)(**arguments)
    try:
        model.load_state_dict(safetensors_module().load(Path(path).read_bytes()))
    except Exception as error:  # safetensors has its own error type
        raise ValueError(f"the weights in {path} do not fit {builder}: {error}") from error
    mean, std, classes = (tuple(record[name]) for name in ("mean", "std", "classes"))
    return SavedModel(model.eval(), mean, std, classes, builder, arguments, record["info"])


def model_record(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What `model_metadata` noted in a safetensors file; None if there is no such note, ValueError if it is damaged."""
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
        return importlib.import_module("safetensors.torch")
    except ImportError as error:
        raise ImportError('model files need safetensors: pip install "simreg[eval]"') from error


def _find_builder(name: object, arguments: Mapping[str, Any]) -> Callable[..., nn.Module]:
    """The function of that name, if it builds networks and the arguments can only shape one."""
    module, _, function = name.partition(":") if isinstance(name, str) else ("", "", "")
    if module not in _BUILDERS:
        raise ValueError(f"builder must be 'module:function' of {', '.join(_BUILDERS)}, got {describe(name)}.")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"the model needs {module.partition('.')[0]}: pip install it.") from error
    known = _BUILDERS[module] or found.list_models(module=found)
    if function not in known:
        near = ", ".join(near_matches(function, known)) or ", ".join(known[:3])
        raise ValueError(f"builder must be a function of {module} that builds networks ({near}), got {function!r}.")
    for key, value in arguments.items():
        numeric = all(isinstance(v, (int, float)) for v in (value if isinstance(value, (list, tuple)) else [value]))
        named = key in _TEXT and isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_.-]+", value)
        if value is not None and value is not False and (key in _LOADING or not (numeric or named)):
            raise ValueError(
                f"arguments: {key}={value!r} is refused, as a model file must not make {name} read files or the "
                f"network. Wanted: numbers, or plain names for {', '.join(_TEXT)}."
            )
    builder: Callable[..., nn.Module] = getattr(found, function)
    return builder
