"""Attacks on whole batches against one image at a time: the same results, sooner."""

from dataclasses import dataclass

import pytest
import torch
from harness import Candidate, compare
from torch.nn import functional as F

from simreg.nets import ResNet18
from simreg.robustness import Classifier, boundary_attack, fgsm

pytest.importorskip("foolbox")
_STEPS = 10
_SAME_DISTANCE = 0.05  # of the median; rounding in another batch size takes an attack along another path


@dataclass(frozen=True)
class AttackCase:
    images: int
    width: int = 16
    stem_stride: int = 1

    def __str__(self):
        return f"{self.images}-width-{self.width}-stride-{self.stem_stride}"


_SIZES = {
    "smoke": [AttackCase(4, width=8)],
    "default": [AttackCase(128)],
    "full": [AttackCase(128), AttackCase(128, stem_stride=2)],
}


@pytest.mark.sizes(**_SIZES)
@pytest.mark.benchmark(group="attacks")
def test_fgsm(benchmark, case, rounds):
    model, x = net_and_images(case)
    labels = model.predict(x)
    attack = lambda batch: fgsm(model, x, labels, 0.01, batch_size=batch)  # noqa: E731
    different = (attack(case.images) != attack(1)).double().mean()
    assert different < 0.01  # signs of gradients that rounding turns
    benchmark.extra_info.update(case={"attack": "FGSM", **vars(case)}, different_pixels=float(different))
    _race(benchmark, attack, case, rounds(7))


@pytest.mark.sizes(**_SIZES)
@pytest.mark.benchmark(group="attacks")
def test_boundary_attack(benchmark, case, rounds):
    model, x = net_and_images(case)
    attack = lambda batch: boundary_attack(  # noqa: E731
        model, x, steps=_STEPS, directions=_STEPS, blend_steps=_STEPS, batch_size=batch
    )
    medians = [attack(batch).median for batch in (case.images, 1)]
    assert medians[0] < float("inf")  # most images have a start, so that steps are what is timed
    assert medians[0] == pytest.approx(medians[1], rel=_SAME_DISTANCE)
    benchmark.extra_info.update(case={"attack": "Boundary Attack", **vars(case)}, median_distances=medians)
    _race(benchmark, attack, case, rounds(3))


def _race(benchmark, attack, case, rounds):
    candidates = [
        Candidate("batched", {"attack": lambda _: attack(case.images)}),
        Candidate("one at a time", {"attack": lambda _: attack(1)}),
    ]
    compare(benchmark, candidates, bases=["one at a time"], rounds=rounds)


def net_and_images(case):
    """A net that tells whether red or green prevails, also in noise, where attacks start; and coloured blobs."""
    generator = torch.Generator().manual_seed(0)
    blobs = F.interpolate(torch.rand(case.images, 3, 4, 4, generator=generator), size=32, mode="bilinear")
    x = torch.cat([blobs, torch.rand(case.images, 3, 32, 32, generator=generator)])
    y = (x[:, 0].mean(dim=(1, 2)) > x[:, 1].mean(dim=(1, 2))).long()
    model = ResNet18(2, channels=3, width=case.width, stem_stride=case.stem_stride)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    for _ in range(12):
        optimizer.zero_grad()
        F.cross_entropy(model(5 * (x - 0.5)), y).backward()
        optimizer.step()
    return Classifier(model, mean=0.5, std=0.2), blobs
