"""Weights of a named architecture: read from what trainers write, and told why they do not fit."""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simreg._checks import describe
from simreg.model_files import safetensors_module

_PLAIN = ("state_dict", "model_state_dict", "model", "net", "weights", "params")  # where trainers keep the weights
_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "params_ema")
_PREFIXES = ("module.", "_orig_mod.", "model.")
_COUNTER = "n_averaged"  # of torch.optim.swa_utils.AveragedModel, beside the weights


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from a checkpoint file, without prefixes of wrappers.

    Of a training checkpoint the weights are taken, or their moving average where it holds nothing else.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read without running code, or holds no state dict.
    """
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist.")
    content = _read(path)
    for key in _PLAIN + _AVERAGED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"checkpoint {path} holds no state dict: {describe(content)}.")
    weights = {name: value for name, value in content.items() if name != _COUNTER}
    names = list(weights)
    for prefix in _PREFIXES * 2:  # wrappers within wrappers
        if all(name.startswith(prefix) for name in names):
            names = [name.removeprefix(prefix) for name in names]
    return dict(zip(names, weights.values(), strict=True))


_HARMLESS: list[Any] = [
    argparse.Namespace,  # timm's trainer keeps its options
    np.dtype,
    type(np.dtype(np.float32)),
    type(np.dtype(np.float64)),
    type(np.dtype(np.int64)),
    np.float64(0).__reduce__()[0],  # what rebuilds a NumPy number, such as the best accuracy so far
]
"""Types beside tensors that a checkpoint may hold: reading them runs no code of others."""


def _read(path: Path) -> Any:
    """What the file holds, read without running code."""
    allow = getattr(torch.serialization, "safe_globals", None)  # since torch 2.5
    try:
        if path.suffix == ".safetensors":
            return safetensors_module().load(path.read_bytes())
        with allow(_HARMLESS) if allow else contextlib.nullcontext():
            return torch.load(path, map_location="cpu", weights_only=True)
    except ImportError:
        raise
    except Exception as error:  # unpickling and safetensors raise many types
        found = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it holds {found[1]}" if found else "it is damaged, or no file of torch.save or safetensors"
        raise ValueError(
            f"checkpoint {path} cannot be read as a state dict without running code: {reason}. "
            "Save model.state_dict() alone, or build the model in a function and pass module:function."
        ) from error


def misfit(
    weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor], name: str, *, num_classes: int, channels: int
) -> tuple[int, str]:
    """How many entries of a state dict do not fit a network, and why, in words.

    Args:
        weights: The state dict.
        wanted: That of the network.
        name: Of the network.
        num_classes: Logits that the network was built for.
        channels: Channels of the images that it was built for.

    Returns:
        The number, 0 if all fit, and the likely cause.
    """
    unknown, missing = [n for n in weights if n not in wanted], [n for n in wanted if n not in weights]
    if unknown or missing:
        return len(unknown) + len(missing), _other_names(weights, wanted, name, unknown, missing)
    shapes = {n: (tuple(weights[n].shape), tuple(wanted[n].shape)) for n in wanted}
    shapes = {n: (has, wants) for n, (has, wants) in shapes.items() if has != wants}
    first = {n: has[1] for n, (has, wants) in shapes.items() if _differ_at(1, has, wants) and wants[1] == channels}
    last = {n: has[0] for n, (has, wants) in shapes.items() if _differ_at(0, has, wants) and wants[0] == num_classes}
    if len(first) + len(last) < len(shapes):
        other = next(n for n in shapes if n not in first and n not in last)
        has, wants = shapes[other]
        text = (
            f"the shapes of {len(shapes)} of {len(wanted)} tensors differ, such as {other}: {has} in the checkpoint, "
            f"{wants} in {name}. It is of another width or image size"
        )
        return len(shapes), text
    texts = [_other_channels(n, has, channels) for n, has in list(first.items())[:1]]
    texts += [_other_classes(n, has, num_classes) for n, has in list(last.items())[-1:]]
    return len(shapes), "; ".join(texts)


def _differ_at(axis: int, has: Sequence[int], wants: Sequence[int]) -> bool:
    """Whether two shapes differ in this axis alone; axis 1 counts in convolutions."""
    if len(has) != len(wants) or not has or (axis == 1 and len(has) != 4):
        return False
    return all((a != b) == (i == axis) for i, (a, b) in enumerate(zip(has, wants, strict=True)))


def _other_names(
    weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor], name: str, unknown: list[str], missing: list[str]
) -> str:
    texts = []
    if unknown:
        texts.append(
            f"{len(unknown)} of {len(weights)} names of the state dict belong to no layer of {name}, such as "
            f"{unknown[0]}"
        )
    if missing:
        texts.append(f"{len(missing)} of the {len(wanted)} tensors of {name} are missing, such as {missing[0]}")
    last = list(wanted)[-2:]
    if not unknown and set(missing) <= set(last):
        return f"the last layer, {', '.join(missing)}, is missing: the checkpoint is of a backbone without its head"
    return f"{'; '.join(texts)}. It is probably of another architecture"


def _other_channels(name: str, has: int, wants: int) -> str:
    option = {1: "--gray", 3: "--color"}.get(has)
    remedy = f": load them with {option} (arrays must have that many channels themselves)" if option else ""
    return f"its first layer, {_layer(name)}, takes images of {_count(has, 'channel')}, these have {wants}{remedy}"


def _other_classes(name: str, has: int, wants: int) -> str:
    return (
        f"its last layer, {_layer(name)}, has {_count(has, 'output')}, the data has {_count(wants, 'class', 'es')}: "
        f"evaluate on the data of its training, or pass --num-classes {has} if these are {has} classes"
    )


def _layer(name: str) -> str:
    return name.rpartition(".")[0] or name


def _count(n: int, noun: str, plural: str = "s") -> str:
    return f"{n} {noun}{'' if n == 1 else plural}"
