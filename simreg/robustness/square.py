"""The Square Attack: accuracy under random search that sees scores, but no gradient."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from simreg._checks import check_choice, check_positive
from simreg.robustness._joining import query_summary
from simreg.robustness._norms import NORMS, Norm, perturbation_norm
from simreg.robustness._progress import progress as show_progress
from simreg.robustness._random import check_seed
from simreg.robustness._square import Square
from simreg.robustness._tally import Tally, check_budget, check_epsilons, indices_of
from simreg.robustness.classifier import (
    Classifier,
    Model,
    as_classifier,
    batches,
    check_count,
    check_evaluation_set,
    evaluation_mode,
    unit_float,
)
from simreg.robustness.results import Sweep


@torch.no_grad()
def square(
    model: Model,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    *,
    norm: Norm = "linf",
    max_queries: int = 5000,
    p_init: float = 0.8,
    seed: int = 0,
    first_index: int = 0,
    batch_size: int = 256,
) -> Tensor:
    r"""Square Attack on whole batches: random search for a perturbation that lowers the margin, with scores alone.

    .. math:: \min_{\|x' - x\| \le \epsilon} \; f_y(x') - \max_{k \ne y} f_k(x')

    Each query changes one square of the best image so far, and keeps the change if the margin falls. "linf" starts from
    vertical stripes and sets a square to :math:`x \pm \epsilon`, one sign per channel; "l2" starts from a grid of
    patterns and moves the perturbation's mass from one square to another. The share of pixels in a square begins at
    ``p_init`` and is halved at 10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000 of 10,000 queries, rescaled to
    ``max_queries``. Each image has random streams of its own: its result depends on the seed and its index, not on the
    images beside it. Where a square's signs are those it had, they are turned, so that no query is spent on nothing.

    Args:
        model: ``Classifier``, module or callable: images in [0, 1] to logits (N, K).
        images: Shape (N, C, H, W), uint8 or floating point in [0, 1].
        labels: Shape (N,), integers in [0, K).
        epsilon: Radius in pixel units: of the largest change ("linf") or of the Euclidean norm ("l2").
        norm: "linf" or "l2".
        max_queries: Model evaluations that each image may take; images misclassified as they are take none.
        p_init: Share of the pixels in the first square, in (0, 1].
        seed: Seed of all draws. The global generators are not touched.
        first_index: Index of the first image, for parts of a larger set.
        batch_size: Images per call of the model.

    Returns:
        Images (N, C, H, W) with the smallest margin found, floating point, on the device of ``images``; misclassified
        images as they were.

    Raises:
        TypeError: If an argument is not of the right kind.
        ValueError: If images leave [0, 1], labels do not fit, or an option is out of range.

    Source: Andriushchenko, Croce, Flammarion, Hein, 2020, algorithms 1 to 3 (https://arxiv.org/abs/1912.00049);
    schedule and ``p_init`` as in their code for 32-pixel images.

    Example:
        >>> brightness = lambda x: torch.stack([0.5 - x.mean(dim=(1, 2, 3)), x.mean(dim=(1, 2, 3)) - 0.5], dim=1)
        >>> images = torch.full((1, 1, 4, 4), 0.45)
        >>> attacked = square(brightness, images, torch.tensor([0]), 0.1, max_queries=100)
        >>> bool(attacked.mean() > 0.5), bool((attacked - images).abs().max() <= 0.1 + 1e-6)
        (True, True)
    """
    check_evaluation_set(images, labels, batch_size)
    check_positive("epsilon", epsilon, zero=True)
    attack = _checked(as_classifier(model), norm, max_queries, p_init, seed, first_index)
    attacked = []
    for part in batches(len(images), batch_size):
        clean = unit_float(images[part])
        with evaluation_mode(attack.classifier.model):
            attacked.append(attack(clean, labels[part], epsilon, indices_of(part, first_index))[0])
        check_budget(epsilon, perturbation_norm(attacked[-1] - clean, norm))
    return torch.cat(attacked)


@torch.no_grad()
def square_sweep(
    model: Model,
    images: Tensor,
    labels: Tensor,
    epsilons: float | Iterable[float] | Tensor,
    *,
    norm: Norm = "linf",
    max_queries: int = 5000,
    p_init: float = 0.8,
    seed: int = 0,
    first_index: int = 0,
    batch_size: int = 256,
    progress: bool = False,
) -> Sweep:
    """Accuracy under the Square Attack at one or several strengths; the options are those of ``square``.

    Args:
        model: ``Classifier``, module or callable: images in [0, 1] to logits (N, K).
        images: Shape (N, C, H, W), uint8 or floating point in [0, 1].
        labels: Shape (N,), integers in [0, K).
        epsilons: One radius or several, in pixel units.
        norm: "linf" or "l2".
        max_queries: Model evaluations that each image may take at each strength.
        p_init: Share of the pixels in the first square, in (0, 1].
        seed: Seed of all draws.
        first_index: Index of the first image, for parts of a larger set; see ``Sweep.join``.
        batch_size: Images per call of the model.
        progress: Show progress on standard error.

    Returns:
        Accuracies by epsilon. ``settings`` has the options, the largest measured changes, and by epsilon: "queries" (of
        each image until it was misclassified: 0 without attack, None never), "mean_queries_of_successes" and
        "median_queries_of_successes" over the images that the attack took, and "accuracy_by_queries" after each of
        "query_marks".

    Raises:
        TypeError: If an argument is not of the right kind.
        ValueError: If images leave [0, 1], labels do not fit, or an option is out of range.

    Source: Andriushchenko, Croce, Flammarion, Hein, 2020 (https://arxiv.org/abs/1912.00049).

    Example:
        >>> brightness = lambda x: torch.stack([0.5 - x.mean(dim=(1, 2, 3)), x.mean(dim=(1, 2, 3)) - 0.5], dim=1)
        >>> images = torch.tensor([0.40, 0.49]).view(2, 1, 1, 1).expand(2, 1, 4, 4)
        >>> sweep = square_sweep(brightness, images, torch.tensor([0, 0]), 0.02, max_queries=100)
        >>> sweep.at(0.02), sweep.settings["accuracy_by_queries"][0][-1]
        (0.5, 0.5)
    """
    strengths = check_epsilons(epsilons)
    check_evaluation_set(images, labels, batch_size)
    attack = _checked(as_classifier(model), norm, max_queries, p_init, seed, first_index)
    tally = Tally(strengths)
    queries: list[list[int | None]] = [[] for _ in strengths]
    jobs = [(i, part) for i in range(len(strengths)) for part in batches(len(images), batch_size)]
    for i, part in show_progress(jobs, description="Square Attack", enabled=progress):
        clean = unit_float(images[part])
        with evaluation_mode(attack.classifier.model):
            attacked, spent = attack(clean, labels[part], strengths[i], indices_of(part, first_index))
        tally.add(i, sum(q is None for q in spent), perturbation_norm(attacked - clean, norm))
        queries[i] += spent
    tally.check_budgets()
    marks = query_marks(max_queries)
    settings = {
        "norm": norm,
        "max_queries": max_queries,
        "p_init": p_init,
        "first_index": first_index,
        "query_marks": marks,
        "queries": queries,
        **query_summary(queries, marks),
    }
    return tally.sweep("square", len(images), seed, settings)


def query_marks(max_queries: int) -> list[int]:
    """0, then 1, 2, 5, 10, 20, 50, ... up to ``max_queries``, which is the last one."""
    series = [digit * 10**power for power in range(len(str(max_queries))) for digit in (1, 2, 5)]
    return [0, *(mark for mark in series if mark < max_queries), max_queries]


def _checked(
    classifier: Classifier, norm: Norm, max_queries: int, p_init: float, seed: int, first_index: int
) -> Square:
    check_choice("norm", norm, NORMS)
    check_count("max_queries", max_queries)
    check_positive("p_init", p_init)
    if p_init > 1:
        raise ValueError(f"p_init is a share of the pixels, at most 1, got {p_init!r}.")
    check_seed(seed)
    check_count("first_index", first_index, minimum=0)
    return Square(classifier, norm, max_queries, p_init, seed)
