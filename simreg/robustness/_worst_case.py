"""Several attacks in a row, each on the images that resisted those before it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from simreg.robustness._auto_pgd import project
from simreg.robustness._input_gradient import GradientHealth, input_gradient
from simreg.robustness._norms import Norm, perturbation_norm
from simreg.robustness._progress import progress as show_progress
from simreg.robustness._tally import check_budget
from simreg.robustness.classifier import Classifier, batches, check_count, check_evaluation_set, unit_float
from simreg.robustness.results import Sweep

SQUARE = "square"
"""Name of the stage that sees scores alone."""

Attack = Callable[[Tensor, Tensor, Sequence[int], float], Tensor]
"""Images (n, C, H, W) and labels (n,) on the model's device, the images' indices, epsilon -> attacked images."""


@dataclass(frozen=True)
class Stage:
    """One attack; stages of one name in a row count as one in results."""

    name: str
    attack: Attack


class Survivors:
    """The images of a set that no attack has taken so far.

    An image is taken when the model misclassifies it in a plain pass after the attack, whatever the attack says.

    Args:
        classifier: Differentiable model on images in [0, 1].
        images: Shape (N, C, H, W), uint8 or floating point in [0, 1].
        labels: Shape (N,), integers in [0, K).
        norm: In which perturbations are measured.
        first_index: Index of the first image.
        batch_size: Images per call of the model.

    Raises:
        TypeError: If an argument is not of the right kind.
        ValueError: If images leave [0, 1], labels do not fit, or the model has no gradient.
    """

    def __init__(
        self, classifier: Classifier, images: Tensor, labels: Tensor, norm: Norm, first_index: int, batch_size: int
    ) -> None:
        check_evaluation_set(images, labels, batch_size)
        check_count("first_index", first_index, minimum=0)
        self.classifier, self.norm, self.first_index, self.batch_size = classifier, norm, first_index, batch_size
        self.clean, self.labels = unit_float(images), labels
        self.attacked = self.clean.clone()
        self.health, right = GradientHealth("model"), []
        self.classes, self.device = 0, self.clean.device
        for part in batches(len(images), batch_size):
            gradient, logits = input_gradient(classifier, self.clean[part], labels[part])
            self.health.add(gradient, logits, labels[part])
            right.append((logits.argmax(dim=1) == labels[part].to(logits.device)).cpu())
            self.classes, self.device = logits.shape[1], classifier.device or logits.device
        self.resisting = torch.cat(right)  # (N,), on the CPU
        self.resisting_gradients = self.resisting.clone()  # those that no stage but Square has taken
        self.largest = 0.0  # perturbation since the last call of ``attack``

    @property
    def share(self) -> float:
        """Images that resist, of all images."""
        return int(self.resisting.sum()) / len(self.resisting)

    @property
    def gradient_share(self) -> float:
        """Images that resist all stages but Square, of all images."""
        return int(self.resisting_gradients.sum()) / len(self.resisting_gradients)

    def attack(self, stages: Iterable[Stage], epsilon: float) -> dict[str, float]:
        """Let every stage try the images that resist; returns the share that resists after each name.

        Gradients also try what Square alone took at a smaller budget: how far they get without it is a result too.
        """
        self.largest, shares = 0.0, {}
        for name, group in groupby(stages, key=lambda stage: stage.name):
            for stage in group:
                left = self.resisting if stage.name == SQUARE else self.resisting_gradients
                rows = left.nonzero()[:, 0]
                for part in batches(len(rows), self.batch_size):
                    self._try(stage, rows[part], epsilon)
            shares[name] = self.share
        return shares

    def _try(self, stage: Stage, rows: Tensor, epsilon: float) -> None:
        here = rows.to(self.clean.device)
        pixels, labels = self.clean[here].to(self.device), self.labels[rows.to(self.labels.device)].to(self.device)
        indices = [self.first_index + row for row in rows.tolist()]
        found = stage.attack(pixels, labels.to(torch.int64), indices, epsilon)
        found = project(pixels, found.to(pixels.device, pixels.dtype), epsilon, self.norm)
        measured = perturbation_norm(found - pixels, self.norm)
        check_budget(epsilon, measured)
        self.largest = max(self.largest, measured)
        wrong = (self.classifier.predict(found) != labels).cpu()
        taken = rows[wrong]
        self.resisting[taken] = False
        if stage.name != SQUARE:
            self.resisting_gradients[taken] = False
        self.attacked[taken.to(self.clean.device)] = found[wrong.to(found.device)].to(self.clean.device)


def worst_case_sweep(
    name: str,
    survivors: Survivors,
    stages: Sequence[Stage],
    epsilons: tuple[float, ...],
    seed: int,
    settings: dict[str, Any],
    description: str | None,
) -> Sweep:
    """Accuracy by epsilon under all stages together; None shows no progress.

    Budgets are taken in rising order, and an image taken at one stays taken at the larger ones. What all stages but
    Square left, each budget with the takes of the smaller ones, is in ``settings["gradient_shares"]``.
    """
    results: dict[float, tuple[float, float, dict[str, float]]] = {}
    by_gradients: dict[float, float] = {}
    rising = sorted(set(epsilons))
    clean = survivors.share
    for epsilon in show_progress(rising, description=description or "", enabled=description is not None):
        shares = survivors.attack(stages if epsilon > 0 else (), epsilon)
        results[epsilon] = survivors.share, survivors.largest, shares
        by_gradients[epsilon] = survivors.gradient_share
    survivors.health.report()
    names = dict.fromkeys(stage.name for stage in stages)
    # a budget of 0 leaves every image as it is
    after = {stage: [results[e][2].get(stage, clean) for e in epsilons] for stage in names}
    return Sweep(
        name,
        epsilons,
        tuple(results[e][0] for e in epsilons),
        len(survivors.resisting),
        seed,
        {
            **settings,
            **survivors.health.shares,
            "stage_accuracies": {"clean": [clean] * len(epsilons), **after},
            "gradient_shares": [by_gradients[e] for e in epsilons],
            "first_index": survivors.first_index,
            "max_perturbation": [results[e][1] for e in epsilons],
        },
    )
