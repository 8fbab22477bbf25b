"""The model to evaluate, from what the command line names: a file, an architecture with weights, or a function."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from simreg._checks import describe, near_matches
from simreg.evaluation.architectures import LIBRARIES, from_library
from simreg.model_files import load_model, model_record
from simreg.robustness import Classifier, Surrogate

_WEIGHTS = (".safetensors", ".pt", ".pth")
_MOST_NAMED = 8


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for evaluation.

    Attributes:
        classifier: On images in [0, 1], on its device.
        name: Label for tables.
        spec: What was asked for.
        classes: Class names, if the file knows them.
        channels: Channels of its images, if known.
    """

    classifier: Classifier
    name: str
    spec: str
    classes: tuple[str, ...] = ()
    channels: int | None = None


def resolve_model(
    spec: str,
    *,
    checkpoint: str | Path | None = None,
    pretrained: bool = False,
    num_classes: int | None = None,
    channels: int = 3,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    device: str = "cpu",
) -> LoadedModel:
    """Build the model that ``spec`` names.

    Args:
        spec: A file of `simreg.model_files.save_model`; ``"module:function"``, called without arguments for a module,
            a `Classifier` or any callable on images; or a name of torchvision or timm, ``"resnet18"``,
            ``"timm:resnet18"`` or ``"torchvision:resnet18"``.
        checkpoint: Weights of a named architecture: safetensors, or a file of ``torch.save`` (read without running
            code), a state dict or a dict that holds one.
        pretrained: Take the weights that torchvision or timm downloads.
        num_classes: Logits of a named architecture.
        channels: Channels of the images; timm builds its first layer for them, torchvision's nets need 3.
        mean: Subtracted from images in [0, 1]; None takes what the model brings, else 0.
        std: Divides them; None takes what the model brings, else 1.
        device: Where it runs.

    Returns:
        The model in a `Classifier`.

    Raises:
        FileNotFoundError: If the checkpoint is missing.
        ValueError: If the name is unknown, nothing gives weights, or they do not fit.
        TypeError: If the function returns no callable.
        ImportError: If the package that has the architecture is missing.
    """
    if mean is not None and max(abs(float(m)) for m in torch.as_tensor(mean).flatten()) > 1:
        raise ValueError(f"mean={mean!r} must be in units of images in [0, 1]: divide mean and std of 0..255 by 255.")
    found = _find(spec, checkpoint, pretrained, num_classes, channels)
    classifier = found.classifier
    if isinstance(classifier.model, nn.Module):
        classifier.model.to(device)
    if mean is not None or std is not None:
        if type(classifier) is not Classifier:
            raise ValueError(f"mean and std: {spec} returns a {type(classifier).__name__}, which has its own.")
        classifier = Classifier(
            classifier.model,
            mean=classifier.mean if mean is None else mean,
            std=classifier.std if std is None else std,
        )
    return LoadedModel(classifier, found.name, spec, found.classes, found.channels)


def _find(
    spec: str, checkpoint: str | Path | None, pretrained: bool, num_classes: int | None, channels: int
) -> LoadedModel:
    """The model on the CPU, from a file, a function or a library."""
    path = Path(spec).expanduser()
    if path.is_file():
        return _from_file(path, checkpoint)
    if path.is_dir() and checkpoint is None and not pretrained:
        raise ValueError(_folder_message(path))
    if path.suffix in _WEIGHTS or "/" in spec:
        raise FileNotFoundError(f"model file {spec} does not exist.")
    if ":" in spec and spec.partition(":")[0] not in LIBRARIES:
        if checkpoint is not None or pretrained:
            raise ValueError(
                f"{spec} returns a model with its weights: --checkpoint and --pretrained are for architectures."
            )
        return _from_function(spec)
    classifier, name, channels = from_library(spec, checkpoint, pretrained, num_classes, channels)
    return LoadedModel(classifier, name, spec, channels=channels)


def surrogate_from(path: str | Path, *, device: str = "cpu") -> Surrogate:
    """A model file as the source of transferred attacks.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it was not written by `simreg.model_files.save_model`.
    """
    saved = load_model(path)
    info = {"builder": saved.builder, "arguments": saved.arguments}
    return Surrogate(
        Classifier(saved.model.to(device), mean=saved.mean, std=saved.std), name=Path(path).stem, info=info
    )


def _folder_message(folder: Path) -> str:
    """What to type instead of a folder."""
    files = sorted(path for pattern in ("*", "*/*") for path in folder.glob(pattern) if path.suffix in _WEIGHTS)
    if not files:
        return f"{folder} is a folder without model files ({', '.join(_WEIGHTS)}): name a file, or an architecture."
    more = f" and {len(files) - _MOST_NAMED} more" if len(files) > _MOST_NAMED else ""
    return f"{folder} is a folder: name one of its model files, {', '.join(map(str, files[:_MOST_NAMED]))}{more}."


def _from_file(path: Path, checkpoint: object) -> LoadedModel:
    if path.suffix != ".safetensors" or model_record(path) is None:
        raise ValueError(
            f"{path} holds weights, not what builds the network. Name the architecture and pass the file as its "
            f"checkpoint: simreg evaluate resnet18 --checkpoint {path}"
        )
    if checkpoint is not None:
        raise ValueError(f"{path} has weights of its own: leave out --checkpoint.")
    saved = load_model(path)
    channels = saved.arguments.get("channels", saved.arguments.get("in_chans", 3))
    classifier = Classifier(saved.model, mean=saved.mean, std=saved.std)
    return LoadedModel(classifier, path.stem, str(path), saved.classes, channels)


def _from_function(spec: str) -> LoadedModel:
    module_name, _, function_name = spec.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name.partition(".")[0]:
            raise
        libraries = ", ".join(f"{name}:" for name in LIBRARIES)
        raise ValueError(
            f"{spec!r}: there is no module {module_name!r} here or on the Python path. Wanted: module:function, "
            f"a file, or an architecture, with {libraries} or nothing in front."
        ) from None
    function = getattr(module, function_name, None)
    if not callable(function):
        near = near_matches(function_name, dir(module))
        raise ValueError(
            f"module {module_name!r} has no function {function_name!r}."
            + (f" Did you mean {', '.join(near)}?" if near else "")
        )
    model = function()
    if not callable(model):
        raise TypeError(f"{spec} must return a module or another callable on images, got {describe(model)}.")
    classifier = model if isinstance(model, Classifier) else Classifier(model)
    return LoadedModel(classifier, spec, spec)
