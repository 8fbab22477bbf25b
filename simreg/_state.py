"""What a regularizer starts with and saves for each layer: its logit, and its name beside it in the state dict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from simreg._checks import check_choice
from simreg.layers import WRAPPER_SEGMENTS


def initial_logits(layer_weights: str | Sequence[float], layers: Sequence[str]) -> tuple[Tensor, bool]:
    """Layer logits, (L,), and whether they are learned.

    Raises:
        ValueError: If ``layer_weights`` is no choice, or not one weight for each layer.
    """
    if isinstance(layer_weights, str):
        check_choice("layer_weights", layer_weights, ("learned", "uniform"))
        return torch.zeros(len(layers)), layer_weights == "learned"
    weights = torch.as_tensor(layer_weights, dtype=torch.float32)
    if weights.shape != (len(layers),) or not bool((weights >= 0).all()) or not bool(weights.sum() > 0):
        raise ValueError(
            f"layer_weights must be {len(layers)} non-negative numbers with a positive sum, one for each of "
            f"{list(layers)!r}, got {layer_weights!r}."
        )
    return (weights / weights.sum()).log(), False


def note_layers(destination: object, prefix: str, layers: Sequence[str]) -> None:
    """Write the layers' names into the metadata of a state dict: its keys and tensors stay as they are."""
    metadata = getattr(destination, "_metadata", {})  # a plain dict has none
    if prefix[:-1] in metadata:
        metadata[prefix[:-1]]["layers"] = list(layers)


def layers_to_load(saved: Tensor, metadata: Mapping[str, Any], layers: Sequence[str]) -> list[str]:
    """Those of ``layers`` that a checkpoint with logits ``saved`` is of, in its order: all, or what it was pruned to.

    Prefixes that wrappers put in front of names do not matter. A checkpoint that names no layers is taken by their
    number.

    Raises:
        ValueError: If it is of other layers, or of fewer that it does not name.
    """
    names = metadata.get("layers")
    own = {_bare(name): name for name in layers}
    found = list(layers)
    if names is not None:
        found = [name if name in layers else own.get(_bare(name), "") for name in names]
    if len(set(found) - {""}) == len(found) == saved.numel():
        return found
    what = f"{saved.numel()} layers" if names is None else f"the layers {list(names)!r}"
    by_place = " Or if these are its layers under other names, load dict(state), which has none."
    raise ValueError(
        f"layers: the state is of {what}, this regularizer taps {list(layers)!r}. Create it with the layers of that "
        "one (reg.layers), or load a state saved by torch.save, which names them, into one that taps more."
        + (by_place if names is not None and len(names) == len(layers) else "")
    )


def _bare(name: str) -> str:
    return ".".join(segment for segment in name.split(".") if segment not in WRAPPER_SEGMENTS)
