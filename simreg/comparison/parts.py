"""The ingredients of methods: what each does to the images of a step or to its loss, and its settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from simreg.comparison.adversarial import PGDTraining
from simreg.comparison.augment import AugMix, GaussianNoise, augmix_obstacle
from simreg.comparison.objectives import JacobianObjective, Objective, TradesObjective
from simreg.comparison.recipe import Draws, Recipe, Split
from simreg.comparison.similarity import neural_obstacle, similarity_objective

EPSILON = 8 / 255
"""L-inf radius of adversarial training, in pixel units: the field's for CIFAR-10."""

Role = Literal["input", "objective"]


class Stage(Protocol):
    """Turns the images of a step into those that the network sees."""

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """Images (N, C, H, W) in [0, 1] of the same shape."""


@dataclass(frozen=True)
class Site:
    """Where a method is put to work.

    Attributes:
        model: The network to train.
        data: Training images, on the device.
        recipe: Shared by all methods.
        seed: Of the training.
        steps: Of the whole training.
    """

    model: nn.Module
    data: Split
    recipe: Recipe
    seed: int
    steps: int


@dataclass(frozen=True)
class Part:
    """One ingredient of methods.

    Attributes:
        label: Name in tables.
        description: What it does and where it comes from, in a sentence or two.
        role: "input" changes the images of a step, "objective" is what is minimised.
        defaults: Its settings; an ``epsilon`` of None stands for the run's.
        make: From a `Site` and settings to a stage or an objective.
        adversarial: Whether it makes adversarial examples: at most one such part goes into a method.
        obstacle: From settings to the reason why it cannot run here; None if it can.
    """

    label: str
    description: str
    role: Role
    defaults: Mapping[str, Any]
    make: Callable[[Site, Mapping[str, Any]], Any]
    adversarial: bool = False
    obstacle: Callable[[Mapping[str, Any]], str | None] = lambda _: None


def _similarity(label: str, description: str, **changes: Any) -> Part:
    defaults = {
        "mode": "same-batch",
        "target": "pixel",
        "alpha": 10.0,
        "threshold": 0.8,
        "target_clamp": None,
        "layers": "early",
        "batch_norm": "update",
        "targets_of": "clean",
        "pairs": 16,
        "pool_size": 5000,
        "responses": None,
    }
    return Part(
        label,
        description,
        "objective",
        {**defaults, **changes},
        lambda site, s: similarity_objective(site.model, site.data, site.recipe, site.seed, s),
        obstacle=neural_obstacle,
    )


PARTS: dict[str, Part] = {
    "none": Part("no defence", "Cross entropy alone.", "objective", {}, lambda site, s: Objective(site.model)),
    "simreg": _similarity(
        "simreg, same batch",
        "Similarity of pixels for all pairs of the task batch, on the stem and the first section; no extra pass.",
    ),
    "simreg-threshold": _similarity(
        "simreg, same batch, threshold",
        "As simreg, with similarities thresholded to 1, 0 and -1, held within 0.95 because arctanh has poles at 1.",
        target="threshold",
        target_clamp=0.95,
    ),
    "simreg-label": _similarity(
        "simreg, same batch, labels",
        "As simreg, with targets 0.95 for images of one class and 0 for others: the paper's categorical control.",
        target="label",
        target_clamp=0.95,
    ),
    "simreg-neural": _similarity(
        "simreg, neural",
        "Similarity of neural responses (Li et al. 2019): pairs of the images in responses=FILE.npz, which holds "
        "images and responses.",
        mode="separate",
        target="neural",
        layers="auto",
    ),
    "simreg-paper": _similarity(
        "simreg, the paper's",
        "Thresholded pixel similarity of 16 pairs of 5000 images a step, five layers, two passes of their own "
        "(Attias et al., https://arxiv.org/abs/2410.03952).",
        mode="separate",
        target="threshold",
        layers="auto",
        batch_norm="official",
    ),
    "simreg-joint": _similarity(
        "simreg, joint",
        "Pixel similarity of 16 pairs of 5000 images a step, in one pass with the task images.",
        mode="joint",
        layers="auto",
    ),
    "gaussian": Part(
        "Gaussian noise",
        "Gaussian noise of standard deviation sigma on half of each batch (Kireev et al., "
        "https://arxiv.org/abs/2103.02325).",
        "input",
        {"sigma": 0.1},
        lambda site, s: GaussianNoise(s["sigma"]),
    ),
    "augmix": Part(
        "AugMix",
        "Mixed chains of image operations, without the Jensen-Shannon loss (Hendrycks et al., "
        "https://arxiv.org/abs/1912.02781); groups of images share their operations, group=1 is the original at "
        "several times the cost. Its time counts as training time.",
        "input",
        {"severity": 3, "group": 8},
        lambda site, s: AugMix(s["severity"], s["group"]),
        obstacle=lambda s: augmix_obstacle(),
    ),
    "jacobian": Part(
        "Jacobian regularization",
        "Half of strength times the squared norm of the input-output Jacobian, by random projections (Hoffman et al., "
        "https://arxiv.org/abs/1908.02729).",
        "objective",
        {"strength": 0.01, "projections": 1},
        lambda site, s: JacobianObjective(site.model, s["strength"], s["projections"]),
    ),
    "fgsm-rs": Part(
        "FGSM-RS training",
        "Fast adversarial training: one step of 1.25 epsilon from a random start (Wong et al., "
        "https://arxiv.org/abs/2001.03994), stopped if it collapses; the watch's time counts as training time.",
        "input",
        {"epsilon": None, "step": 1.25},
        lambda site, s: PGDTraining(s["epsilon"], 1, s["step"]),
        adversarial=True,
    ),
    "pgd-at": Part(
        "PGD training",
        "Adversarial training with projected gradient descent (Madry et al., https://arxiv.org/abs/1706.06083).",
        "input",
        {"epsilon": None, "steps": 7},
        lambda site, s: PGDTraining(s["epsilon"], s["steps"]),
        adversarial=True,
    ),
    "trades": Part(
        "TRADES",
        "Cross entropy of clean images plus beta times the divergence of the predictions for attacked ones (Zhang et "
        "al., https://arxiv.org/abs/1901.08573).",
        "objective",
        {"epsilon": None, "steps": 10, "beta": 6.0},
        lambda site, s: TradesObjective(site.model, s["epsilon"], s["steps"], s["beta"]),
        adversarial=True,
    ),
}
