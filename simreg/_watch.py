"""Warnings about set-ups that train without an error and without effect, or collapse."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from simreg._warn import warn

_RARE = 0.02  # share of ±1 targets from which arctanh makes training collapse; the paper's setting has 0.003


class ExtremeTargetWatch:
    """Warns once if targets of ±1 are not rare where they meet the poles of arctanh."""

    def __init__(self) -> None:
        self._extreme = 0
        self._seen = 0
        self._warned = False

    def look(self, targets: Tensor) -> None:
        """Count the ±1 among ``targets``; synchronises."""
        self._extreme += int((targets.abs() >= 0.999).sum())
        self._seen += targets.numel()
        if self._warned or self._extreme < max(4.0, _RARE * self._seen):
            return
        self._warned = True
        warn(
            f"{self._extreme} of {self._seen} targets so far are ±1, where arctanh is steepest: training tends to "
            'collapse. Set target_clamp=0.95, or transform="none" with four times the official alpha.'
        )


class ZeroGradientWatch:
    """Warns once if the first penalties of a model reach none of the tapped features."""

    def __init__(self) -> None:
        self._largest: dict[str, Tensor] = {}
        self._loss: Tensor | None = None
        self._settled = False

    def look(self, features: Mapping[str, Tensor], loss: Tensor) -> None:
        """Judge the gradients of the pass before, and watch those of this one; reading them synchronises."""
        if self._settled:
            return
        if self._largest and self._loss is not None:
            self._settled = True
            if float(self._loss) > 0 and all(float(value) == 0 for value in self._largest.values()):
                warn(
                    f"the gradient of the penalty is zero in all tapped layers ({', '.join(self._largest)}), so it "
                    "changes nothing: their features are constant or dead. Tap other layers, or mend the initial "
                    "weights."
                )
            return
        self._loss = loss.detach()
        for name, feature in features.items():
            if feature.requires_grad:
                feature.register_hook(_Largest(self._largest, name))  # type: ignore[no-untyped-call]


class _Largest:
    """Gradient hook that notes the largest magnitude, on the device."""

    def __init__(self, largest: dict[str, Tensor], name: str) -> None:
        self._largest = largest
        self._name = name

    def __call__(self, grad: Tensor) -> None:
        self._largest[self._name] = grad.detach().abs().amax()


class OptimizerWatch:
    """Warns once if optimizers step over the model's parameters and none holds the layer logits."""

    def __init__(self) -> None:
        self._finalizer: weakref.finalize[Any, Any] | None = None
        self._verdict: _Verdict | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return OptimizerWatch, ()

    def start(self, logits: nn.Parameter, model: nn.Module) -> None:
        """Watch the optimizers' steps from now on; only the first call counts."""
        if self._verdict is not None:
            if self._verdict.settled:  # not during a step: torch iterates over its hooks then
                self.stop()
            return
        self._verdict = _Verdict(logits, model)
        handle = register_optimizer_step_post_hook(self._verdict)
        self._finalizer = weakref.finalize(self, handle.remove)

    def holder(self) -> torch.optim.Optimizer | None:
        """The optimizer that was seen to step over the logits, if one was and lives."""
        return None if self._verdict is None else self._verdict.holder()

    def stop(self) -> None:
        """Watch no longer."""
        if self._finalizer is not None:
            self._finalizer()


class _Verdict:
    """Hook on every optimizer's step, until it is known whether one holds the layer logits."""

    def __init__(self, logits: nn.Parameter, model: nn.Module) -> None:
        self._logits = weakref.ref(logits)
        self._model = weakref.ref(model)
        self._steps = 0
        self._holder: weakref.ref[torch.optim.Optimizer] | None = None
        self.settled = False

    def holder(self) -> torch.optim.Optimizer | None:
        return None if self._holder is None else self._holder()

    def __call__(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if self.settled:
            return
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        logits, model = self._logits(), self._model()
        if logits is None or model is None or id(logits) in held:
            self.settled = True
            self._holder = weakref.ref(optimizer) if logits is not None and id(logits) in held else None
        elif any(id(p) in held for p in model.parameters()):
            self._steps += 1
            if self._steps == 2:  # by then an optimizer of the logits alone would have stepped
                self.settled = True
                warn(
                    "no optimizer holds the regularizer's layer logits, so the layer weights stay as they are: add "
                    'reg.parameter_group() to the optimizer, or set layer_weights="uniform".'
                )
