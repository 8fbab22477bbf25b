"""What a regularized step costs, counted before training."""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from simreg._checks import check_choice, describe
from simreg.features import FeatureTap, is_distributed

Mode = Literal["separate", "observe", "joint"]

_STEP = 3  # forward, and backward as twice forward
_PER_PAIR = 14  # FLOPs per unit and pair: three products forward, two rows of two terms backward
_PER_GRAM_ENTRY = 4  # FLOPs per unit and entry of the matrix of all rows: one product each way
_PER_VALUE = 2  # centring, each way


@dataclass(frozen=True)
class CostEstimate:
    """FLOPs of one training step, with and without the regularizer; see `SimilarityRegularizer.cost`."""

    mode: str
    batch_size: int  # B, task images of a step
    pairs: int  # that are compared
    images: int  # regularization images that pass through the model besides the task images
    early_exit: bool  # whether their pass ends after the last tapped layer
    plain_flops: int  # a multiplication and an addition as two, backward as twice forward
    regularized_flops: int  # similarity_flops among them
    similarity_flops: int  # of centring, similarities and their gradient

    @property
    def ratio(self) -> float:
        """Expected time of a regularized step over that of a plain one: the ratio of their FLOPs."""
        return self.regularized_flops / self.plain_flops if self.plain_flops else math.nan

    def __str__(self) -> str:
        end = " up to the last tapped layer" if self.early_exit else ""
        extra = f"{self.images} more images{end}" if self.images else "no more images"
        return (
            f"{self.mode}: {self.batch_size} images and {self.pairs} pairs a step, {extra}\n"
            f"MFLOP a step: plain {self.plain_flops / 1e6:,.1f}, regularized {self.regularized_flops / 1e6:,.1f} "
            f"(similarity {self.similarity_flops / 1e6:,.1f}): {self.ratio:.2f} times the plain step"
        )


def estimate(
    tap: FeatureTap, example: Tensor, batch_size: int, pairs: int | None, *, mode: Mode, pairing: str, early_exit: bool
) -> CostEstimate:
    """See `SimilarityRegularizer.cost`; ``tap`` names the layers, ``early_exit`` says whether its pass ends there."""
    from torch.utils.flop_counter import FlopCounterMode  # which imports triton

    check_choice("mode", mode, ("separate", "observe", "joint"))
    pairs = _pairs(pairs, batch_size, mode, pairing)
    images = 0
    if mode != "observe":
        images = 2 * pairs if pairing == "pairs" else math.ceil((1 + math.sqrt(8 * pairs + 1)) / 2)
    if not len(example):
        raise ValueError("example must hold at least one image, got 0.")
    model = _bare(tap)
    two = example[[0, example.shape[0] > 1]]  # batch norm in training mode needs more than one
    early_exit = early_exit and mode == "separate"
    flops = []
    with _untouched(model, two.device), FeatureTap(model, tap.layers, select=tap._select) as own:
        for exits in (False, early_exit):
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                features = own.features(two, early_exit=exits)
            flops.append(counter.get_total_flops())
    compared = images or batch_size
    products = _PER_PAIR * pairs if pairing == "pairs" else _PER_GRAM_ENTRY * compared**2
    similarity = sum(f[0].numel() for f in features.values()) * (products + _PER_VALUE * compared)
    plain = _STEP * flops[0] * batch_size // 2
    regularized = plain + _STEP * flops[1] * images // 2 + similarity
    return CostEstimate(mode, batch_size, pairs, images, early_exit, plain, regularized, similarity)


def _bare(tap: FeatureTap) -> nn.Module:
    """The model without ``torch.compile`` and DistributedDataParallel, which would prepare a reduction of gradients."""
    model = tap.require_model()
    if tap._recorder.armed:
        raise RuntimeError("a pass is being recorded: estimate the cost before or after it.")
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
    if pairs is None and mode != "observe":
        raise ValueError(f'pairs: mode="{mode}" needs the number of pairs of a step.')
    most = math.comb(batch_size, 2)
    pairs = pairs or (most if pairing == "all" else batch_size // 2)
    if mode == "observe" and not 0 < pairs <= most:
        raise ValueError(f"pairs must be at most {most} for the {batch_size} images of a batch, got {pairs}.")
    return pairs


@contextmanager
def _untouched(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Passes inside the block leave no trace: they write to copies of the buffers, and the random state is restored."""
    saved = [(module._buffers, dict(module._buffers)) for module in model.modules()]
    copies: dict[int, Tensor] = {}  # modules that share a buffer share its copy
    eager = getattr(torch.compiler, "set_stance", nullcontext)  # torch 2.6: new hooks do not fire in compiled code
    with torch.random.fork_rng([device] if device.type == "cuda" else []), eager("force_eager"):
        try:
            for buffers, originals in saved:
                for name, buffer in originals.items():
                    if buffer is not None:
                        buffers[name] = copies.setdefault(id(buffer), buffer.detach().clone())
            yield
        finally:
            for buffers, originals in saved:
                buffers.update(originals)
