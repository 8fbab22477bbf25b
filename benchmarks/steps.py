"""Whole training steps of a classifier: plain, with simreg in each mode, and with the paper's scheme."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import baselines
import torch
from harness import Candidate, peak_memory
from layer_sets import Inputs, index_pairs
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from simreg import PairBatch, PixelTarget, RegularizationPool, SimilarityRegularizer
from simreg.nets import ResNet18

LAYERS = ("stem", "layer1", "layer2", "layer3", "layer4")
EARLY = ("stem", "layer1")
PLAIN = "plain"
ALPHA = 1.0
_LEARNING_RATE = 1e-6  # weights hardly move, so that every round does the same work
_IMAGE = (3, 32, 32)


class Loss(Protocol):
    """Of images in [0, 1] and labels."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor: ...


Maker = Callable[[nn.Module], tuple[Loss, list[nn.Parameter]]]  # the loss, and what it learns beside the model


@dataclass(frozen=True)
class StepCase:
    """Where steps are measured."""

    width: int  # of ResNet18; the paper's is 64
    modes: tuple[str, ...]
    batch: int = 64

    def __str__(self) -> str:
        return f"width-{self.width}"


def resnet(width: int) -> ResNet18:
    return ResNet18(10, channels=3, width=width)


def feature_bytes(width: int, batch: int) -> int:
    """Size of the outputs of `LAYERS`: width x 32 x 32 twice, then half as many values each time."""
    return 4 * batch * width * (2 * 1024 + 512 + 256 + 128)


def task_batch(n: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, *_IMAGE, generator=generator), torch.randint(10, (n,), generator=generator)


def pair_batches(pairs: int, pairing: str = "pairs") -> Iterator[PairBatch]:
    images = torch.rand(256, *_IMAGE, generator=torch.Generator().manual_seed(1))
    return RegularizationPool(images, PixelTarget()).batches(pairs, pairing=pairing)


def model_input(x: Tensor) -> Tensor:
    return 5.0 * (x - 0.5)


def plain(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(model_input(x)), y)


def separate(
    model: nn.Module, layers: tuple[str, ...], k: int, *, pairing: str = "pairs", early_exit: bool = False
) -> tuple[Loss, list[nn.Parameter]]:
    """A forward pass of its own for 2k images, or for all images whose pairs are k."""
    reg = SimilarityRegularizer(model, layers, alpha=ALPHA, pairing=pairing, early_exit=early_exit)
    batches = pair_batches(k, pairing)
    return lambda model, x, y: plain(model, x, y) + reg(next(batches)), [reg.layer_logits]


def joint(model: nn.Module, k: int) -> tuple[Loss, list[nn.Parameter]]:
    """One forward pass for task and regularization images."""
    reg = SimilarityRegularizer(model, LAYERS, alpha=ALPHA)
    batches = pair_batches(k)

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        logits, penalty = reg.joint(model_input(x), next(batches))
        return F.cross_entropy(logits, y) + penalty

    return loss, [reg.layer_logits]


def same_batch(
    model: nn.Module, pairing: str, targets: Tensor | None = None, *, attach: bool = False
) -> tuple[Loss, list[nn.Parameter]]:
    """Similarities of the task batch itself, with targets of its pixels or given ones: no further forward pass."""
    reg = SimilarityRegularizer(model, LAYERS, alpha=ALPHA, pairing=pairing, target=PixelTarget(), attach=attach)

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        with reg.observe():
            task = plain(model, x, y)
        return task + reg.penalty(x if targets is None else targets)

    return loss, [reg.layer_logits]


class Hooked:
    """Outputs of a model's layers, by forward hooks."""

    def __init__(self, model: nn.Module) -> None:
        self.outputs: list[Tensor] = []
        for name in LAYERS:
            model.get_submodule(name).register_forward_hook(lambda module, args, out: self.outputs.append(out))

    def take(self) -> list[Tensor]:
        found, self.outputs = self.outputs, []
        return found


def same_batch_naive(model: nn.Module, targets: Tensor | None = None) -> tuple[Loss, list[nn.Parameter]]:
    """The same pairs of the task batch by the plain formula."""
    hooked, logits = Hooked(model), _layer_logits()

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        task = plain(model, x, y)
        wanted = _pixel_similarity(x) if targets is None else targets
        penalty, _ = baselines.naive(_inputs(hooked.take(), wanted, logits), "channel", paired=True)
        return task + ALPHA * penalty

    return loss, [logits]


def _pixel_similarity(x: Tensor) -> Tensor:
    rows = x.mean(dim=1).flatten(1)
    return F.cosine_similarity(*(rows - rows.mean(dim=0)).chunk(2))


def paper_scheme(model: nn.Module, k: int) -> tuple[Loss, list[nn.Parameter]]:
    """The paper's step: two forward passes of k images each, plain similarity; pairs and targets are given."""
    hooked, logits = Hooked(model), _layer_logits()
    batch = next(pair_batches(k))
    halves = [model_input(half) for half in batch.images.chunk(2)]

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        task = plain(model, x, y)
        hooked.take()
        sides = []
        for half in halves:
            model(half)
            sides.append(hooked.take())
        features = [side for both in zip(*sides, strict=True) for side in both]
        return task + ALPHA * baselines.paper_scheme(_inputs(features, batch.targets, logits))[0]

    return loss, [logits]


def _layer_logits() -> nn.Parameter:
    return nn.Parameter(torch.zeros(len(LAYERS)))


def _inputs(features: list[Tensor], targets: Tensor, logits: Tensor) -> Inputs:
    """For `baselines`; ``features`` per layer, or per layer and half."""
    per_layer = features[:: len(features) // len(LAYERS)]
    means = [torch.zeros(x.shape[1]) for x in per_layer]
    return Inputs(features, means, logits, targets, index_pairs(2 * targets.shape[0], paired=True))


MODES: dict[str, Maker] = {
    PLAIN: lambda model: (plain, []),
    "paper scheme": lambda model: paper_scheme(model, 16),
    "separate": lambda model: separate(model, LAYERS, 16),
    "separate, stem+layer1": lambda model: separate(model, EARLY, 16),
    "separate, stem+layer1, early exit": lambda model: separate(model, EARLY, 16, early_exit=True),
    "joint": lambda model: joint(model, 16),
    "same batch, naive": same_batch_naive,
    "same batch": lambda model: same_batch(model, "pairs"),
    "same batch, attached": lambda model: same_batch(model, "pairs", attach=True),
    "same batch, all pairs": lambda model: same_batch(model, "all"),
    "8 images, all pairs": lambda model: separate(model, LAYERS, 28, pairing="all"),
    "8 images, all pairs, early exit": lambda model: separate(model, EARLY, 28, pairing="all", early_exit=True),
}


def step(name: str, make: Maker, width: int, batch: int, *, compiled: bool = False) -> Candidate:
    """Loss, backward and SGD of a net of its own."""
    model = resnet(width)
    loss, learned = make(model)
    optimizer = torch.optim.SGD([*model.parameters(), *learned], lr=_LEARNING_RATE, momentum=0.9)
    loss = torch.compile(loss) if compiled else loss
    x, y = task_batch(batch)

    def run(_: None) -> None:
        optimizer.zero_grad()
        loss(model, x, y).backward()
        optimizer.step()

    return Candidate(name, {"step": run})


def survey(candidate: Candidate) -> tuple[int, int]:
    """Floating-point operations of a step, its first, and the most memory that the next one takes."""
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counted:
        candidate.run()  # eager, as no compiled code runs while operations are counted
    return counted.get_total_flops(), peak_memory(candidate.run)


def gradients(make: Maker, width: int, batch: int) -> list[Tensor]:
    """Gradient of the first step, by parameter."""
    model = resnet(width)
    x, y = task_batch(batch)
    loss = make(model)[0](model, x, y)
    return list(torch.autograd.grad(loss, list(model.parameters())))
