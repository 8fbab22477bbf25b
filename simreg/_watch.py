"""Warnings about set-ups that train without an error and without effect, or collapse."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

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
        warnings.warn(
            f"{self._extreme} of {self._seen} targets so far are ±1, where arctanh is steepest: training tends to "
            'collapse. Set target_clamp=0.95, or transform="none" with four times the official alpha.',
            UserWarning,
            stacklevel=6,
        )


class OptimizerWatch:
    """Warns once if optimizers step over the model's parameters and none holds the layer logits."""

    def __init__(self) -> None:
        self._remove: Callable[[], None] | None = None
        self._started = False
        self._settled = False

    def __reduce__(self) -> tuple[Any, ...]:
        return OptimizerWatch, ()

    def start(self, logits: nn.Parameter, model: nn.Module) -> None:
        """Watch the optimizers' steps from now on; only the first call counts."""
        if self._started:
            if self._settled:  # not during a step: torch iterates over its hooks then
                self.stop()
            return
        self._started = True
        steps = 0
        logits_ref, model_ref = weakref.ref(logits), weakref.ref(model)

        def after_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
            nonlocal steps
            if self._settled:
                return
            held = {id(p) for group in optimizer.param_groups for p in group["params"]}
            logits, model = logits_ref(), model_ref()
            if logits is None or model is None or id(logits) in held:
                self._settled = True
            elif any(id(p) in held for p in model.parameters()):
                steps += 1
                if steps == 2:  # by then an optimizer of the logits alone would have stepped
                    self._settled = True
                    warnings.warn(
                        "no optimizer holds the regularizer's layer logits, so the layer weights stay as they are: add "
                        'reg.parameter_group() to the optimizer, or set layer_weights="uniform".',
                        UserWarning,
                        stacklevel=3,
                    )

        self._remove = register_optimizer_step_post_hook(after_step).remove

    def stop(self) -> None:
        """Watch no longer."""
        if self._remove is not None:
            self._remove()
            self._remove = None
