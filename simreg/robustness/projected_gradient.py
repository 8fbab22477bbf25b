"""PGD: many projected gradient steps within a ball around each image."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from simreg._checks import check_choice, check_positive
from simreg._progress import progress as show_progress
from simreg.robustness._input_gradient import GradientHealth, input_gradient
from simreg.robustness._random import check_seed, derive_seed, draw_per_image
from simreg.robustness._tally import Tally, check_budget, check_epsilons
from simreg.robustness.classifier import (
    Classifier,
    Model,
    as_classifier,
    batches,
    check_count,
    check_evaluation_set,
    count_correct,
    unit_float,
)
from simreg.robustness.results import Sweep

Norm = Literal["linf", "l2"]


def pgd(
    model: Model,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    *,
    steps: int = 10,
    step_size: float | None = None,
    norm: Norm = "linf",
    restarts: int = 1,
    random_start: bool = True,
    seed: int = 0,
    batch_size: int = 256,
) -> Tensor:
    r"""Projected gradient descent within a ball of radius epsilon around each image.

    .. math:: x_{t+1} = \Pi_{B(x, \epsilon) \cap [0, 1]}(x_t + s\, g_t), \qquad
              g_t = \mathrm{sign} \nabla \text{ ("linf") or } \nabla / \|\nabla\|_2 \text{ ("l2")}

    An image is done as soon as one iterate of one restart is misclassified; that iterate is returned.

    Args:
        model: ``Classifier``, module or differentiable callable: images in [0, 1] to logits (N, K).
        images: Shape (N, C, H, W), uint8 or floating point in [0, 1].
        labels: Shape (N,), integers in [0, K).
        epsilon: Radius in pixel units: of the largest change ("linf") or of the Euclidean norm ("l2").
        steps: Gradient steps of each restart.
        step_size: Length s of a step in the same units; None takes 2.5 * epsilon / steps.
        norm: "linf" or "l2".
        restarts: Independent runs; more than one needs ``random_start``.
        random_start: Start at a random point of the ball instead of the image.
        seed: Seed of the random starts, which do not depend on the batch size.
        batch_size: Images per call of the model.

    Returns:
        Images (N, C, H, W), floating point, on the device of ``images``; the last iterate where no attack succeeded.

    Raises:
        TypeError: If an argument is not of the right kind.
        ValueError: If images leave [0, 1], labels do not fit, or an option is out of range.

    Source: Madry et al., 2018, section 2.1 (https://arxiv.org/abs/1706.06083).

    Example:
        >>> brightness = lambda x: torch.stack([0.5 - x.mean(dim=(1, 2, 3)), x.mean(dim=(1, 2, 3)) - 0.5], dim=1)
        >>> images = torch.full((1, 1, 2, 2), 0.45)
        >>> attacked = pgd(brightness, images, torch.tensor([0]), 0.1)
        >>> bool(attacked.mean() > 0.5), bool((attacked - images).abs().max() <= 0.1 + 1e-6)
        (True, True)
    """
    check_evaluation_set(images, labels, batch_size)
    attack = PGD(as_classifier(model), steps, step_size, norm, restarts, random_start, seed)
    check_positive("epsilon", epsilon, zero=True)
    return torch.cat(
        [
            attack(unit_float(images[p]), labels[p], epsilon, range(p.start, p.stop))
            for p in batches(len(images), batch_size)
        ]
    )


def pgd_accuracy(
    model: Model,
    images: Tensor,
    labels: Tensor,
    epsilon: float | Iterable[float],
    *,
    steps: int = 10,
    step_size: float | None = None,
    norm: Norm = "linf",
    restarts: int = 1,
    random_start: bool = True,
    seed: int = 0,
    batch_size: int = 256,
    progress: bool = False,
) -> Sweep:
    """Accuracy under white-box PGD at one or several strengths; the options are those of ``pgd``.

    Args:
        model: ``Classifier``, module or differentiable callable: images in [0, 1] to logits (N, K).
        images: Shape (N, C, H, W), uint8 or floating point in [0, 1].
        labels: Shape (N,), integers in [0, K).
        epsilon: One radius or several, in pixel units.
        steps: Gradient steps of each restart.
        step_size: Length of a step; None takes 2.5 * epsilon / steps.
        norm: "linf" or "l2".
        restarts: Independent runs; an image counts as correct only if it survives all of them.
        random_start: Start at a random point of the ball instead of the image.
        seed: Seed of the random starts.
        batch_size: Images per call of the model.
        progress: Show progress on standard error.

    Returns:
        Accuracies by epsilon; ``settings`` has the options and the largest measured perturbations in ``norm``.

    Raises:
        TypeError: If an argument is not of the right kind.
        ValueError: If images leave [0, 1], labels do not fit, or an option is out of range.

    Source: Madry et al., 2018, section 2.1 (https://arxiv.org/abs/1706.06083).

    Example:
        >>> brightness = lambda x: torch.stack([0.5 - x.mean(dim=(1, 2, 3)), x.mean(dim=(1, 2, 3)) - 0.5], dim=1)
        >>> images = torch.tensor([0.40, 0.49]).view(2, 1, 1, 1).expand(2, 1, 4, 4)
        >>> pgd_accuracy(brightness, images, torch.tensor([0, 0]), 0.02).at(0.02)
        0.5
    """
    strengths = check_epsilons((epsilon,) if isinstance(epsilon, (int, float)) else epsilon)
    check_evaluation_set(images, labels, batch_size)
    classifier = as_classifier(model)
    attack = PGD(classifier, steps, step_size, norm, restarts, random_start, seed)
    tally = Tally(strengths)
    jobs = [(i, part) for i in range(len(strengths)) for part in batches(len(images), batch_size)]
    for i, part in show_progress(jobs, description="PGD", enabled=progress):
        clean = unit_float(images[part])
        attacked = attack(clean, labels[part], strengths[i], range(part.start, part.stop))
        tally.add(i, count_correct(classifier, attacked, labels[part]), perturbation_norm(attacked - clean, norm))
    tally.check_budgets()
    attack.health.report()
    return tally.sweep("pgd", len(images), seed, attack.settings())


class PGD:
    """Checked options of ``pgd`` and the attack on one batch."""

    def __init__(
        self,
        classifier: Classifier,
        steps: int,
        step_size: float | None,
        norm: Norm,
        restarts: int,
        random_start: bool,
        seed: int,
    ) -> None:
        check_count("steps", steps)
        check_count("restarts", restarts)
        check_choice("norm", norm, ("linf", "l2"))
        check_seed(seed)
        if step_size is not None:
            check_positive("step_size", step_size)
        if restarts > 1 and not random_start:
            raise ValueError(f"restarts={restarts} without random_start repeats one run: pass random_start=True.")
        self.classifier, self.steps, self.step_size, self.norm = classifier, steps, step_size, norm
        self.restarts, self.random_start, self.seed = restarts, random_start, seed
        self.health = GradientHealth("model")

    def settings(self) -> dict[str, Any]:
        """The options as data."""
        names = ("steps", "step_size", "norm", "restarts", "random_start")
        return {**{name: getattr(self, name) for name in names}, "zero_gradient_share": self.health.zero_share}

    def __call__(self, images: Tensor, labels: Tensor, epsilon: float, indices: range) -> Tensor:
        """Attack one batch (N, C, H, W) whose images have these indices."""
        result, fooled = images.clone(), torch.zeros(len(images), dtype=torch.bool, device=images.device)
        for restart in range(self.restarts):
            iterate = self._start(images, epsilon, indices, restart)
            for step in range(self.steps + 1):
                gradient, logits = input_gradient(self.classifier, iterate, labels)
                if step == 0 and restart == 0:
                    self.health.add(gradient, logits)
                # images fooled before keep the iterate that did it
                result = torch.where(_rows(fooled, images), result, iterate)
                wrong = logits.argmax(dim=1) != labels.to(logits.device)
                fooled = fooled | wrong.to(fooled.device)
                if step == self.steps or bool(fooled.all()):
                    break
                iterate = self._step(images, iterate, gradient.to(images.device), epsilon)
        check_budget(epsilon, perturbation_norm(result - images, self.norm))
        return result

    def _start(self, images: Tensor, epsilon: float, indices: range, restart: int) -> Tensor:
        if not self.random_start:
            return images
        seed = derive_seed("pgd", self.seed, restart, round(epsilon * 1e6))
        if self.norm == "linf":
            offset = 2 * draw_per_image(images, indices, seed, "uniform") - 1
        else:
            direction = _unit(draw_per_image(images, indices, seed, "normal"))
            radius = draw_per_image(images[:, :1, :1, :1], indices, derive_seed("radius", seed), "uniform")
            offset = direction * radius ** (1 / images[0].numel())
        return (images + epsilon * offset.to(images.dtype)).clamp(0, 1)

    def _step(self, images: Tensor, iterate: Tensor, gradient: Tensor, epsilon: float) -> Tensor:
        size = 2.5 * epsilon / self.steps if self.step_size is None else self.step_size
        if self.norm == "linf":
            offset = (iterate + size * gradient.sign() - images).clamp(-epsilon, epsilon)
        else:
            offset = iterate + size * _unit(gradient) - images
            length = offset.flatten(1).norm(dim=1).clamp_min(1e-12)
            offset = offset * _rows((epsilon / length).clamp(max=1), images)
        # images lie in [0, 1], so this clamp only shortens the offset
        return (images + offset).clamp(0, 1)


def perturbation_norm(difference: Tensor, norm: Norm) -> float:
    """Largest norm among the rows of ``difference`` (N, C, H, W)."""
    rows = difference.flatten(1)
    return float(rows.abs().max() if norm == "linf" else rows.norm(dim=1).max())


def _rows(values: Tensor, like: Tensor) -> Tensor:
    """Values (N,) in a shape that broadcasts over ``like`` (N, C, H, W)."""
    return values.view(-1, *[1] * (like.ndim - 1))


def _unit(values: Tensor) -> Tensor:
    """Each row of (N, C, H, W) divided by its Euclidean norm; zero rows stay zero."""
    return values / _rows(values.flatten(1).norm(dim=1).clamp_min(1e-30), values)
