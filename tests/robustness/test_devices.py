from __future__ import annotations

import pytest
import torch
from torch import nn

from simreg.robustness import Classifier, accuracy, boundary_attack, fgsm, noise_sweep, pgd_accuracy

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture
def problem():
    g = torch.Generator().manual_seed(0)
    images = 0.3 + 0.4 * torch.rand(40, 1, 6, 6, generator=g)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(2, 36, generator=g))
        model[1].bias.copy_(-(images.flatten(1) @ model[1].weight.T).mean(dim=0))
    return model, images, torch.randint(0, 2, (40,), generator=g)


def test_cpu_images_are_brought_to_a_model_on_cuda(problem):
    model, images, labels = problem
    wanted = accuracy(model, images, labels), noise_sweep(model, images, labels, "gaussian").accuracies
    pgd_wanted = pgd_accuracy(model, images, labels, 0.02).at(0.02)
    classifier = Classifier(model.cuda())
    assert accuracy(classifier, images, labels) == pytest.approx(wanted[0])
    assert noise_sweep(classifier, images, labels, "gaussian").accuracies == pytest.approx(wanted[1], abs=0.03)
    assert noise_sweep(classifier, images.cuda(), labels.cuda(), "gaussian").accuracies == pytest.approx(
        wanted[1], abs=0.03
    )
    assert pgd_accuracy(classifier, images, labels, 0.02).at(0.02) == pytest.approx(pgd_wanted, abs=0.06)
    assert fgsm(classifier, images, labels, 0.02).device.type == "cpu"


def test_boundary_attack_on_cuda_leaves_its_generator_alone(problem):
    model, images, _ = problem
    model.cuda()
    before = torch.cuda.get_rng_state()
    first = boundary_attack(model, images, steps=20)
    assert torch.equal(torch.cuda.get_rng_state(), before)
    assert boundary_attack(model, images.cuda(), steps=20).median == pytest.approx(first.median, rel=1e-3)
    assert first.adversarials.device.type == "cpu"
    assert first.failures == 0
