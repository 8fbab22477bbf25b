"""AutoAttack: four attacks without free parameters, in three implementations under honest labels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

from torch import Tensor

from simreg._checks import check_choice, check_positive
from simreg.robustness._auto_attack_stages import RANDOM, STANDARD, Budgets, Lineup, own_lineup
from simreg.robustness._norms import NORMS, Norm
from simreg.robustness._other_auto_attacks import art_lineup, original_installed, original_lineup
from simreg.robustness._tally import check_epsilons
from simreg.robustness._worst_case import Survivors, worst_case_sweep
from simreg.robustness.classifier import Classifier, Model, as_classifier
from simreg.robustness.expectation import ExpectedClassifier
from simreg.robustness.results import Sweep

Version = Literal["standard", "rand"]
Implementation = Literal["auto", "original", "simreg", "art"]


def auto_attack(
    model: Model,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    *,
    norm: Norm = "linf",
    version: Version = "standard",
    implementation: Implementation = "auto",
    steps: int = 100,
    restarts: int = 1,
    targets: int = 9,
    max_queries: int = 5000,
    seed: int = 0,
    first_index: int = 0,
    batch_size: int = 256,
) -> Tensor:
    r"""The strongest that four attacks find within a ball around each image.

    .. math:: \text{robust} \iff \arg\max f(x') = y \text{ for each } x' \text{ of APGD-CE, APGD-T, FAB-T, Square}

    Each attack sees the images that resisted the ones before it: Auto-PGD on the cross-entropy; targeted Auto-PGD on
    the difference of logits ratio and targeted FAB, for each of the best wrong classes; Square, which needs no
    gradient. All are followed by a check of budget, range and answer in a plain pass.

    Three implementations can run them. "original" is the authors' package ``autoattack`` (not on PyPI). "simreg" runs
    the same four with the same budgets, written from the papers; each image has random streams of its own, so that
    parts of a set give what the whole gives. "art" runs what the adversarial-robustness-toolbox has of them,
    which is weaker: no targeted ratio loss, no FAB, and an Auto-PGD that keeps its last iterate instead of its best.
    Version "rand", for models that are random at inference, runs Auto-PGD on both losses on the mean over 20 passes
    (see ``ExpectedClassifier``).

    Args:
        model: ``Classifier``, module or differentiable callable: images in [0, 1] to logits (N, K).
        images: Shape (N, C, H, W), uint8 or floating point in [0, 1].
        labels: Shape (N,), integers in [0, K).
        epsilon: Radius in pixel units: of the largest change ("linf") or of the Euclidean norm ("l2").
        norm: "linf" or "l2".
        version: "standard", or "rand" for random models.
        implementation: "auto" takes "original" where it is installed, else "simreg".
        steps: Steps of each gradient attack.
        restarts: Random starts of APGD-CE (and APGD-DLR); the targeted attacks start once for each target.
        targets: Classes tried by the targeted attacks, K - 1 at most.
        max_queries: Queries of Square for each image.
        seed: Seed of starts and of Square.
        first_index: Index of the first image, for parts of a larger set; "simreg" alone makes use of it.
        batch_size: Images per call of the model.

    Returns:
        Images (N, C, H, W), floating point, on the device of ``images``: adversarial where an attack succeeded, the
        image itself where none did or none was needed.

    Raises:
        ImportError: If a named implementation is not installed.
        TypeError: If an argument is not of the right kind.
        ValueError: If images leave [0, 1], labels do not fit, an option is out of range, or the model has no gradient.

    Source: Croce, Hein, 2020 (https://arxiv.org/abs/2003.01690); budgets of its "standard" version.

    Example:
        >>> import torch
        >>> brightness = lambda x: torch.stack([0.5 - x.mean(dim=(1, 2, 3)), x.mean(dim=(1, 2, 3)) - 0.5], dim=1)
        >>> images = torch.tensor([0.40, 0.47]).view(2, 1, 1, 1).expand(2, 1, 4, 4)
        >>> attacked = auto_attack(brightness, images, torch.tensor([0, 0]), 0.05, max_queries=50)
        >>> [round(v, 2) for v in (attacked - images).abs().amax(dim=(1, 2, 3)).tolist()]  # 0.4 resists
        [0.0, 0.05]
    """
    check_positive("epsilon", epsilon, zero=True)
    budgets = Budgets(steps, restarts, targets, max_queries, seed)
    classifier = _prepare(model, norm, version, implementation)
    survivors = Survivors(classifier, images, labels, norm, first_index, batch_size)
    if epsilon > 0:
        lineup = _lineup(survivors, version, implementation, budgets)
        survivors.attack(lineup.stages, epsilon)
        survivors.health.report()
    return survivors.attacked


def auto_attack_accuracy(
    model: Model,
    images: Tensor,
    labels: Tensor,
    epsilon: float | Iterable[float],
    *,
    norm: Norm = "linf",
    version: Version = "standard",
    implementation: Implementation = "auto",
    steps: int = 100,
    restarts: int = 1,
    targets: int = 9,
    max_queries: int = 5000,
    seed: int = 0,
    first_index: int = 0,
    batch_size: int = 256,
    progress: bool = False,
) -> Sweep:
    """Accuracy under AutoAttack at one or several budgets; the options are those of ``auto_attack``.

    Budgets are taken in rising order, and an image taken at one counts as taken at the larger ones, where what took it
    is allowed as well. Gradient attacks try again what Square alone took: ``settings["gradient_shares"]`` is what they
    leave without it.

    Args:
        model: ``Classifier``, module or differentiable callable: images in [0, 1] to logits (N, K).
        images: Shape (N, C, H, W), uint8 or floating point in [0, 1].
        labels: Shape (N,), integers in [0, K).
        epsilon: One radius or several, in pixel units; 0 gives the clean accuracy.
        norm: "linf" or "l2".
        version: "standard", or "rand" for random models.
        implementation: "auto" takes "original" where it is installed, else "simreg".
        steps: Steps of each gradient attack.
        restarts: Random starts of APGD-CE.
        targets: Classes tried by the targeted attacks.
        max_queries: Queries of Square for each image.
        seed: Seed of starts and of Square.
        first_index: Index of the first image, for parts of a larger set.
        batch_size: Images per call of the model.
        progress: Show progress on standard error.

    Returns:
        Sweep "autoattack": accuracies by epsilon. ``settings["implementation"]`` names what ran,
        ``settings["not_run"]`` which of the standard four did not, ``settings["stage_accuracies"]`` what each attack
        left over.

    Raises:
        ImportError: If a named implementation is not installed.
        TypeError: If an argument is not of the right kind.
        ValueError: If images leave [0, 1], labels do not fit, an option is out of range, or the model has no gradient.

    Source: Croce, Hein, 2020 (https://arxiv.org/abs/2003.01690).

    Example:
        >>> import torch
        >>> brightness = lambda x: torch.stack([0.5 - x.mean(dim=(1, 2, 3)), x.mean(dim=(1, 2, 3)) - 0.5], dim=1)
        >>> images = torch.tensor([0.47, 0.49]).view(2, 1, 1, 1).expand(2, 1, 4, 4)
        >>> auto_attack_accuracy(brightness, images, torch.tensor([0, 0]), [0.0, 0.02, 0.04], max_queries=50).accuracies
        (1.0, 0.5, 0.0)
    """
    strengths = check_epsilons(epsilon)
    budgets = Budgets(steps, restarts, targets, max_queries, seed)
    classifier = _prepare(model, norm, version, implementation)
    survivors = Survivors(classifier, images, labels, norm, first_index, batch_size)
    lineup = _lineup(survivors, version, implementation, budgets)
    settings = {
        "norm": norm,
        "version": version,
        "implementation": lineup.label,
        "not_run": lineup.not_run,
        "steps": steps,
        "restarts": restarts,
        "targets": min(targets, survivors.classes - 1),
        "classes": survivors.classes,
        "max_queries": max_queries,
    }
    description = "AutoAttack" if progress else None
    return worst_case_sweep("autoattack", survivors, lineup.stages, strengths, seed, settings, description)


def _prepare(model: Model, norm: Norm, version: Version, implementation: Implementation) -> Classifier:
    """Check the choices; for random models the classifier to attack is the mean over passes."""
    check_choice("norm", norm, NORMS)
    check_choice("version", version, get_args(Version))
    check_choice("implementation", implementation, get_args(Implementation))
    classifier = as_classifier(model)
    if version == "rand" and not isinstance(classifier, ExpectedClassifier):
        return ExpectedClassifier(classifier, samples=20)
    return classifier


def _lineup(survivors: Survivors, version: Version, implementation: Implementation, budgets: Budgets) -> Lineup:
    if implementation == "auto":
        implementation = "original" if original_installed() else "simreg"
    build = {"simreg": own_lineup, "original": original_lineup, "art": art_lineup}[implementation]
    names = STANDARD if version == "standard" else RANDOM
    shape = survivors.clean.shape[1:]
    return build(survivors.classifier, names, survivors.norm, budgets, survivors.classes, shape)
