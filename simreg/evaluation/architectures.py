"""Named architectures of torchvision and timm, with weights of a checkpoint or of the library."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from simreg._checks import near_matches
from simreg.evaluation.checkpoints import misfit, read_weights
from simreg.robustness import Classifier


@dataclass(frozen=True)
class Library:
    """A package of architectures.

    Attributes:
        module: What is imported.
        extra: Extra of simreg that installs it.
        names: Its architectures.
        build: A network without weights: name, number of classes, channels.
        pretrained: A network with the library's weights, mean and std of its input.
    """

    module: str
    extra: str
    names: Callable[[], Sequence[str]]
    build: Callable[[str, int, int], nn.Module]
    pretrained: Callable[[str], tuple[nn.Module, tuple[float, ...], tuple[float, ...]]]

    @property
    def installed(self) -> bool:
        """Whether it can be imported."""
        return _import(self.module) is not None


def from_library(
    spec: str, checkpoint: str | Path | None, pretrained: bool, num_classes: int | None, channels: int
) -> tuple[Classifier, str, int]:
    """The named architecture with its weights, its name, and the channels of its images.

    Raises:
        FileNotFoundError: If the checkpoint is missing.
        ValueError: If the name is unknown, nothing gives weights, or they do not fit.
        ImportError: If the package that has the architecture is missing.
    """
    prefix, _, name = spec.rpartition(":")
    libraries = {prefix: LIBRARIES[prefix]} if prefix else LIBRARIES
    able = _that_have(name, spec, libraries)
    if (checkpoint is None) == (not pretrained):
        both = "pass one of --checkpoint and --pretrained, not both." if pretrained else (
            "pass --checkpoint FILE, or --pretrained for those that the library downloads."
        )  # fmt: skip
        raise ValueError(f"{spec} needs weights: {both}")
    if pretrained:
        model, mean, std = next(iter(able.values())).pretrained(name)
        return Classifier(model, mean=mean, std=std), name, 3
    return _with_weights(name, able, Path(str(checkpoint)), num_classes or 1000, channels), name, channels


def _that_have(name: str, spec: str, libraries: Mapping[str, Library]) -> dict[str, Library]:
    """The libraries that have the architecture; raises if none has."""
    able = {title: library for title, library in libraries.items() if name in library.names()}
    if able:
        return able
    lacking = {title: library for title, library in libraries.items() if not library.installed}
    install = f'pip install "simreg[{",".join(library.extra for library in lacking.values())}]"'
    if len(lacking) == len(libraries):
        raise ImportError(f"{spec} needs {' or '.join(lacking)}, not installed here: {install}")
    near = near_matches(name, [known for library in libraries.values() for known in library.names()])
    hint = f" Did you mean {', '.join(near)}?" if near else ""
    hint += f" {', '.join(lacking)}, which may have it, is not installed: {install}" if lacking else ""
    raise ValueError(
        f"{spec!r} is no file, and no architecture of {', '.join(t for t in libraries if t not in lacking)}.{hint}"
    )


def _with_weights(
    name: str, able: Mapping[str, Library], checkpoint: Path, num_classes: int, channels: int
) -> Classifier:
    """The first library's net that takes the weights; raises with the nearest miss if none does."""
    weights = read_weights(checkpoint)
    problems: list[tuple[float, str]] = []
    for title, library in able.items():
        try:
            model = library.build(name, num_classes, channels)
        except ValueError as error:  # another library's net of the same name may fit
            problems.append((math.inf, str(error)))
            continue
        wrong, reason = misfit(weights, model.state_dict(), name, num_classes=num_classes, channels=channels)
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            reason = reason or " ".join(str(error).split())[:300]
            problems.append((wrong, f"the weights in {checkpoint} do not fit {name} of {title}: {reason}."))
            continue
        return Classifier(model.eval())
    raise ValueError(min(problems, key=lambda problem: problem[0])[1])


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _torchvision_names() -> Sequence[str]:
    models = _import("torchvision.models")
    return () if models is None else models.list_models(module=models)


def _torchvision_build(name: str, num_classes: int, channels: int) -> nn.Module:
    if channels != 3:
        raise ValueError(
            f"torchvision's {name} takes images of 3 channels, these have {channels}: leave out --gray (arrays must "
            f"have 3 channels themselves), or take timm:{name} or module:function for a net of other images."
        )
    model: nn.Module = _import("torchvision.models").get_model(name, weights=None, num_classes=num_classes)
    return model


def _torchvision_pretrained(name: str) -> tuple[nn.Module, tuple[float, ...], tuple[float, ...]]:
    models = _import("torchvision.models")
    weights = models.get_model_weights(name).DEFAULT
    transform = weights.transforms()
    return models.get_model(name, weights=weights).eval(), tuple(transform.mean), tuple(transform.std)


def _timm_names() -> Sequence[str]:
    timm = _import("timm")
    return () if timm is None else timm.list_models()


def _timm_build(name: str, num_classes: int, channels: int) -> nn.Module:
    model: nn.Module = _import("timm").create_model(name, num_classes=num_classes, in_chans=channels)
    return model


def _timm_pretrained(name: str) -> tuple[nn.Module, tuple[float, ...], tuple[float, ...]]:
    model = _import("timm").create_model(name, pretrained=True)
    return model.eval(), tuple(model.pretrained_cfg["mean"]), tuple(model.pretrained_cfg["std"])


LIBRARIES = {
    "torchvision": Library(
        "torchvision.models", "vision", _torchvision_names, _torchvision_build, _torchvision_pretrained
    ),
    "timm": Library("timm", "timm", _timm_names, _timm_build, _timm_pretrained),
}
"""By the prefix that names them."""
