"""Attacks on whole batches against one image at a time: the same results, sooner."""

import pytest
import torch

from simreg.nets import ResNet18
from simreg.robustness import boundary_attack, fgsm

pytest.importorskip("foolbox")


class RedOrGreen(ResNet18):
    """Tells whether red or green prevails, also in noise, where attacks start, and takes as long as a ResNet18."""

    def forward(self, x):
        return 100 * x.mean(dim=(2, 3))[:, :2] + 1e-3 * super().forward(x)


def fgsm_of(model, images, batch):
    return fgsm(model, images, images.mean(dim=(2, 3))[:, :2].argmax(dim=1), 0.01, batch_size=batch)


def boundary_of(model, images, batch):
    return torch.tensor(boundary_attack(model, images, steps=3, directions=3, blend_steps=3, batch_size=batch).median)


@pytest.mark.parametrize("attack", [fgsm_of, boundary_of])
@pytest.mark.sizes(default=[128], smoke=[4])
@pytest.mark.benchmark(group="attacks")
def test_attack(compare, case, attack):
    images = torch.rand(case, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = RedOrGreen(2, channels=3, width=16).eval()
    runs = {name: lambda b=batch: attack(model, images, b) for name, batch in (("batched", case), ("one by one", 1))}
    together, alone = (run() for run in runs.values())
    assert torch.isfinite(together).all()
    torch.testing.assert_close(together, alone, rtol=0.05, atol=0)
    case = {"attack": attack.__name__.removesuffix("_of"), "images": case}
    compare(runs, ["batched"], 2, case=case, goals={"one by one": ">= 3"})
