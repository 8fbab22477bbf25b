import pytest
import torch
from torch import nn

import simreg.comparison.training as training
from simreg.comparison import Recipe, Split
from simreg.comparison.parts import Site
from simreg.comparison.recipe import Network
from simreg.robustness import Sweep, noise_sweep


@pytest.fixture(autouse=True)
def _short_timing(monkeypatch):  # the few steps that are timed before a run
    for name, value in {"_WARM_UP": 1, "_LEAST_TIMED": 1, "_MOST_TIMED": 2}.items():
        monkeypatch.setattr(training, name, value)


def random_split(n=48, size=12, classes=3, channels=1, seed=0):
    """Images whose class shows as brightness of one of the corners, so that little training is enough."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=g)
    images = torch.randint(60, 120, (n, channels, size, size), generator=g, dtype=torch.uint8)
    corners = [(0, 0), (0, 1), (1, 0), (1, 1)]
    half = size // 2
    for image, label in zip(images, labels, strict=True):
        r, c = corners[int(label)]
        image[:, r * half : (r + 1) * half, c * half : (c + 1) * half] += 120
    return Split(images, labels)


@pytest.fixture
def data():
    return random_split()


@pytest.fixture
def make_site(data):
    def make(seed=0, steps=6, batch_size=16, **recipe):
        network = Network(3, data.images.shape[1], width=8, stem_stride=2)
        recipe = Recipe(batch_size=batch_size, flip=False, padding=2, **recipe)
        return Site(network.build(seed), data, recipe, seed, steps)

    return make


class Linear(nn.Module):
    """Logits (0, w . x + b) of normalised images."""

    def __init__(self, units):
        super().__init__()
        self.fc = nn.Linear(units, 1)

    def forward(self, x):
        z = self.fc(x.flatten(1))
        return torch.cat([torch.zeros_like(z), z], dim=1)


def as_split(split, name="corners"):
    """A `Split` as what `load_split` gives."""
    from simreg.data import ImageSplit

    n = len(split)
    return ImageSplit(name, split.images, split.labels, ("a", "b", "c"), torch.arange(n), "made for tests")


@pytest.fixture
def training_images():
    return as_split(random_split(n=40))


@pytest.fixture
def test_images():
    return as_split(random_split(n=30, seed=1))


class Evaluation:
    """Stands in for a suite: clean accuracy and a little noise, each a measurement; counts what it is asked for."""

    def __init__(self, stop=None, complete=True):
        self.calls, self.images, self.stop, self.complete = [], [], stop, complete

    def __call__(self, classifier, images, labels, **options):
        if self.stop is not None and len(self.calls) == self.stop:
            raise KeyboardInterrupt
        self.calls.append(options)
        self.images.append((images, labels))
        sweep = noise_sweep(classifier, images, labels, "gaussian", [0.0, 0.1])
        entry = {"status": "ok", "type": "sweep", "seconds": 0.1, "passes": 2.0}
        missing = {"boundary": {"status": "not run", "reason": "lacking", "threat": "decision", "type": "distances"}}
        clean = Sweep("clean", (0.0,), sweep.accuracies[:1], sweep.n)
        return {
            "clean": {**entry, "threat": "clean", "result": clean.to_dict()},
            "gaussian": {**entry, "threat": "noise", "result": sweep.to_dict()},
            **({} if self.complete else missing),
        }
