"""The Boundary Attack: how far is the nearest image that the model calls something else?"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from simreg.robustness._boundary import (
    STATS_EVERY,
    Run,
    Tracker,
    check_start_images,
    empty_run,
    join_batches,
    merge_repeats,
    record_results,
)
from simreg.robustness._progress import progress as show_progress
from simreg.robustness._random import check_seed, derive_seed, seeded_global_rng
from simreg.robustness._starts import StartFinder
from simreg.robustness._tally import indices_of
from simreg.robustness.classifier import (
    Classifier,
    Model,
    as_classifier,
    batches,
    check_attack_images,
    check_count,
    evaluation_mode,
    unit_float,
)
from simreg.robustness.results import BoundaryResult
from simreg.robustness.storage import versions


@torch.no_grad()
def boundary_attack(
    model: Model,
    images: Tensor,
    *,
    start_images: Tensor | None = None,
    steps: int = 50,
    repeats: int = 1,
    batch_size: int = 128,
    seed: int = 0,
    first_index: int = 0,
    convergence_every: int | None = None,
    directions: int = 100,
    blend_steps: int = 50,
    progress: bool = False,
) -> BoundaryResult:
    r"""Boundary Attack of foolbox on whole batches: squared L2 distance per pixel to the decision boundary.

    .. math:: d_i = \min_{x' : \arg\max f(x') \ne \arg\max f(x_i)} \|x' - x_i\|^2 / (C H W)

    estimated from above, with decisions alone. Each image keeps the model's own prediction as its label. It starts from
    uniform noise blended with the image; where no noise is adversarial, from the nearest of ``start_images`` that the
    model puts in another class, blended as well. Images without any start stay in the result at distance inf. Few steps
    measure little more than the start: on linear models of 36, 192 and 1024 values the median L2 distance is 2.1, 5.4
    and 10 times the exact one after 1000 steps, 1.00, 1.05 and 1.6 times after 5000, within 0.3 % after 25,000.

    The noise of a start depends on the seed and the image's index alone. The directions of the steps are foolbox's, one
    in each step for all images, and a function of the seed alone: every batch meets the same ones. foolbox adapts step
    sizes by image, and its stop at convergence, which looks at whole batches, is off. So an image's path does not
    depend on its batch but for rounding, which may turn the answer about a candidate at the boundary. Parts of a set,
    joined with ``BoundaryResult.join``, equal one run over all of it to the bit if they begin at multiples of
    ``batch_size`` and have the same ``start_images``; otherwise up to that rounding.

    Args:
        model: ``Classifier``, module or callable: images in [0, 1] to logits (N, K).
        images: Shape (N, C, H, W), uint8 or floating point in [0, 1].
        start_images: Shape (M, C, H, W), same kind, of several classes; None takes ``images`` themselves, which differ
            from part to part of a larger set.
        steps: Steps of the attack: 50 in the paper's code, 25,000 is foolbox's default.
        repeats: Independent runs; the closest image counts.
        batch_size: Images per call of the model.
        seed: Seed of starts and steps. The global generators are left as they were.
        first_index: Index of the first image, for parts of a larger set.
        convergence_every: Steps between two points of the curve; None takes a tenth of ``steps``.
        directions: Noise images tried for each image.
        blend_steps: Steps of the linear search from the image to its start.
        progress: Show progress on standard error.

    Returns:
        Distances, statuses, queries and the curve of the median over steps; see ``BoundaryResult``.

    Raises:
        ImportError: If foolbox is missing.
        TypeError: If an argument is not of the right kind.
        ValueError: If images leave [0, 1], shapes differ, or an option is out of range.

    Source: Brendel, Rauber, Bethge, 2018 (https://arxiv.org/abs/1712.04248), as implemented in foolbox 3.3.4.

    Example:
        >>> brightness = lambda x: torch.stack([0.5 - x.mean(dim=(1, 2, 3)), x.mean(dim=(1, 2, 3)) - 0.5], dim=1)
        >>> result = boundary_attack(brightness, torch.full((2, 1, 4, 4), 0.45), steps=20)
        >>> result.statuses, result.median >= 0.05 ** 2
        (('ok', 'ok'), True)
    """
    _foolbox()
    check_attack_images("images", images, batch_size)
    pool = images if start_images is None else check_start_images(start_images, images, batch_size)
    counts = {"steps": steps, "repeats": repeats, "directions": directions, "blend_steps": blend_steps}
    for name, value in counts.items():
        check_count(name, value)
    check_seed(seed)
    check_count("first_index", first_index, minimum=0)
    every = max(1, steps // 10) if convergence_every is None else convergence_every
    check_count("convergence_every", every)
    marks = sorted({*range(0, steps, every), steps})
    classifier = as_classifier(model)
    finder = StartFinder(classifier, pool, directions=directions, blend_steps=blend_steps, batch_size=batch_size)
    parts = batches(len(images), batch_size)
    ticks = show_progress(range(len(parts) * repeats * steps), description="Boundary Attack", enabled=progress)
    runs = []
    for r in range(repeats):
        stream = derive_seed("boundary", seed, r)
        attacked = [
            _attack_batch(classifier, finder, images[p], indices_of(p, first_index), marks, stream, ticks)
            for p in parts
        ]
        runs.append(join_batches(attacked))
    settings = {
        "norm": "squared L2 per pixel",
        "label": "the model's own prediction",
        "directions": directions,
        "blend_steps": blend_steps,
        "start_images": len(pool),
        "start_image_queries": finder.pool_queries,
        "foolbox": versions()["foolbox"],
        "first_index": first_index,
    }
    return merge_repeats(runs, marks, seed, settings)


def _attack_batch(
    classifier: Classifier,
    finder: StartFinder,
    images: Tensor,
    indices: range,
    marks: list[int],
    seed: int,
    ticks: Iterator[int],
) -> Run:
    """Find starts for one batch, run foolbox on those that have one, and check what came out."""
    pixels = unit_float(images).to(torch.float32)
    pixels = pixels if classifier.device is None else pixels.to(classifier.device)
    with evaluation_mode(classifier.model):
        labels = classifier.predict(pixels).to(pixels.device)
        starts = finder(pixels, labels, indices, seed)
        rows = [row for row, kind in enumerate(starts.kinds) if kind != "none"]
        run = empty_run(pixels, starts, len(marks))
        tracker = Tracker(pixels[rows], labels[rows], marks, ticks)
        if rows:
            _run_foolbox(classifier, tracker, starts.images[rows], seed)
            record_results(run, rows, tracker, classifier)
        tracker.finish()
    return run


def _run_foolbox(classifier: Classifier, tracker: Tracker, starts: Tensor, seed: int) -> None:
    """One call of foolbox for a whole batch; the tracker sees every candidate and keeps the closest."""
    foolbox, eagerpy = _foolbox()

    class Bridge(foolbox.models.Model):  # type: ignore[misc, name-defined]
        """The classifier as foolbox wants it: it neither moves it nor changes its mode."""

        bounds = foolbox.types.Bounds(0, 1)

        def __call__(self, inputs: Any) -> Any:
            return eagerpy.astensor(classifier(inputs.raw))

    class Watch(foolbox.criteria.Criterion):  # type: ignore[misc, name-defined]
        """Misclassification, told to the tracker."""

        def __repr__(self) -> str:
            return "Watch()"

        def __call__(self, perturbed: Any, outputs: Any) -> Any:
            return eagerpy.astensor(tracker.see(perturbed.raw, outputs.raw))

    attack = foolbox.attacks.BoundaryAttack(
        steps=tracker.marks[-1],
        update_stats_every_k=STATS_EVERY,
        source_step_convergance=0.0,  # never: foolbox asks whether the whole batch has converged
        tensorboard=False,
    )
    with seeded_global_rng(starts.device, seed), warnings.catch_warnings():
        # foolbox averages empty queues of images whose step size was just adapted, and never looks at the result
        warnings.filterwarnings("ignore", message="Mean of empty slice", category=RuntimeWarning)
        attack.run(Bridge(), tracker.originals, Watch(), starting_points=starts)


def _foolbox() -> tuple[Any, Any]:
    try:
        import eagerpy
        import foolbox
    except ImportError as error:
        raise ImportError('boundary_attack needs foolbox: pip install "simreg[attacks]"') from error
    return foolbox, eagerpy
