"""Models as single files: weights in safetensors, with what builds the network and normalises its input beside them."""

import importlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
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


def save_model(path: str | Path, model: nn.Module, **notes: Any) -> Path:
    """Write a model's ``state_dict()`` and what `model_metadata` makes of ``notes`` as one file, whole or not at all.

    Example:
        >>> from simreg.nets import ResNet18
        >>> notes = {"builder": "simreg.nets:ResNet18", "arguments": {"num_classes": 10, "channels": 1, "width": 8}}
        >>> with TemporaryDirectory() as folder:
        ...     load_model(save_model(Path(folder) / "net.safetensors", ResNet18(**notes["arguments"]), **notes)).std
        (1.0,)
    """
    metadata = model_metadata(**notes)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        part = Path(folder) / "part"
        part.write_bytes(safetensors_module().save(tensors, metadata=metadata))
        return part.replace(path)


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

    ``builder`` is ``"simreg.nets:ResNet18"``, ``"torchvision.models:<name>"`` or ``"timm:create_model"``, ``arguments``
    its keyword arguments: numbers, and plain names for ``model_name``, ``act_layer`` and their like; others raise
    ValueError. ``mean`` is subtracted from images in [0, 1], then ``std`` divides them: one value or one per channel.
    ``classes`` are named in the order of the logits; ``info`` is anything else to keep, TypeError if it is not JSON.
    """
    _find_builder(builder, arguments)
    values = {k: torch.as_tensor(v, dtype=torch.float64).flatten().tolist() for k, v in (("mean", mean), ("std", std))}
    record = {"format": _FORMAT, "builder": builder, "arguments": dict(arguments), **values, "info": dict(info or {})}
    return {_MARK: json.dumps({**record, "classes": [str(name) for name in classes]})}


def load_model(path: str | Path) -> SavedModel:
    """Read a file of `save_model`; one of unknown origin can neither run code nor read files or the network.

    Raises FileNotFoundError if there is no such file, ImportError if safetensors or the package that builds the network
    is missing, ValueError if the file is damaged, not written by `save_model`, names anything but a network of simreg,
    torchvision or timm with harmless arguments, or its weights do not fit.
    """
    record = model_record(path) or {}
    if record.get("format") != _FORMAT:
        raise ValueError(f"{path} holds weights, but not what builds the network as this simreg's save_model notes it.")
    builder, arguments = record["builder"], record["arguments"]
    model = _find_builder(builder, arguments)(**arguments)
    try:
        model.load_state_dict(safetensors_module().load_file(path))
    except Exception as error:  # safetensors has its own error type
        raise ValueError(f"the weights in {path} do not fit {builder}: {error}") from error
    mean, std, classes = (tuple(record[name]) for name in ("mean", "std", "classes"))
    return SavedModel(model.eval(), mean, std, classes, builder, arguments, record["info"])


def model_record(path: str | Path) -> dict[str, Any] | None:
    """What `model_metadata` noted in a safetensors file; None if there is no such note, ValueError if it is damaged."""
    safe_open, path = safetensors_module().safe_open, Path(path).resolve(strict=True)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        return dict(json.loads(metadata[_MARK])) if _MARK in metadata else None
    except Exception as error:  # safetensors has its own error type
        raise ValueError(f"{path} is no readable safetensors file ({error}).") from None


def safetensors_module() -> Any:
    """``safetensors.torch``, or an ImportError that says how to get it."""
    try:
        return importlib.import_module("safetensors.torch")
    except ImportError as error:
        raise ImportError('model files need safetensors: pip install "simreg[eval]"') from error


def _find_builder(name: object, arguments: Mapping[str, Any]) -> Any:
    """The function of that name, if it builds networks and the arguments can only shape one."""
    module, _, function = name.partition(":") if isinstance(name, str) else ("", "", "")
    if module not in _BUILDERS:
        raise ValueError(f"builder must be 'module:function' of {', '.join(_BUILDERS)}, got {describe(name)}.")
    found = importlib.import_module(module)
    known = _BUILDERS[module] or found.list_models(module=found)
    if function not in known:
        near = ", ".join(near_matches(function, known)) or ", ".join(known[:3])
        raise ValueError(f"builder must be a function of {module} that builds networks ({near}), got {function!r}.")
    for key, value in arguments.items():
        numeric = all(isinstance(v, (int, float)) for v in (value if isinstance(value, (list, tuple)) else [value]))
        named = key in _TEXT and isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_.-]+", value)
        if value is not None and value is not False and (key in _LOADING or not (numeric or named)):
            wanted = f"numbers, or plain names for {', '.join(_TEXT)}: {name} must not read files or the network"
            raise ValueError(f"arguments: {key}={value!r} is refused. Wanted: {wanted}.")
    return getattr(found, function)
