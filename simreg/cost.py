"""What a regularized step costs, counted before training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from simreg._checks import check_choice, describe
from simreg.features import FeatureTap, is_distributed

Mode = Literal["separate", "observe", "joint"]

_EXAMPLES = 2  # batch norm in training mode needs more than one image where features have one position
_STEP = 3  # forward, and backward as twice forward
_PER_PAIR = 14  # FLOPs per unit and pair: three products forward, two rows of two terms backward
_PER_GRAM_ENTRY = 4  # FLOPs per unit and entry of the matrix of all rows: one product each way
_PER_VALUE = 2  # centring, each way


@dataclass(frozen=True)
class CostEstimate:
    """Cost of one training step, with and without the regularizer; see `SimilarityRegularizer.cost`.

    FLOPs are those of convolutions and matrix products, a multiplication and an addition as two; backward is taken as
    twice forward.

    Attributes:
        mode: ``"separate"``, ``"observe"`` or ``"joint"``.
        batch_size: B, task images of a step.
        pairs: Pairs compared.
        images: Regularization images that pass through the model besides the task images.
        early_exit: Whether their pass ends after the last tapped layer.
        plain_flops: Of the step without regularizer.
        regularized_flops: Of the step with it, ``similarity_flops`` among them.
        similarity_flops: Of centring, similarities and their gradient.
    """

    mode: str
    batch_size: int
    pairs: int
    images: int
    early_exit: bool
    plain_flops: int
    regularized_flops: int
    similarity_flops: int

    @property
    def ratio(self) -> float:
        """Expected time of a regularized step over that of a plain one: the ratio of their FLOPs."""
        return self.regularized_flops / self.plain_flops if self.plain_flops else math.nan

    def __str__(self) -> str:
        end = " up to the last tapped layer" if self.early_exit else ""
        extra = f"{self.images} more images{end}" if self.images else "no more images"
        plain, regularized, similarity = map(_unit, (self.plain_flops, self.regularized_flops, self.similarity_flops))
        return (
            f"{self.mode}: {self.batch_size} images and {self.pairs} pairs a step, {extra}\n"
            f"FLOP a step: plain {plain}, regularized {regularized} (similarity {similarity}): "
            f"{self.ratio:.2f} times the plain step"
        )


def estimate(
    tap: FeatureTap,
    example: Tensor,
    batch_size: int,
    pairs: int | None,
    *,
    mode: Mode,
    pairing: str,
    early_exit: bool,
) -> CostEstimate:
    """See `SimilarityRegularizer.cost`; ``tap`` names the layers, ``early_exit`` says whether its pass ends there."""
    model = _bare(tap.require_model())
    if tap.recording:
        raise RuntimeError("a pass is being recorded: estimate the cost before or after it.")
    check_choice("mode", mode, ("separate", "observe", "joint"))
    pairs = _pairs(pairs, batch_size, mode, pairing)
    images = 0
    if mode != "observe":
        images = 2 * pairs if pairing == "pairs" else math.ceil((1 + math.sqrt(8 * pairs + 1)) / 2)
    if example.shape[0] == 0:
        raise ValueError("example must hold at least one image, got 0.")
    example = example[[i % example.shape[0] for i in range(_EXAMPLES)]]
    early_exit = early_exit and mode == "separate"
    with _untouched(model, example.device), FeatureTap(model, tap.layers, select=tap._select) as own:
        whole, _ = _flops(own, example, early_exit=False)
        part, values = _flops(own, example, early_exit=early_exit)
    compared = images or batch_size
    products = _PER_PAIR * pairs if pairing == "pairs" else _PER_GRAM_ENTRY * compared**2
    similarity = values * (products + _PER_VALUE * compared)
    plain = _STEP * whole * batch_size // _EXAMPLES
    regularized = plain + _STEP * part * images // _EXAMPLES + similarity
    return CostEstimate(mode, batch_size, pairs, images, early_exit, plain, regularized, similarity)


def _bare(model: nn.Module) -> nn.Module:
    """The model without ``torch.compile`` and DistributedDataParallel, which would prepare a reduction of gradients."""
    while isinstance(model, nn.parallel.DistributedDataParallel) or "_orig_mod" in model._modules:
        model = model.get_submodule("_orig_mod" if "_orig_mod" in model._modules else "module")
    if is_distributed(model):
        raise ValueError("model: it is wrapped for distributed training; estimate the cost before that.")
    if any(nn.parameter.is_lazy(p) for p in model.parameters()):
        raise ValueError("model: it has lazy parameters, which its first pass would create; run it once before.")
    return model


def _pairs(pairs: int | None, batch_size: int, mode: Mode, pairing: str) -> int:
    """Number of pairs, after checks."""
    for name, value in (("batch_size", batch_size), ("pairs", 1 if pairs is None else pairs)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be an integer, got {describe(value)}.")
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    most = math.comb(batch_size, 2)
    if pairs is None and mode != "observe":
        raise ValueError(f'pairs: mode="{mode}" needs the number of pairs of a step.')
    pairs = pairs or (most if pairing == "all" else batch_size // 2)
    if mode == "observe" and not 0 < pairs <= most:
        raise ValueError(f"pairs must be at most {most} for the {batch_size} images of a batch, got {pairs}.")
    return pairs


@contextmanager
def _untouched(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Passes inside the block leave no trace: they write to copies of the buffers, and the random state is restored."""
    saved = [(module._buffers, dict(module._buffers)) for module in model.modules()]
    copies: dict[int, Tensor] = {}  # modules that share a buffer share its copy
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        if hasattr(torch.compiler, "set_stance"):  # torch 2.6; hooks of a tap made now would not fire in compiled code
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            for buffers, originals in saved:
                for name, buffer in originals.items():
                    if buffer is not None:
                        buffers[name] = copies.setdefault(id(buffer), buffer.detach().clone())
            yield
        finally:
            for buffers, originals in saved:
                buffers.update(originals)


def _flops(tap: FeatureTap, images: Tensor, *, early_exit: bool) -> tuple[int, int]:
    """FLOPs of a forward pass of ``images``, and values of one image's features in all layers."""
    from torch.utils.flop_counter import FlopCounterMode  # which imports triton

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        features = tap.features(images, early_exit=early_exit)
    return counter.get_total_flops(), sum(f.numel() for f in features.values()) // _EXAMPLES


def _unit(amount: float) -> str:
    """``amount`` with a prefix: 1.5 G."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if amount < 999.5 or prefix == "P":
            break
        amount /= 1000
    return f"{amount:.0f} {prefix}".rstrip() if not prefix or amount >= 99.5 else f"{amount:.3g} {prefix}"
