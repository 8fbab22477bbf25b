"""Catastrophic overfitting of fast adversarial training: seen in time, and the weights before it kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from simreg.comparison.adversarial import pgd_examples
from simreg.comparison.recipe import Draws, Split, derive_seed, normalise
from simreg.robustness.classifier import evaluation_mode

WATCHED_IMAGES = 128
WATCH_STEPS = 10  # of PGD
MOST_CHECKS = 20  # of a training
LEAST_STEPS = 50  # between two checks, of which one takes as long as several steps
LEAST_FALL = 0.1


class CollapseWatch:
    """Accuracy under PGD on a fixed mini-batch of training images, checked up to twenty times over a training.

    Networks trained with one-step attacks can lose all robustness to stronger ones within a few steps. That is taken
    to have happened when the accuracy under PGD falls below half of the best check so far and by more than 0.1; the
    weights of the last check before it are then put back and training ends.

    Args:
        data: Training images; the first 128 in an order of the seed's are watched, without crops.
        epsilon: L-inf radius of the training.
        seed: Of the training.
        total: Steps of the training.

    Source: Wong, Rice, Kolter, 2020, section 5 and their code (https://arxiv.org/abs/2001.03994): early stopping on a
    drop of PGD accuracy on one training mini-batch.
    """

    def __init__(self, data: Split, epsilon: float, *, seed: int, total: int) -> None:
        generator = torch.Generator().manual_seed(derive_seed(seed, "watched images"))
        rows = torch.randperm(len(data), generator=generator)[:WATCHED_IMAGES].to(data.images.device)
        self.images, self.labels = data.images[rows].float() / 255, data.labels[rows]
        self.epsilon, self.total = epsilon, total
        self.draws = Draws(seed, 0)
        self.every = max(LEAST_STEPS, total // MOST_CHECKS)
        self.best = 0.0
        self.steps: list[int] = []
        self.accuracies: list[float] = []
        self.kept: dict[str, Tensor] = {}

    @property
    def checks(self) -> int:
        """Checks of the whole training."""
        return -(-self.total // self.every)

    def due(self, step: int) -> bool:
        """Whether to look after ``step`` steps."""
        return step % self.every == 0 or step == self.total

    def check(self, model: nn.Module, step: int) -> dict[str, Any] | None:
        """Look at the model after ``step`` steps; what happened, if it collapsed, whose weights are then put back."""
        return self.judge(model, step, self.measure(model))

    def measure(self, model: nn.Module) -> float:
        """Accuracy of the watched images under PGD."""
        with evaluation_mode(model):
            attacked = pgd_examples(
                lambda x: model(normalise(x)),
                self.images,
                self.labels,
                self.epsilon,
                steps=WATCH_STEPS,
                start=self.draws.uniform("watch", self.images),
            )
            with torch.no_grad():
                right = model(normalise(attacked)).argmax(dim=1) == self.labels
        return float(right.float().mean())

    def judge(self, model: nn.Module, step: int, accuracy: float) -> dict[str, Any] | None:
        """Note ``accuracy`` after ``step`` steps, and decide."""
        self.steps.append(step)
        self.accuracies.append(accuracy)
        if accuracy < 0.5 * self.best and self.best - accuracy > LEAST_FALL:
            kept = self.steps[-2]
            model.load_state_dict(self.kept)
            return {"step": step, "kept_step": kept, "best": self.best, "accuracy": accuracy, "epsilon": self.epsilon}
        self.best = max(self.best, accuracy)
        self.kept = {name: value.detach().clone() for name, value in model.state_dict().items()}
        return None

    def state_dict(self) -> dict[str, Any]:
        """What was seen so far, and the weights kept."""
        return {"best": self.best, "steps": self.steps, "accuracies": self.accuracies, "kept": self.kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.best, self.steps, self.accuracies = state["best"], state["steps"], state["accuracies"]
        self.kept = {name: value.to(self.images.device) for name, value in state["kept"].items()}
