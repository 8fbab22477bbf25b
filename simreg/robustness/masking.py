"""Is robustness real, or do gradients only fail to lead the attack? A panel of checks on an evaluation's numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from simreg._checks import check_choice
from simreg.robustness._input_gradient import input_gradient
from simreg.robustness._masking_checks import (
    DECISIVE,
    black_box_check,
    deterministic_check,
    large_budget_check,
    logits_check,
    monotone_check,
    one_step_check,
    square_after_gradients_check,
    under_run_check,
    zero_gradients_check,
)
from simreg.robustness._norms import NORMS, Norm, ascent_direction
from simreg.robustness._readings import Measurements
from simreg.robustness._tally import check_epsilons
from simreg.robustness.classifier import (
    Model,
    as_classifier,
    batches,
    check_evaluation_set,
    check_labels_fit,
    unit_float,
)


def masking_panel(
    measurements: Measurements,
    *,
    values_per_image: int | None = None,
    random: bool | None = None,
    samples: int = 1,
    probabilities: bool | None = None,
) -> dict[str, Any]:
    """Checks for masked gradients: signs that gradient attacks fail on the model instead of the model resisting.

    Each asks for something that must hold if gradients lead the way: attacks without gradients find no more than
    attacks with them at the same or a larger budget; hardly any gradient is zero; no image survives a budget that
    reaches any gray; one step is not better than many; a stronger attack does not take far more than PGD; Square finds
    hardly anything after AutoAttack's gradient attacks; accuracy under PGD falls as budgets grow; the model is
    deterministic, or attacked in expectation; attacks work on logits or log-probabilities. Differences count beyond the
    sampling error of two independent samples, at ``LEVEL``; what Square takes after gradients, beyond that of a single
    share. Passing is no proof of robustness; failing means that white-box accuracies
    are upper bounds only.

    Args:
        measurements: Entries of an evaluation by key: {"status", "type", "threat", "result"}.
        values_per_image: C * H * W, which the distances of L2 decision attacks need; None leaves them out.
        random: Whether the model is random at inference (``is_random``); None: not looked at.
        samples: Passes that attacks averaged over; more than 1 mends randomness.
        probabilities: Whether the model returns probabilities (``returns_probabilities``), whose logarithm was then
            attacked; None: not looked at.

    Returns:
        {"suspicious": bool, "established": bool, "checks": [{"name", "question", "value", "passed", "detail"}]}:
        suspicious if any failed; established if none failed and those of ``DECISIVE`` were made: gradients that are
        zero, large budgets, and an attack without gradients, alone or after AutoAttack's gradient attacks.

    Source: the checks of Athalye, Carlini, Wagner, 2018, section 3.1 (https://arxiv.org/abs/1802.00420) and Carlini et
    al., 2019 (https://arxiv.org/abs/1902.06705).

    Example:
        >>> def entry(key, epsilons, accuracies):
        ...     result = {"name": key, "epsilons": epsilons, "accuracies": accuracies, "n": 500, "settings": {}}
        ...     return {"status": "ok", "type": "sweep", "threat": "white_box", "result": result}
        >>> panel = masking_panel({
        ...     "pgd_linf": entry("pgd", [0.0, 0.03], [0.9, 0.6]), "square_linf": entry("square", [0.03], [0.3])})
        >>> panel["suspicious"], [check["name"] for check in panel["checks"] if check["passed"] is False]
        (True, ['black_box'])
    """
    checks = [
        black_box_check(measurements, values_per_image),
        zero_gradients_check(measurements),
        large_budget_check(measurements),
        one_step_check(measurements),
        under_run_check(measurements),
        square_after_gradients_check(measurements),
        monotone_check(measurements),
        deterministic_check(random, samples),
        logits_check(probabilities),
    ]
    suspicious, made = any(c.passed is False for c in checks), {c.name for c in checks if c.passed is not None}
    return {
        "suspicious": suspicious,
        "established": not suspicious and all(made & set(names) for names in DECISIVE),
        "checks": [asdict(c) for c in checks],
    }


def loss_along_gradient(
    model: Model,
    images: Tensor,
    labels: Tensor,
    epsilons: Iterable[float] | Tensor,
    *,
    norm: Norm = "linf",
    batch_size: int = 256,
) -> dict[str, Any]:
    r"""Loss and accuracy on the straight line from each image along its own gradient.

    .. math:: \ell(\epsilon) = \frac{1}{N} \sum_i \mathrm{CE}(f(\mathrm{clamp}(x_i + \epsilon\, g_i, 0, 1)), y_i)

    A model whose gradients lead somewhere shows a smooth rise from epsilon = 0 on; flat lines and jumps far away are
    what masked gradients look like.

    Args:
        model: ``Classifier``, module or differentiable callable: images in [0, 1] to logits (N, K).
        images: Shape (N, C, H, W), uint8 or floating point in [0, 1].
        labels: Shape (N,), integers in [0, K).
        epsilons: Lengths of the way, in pixel units.
        norm: Direction of steepest ascent in "linf" (the sign) or "l2".
        batch_size: Images per call of the model.

    Returns:
        {"epsilons", "mean_loss", "median_loss", "accuracies", "n", "norm"}; losses are in nats, one value per epsilon.

    Raises:
        TypeError: If images, labels or the model's output are not tensors of the right kind.
        ValueError: If images leave [0, 1], labels do not fit, or the model has no gradient.

    Example:
        >>> brightness = lambda x: torch.stack([0.5 - x.mean(dim=(1, 2, 3)), x.mean(dim=(1, 2, 3)) - 0.5], dim=1)
        >>> line = loss_along_gradient(brightness, torch.full((2, 1, 2, 2), 0.45), torch.tensor([0, 0]), [0.0, 0.1])
        >>> line["accuracies"], line["mean_loss"][1] > line["mean_loss"][0]
        ([1.0, 0.0], True)
    """
    classifier, strengths = as_classifier(model), check_epsilons(epsilons)
    check_choice("norm", norm, NORMS)
    check_evaluation_set(images, labels, batch_size)
    losses: list[list[Tensor]] = [[] for _ in strengths]
    correct = [0] * len(strengths)
    for part in batches(len(images), batch_size):
        pixels = unit_float(images[part])
        gradient, _ = input_gradient(classifier, pixels, labels[part])
        direction = ascent_direction(gradient, norm).to(pixels.device)
        for i, epsilon in enumerate(strengths):
            with torch.no_grad():
                logits = classifier((pixels + epsilon * direction).clamp(0, 1)).double()
            wanted = check_labels_fit(labels[part], logits)
            losses[i].append(F.cross_entropy(logits, wanted, reduction="none").cpu())
            correct[i] += int((logits.argmax(dim=1) == wanted).sum())
    rows = [torch.cat(row) for row in losses]
    return {
        "epsilons": list(strengths),
        "mean_loss": [float(row.mean()) for row in rows],
        "median_loss": [float(row.median()) for row in rows],
        "accuracies": [count / len(images) for count in correct],
        "n": len(images),
        "norm": norm,
    }
