"""Training steps of torchvision's ResNet50 on a GPU, as one trains it on ImageNet."""

from __future__ import annotations

import torch
from harness import Candidate
from torch import Tensor
from torch.nn import functional as F

from simreg import SimilarityRegularizer


def large_steps(batch: int) -> list[Candidate]:
    """The same batch's similarities, by pairs and all with all, and the plain step; a net each."""
    return [
        _step("same batch", "pairs", batch),
        _step("same batch, all pairs", "all", batch),
        _step("plain", None, batch),
    ]


def _step(name: str, pairing: str | None, batch: int) -> Candidate:
    from torchvision.models import resnet50

    model = resnet50().cuda().to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(batch, 3, 224, 224, generator=generator).cuda().contiguous(memory_format=torch.channels_last)
    y = torch.randint(1000, (batch,), generator=generator).cuda()
    reg = None if pairing is None else SimilarityRegularizer(model, pairing=pairing)
    targets = torch.zeros(0 if reg is None else _num_pairs(batch, pairing), device="cuda")
    learned = [] if reg is None else list(reg.parameters())
    optimizer = torch.optim.SGD([*model.parameters(), *learned], lr=1e-6, momentum=0.9)

    def loss() -> Tensor:
        if reg is None:
            return F.cross_entropy(model(x), y)
        with reg.observe():
            logits = model(x)
        return F.cross_entropy(logits, y) + reg.penalty(targets)

    def run(_: None) -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            value = loss()
        value.backward()
        optimizer.step()

    return Candidate(name, {"step": run})


def _num_pairs(batch: int, pairing: str | None) -> int:
    return batch // 2 if pairing == "pairs" else batch * (batch - 1) // 2
