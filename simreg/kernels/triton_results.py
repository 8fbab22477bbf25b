"""What the finalizing kernels are given and what they fill in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Results:
    """Options, inputs and outputs of the closed form; shapes as in `simreg.kernels.triton_backend.penalty`."""

    eps: float
    convention: str
    transform: str
    clamp: float
    logits: Tensor
    targets: Tensor
    loss: Tensor
    mixed: Tensor
    similarities: Tensor
    coefficients: Tensor
    logit_gradient: Tensor

    @classmethod
    def empty(
        cls,
        logits: Tensor,
        targets: Tensor,
        shape: tuple[int, ...],
        *,
        eps: float,
        convention: str,
        transform: str,
        clamp: float,
    ) -> Results:
        """Results to be filled in, given the ``shape`` of the coefficients."""
        layers, pairs = shape[0], targets.shape[0]

        def new(*size: int) -> Tensor:
            return torch.empty(size, dtype=torch.float64, device=logits.device)

        return cls(
            eps, convention, transform, clamp, logits.contiguous(), targets.contiguous(),
            new(), new(pairs), new(layers, pairs), new(*shape), new(layers),
        )  # fmt: skip

    @property
    def options(self) -> tuple[float, float, str, str]:
        """In the order of the kernels' arguments."""
        return self.eps, self.clamp, self.transform, self.convention

    @property
    def outputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Loss, mixed and layer similarities, coefficients, gradient of the logits."""
        return self.loss, self.mixed, self.similarities, self.coefficients, self.logit_gradient

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """In the order of the kernels' arguments."""
        return self.logits, self.targets, *self.outputs
