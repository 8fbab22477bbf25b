"""Batches sized to memory, without running out of it."""

import pytest
import torch
from torch import nn

from simreg.evaluation import Subject, memory
from simreg.robustness import Classifier, ExpectedClassifier


class Saves(nn.Module):
    """Saves ``layers`` copies of its input for the backward pass."""

    def __init__(self, layers):
        super().__init__()
        self.layers = layers
        self.head = nn.Linear(3 * 8 * 8, 2)

    def forward(self, x):
        for _ in range(self.layers):
            x = x.sigmoid()  # saves its result
        return self.head(x.flatten(1))


@pytest.fixture
def images():
    return torch.rand(6, 3, 8, 8)


@pytest.mark.parametrize("layers", [1, 10])
def test_memory_of_an_image_counts_what_is_saved_and_not_the_weights(images, layers):
    found = memory.bytes_per_image(Classifier(Saves(layers)), images)
    assert found == pytest.approx(2 * layers * 4 * 3 * 8 * 8, abs=16)  # scalars of the normalisation


@pytest.mark.parametrize(("free", "expected"), [(None, 128), (10**9, 128), (2 * 50 * 2 * 768, 32), (1, 1)])
def test_batch_takes_half_of_the_free_memory(images, monkeypatch, free, expected):
    monkeypatch.setattr(memory, "free_memory", lambda device: free)
    subject = Subject(Classifier(Saves(1)), images, torch.zeros(6, dtype=torch.int64))
    assert memory.fitting_batch(subject) == expected


def test_models_without_gradient_take_the_largest_batch(images):
    labels = torch.zeros(6, dtype=torch.int64)
    assert memory.fitting_batch(Subject(Classifier(lambda x: x.detach().mean((2, 3))), images, labels)) == 128


def test_passes_of_a_random_model_count(images, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda device: 10**6)
    one, many = Classifier(Saves(10)), ExpectedClassifier(Saves(10), samples=8)
    labels = torch.zeros(6, dtype=torch.int64)
    sizes = [memory.fitting_batch(Subject(model, images, labels)) for model in (one, many)]
    assert sizes[1] < sizes[0]


def test_free_memory_is_told_on_linux():
    free = memory.free_memory(torch.device("cpu"))
    if free is None:
        pytest.skip("this system has no /proc/meminfo")
    assert 2**20 < free < 2**50


def test_limit_of_a_container_counts(monkeypatch):
    files = {
        "/proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 8000 kB\n",
        "/sys/fs/cgroup/memory.max": "5000\n",
        "/sys/fs/cgroup/memory.current": "2000\n",
    }
    monkeypatch.setattr(memory, "_text", lambda path: files.get(path, ""))
    assert memory.free_memory(torch.device("cpu")) == 3000
    files["/sys/fs/cgroup/memory.max"] = "max\n"
    assert memory.free_memory(torch.device("cpu")) == 8000 * 1024
    files.clear()
    assert memory.free_memory(torch.device("cpu")) is None
