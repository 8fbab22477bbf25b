"""How robust is a trained model: every measurement of the main job, each kept as soon as it is there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from settings import Settings
from torch import Tensor

from simreg.data import ImageData
from simreg.robustness import (
    NOISES,
    BoundaryResult,
    Classifier,
    Surrogate,
    Sweep,
    accuracy,
    boundary_attack,
    fgsm_sweep,
    noise_sweep,
    pgd_accuracy,
    read_results,
    transfer_sweep,
    write_results,
)


@dataclass(frozen=True)
class Budget:
    """How many images, and how strong the distortions: the paper's protocol on fewer images."""

    noise: dict[str, float]  # largest epsilon of each noise
    transfer: float  # largest epsilon of the transferred FGSM
    white_box: float  # epsilon of FGSM and PGD on the model itself
    subset: int = 2000
    fgsm_images: int = 1000
    pgd_images: int = 500
    boundary_images: int = 100
    boundary_steps: int = 50


def choose_budget(settings: Settings) -> Budget:
    """Distortions of the paper: digits and clothes stand more than photographs."""
    if settings.digit_like:
        # The paper's 0.5 of transferred FGSM takes all nets below chance on the 8x8 digits.
        transfer = 0.2 if settings.dataset == "digits" else 0.5
        noise, white_box = {"gaussian": 0.5, "uniform": 0.5, "salt_and_pepper": 0.3}, 0.1
    else:
        transfer = 0.005 if settings.dataset == "cifar100" else 0.02
        noise, white_box = dict.fromkeys(NOISES, 0.1), 0.01
    if settings.smoke:
        return Budget(noise, transfer, white_box, 40, 20, 20, 8, 5)
    return Budget(noise, transfer, white_box)


@dataclass(frozen=True)
class Evaluation:
    """All measurements of one model: sweeps by name ("clean" has one point) and the Boundary Attack."""

    sweeps: dict[str, Sweep]
    boundary: BoundaryResult

    @property
    def clean(self) -> float:
        """Accuracy on the whole test set."""
        return self.sweeps["clean"].accuracies[0]

    @property
    def distortions(self) -> list[Sweep]:
        """The sweeps with a distortion, in the order of the table."""
        return [sweep for name, sweep in self.sweeps.items() if name != "clean"]


def evaluate(
    model: torch.nn.Module, data: ImageData, settings: Settings, surrogate: Surrogate, *, cache: Path
) -> Evaluation:
    """Measure ``model``; what ``cache`` already holds is not measured again."""
    net = Classifier(model, mean=0.5, std=0.2)  # the images stay in [0, 1]; the network gets 5 * (x - 0.5)
    budget = choose_budget(settings)
    x, y = fixed_subset(data, budget.subset)
    seed, show = settings.seed, True

    def clean() -> Sweep:
        n = len(data.test_labels)
        return Sweep("clean", (0.0,), (accuracy(net, data.test_images, data.test_labels, progress=show),), n)

    def noise(kind: str) -> Sweep:
        return noise_sweep(net, x, y, kind, eleven(budget.noise[kind]), seed=seed, progress=show)

    def fgsm() -> Sweep:
        n = budget.fgsm_images
        return fgsm_sweep(net, x[:n], y[:n], [0.0, budget.white_box], progress=show)

    def pgd() -> Sweep:
        n = budget.pgd_images
        return pgd_accuracy(net, x[:n], y[:n], [0.0, budget.white_box], steps=10, seed=seed, progress=show)

    def boundary() -> BoundaryResult:
        n = budget.boundary_images
        return boundary_attack(net, x[:n], start_images=x[n:], steps=budget.boundary_steps, seed=seed, progress=show)

    measurements: dict[str, Any] = {"clean": clean}
    measurements |= {kind: lambda kind=kind: noise(kind) for kind in NOISES}
    measurements["transferred_fgsm"] = lambda: transfer_sweep(
        net, surrogate, x, y, eleven(budget.transfer), progress=show
    )
    measurements |= {"fgsm": fgsm, "pgd": pgd, "boundary": boundary}
    done = read_results(cache) if cache.exists() else {}
    for name, measure in measurements.items():
        if name not in done:
            done[name] = measure().to_dict()
            write_results(cache, done)
    sweeps = {name: Sweep.from_dict(done[name]) for name in measurements if name != "boundary"}
    return Evaluation(sweeps, BoundaryResult.from_dict(done["boundary"]))


def fixed_subset(data: ImageData, size: int) -> tuple[Tensor, Tensor]:
    """The same random test images for every model and seed."""
    rows = torch.randperm(len(data.test_labels), generator=torch.Generator().manual_seed(0))[:size]
    return data.test_images[rows], data.test_labels[rows]


def eleven(largest: float) -> list[float]:
    """Ten equal steps from 0 to ``largest``."""
    return [largest * i / 10 for i in range(11)]
