"""HopSkipJump: the distance to the decision boundary from decisions alone, by estimating the boundary's normal."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from simreg._checks import check_choice
from simreg.robustness._boundary import (
    LENGTHENED,
    Run,
    check_start_images,
    confirm,
    empty_run,
    join_batches,
    merge_repeats,
    record_confirmed,
)
from simreg.robustness._hop_skip_jump import HopSkipJump
from simreg.robustness._norms import NORMS, Norm, row_norms
from simreg.robustness._progress import progress as show_progress
from simreg.robustness._random import check_seed, derive_seed
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

_TICKS = 100  # movements of the progress bar in each batch


@torch.no_grad()
def hop_skip_jump(
    model: Model,
    images: Tensor,
    *,
    norm: Norm = "l2",
    max_queries: int = 5000,
    start_images: Tensor | None = None,
    repeats: int = 1,
    batch_size: int = 128,
    seed: int = 0,
    first_index: int = 0,
    convergence_every: int | None = None,
    gradient_queries: int = 100,
    directions: int = 100,
    blend_steps: int = 50,
    progress: bool = False,
) -> BoundaryResult:
    r"""HopSkipJump on whole batches: distance to the decision boundary, from decisions alone.

    In iteration t each image goes to the boundary by bisection, estimates the boundary's normal there from the answers
    :math:`\phi_b = \pm 1` about :math:`B_t = B_0 \sqrt t` random unit vectors,

    .. math:: v = \frac{1}{B_t - 1} \sum_b (\phi_b - \bar\phi)\, u_b, \qquad
              \phi_b = \phi(x_t + \delta_t u_b), \qquad \delta_t = \|x_t - x\| / d

    and steps along v ("l2") or its sign ("linf"), :math:`\|x_t - x\| / \sqrt t` far or a half, a quarter, ... of that,
    to an image that is still adversarial. The closest boundary point of all iterations counts. Two lengths that the
    paper lets shrink with the distance end where models in reduced precision answer at random: :math:`\delta_t` is at
    least :math:`2^{-14} \sqrt d`, and bisection leaves :math:`2^{-15}` ("linf": over :math:`\sqrt d`).

    On linear models of 36, 192 and 1024 values the median L2 distance is 1.02, 1.07 and 1.33 times the exact one after
    2500 queries, and 1.01, 1.02 and 1.09 times after 10,000.

    Each image keeps the model's own prediction as its label, and starts as in ``boundary_attack``. Its random streams
    are its own: the result depends on the seed and the image's index, but not on the images beside it, as far as the
    model's logits do not. The final image is shown to the model again; where it is too close to the boundary for the
    answer to stay, the perturbation is lengthened by up to 1 %.

    Args:
        model: ``Classifier``, module or callable: images in [0, 1] to logits (N, K).
        images: Shape (N, C, H, W), uint8 or floating point in [0, 1].
        norm: "l2" or "linf": what is made small.
        max_queries: Model evaluations that each image may take in each repeat, with its prediction, its start and the
            final check; a start search is not cut short, though, and takes up to ``directions + 5 * blend_steps``.
        start_images: Shape (M, C, H, W), same kind, of several classes, for images that noise does not move; None takes
            ``images`` themselves, which differ from part to part of a larger set.
        repeats: Independent runs; the closest image counts.
        batch_size: Images per call of the model.
        seed: Seed of starts and directions. The global generators are not touched.
        first_index: Index of the first image, for parts of a larger set; see ``BoundaryResult.join``.
        convergence_every: Evaluations between two points of the curve; None takes a tenth of ``max_queries``.
        gradient_queries: Evaluations of the first gradient estimate, :math:`B_0`.
        directions: Noise images tried for each image's start.
        blend_steps: Steps of the linear search from the image to its start.
        progress: Show progress on standard error.

    Returns:
        Result named "hopskipjump": distances (squared L2 per pixel, or largest change of a value), statuses, queries,
        and the median after each number of evaluations.

    Raises:
        TypeError: If an argument is not of the right kind.
        ValueError: If images leave [0, 1], shapes differ, or an option is out of range.

    Source: Chen, Jordan, Wainwright, 2020, algorithm 2 (https://arxiv.org/abs/1904.02144).

    Example:
        >>> brightness = lambda x: torch.stack([0.5 - x.mean(dim=(1, 2, 3)), x.mean(dim=(1, 2, 3)) - 0.5], dim=1)
        >>> result = hop_skip_jump(brightness, torch.full((2, 1, 4, 4), 0.45), max_queries=1000)
        >>> result.statuses, 0.05**2 <= result.median < 1.1 * 0.05**2
        (('ok', 'ok'), True)
    """
    check_choice("norm", norm, NORMS)
    check_attack_images("images", images, batch_size)
    pool = images if start_images is None else check_start_images(start_images, images, batch_size)
    counts = {"max_queries": max_queries, "repeats": repeats, "gradient_queries": gradient_queries}
    for name, value in {**counts, "directions": directions, "blend_steps": blend_steps}.items():
        check_count(name, value)
    check_seed(seed)
    check_count("first_index", first_index, minimum=0)
    every = max(1, max_queries // 10) if convergence_every is None else convergence_every
    check_count("convergence_every", every)
    marks = sorted({*range(0, max_queries, every), max_queries})
    classifier = as_classifier(model)
    finder = StartFinder(classifier, pool, directions=directions, blend_steps=blend_steps, batch_size=batch_size)
    parts = batches(len(images), batch_size)
    ticks = show_progress(range(len(parts) * repeats * _TICKS), description="HopSkipJump", enabled=progress)
    runs = []
    for r in range(repeats):
        stream = derive_seed("hopskipjump", seed, r)
        attacked = [
            _attack_batch(
                classifier, finder, images[p], indices_of(p, first_index), norm, marks, gradient_queries, stream, ticks
            )
            for p in parts
        ]
        runs.append(join_batches(attacked))
    settings = {
        "norm": "squared L2 per pixel" if norm == "l2" else norm,
        "label": "the model's own prediction",
        "max_queries": max_queries,
        "gradient_queries": gradient_queries,
        "directions": directions,
        "blend_steps": blend_steps,
        "start_images": len(pool),
        "start_image_queries": finder.pool_queries,
        "first_index": first_index,
    }
    return merge_repeats(runs, marks, seed, settings, "hopskipjump")


def _attack_batch(
    classifier: Classifier,
    finder: StartFinder,
    images: Tensor,
    indices: range,
    norm: Norm,
    marks: list[int],
    gradient_queries: int,
    seed: int,
    ticks: Iterator[int],
) -> Run:
    """Find starts for one batch, attack the images that have one, and check what came out."""
    pixels = unit_float(images).to(torch.float32)
    pixels = pixels if classifier.device is None else pixels.to(classifier.device)
    with evaluation_mode(classifier.model):
        labels = classifier.predict(pixels).to(pixels.device)
        starts = finder(pixels, labels, indices, seed)
        rows = [row for row, kind in enumerate(starts.kinds) if kind != "none"]
        run = empty_run(pixels, starts, len(marks))
        attack = HopSkipJump(
            classifier,
            norm,
            pixels[rows],
            labels[rows],
            starts.images[rows],
            [indices[row] for row in rows],
            budget=(marks[-1] - run.queries[rows] - 1 - len(LENGTHENED)).clamp_min(0),
            marks=marks,
            gradient_queries=gradient_queries,
            batch_size=finder.batch_size,
            seed=seed,
        )
        done = 0
        for share in attack.run():
            while done < int(share * _TICKS):
                done += 1
                next(ticks, None)
        if rows:
            _record(run, rows, attack, classifier)
    for _ in range(done, _TICKS):
        next(ticks, None)
    return run


def _record(run: Run, rows: list[int], attack: HopSkipJump, classifier: Classifier) -> None:
    """Put the attack's results into these rows, after asking the model once more about each final image."""
    confirmed = confirm(classifier, attack.originals, attack.best, attack.labels)
    run.curve_queries[rows] += torch.minimum(attack.marks.view(1, -1), attack.spent.view(-1, 1))
    run.queries[rows] += attack.spent
    distances, curve = row_norms(confirmed.images - attack.originals, attack.norm), attack.curve
    if attack.norm == "l2":
        distances, curve = distances.square() / attack.size, curve.square() / attack.size
    record_confirmed(run, rows, confirmed, distances, curve)
