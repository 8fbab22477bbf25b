"""The model to evaluate, from what the command line names: a file, an architecture with weights, or a function."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from simreg._checks import describe, near_matches
from simreg.model_files import load_model, model_record, safetensors_module
from simreg.robustness import Classifier, Surrogate

_NESTED = ("state_dict", "model_state_dict", "model", "net", "state_dict_ema")  # where trainers keep the weights
_PREFIXES = ("module.", "_orig_mod.", "model.")


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
    path = Path(spec).expanduser()
    if path.is_file():
        found = _from_file(path, checkpoint)
    elif path.suffix in (".safetensors", ".pt", ".pth") or "/" in spec:
        raise FileNotFoundError(f"model file {spec} does not exist.")
    elif ":" in spec and spec.partition(":")[0] not in _LIBRARIES:
        if checkpoint is not None or pretrained:
            raise ValueError(
                f"{spec} returns a model with its weights: a checkpoint or pretrained is for architectures."
            )
        found = _from_function(spec)
    else:
        found = _from_library(spec, checkpoint, pretrained, num_classes, channels)
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


def _from_file(path: Path, checkpoint: object) -> LoadedModel:
    if path.suffix != ".safetensors" or model_record(path) is None:
        raise ValueError(
            f"{path} holds weights, not what builds the network. Name the architecture and pass the file as its "
            f"checkpoint: simreg evaluate resnet18 --checkpoint {path}"
        )
    if checkpoint is not None:
        raise ValueError(f"{path} has weights of its own: leave out the checkpoint.")
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
        libraries = ", ".join(f"{name}:" for name in _LIBRARIES)
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
    return LoadedModel(classifier, function_name, spec)


def _from_library(
    spec: str, checkpoint: str | Path | None, pretrained: bool, num_classes: int | None, channels: int
) -> LoadedModel:
    prefix, _, name = spec.rpartition(":")
    libraries = {prefix: _LIBRARIES[prefix]} if prefix else _LIBRARIES
    able = [library for library in libraries.values() if name in library.names()]
    if not able:
        names = [known for library in libraries.values() for known in library.names()]
        near = near_matches(name, names)
        hint = f" Did you mean {', '.join(near)}?" if near else ""
        if not names:
            raise ImportError(f'{spec!r} needs torchvision or timm: pip install "simreg[vision,timm]"')
        raise ValueError(f"{spec!r} is no file, and no architecture of {', '.join(libraries)}.{hint}")
    if (checkpoint is None) == (not pretrained):
        raise ValueError(
            f"{spec} needs weights: pass its checkpoint, or ask for pretrained ones"
            + (", not both." if pretrained else ".")
        )
    if pretrained:
        model, mean, std = able[0].pretrained(name)
        return LoadedModel(Classifier(model, mean=mean, std=std), name, spec, channels=3)
    weights = read_weights(Path(str(checkpoint)))
    problems = []
    for library in able:
        try:
            model = library.build(name, num_classes or 1000, channels)
            model.load_state_dict(weights)
        except (RuntimeError, ValueError) as error:  # another library's net of the same name may fit
            problems.append(f"{library.title}: {' '.join(str(error).split())[:300]}")
            continue
        return LoadedModel(Classifier(model.eval()), name, spec, channels=channels)
    raise ValueError(f"the weights in {checkpoint} do not fit {name}. {'; '.join(problems)}")


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from a checkpoint file, without prefixes of wrappers.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read without running code, or holds no state dict.
    """
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist.")
    try:
        if path.suffix == ".safetensors":
            content: Any = safetensors_module().load(path.read_bytes())
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError:
        raise
    except Exception as error:  # unpickling and safetensors raise many types
        raise ValueError(
            f"checkpoint {path} cannot be read as a state dict ({' '.join(str(error).split())[:200]}). "
            "Save model.state_dict() alone, or build the model in a function and pass module:function."
        ) from error
    for key in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"checkpoint {path} holds no state dict: {describe(content)}.")
    names = list(content)
    for prefix in _PREFIXES * 2:  # wrappers within wrappers
        if all(name.startswith(prefix) for name in names):
            names = [name.removeprefix(prefix) for name in names]
    return dict(zip(names, content.values(), strict=True))


@dataclass(frozen=True)
class _Library:
    title: str
    names: Callable[[], Sequence[str]]
    build: Callable[[str, int, int], nn.Module]
    pretrained: Callable[[str], tuple[nn.Module, tuple[float, ...], tuple[float, ...]]]


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
        raise ValueError(f"torchvision's nets take 3 channels, the images have {channels}")
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


_LIBRARIES = {
    "torchvision": _Library("torchvision", _torchvision_names, _torchvision_build, _torchvision_pretrained),
    "timm": _Library("timm", _timm_names, _timm_build, _timm_pretrained),
}
