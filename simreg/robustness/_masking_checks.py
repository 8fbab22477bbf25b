"""The checks of the masking panel, each on numbers that an evaluation has measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from simreg.robustness._norms import Norm
from simreg.robustness._readings import (
    Measurements,
    Reading,
    before_square,
    distance_readings,
    epsilon_text,
    gap,
    readings,
    same_epsilon,
    share_text,
    sweep_of,
)
from simreg.robustness.intervals import wilson

LEVEL = 0.99
"""Confidence beyond which a difference counts; stricter than 95 %, as the panel looks at many."""

ZERO_GRADIENT_SHARE = 0.05
"""Largest share of images without any gradient that passes."""

LARGE_BUDGET_ACCURACY = 0.01
"""Largest accuracy that passes at a budget which no image withstands."""

LARGE_BUDGET = 0.25
"""Smallest L-inf budget that accuracy must not survive, about 64/255."""

UNDER_RUN_GAP = 0.1
"""Accuracy that a stronger attack may take from PGD before PGD counts as under-run."""


DECISIVE = (("zero_gradients",), ("large_budget",), ("black_box", "square_after_gradients"))
"""Checks without which the panel's silence means nothing: one of each group."""

SQUARE_SHARE = 0.01
"""Share of the images that Square may take after AutoAttack's gradient attacks."""


@dataclass(frozen=True)
class Check:
    """One check of the panel; ``passed`` is None where its measurements were not run."""

    name: str
    question: str
    value: float | None
    passed: bool | None
    detail: str


def black_box_check(measurements: Measurements, values: int | None) -> Check:
    question = "Do attacks without the model's gradients leave at least what gradient attacks leave?"
    found: list[tuple[float, bool, Reading, Reading]] = []
    for norm in ("linf", "l2"):
        white = _gradient_attacks(measurements, norm)
        blind = readings(measurements, _without_gradients(measurements, norm))
        for key in {"linf": ("hopskipjump_linf",), "l2": ("hopskipjump_l2", "boundary", "boundary_paper")}[norm]:
            blind += distance_readings(measurements, key, sorted({w.epsilon for w in white}), values)
        found += [(*gap(w, b, LEVEL), w, b) for b in blind for w in _lowest_from(white, b.epsilon)]
    if not found:
        return Check(
            "black_box", question, None, None, "no attack without gradients up to the budget of a gradient attack"
        )
    difference, _, white_box, black_box = max(found, key=lambda item: (item[1], item[0]))
    same = same_epsilon(white_box.epsilon, black_box.epsilon)
    larger = "" if same else f"at the larger {epsilon_text(white_box.epsilon)} "
    detail = (
        f"at {epsilon_text(black_box.epsilon)} {black_box.attack} leaves {share_text(black_box.accuracy)} "
        f"(n = {black_box.n}), {white_box.attack} {larger}{share_text(white_box.accuracy)} (n = {white_box.n})"
    )
    return Check("black_box", question, difference, not any(beyond for _, beyond, _, _ in found), detail)


def zero_gradients_check(measurements: Measurements) -> Check:
    question = f"Have at most {share_text(ZERO_GRADIENT_SHARE)} of the images a gradient of exactly zero?"
    shares, saturated = {}, 0.0
    for key in ("fgsm_linf", "fgsm_l2", *_GRADIENT_KEYS["linf"], *_GRADIENT_KEYS["l2"], "pgd_linf_large"):
        sweep = sweep_of(measurements, key)
        share = None if sweep is None else sweep.settings.get("zero_gradient_share")
        if sweep is not None and share is not None:
            shares[key] = float(share)
            saturated = max(saturated, float(sweep.settings.get("saturated_share", 0.0)))
    if not shares:
        return Check("zero_gradients", question, None, None, "no gradient attack was run")
    worst = max(shares, key=lambda key: shares[key])
    detail = f"{share_text(shares[worst])} in {worst}"
    if saturated > ZERO_GRADIENT_SHARE:  # no failure: the attacks here do not follow it
        detail += f"; cross-entropy is rounded to 0 on {share_text(saturated)}, and misleads attacks that follow it"
    return Check("zero_gradients", question, shares[worst], shares[worst] <= ZERO_GRADIENT_SHARE, detail)


def large_budget_check(measurements: Measurements) -> Check:
    question = f"Does no more than {share_text(LARGE_BUDGET_ACCURACY)} survive a budget that no image withstands?"
    found = readings(measurements, ["pgd_linf_large", "pgd_linf"])
    if not found or max(r.epsilon for r in found) < LARGE_BUDGET:
        return Check("large_budget", question, None, None, f"PGD was not run at {LARGE_BUDGET} or above")
    last = max(found, key=lambda r: r.epsilon)
    lower, _ = wilson(last.accuracy, last.n, LEVEL)
    detail = f"PGD at {epsilon_text(last.epsilon)} leaves {share_text(last.accuracy)} of {last.n}"
    return Check("large_budget", question, last.accuracy, lower <= LARGE_BUDGET_ACCURACY, detail)


def one_step_check(measurements: Measurements) -> Check:
    question = "Do many gradient steps find at least what one step finds?"
    pairs = [
        (many, one)
        for norm in ("linf", "l2")
        for many in readings(measurements, [f"pgd_{norm}"])
        for one in readings(measurements, [f"fgsm_{norm}"])
        if same_epsilon(many.epsilon, one.epsilon)
    ]
    return _worst_pair("one_step", question, pairs, 0.0, "FGSM and PGD share no budget")


def under_run_check(measurements: Measurements) -> Check:
    question = f"Do stronger attacks take at most {share_text(UNDER_RUN_GAP)} more of the images than PGD?"
    pairs = [
        (plain, strong)
        for norm in ("linf", "l2")
        for plain in readings(measurements, [f"pgd_{norm}"])
        for strong in readings(measurements, [f"autoattack_{norm}", f"adaptive_{norm}"])
        if same_epsilon(plain.epsilon, strong.epsilon)
    ]
    return _worst_pair("under_run", question, pairs, UNDER_RUN_GAP, "PGD shares no budget with a stronger attack")


def square_after_gradients_check(measurements: Measurements) -> Check:
    question = f"Does Square take at most {share_text(SQUARE_SHARE)} of the images after AutoAttack's gradient attacks?"
    pairs = [
        (left, final)
        for norm in ("linf", "l2")
        for left in before_square(measurements, f"autoattack_{norm}")
        for final in readings(measurements, [f"autoattack_{norm}"])
        if same_epsilon(left.epsilon, final.epsilon) and _has_square(measurements, f"autoattack_{norm}")
    ]
    if not pairs:
        return Check("square_after_gradients", question, None, None, "AutoAttack with Square was not run")
    # the same images: each that Square takes is one that gradients missed, and no sampling error
    taken, left, final = max(((one.accuracy - two.accuracy, one, two) for one, two in pairs), key=lambda item: item[0])
    lower, _ = wilson(min(max(taken, 0.0), 1.0), left.n, LEVEL)
    detail = (
        f"at {epsilon_text(left.epsilon)} gradients alone leave {share_text(left.accuracy)}, "
        f"{final.key} {share_text(final.accuracy)} (n = {left.n})"
    )
    return Check("square_after_gradients", question, taken, lower <= SQUARE_SHARE, detail)


def monotone_check(measurements: Measurements) -> Check:
    question = "Does accuracy under gradient attacks fall as the budget grows?"
    pairs = []
    for key in ("pgd_linf", "pgd_l2", "pgd_linf_large"):  # AutoAttack and the adaptive attack fall by construction
        rising = sorted(readings(measurements, [key]), key=lambda r: r.epsilon)
        pairs += [(larger, smaller) for smaller, larger in pairwise(rising)]
    if not pairs:
        return Check("monotone", question, None, None, "PGD was not run at several budgets")
    rises = [(*gap(larger, smaller, LEVEL), larger, smaller) for larger, smaller in pairs]
    difference, _, larger, smaller = max(rises, key=lambda item: (item[1], item[0]))
    detail = (
        f"{larger.key}: {share_text(smaller.accuracy)} at {epsilon_text(smaller.epsilon)}, "
        f"{share_text(larger.accuracy)} at {epsilon_text(larger.epsilon)}"
    )
    return Check("monotone", question, difference, not any(beyond for _, beyond, _, _ in rises), detail)


def deterministic_check(random: bool | None, samples: int) -> Check:
    question = "Is the model deterministic, or attacked in expectation over its randomness?"
    if random is None:
        return Check("deterministic", question, None, None, "not looked at")
    detail = (
        "it is deterministic"
        if not random
        else f"it is random; attacks averaged over {samples} passes"
        if samples > 1
        else "it is random, and attacks saw other answers than those that count"
    )
    return Check("deterministic", question, float(samples if random else 1), not random or samples > 1, detail)


def logits_check(probabilities: bool | None) -> Check:
    question = "Do attacks work on logits?"
    if probabilities is None:
        return Check("logits", question, None, None, "not looked at")
    mended = "the model returns probabilities; attacks worked on their logarithm, which has the gradient of logits"
    return Check("logits", question, float(probabilities), True, mended if probabilities else "they do")


def _worst_pair(
    name: str, question: str, pairs: Sequence[tuple[Reading, Reading]], allowed: float, missing: str
) -> Check:
    """The pair whose second attack leaves least in comparison; fails beyond ``allowed`` and sampling error."""
    if not pairs:
        return Check(name, question, None, None, missing)
    gaps = [(*gap(high, low, LEVEL), high, low) for high, low in pairs]
    failed = [item for item in gaps if item[1] and item[0] > allowed]
    difference, _, high, low = max(failed or gaps, key=lambda item: item[0])
    before = "gradients alone" if high.key == low.key else high.key
    detail = (
        f"at {epsilon_text(high.epsilon)} {before} leaves {share_text(high.accuracy)} (n = {high.n}), "
        f"{low.key} {share_text(low.accuracy)} (n = {low.n})"
    )
    return Check(name, question, difference, not failed, detail)


_GRADIENT_KEYS = {
    "linf": ("pgd_linf", "autoattack_linf", "adaptive_linf"),
    "l2": ("pgd_l2", "autoattack_l2", "adaptive_l2"),
}


def _gradient_attacks(measurements: Measurements, norm: Norm) -> list[Reading]:
    """Accuracies under attacks with gradients, from AutoAttack those before Square."""
    return [
        *readings(measurements, [f"pgd_{norm}", f"adaptive_{norm}"]),
        *before_square(measurements, f"autoattack_{norm}"),
    ]


def _without_gradients(measurements: Measurements, norm: Norm) -> list[str]:
    """Keys of sweeps without the model's own gradients, in this norm."""
    keys = ("square_linf", "square_l2", "transferred_fgsm", "transferred_pgd")
    sweeps = {key: sweep for key in keys if (sweep := sweep_of(measurements, key)) is not None}
    return [k for k, s in sweeps.items() if s.settings.get("norm", "l2" if k == "square_l2" else "linf") == norm]


def _has_square(measurements: Measurements, key: str) -> bool:
    sweep = sweep_of(measurements, key)
    return sweep is not None and "square" in sweep.settings.get("stage_accuracies", {})


def _lowest_from(found: Sequence[Reading], epsilon: float) -> list[Reading]:
    """The strongest attack at each budget that is not smaller than this one."""
    lowest: list[Reading] = []
    for r in sorted(found, key=lambda r: r.accuracy):
        reaches = r.epsilon > epsilon or same_epsilon(r.epsilon, epsilon)
        if reaches and not any(same_epsilon(r.epsilon, other.epsilon) for other in lowest):
            lowest.append(r)
    return lowest
