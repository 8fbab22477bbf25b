"""Features of named layers of a classifier, with gradient, through hooks that live for one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from simreg._checks import describe, near_matches
from simreg.robustness.classifier import Classifier, as_classifier

Features = Callable[[Tensor], Sequence[Tensor]]
"""Images (N, C, H, W) in [0, 1] -> one tensor (N, ...) per layer, differentiable."""


class LayerFeatures:
    """What ``layer_features`` returns: a callable that knows its ``layers``."""

    def __init__(self, classifier: Classifier, layers: Sequence[str]) -> None:
        if not isinstance(classifier.model, nn.Module):
            raise TypeError(f"model must be a module or a Classifier around one, got {describe(classifier.model)}.")
        if isinstance(layers, str) or not layers:
            raise ValueError(f"layers must be a sequence of at least one module name, got {layers!r}.")
        modules = dict(classifier.model.named_modules())
        for name in layers:
            if name not in modules or not name:
                near = near_matches(name, modules)
                hint = f"Near matches: {', '.join(near)}." if near else f"It has: {', '.join(filter(None, modules))}."
                raise ValueError(f"layers={name!r} is no module of the model. {hint}")
        self.classifier, self.layers = classifier, tuple(layers)
        self._modules = {name: modules[name] for name in self.layers}

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Features of images (N, C, H, W), one tensor (N, ...) per layer."""
        caught: dict[str, list[Tensor]] = {name: [] for name in self.layers}
        handles = []
        try:
            for name, module in self._modules.items():
                handles.append(module.register_forward_hook(_catch(name, caught[name])))
            self.classifier(images)
        finally:
            for handle in handles:
                handle.remove()
        return [_mean(name, outputs, len(images)) for name, outputs in caught.items()]


def layer_features(model: Classifier | nn.Module, layers: Sequence[str]) -> LayerFeatures:
    """Features of some layers as a function of images in [0, 1], for ``adaptive_pgd``.

    The model runs in evaluation mode and with its own normalisation. Hooks exist during a call alone, and are gone
    after an exception too. A layer that runs several times, as it does in an ``ExpectedClassifier``, gives its mean.

    Args:
        model: ``Classifier`` or module.
        layers: Names as in ``model.named_modules()``, such as those of the regularized layers.

    Returns:
        Callable: images (N, C, H, W) to a list of tensors (N, ...), one per layer, differentiable.

    Raises:
        TypeError: If the model is no module, or a layer returns no tensor.
        ValueError: If a name is unknown (the message has near matches) or a layer does not run.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
        >>> [tuple(f.shape) for f in layer_features(model, ["0", "1"])(torch.rand(5, 1, 4, 4))]
        [(5, 4, 2, 2), (5, 4, 2, 2)]
    """
    return LayerFeatures(as_classifier(model), layers)


def _catch(name: str, outputs: list[Tensor]) -> Callable[[nn.Module, Any, Any], None]:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        if not isinstance(output, Tensor):
            raise TypeError(f"layer {name!r} returns {describe(output)}, not a tensor: name a layer inside it.")
        outputs.append(output)

    return hook


def _mean(name: str, outputs: list[Tensor], n: int) -> Tensor:
    if not outputs:
        raise ValueError(f"layer {name!r} did not run in the model's forward pass: name one that does.")
    if len({output.shape for output in outputs}) > 1 or len(outputs[0]) != n:
        raise ValueError(
            f"layer {name!r} gave shapes {[tuple(output.shape) for output in outputs]} for {n} images: "
            "name a layer whose output has one row per image."
        )
    return outputs[0] if len(outputs) == 1 else torch.stack(outputs).mean(dim=0)
