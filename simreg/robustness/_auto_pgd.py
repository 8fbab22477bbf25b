"""Auto-PGD: projected gradient steps with momentum whose length adapts to each image's progress."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from simreg.robustness._attack_losses import Loss, gradient_of
from simreg.robustness._norms import Norm, ascent_direction, per_row, row_norms, unit
from simreg.robustness._random import draw_per_image
from simreg.robustness.classifier import Classifier

_MOMENTUM = 0.75
_RISING_SHARE = 0.75  # of the steps between two checkpoints; with fewer rises the step is halved


@dataclass
class _Search:
    """The images that still resist: each field has one row per image."""

    rows: Tensor  # their places in the batch
    origin: Tensor
    iterate: Tensor
    previous: Tensor
    wrong: Tensor  # whether the model errs at the iterate
    loss: Tensor
    gradient: Tensor
    best: Tensor
    best_loss: Tensor
    best_gradient: Tensor
    step: Tensor  # (n, 1, 1, 1)
    rises: Tensor  # steps that raised the loss since the last checkpoint
    step_before: Tensor  # at the last checkpoint
    best_loss_before: Tensor

    def select(self, kept: Tensor) -> None:
        """Keep these images alone."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name)[kept])


def auto_pgd(
    classifier: Classifier,
    images: Tensor,
    labels: Tensor,
    loss: Loss,
    *,
    epsilon: float,
    norm: Norm,
    steps: int,
    start: Tensor,
) -> Tensor:
    r"""Raise a loss within a ball around each image until the model errs.

    .. math:: z_{t+1} = \Pi(x_t + \eta_t g_t), \qquad x_{t+1} = \Pi(x_t + a (z_{t+1} - x_t) + (1 - a)(x_t - x_{t-1}))

    with a = 0.75 and steps of 2 epsilon at first. At checkpoints that come closer and closer, an image whose loss rose
    in fewer than three quarters of the steps, or whose best loss and step have not changed, goes back to its best
    iterate (at rest, without the momentum that led astray) with half the step.

    Args:
        classifier: Differentiable model on images in [0, 1].
        images: Shape (N, C, H, W), floating point, on the model's device.
        labels: Shape (N,), same device.
        loss: What to raise; see ``Loss``.
        epsilon: Radius of the ball.
        norm: "linf" or "l2".
        steps: Gradient steps.
        start: First iterates (N, C, H, W), within the ball and [0, 1].

    Returns:
        For each image the first iterate that the model misclassified, else that of the largest loss, (N, C, H, W).

    Source: Croce, Hein, 2020, algorithm 1 (https://arxiv.org/abs/2003.01690).
    """
    search = _begin(classifier, images, labels, loss, epsilon, start)
    result = start.clone()
    marks = checkpoints(steps)
    _retire(search, result)
    for step in range(1, steps + 1):
        if not len(search.rows):
            break
        _move(search, epsilon, norm, _MOMENTUM if step > 1 else 1.0)
        values, gradient, logits = gradient_of(classifier, search.iterate, search.rows, loss)
        _look(search, values, gradient, logits.argmax(dim=1) != labels[search.rows])
        _retire(search, result)
        if step in marks:
            _adapt(search, marks[step])
    result[search.rows] = search.best
    return result


def checkpoints(steps: int) -> dict[int, int]:
    """Steps at which progress is judged, and how many steps lie before each.

    Example:
        >>> checkpoints(100)
        {22: 22, 41: 19, 57: 16, 70: 13, 80: 10, 87: 7, 93: 6, 99: 6}
    """
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    marks = sorted({math.ceil(round(share * steps, 6)) for share in shares if share <= 1})
    return {mark: mark - before for before, mark in itertools.pairwise(marks)}


def random_start(images: Tensor, epsilon: float, norm: Norm, indices: Iterable[int], seed: int) -> Tensor:
    """A random point on the surface of each image's ball, clamped to [0, 1]."""
    if norm == "linf":
        offset = 2 * draw_per_image(images, indices, seed, "uniform") - 1
        offset = offset / per_row(row_norms(offset, "linf"), images)
    else:
        offset = unit(draw_per_image(images, indices, seed, "normal"))
    return project(images, images + epsilon * offset.to(images.dtype), epsilon, norm)


def project(images: Tensor, points: Tensor, epsilon: float, norm: Norm) -> Tensor:
    """Points (N, C, H, W) brought into the balls around ``images`` and into [0, 1]."""
    offset = points - images
    if norm == "linf":
        offset = offset.clamp(-epsilon, epsilon)
    else:
        offset = offset * per_row((epsilon / row_norms(offset, norm).clamp_min(1e-12)).clamp(max=1), images)
    return (images + offset).clamp(0, 1)  # the images are in [0, 1]: this only shortens


def _begin(
    classifier: Classifier, images: Tensor, labels: Tensor, loss: Loss, epsilon: float, start: Tensor
) -> _Search:
    rows = torch.arange(len(images), device=images.device)
    values, gradient, logits = gradient_of(classifier, start, rows, loss)
    step = torch.full((len(images), 1, 1, 1), 2 * epsilon, dtype=images.dtype, device=images.device)
    return _Search(
        rows=rows,
        origin=images,
        iterate=start,
        previous=start,
        wrong=logits.argmax(dim=1) != labels,
        loss=values,
        gradient=gradient,
        best=start,
        best_loss=values,
        best_gradient=gradient,
        step=step,
        rises=torch.zeros_like(rows),
        step_before=step,
        best_loss_before=values,
    )


def _move(search: _Search, epsilon: float, norm: Norm, momentum: float) -> None:
    """One step along the gradient, mixed with the step before."""
    ahead = search.iterate + search.step * ascent_direction(search.gradient, norm)
    ahead = project(search.origin, ahead, epsilon, norm)
    mixed = search.iterate + momentum * (ahead - search.iterate) + (1 - momentum) * (search.iterate - search.previous)
    search.previous, search.iterate = search.iterate, project(search.origin, mixed, epsilon, norm)


def _look(search: _Search, values: Tensor, gradient: Tensor, wrong: Tensor) -> None:
    """Take note of the loss, gradient and answer at the new iterates."""
    search.rises = search.rises + (values > search.loss)
    higher = values > search.best_loss
    search.best = torch.where(per_row(higher, search.best), search.iterate, search.best)
    search.best_gradient = torch.where(per_row(higher, gradient), gradient, search.best_gradient)
    search.best_loss = torch.where(higher, values, search.best_loss)
    search.loss, search.gradient, search.wrong = values, gradient, wrong


def _retire(search: _Search, result: Tensor) -> None:
    """Images that the model now gets wrong are done: keep what did it."""
    if bool(search.wrong.any()):
        result[search.rows[search.wrong]] = search.iterate[search.wrong]
        search.select(~search.wrong)


def _adapt(search: _Search, interval: int) -> None:
    """At a checkpoint: images without progress get half the step and go back to their best iterate."""
    few_rises = search.rises < _RISING_SHARE * interval
    stalled = (search.step == search.step_before).flatten() & (search.best_loss == search.best_loss_before)
    slow = few_rises | stalled
    search.step_before, search.best_loss_before = search.step, search.best_loss
    search.step = torch.where(per_row(slow, search.step), search.step / 2, search.step)
    for name in ("iterate", "previous"):
        setattr(search, name, torch.where(per_row(slow, search.best), search.best, getattr(search, name)))
    search.gradient = torch.where(per_row(slow, search.gradient), search.best_gradient, search.gradient)
    search.loss = torch.where(slow, search.best_loss, search.loss)
    search.rises = torch.zeros_like(search.rises)
