"""PGD: many projected gradient steps within a ball around each image."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from simreg._checks import check_choice, check_positive
from simreg.robustness._input_gradient import GradientHealth, input_gradient
from simreg.robustness._norms import NORMS, Norm, ascent_direction, per_row, perturbation_norm, row_norms, unit
from simreg.robustness._progress import progress as show_progress
from simreg.robustness._random import check_seed, derive_seed, draw_per_image
from simreg.robustness._tally import Tally, check_budget, check_epsilons, indices_of
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

Keep = Literal["first_fooling", "largest_loss"]


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
    first_index: int = 0,
    batch_size: int = 256,
) -> Tensor:
    r"""Projected gradient descent within a ball of radius epsilon around each image.

    .. math:: x_{t+1} = \Pi_{B(x, \epsilon) \cap [0, 1]}(x_t + s\, g_t), \qquad
              g_t = \mathrm{sign} \nabla \text{ ("linf") or } \nabla / \|\nabla\|_2 \text{ ("l2")}

    The gradient is that of the log-odds of a wrong class: it has the direction of the cross-entropy's, and is not
    rounded away where a confident model has a cross-entropy of 0. An image is done as soon as one iterate of one
    restart is misclassified; that iterate is returned.

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
        first_index: Index of the first image, for parts of a larger set.
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
    check_count("first_index", first_index, minimum=0)
    attack = PGD(as_classifier(model), steps, step_size, norm, restarts, random_start, seed)
    check_positive("epsilon", epsilon, zero=True)
    return torch.cat(
        [
            attack(unit_float(images[p]), labels[p], epsilon, indices_of(p, first_index))
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
    first_index: int = 0,
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
        first_index: Index of the first image, for parts of a larger set; see ``Sweep.join``.
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
    strengths = check_epsilons(epsilon)
    check_evaluation_set(images, labels, batch_size)
    classifier = as_classifier(model)
    attack = PGD(classifier, steps, step_size, norm, restarts, random_start, seed)
    tally = attack.tally(classifier, images, labels, strengths, first_index, batch_size, "PGD" if progress else None)
    return tally.sweep("pgd", len(images), seed, {**attack.settings(), "first_index": first_index})


class PGD:
    """Checked options of ``pgd`` and the attack on one batch.

    Args:
        classifier: Model whose gradient is followed.
        steps: Gradient steps of each restart.
        step_size: Length of a step, None for 2.5 * epsilon / steps.
        norm: "linf" or "l2".
        restarts: Independent runs.
        random_start: Start at a random point of the ball.
        seed: Seed of the random starts.
        keep: Which iterate of an image is returned: the first that ``classifier`` misclassifies, or the last of those
            with its largest loss, over all steps and restarts.
        role: What warnings call ``classifier``.
    """

    def __init__(
        self,
        classifier: Classifier,
        steps: int,
        step_size: float | None,
        norm: Norm,
        restarts: int,
        random_start: bool,
        seed: int,
        *,
        keep: Keep = "first_fooling",
        role: str = "model",
    ) -> None:
        check_count("steps", steps)
        check_count("restarts", restarts)
        check_choice("norm", norm, NORMS)
        check_seed(seed)
        if step_size is not None:
            check_positive("step_size", step_size)
        if restarts > 1 and not random_start:
            raise ValueError(f"restarts={restarts} without random_start repeats one run: pass random_start=True.")
        self.classifier, self.steps, self.step_size, self.norm = classifier, steps, step_size, norm
        self.restarts, self.random_start, self.seed, self.keep = restarts, random_start, seed, keep
        self.health = GradientHealth(role)

    def settings(self) -> dict[str, Any]:
        """The options as data."""
        names = ("steps", "step_size", "norm", "restarts", "random_start")
        return {**{name: getattr(self, name) for name in names}, **self.health.shares}

    def tally(
        self,
        target: Classifier,
        images: Tensor,
        labels: Tensor,
        epsilons: tuple[float, ...],
        first_index: int,
        batch_size: int,
        description: str | None,
    ) -> Tally:
        """Count what ``target`` gets right of the attacked images, at each epsilon; None shows no progress."""
        check_count("first_index", first_index, minimum=0)
        tally = Tally(epsilons)
        jobs = [(i, part) for i in range(len(epsilons)) for part in batches(len(images), batch_size)]
        for i, part in show_progress(jobs, description=description or "", enabled=description is not None):
            clean = unit_float(images[part])
            attacked = self(clean, labels[part], epsilons[i], indices_of(part, first_index))
            tally.add(i, count_correct(target, attacked, labels[part]), perturbation_norm(attacked - clean, self.norm))
        tally.check_budgets()
        self.health.report()
        return tally

    def __call__(self, images: Tensor, labels: Tensor, epsilon: float, indices: range) -> Tensor:
        """Attack one batch (N, C, H, W) whose images have these indices."""
        # iterates stay where the gradients are
        pixels = images if self.classifier.device is None else images.to(self.classifier.device)
        kept = _Kept(pixels, labels, self.keep)
        steps = self.steps if epsilon > 0 else 0  # a ball of one point
        for restart in range(self.restarts):
            rows = kept.undecided(torch.arange(len(pixels), device=pixels.device))
            if len(rows) == 0:
                break
            iterate = self._start(pixels, epsilon, indices, restart)[rows]
            for step in range(steps + 1):
                gradient, logits = input_gradient(self.classifier, iterate, kept.labels[rows])
                if step == 0 and restart == 0:
                    self.health.add(gradient, logits, kept.labels[rows])
                kept.see(rows, iterate, logits)
                left = kept.undecided(rows)
                if step == steps or len(left) == 0:
                    break
                if len(left) < len(rows):  # images that are decided cost no more passes
                    stay = torch.isin(rows, left)
                    rows, iterate, gradient = left, iterate[stay], gradient[stay]
                iterate = self._step(pixels[rows], iterate, gradient, epsilon)
        check_budget(epsilon, perturbation_norm(kept.images - pixels, self.norm))
        return kept.images.to(images.device)

    def _start(self, images: Tensor, epsilon: float, indices: range, restart: int) -> Tensor:
        if not self.random_start:
            return images
        seed = derive_seed("pgd", self.seed, restart, round(epsilon * 1e6))
        if self.norm == "linf":
            offset = 2 * draw_per_image(images, indices, seed, "uniform") - 1
        else:
            direction = unit(draw_per_image(images, indices, seed, "normal"))
            radius = draw_per_image(images[:, :1, :1, :1], indices, derive_seed("radius", seed), "uniform")
            offset = direction * radius ** (1 / images[0].numel())
        return (images + epsilon * offset.to(images.dtype)).clamp(0, 1)

    def _step(self, images: Tensor, iterate: Tensor, gradient: Tensor, epsilon: float) -> Tensor:
        size = 2.5 * epsilon / self.steps if self.step_size is None else self.step_size
        offset = iterate + size * ascent_direction(gradient, self.norm) - images
        if self.norm == "linf":
            offset = offset.clamp(-epsilon, epsilon)
        else:
            length = row_norms(offset, "l2").clamp_min(1e-12)
            offset = offset * per_row((epsilon / length).clamp(max=1), images)
        # images lie in [0, 1], so this clamp only shortens the offset
        return (images + offset).clamp(0, 1)


class _Kept:
    """The iterate of each image that is returned, over all steps and restarts."""

    def __init__(self, images: Tensor, labels: Tensor, keep: Keep) -> None:
        self.images, self.labels, self.keep = images.clone(), labels.to(images.device, torch.int64), keep
        self.scores = torch.full((len(images),), -torch.inf, device=images.device)

    def undecided(self, rows: Tensor) -> Tensor:
        """Those of ``rows`` (R,) for which another iterate could still count."""
        return rows[self.scores[rows] < 1] if self.keep == "first_fooling" else rows

    def see(self, rows: Tensor, iterate: Tensor, logits: Tensor) -> None:
        """Keep the iterates (R, C, H, W) of these rows that count for more than what was kept."""
        logits = logits.to(self.images.device, torch.promote_types(logits.dtype, torch.float32))
        labels, before = self.labels[rows], self.scores[rows]
        if self.keep == "first_fooling":
            scores = (logits.argmax(dim=1) != labels).to(before.dtype)
            replace = before < 1
        else:
            scores = F.cross_entropy(logits, labels, reduction="none").to(before.dtype)
            replace = scores >= before
        self.scores[rows] = torch.where(replace, scores, before)
        self.images[rows] = torch.where(per_row(replace, iterate), iterate, self.images[rows])
