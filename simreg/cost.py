"""What a regularized step costs, counted before training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from simreg._checks import check_choice, describe
from simreg.features import FeatureTap, is_distributed

Mode = Literal["separate", "observe", "joint"]
MODES = ("separate", "observe", "joint")

_EXAMPLES = 2  # batch norm in training mode needs more than one image where features have one position
_STEP = 3  # forward, and backward as twice forward
_PER_PAIR = 14  # FLOPs per unit and pair: three products forward, two rows of two terms backward
_PER_GRAM_ENTRY = 4  # FLOPs per unit and entry of the matrix of all rows: one product each way
_PER_VALUE = 2  # centring, each way
_DENSE = 64  # given pairs are looked up in the matrix of all rows unless that has more entries for each


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
        similarity_bytes: Memory traffic of the same: tapped features read in forward, read in backward, and their
            gradient written, unless ``attach`` writes it together with that of the network.
        extra_memory: Bytes at the end of forward and during the similarity's backward that the plain step has not.
        features: Shape of one image's features by layer, (C, H, W) or other.
        feature_bytes: Bytes of one image's features by layer.
    """

    mode: str
    batch_size: int
    pairs: int
    images: int
    early_exit: bool
    plain_flops: int
    regularized_flops: int
    similarity_flops: int
    similarity_bytes: int
    extra_memory: int
    features: Mapping[str, tuple[int, ...]]
    feature_bytes: Mapping[str, int]

    @property
    def ratio(self) -> float:
        """Expected time of a regularized step over that of a plain one: the ratio of their FLOPs."""
        return self.regularized_flops / self.plain_flops if self.plain_flops else math.nan

    def __str__(self) -> str:
        end = " up to the last tapped layer" if self.early_exit else ""
        extra = f"{self.images} more images{end}" if self.images else "no more images"
        layers = ", ".join(
            f"{name} {'x'.join(map(str, shape)) or 'scalar'} ({_unit(self.feature_bytes[name], 'B')})"
            for name, shape in self.features.items()
        )
        return "\n".join(
            [
                f"{self.mode}: {self.batch_size} images and {self.pairs} pairs a step, {extra}",
                f"FLOP a step: plain {_unit(self.plain_flops)}, regularized {_unit(self.regularized_flops)} "
                f"(similarity {_unit(self.similarity_flops)}): {self.ratio:.2f} times the plain step",
                f"memory: {_unit(self.extra_memory, 'B')} more; the similarity reads and writes "
                f"{_unit(self.similarity_bytes, 'B')}",
                f"features of an image: {layers}",
            ]
        )


@dataclass(frozen=True)
class _Pass:
    """One forward pass of a few images: FLOPs, bytes that autograd keeps for backward, and bytes of features beside."""

    flops: int
    kept: int
    ours: int
    features: Mapping[str, Tensor]


def estimate(
    tap: FeatureTap,
    example: Tensor,
    batch_size: int,
    pairs: int | None,
    *,
    mode: Mode,
    pairing: str,
    early_exit: bool,
    attached: bool,
) -> CostEstimate:
    """See `SimilarityRegularizer.cost`.

    Args:
        tap: Whose model and layers; it is not used itself.
        example: Input of the model, (N, C, H, W), N >= 1.
        batch_size: B.
        pairs: As there.
        mode: As there.
        pairing: Of the regularizer.
        early_exit: Whether its pass ends after the last tapped layer.
        attached: Whether the gradient of the similarity is written together with that of the network.

    Raises:
        ValueError: If a number or a choice is out of range, or the model is wrapped for distributed training.
        TypeError: If a number is no integer.
        RuntimeError: If the tap is closed, or is recording.
    """
    model = _bare(tap)
    check_choice("mode", mode, MODES)
    _check_count("batch_size", batch_size)
    pairs = _pairs(pairs, batch_size, mode, pairing)
    images = _images(pairs, pairing) if mode != "observe" else 0
    compared = images or batch_size
    if example.shape[0] == 0:
        raise ValueError("example must hold at least one image, got 0.")
    example = example[[i % example.shape[0] for i in range(_EXAMPLES)]]
    exits = early_exit and mode == "separate"
    with _untouched(model, example.device), FeatureTap(model, tap.layers, select=tap._select) as own:
        whole = _measured(own, example, early_exit=False)
        part = _measured(own, example, early_exit=True) if exits else whole

    def of(amount: int, count: int) -> int:
        return amount * count // _EXAMPLES

    values = sum(f.numel() for f in part.features.values()) // _EXAMPLES  # D of all layers
    size = sum(f.numel() * f.element_size() for f in part.features.values())
    paired = pairing == "pairs" and 2 * pairs == compared
    entries = pairs if pairing == "pairs" and compared**2 > _DENSE * pairs else compared**2
    products = _PER_PAIR * pairs if paired or entries == pairs else _PER_GRAM_ENTRY * entries
    similarity = values * (products + _PER_VALUE * compared)
    plain = _STEP * of(whole.flops, batch_size)
    # In a joint pass the features hold the task images too, and their gradient is padded to them; images are copied.
    joint = batch_size if mode == "joint" else 0
    copied = of(example.numel() * example.element_size(), joint)
    return CostEstimate(
        mode=mode,
        batch_size=batch_size,
        pairs=pairs,
        images=images,
        early_exit=exits,
        plain_flops=plain,
        regularized_flops=plain + _STEP * of(part.flops, images) + similarity,
        similarity_flops=similarity,
        similarity_bytes=(2 if attached else 3) * of(size, compared),
        extra_memory=of(part.kept, images) + of(part.ours + (0 if attached else size), compared + joint) + copied,
        features={name: tuple(f.shape[1:]) for name, f in part.features.items()},
        feature_bytes={n: f.numel() * f.element_size() // _EXAMPLES for n, f in part.features.items()},
    )


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


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, got {describe(value)}.")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}.")


def _pairs(pairs: int | None, batch_size: int, mode: Mode, pairing: str) -> int:
    """Number of pairs, after checks."""
    most = math.comb(batch_size, 2)
    if pairs is None:
        if mode != "observe":
            raise ValueError(f'pairs: mode="{mode}" needs the number of pairs of a step.')
        pairs = most if pairing == "all" else batch_size // 2
    _check_count("pairs", pairs)
    if mode == "observe" and pairs > most:
        raise ValueError(f"pairs must be at most {most} for the {batch_size} images of a batch, got {pairs}.")
    return pairs


def _images(pairs: int, pairing: str) -> int:
    """Regularization images of a step: 2k, or the fewest that have so many pairs."""
    if pairing == "pairs":
        return 2 * pairs
    n = (1 + math.isqrt(8 * pairs + 1)) // 2
    return n if math.comb(n, 2) >= pairs else n + 1


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
                        if id(buffer) not in copies:
                            copies[id(buffer)] = buffer.detach().clone()
                        buffers[name] = copies[id(buffer)]
            yield
        finally:
            for buffers, originals in saved:
                buffers.clear()
                buffers.update(originals)


def _measured(tap: FeatureTap, images: Tensor, *, early_exit: bool) -> _Pass:
    """FLOPs and memory of a forward pass of ``images``."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        tap.features(images, early_exit=early_exit)  # and see which layers are overwritten in place afterwards
    saved: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        features = tap.features(images, early_exit=early_exit)
    model = tap.require_model()
    for tensor in (*model.parameters(), *model.buffers()):
        saved.pop(tensor.untyped_storage().data_ptr(), None)
    own = {f.untyped_storage().data_ptr(): f.untyped_storage() for f in features.values()}
    ours = sum(storage.nbytes() for pointer, storage in own.items() if pointer not in saved)
    kept = sum(storage.nbytes() for storage in saved.values())
    return _Pass(counter.get_total_flops(), kept, ours, {n: f.detach() for n, f in features.items()})


def _unit(amount: float, unit: str = "") -> str:
    """``amount`` with a prefix: 1.5 G."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if amount < 999.5 or prefix == "P":
            break
        amount /= 1000
    digits = f"{amount:.0f}" if not prefix or amount >= 99.5 else f"{amount:.3g}"
    return f"{digits} {prefix}{unit}".rstrip()
