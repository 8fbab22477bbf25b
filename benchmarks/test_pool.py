"""Set-up of a pool of regularization images, and drawing its batches, against a matrix and a list of all pairs."""

import itertools
import random

import pytest
import torch
from harness import Candidate, compare, peak_memory
from torch.nn import functional as F

from simreg import RegularizationPool, ThresholdTarget

_THRESHOLD = 0.2  # of random images; few pairs of such are as similar as natural ones
_PAIRS = 16


def images(n):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(n, 3, 4, 4, generator=generator)
    return F.interpolate(coarse, size=32, mode="bilinear")


class ListOfPairs:
    """Similarity of all images with all, thresholded, and a list of the pairs to draw from."""

    def __init__(self, x):
        rows = x.mean(dim=1).flatten(1)
        unit = F.normalize(rows - rows.mean(dim=0), dim=1)
        similarity = unit @ unit.T
        self.target = (similarity > _THRESHOLD).float() - (similarity < -_THRESHOLD).float()
        self.images = x
        self.pairs = list(itertools.combinations(range(len(x)), 2))

    def draw(self):
        i, j = torch.tensor(random.sample(self.pairs, _PAIRS)).T
        return self.images[torch.cat([i, j])], self.target[i, j]


def pool(x):
    return RegularizationPool(x, ThresholdTarget(_THRESHOLD))


@pytest.mark.sizes(smoke=[100], default=[1000, 5000], full=[1000, 5000])
@pytest.mark.benchmark(group="pool set-up")
def test_set_up(benchmark, case, rounds):
    x = images(case)
    check(x[:100])
    candidates = [
        Candidate("pool", {"set-up": lambda _: pool(x)}),
        Candidate("list of pairs", {"set-up": lambda _: ListOfPairs(x)}),
    ]
    memory = {c.name: round(peak_memory(c.run) / 2**20, 1) for c in candidates}
    benchmark.extra_info.update(case={"images": case}, tensor_mebibytes=memory)
    compare(benchmark, candidates, bases=["list of pairs"], rounds=rounds(9 if case <= 1000 else 3))


@pytest.mark.sizes(smoke=[100], default=[1000], full=[1000, 5000])
@pytest.mark.benchmark(group="pair drawing")
def test_drawing(benchmark, case, rounds):
    x = images(case)
    listed, drawn = ListOfPairs(x), pool(x)
    streams = {
        "uniform": drawn.batches(_PAIRS),
        "stratified": drawn.batches(_PAIRS, sampling="stratified"),
        "all pairs of 8 images": drawn.batches(28, pairing="all"),
    }
    candidates = [Candidate(name, {"draw": lambda _, s=stream: next(s)}) for name, stream in streams.items()]
    candidates.append(Candidate("list of pairs", {"draw": lambda _: listed.draw()}))
    benchmark.extra_info.update(case={"images": case})
    compare(benchmark, candidates, bases=["list of pairs"], rounds=rounds(101))


def check(x):
    """Pool and matrix have the same targets."""
    batch = next(pool(x).batches(_PAIRS))
    i, j = batch.indices.chunk(2)
    assert torch.equal(batch.targets, ListOfPairs(x).target[i, j])
