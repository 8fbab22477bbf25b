"""Warnings, in the first steps, about set-ups that train without an error and without effect, or collapse."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from simreg._checks import warn

_CALLS = 20  # whose values are looked at, which on a GPU synchronises
_RARE = 0.02  # share of ±1 targets from which arctanh makes training collapse; the paper's setting has 0.003


class Watch:
    """Looks at the first penalties of a regularizer."""

    def __init__(self) -> None:
        self.calls = 0
        self._extreme: int | None = 0  # ±1 among the targets; None once warned
        self._seen_targets = 0
        self._loss: Tensor | None = None
        self._largest: dict[str, Tensor] | None = {}  # gradient of each layer's features; None once judged
        self._weight, self._steps = -1, 0  # version of a weight, and steps of an optimizer over it
        self._logits = -1  # their version at first

    def looks(self, device: torch.device) -> bool:
        """Whether to look at values on ``device`` in this call: where that is free, and in the first ones."""
        if torch.compiler.is_compiling() or (device.type == "cuda" and torch.cuda.is_current_stream_capturing()):
            return False
        return self.calls < _CALLS or device.type == "cpu"

    def look(self, features: Mapping[str, Tensor], loss: Tensor, steep: Tensor | None) -> None:
        """Judge a penalty; ``steep`` are its targets where arctanh meets them unclamped."""
        self.calls += 1
        if self.calls <= _CALLS and steep is not None:
            self._targets(steep)
        if self.calls <= _CALLS and torch.is_grad_enabled():
            self._gradients(features, loss)

    def _targets(self, targets: Tensor) -> None:
        """Warn once if ±1 is not rare among the targets, at the poles of arctanh."""
        if self._extreme is None:
            return
        self._extreme += int((targets.abs() >= 0.999).sum())
        self._seen_targets += targets.numel()
        if self._extreme >= max(4.0, _RARE * self._seen_targets):
            warn(
                f"{self._extreme} of {self._seen_targets} targets so far are ±1, where arctanh is steepest: training "
                'tends to collapse. Set target_clamp=0.95, or transform="none" with four times the official alpha.'
            )
            self._extreme = None

    def _gradients(self, features: Mapping[str, Tensor], loss: Tensor) -> None:
        """Warn if the first penalty that is differentiated reaches none of the tapped features."""
        if self._largest and self._loss is not None:
            if float(self._loss) > 0 and all(float(value) == 0 for value in self._largest.values()):
                warn(
                    f"the gradient of the penalty is zero in all tapped layers ({', '.join(self._largest)}), so it "
                    "changes nothing: their features are constant or dead. Tap other layers, or mend the initial "
                    "weights."
                )
            self._largest = None
        if self._largest is None:
            return
        self._loss = loss.detach()
        for name, feature in features.items():
            if feature.requires_grad:
                feature.register_hook(partial(self._note, name))  # type: ignore[no-untyped-call]

    def optimizer(self, logits: nn.Parameter, model: nn.Module) -> None:
        """Warn if an optimizer has stepped twice over ``model`` and never over the logits: steps raise versions."""
        weight = next((p for p in model.parameters() if p.requires_grad), None)
        if self._steps == 2 or weight is None or not logits.requires_grad or logits.numel() == 1:
            return
        if self._weight < 0:
            self._logits = logits._version
        elif weight._version > self._weight and logits.grad is not None:  # else the penalty is not trained on
            self._steps += 1
            if self._steps == 2 and logits._version == self._logits:
                warn(
                    "no optimizer holds the regularizer's layer logits, so the layer weights stay as they are: add "
                    'reg.parameter_group() to the optimizer, or set layer_weights="uniform".'
                )
        self._weight = weight._version

    def _note(self, name: str, gradient: Tensor) -> None:
        """Keep the largest magnitude, on the device."""
        if self._largest is not None:
            self._largest[name] = gradient.detach().abs().amax()
