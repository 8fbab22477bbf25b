"""Set-up of a pool of regularization images, and drawing batches, against a matrix and a list of all pairs."""

import itertools
import random

import pytest
import torch
from torch.nn import functional as F

from simreg import RegularizationPool, ThresholdTarget

_THRESHOLD = 0.2  # of random images; few pairs of such are as similar as natural ones
_SIZES = {"default": [5000], "smoke": [200]}
_BASE = "list of pairs"


class ListOfPairs:
    """Similarity of all images with all, thresholded, and a list of the pairs to draw from."""

    def __init__(self, images):
        rows = images.mean(dim=1).flatten(1)
        unit = F.normalize(rows - rows.mean(dim=0), dim=1)
        similarity, self.images = unit @ unit.T, images
        self.targets = (similarity > _THRESHOLD).float() - (similarity < -_THRESHOLD).float()
        self.pairs = list(itertools.combinations(range(len(images)), 2))

    def draw(self):
        i, j = torch.tensor(random.sample(self.pairs, 16)).T
        return self.images[torch.cat([i, j])], self.targets[i, j]


@pytest.fixture
def makers(case):
    """Of a pool and of the list, which have the same targets."""
    coarse = torch.rand(case, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    images = F.interpolate(coarse, size=32, mode="bilinear")
    batch = next(RegularizationPool(images[:100], ThresholdTarget(_THRESHOLD)).batches(16))
    i, j = batch.indices.chunk(2)
    assert torch.equal(batch.targets, ListOfPairs(images[:100]).targets[i, j])
    return {"pool": lambda: RegularizationPool(images, ThresholdTarget(_THRESHOLD)), _BASE: lambda: ListOfPairs(images)}


@pytest.mark.sizes(**_SIZES)
@pytest.mark.benchmark(group="pool set-up")
def test_set_up(compare, case, makers):
    compare(makers, [_BASE], 3, case={"images": case}, goals={"pool": "<= 200 ms"})


@pytest.mark.sizes(**_SIZES)
@pytest.mark.benchmark(group="pool drawing")
def test_drawing(compare, case, makers):
    pool, listed = (make() for make in makers.values())
    runs = {
        "uniform": pool.batches(16).__next__,
        "stratified": pool.batches(16, sampling="stratified").__next__,
        "all pairs of 8 images": pool.batches(28, pairing="all").__next__,
        _BASE: listed.draw,
    }
    compare(runs, [_BASE], 101, case={"images": case})
