"""The white-box sentences of ``verdicts``: what may be said about a budget, and what may not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from simreg.robustness._masking_checks import DECISIVE
from simreg.robustness._norms import Norm
from simreg.robustness._readings import (
    Measurements,
    Reading,
    distance_readings,
    epsilon_text,
    listed,
    not_measured,
    readings,
    same_epsilon,
    share_text,
    sweep_of,
    verdict,
)

NO_ROBUSTNESS = 0.05
"""Share of images up to which, with the upper end of its interval, an attack leaves nothing worth the name."""

SUBSTANTIAL = 0.5
"""Share of the clean accuracy from which on, with the lower end of the interval, robustness is called substantial."""

NORM_TEXT: dict[Norm, str] = {"linf": "L-inf", "l2": "L2"}
ADAPTIVE_STEPS = 50
"""Fewest steps of an adaptive attack that a claim of robustness may rest on."""

_FULL = {"steps": 100, "max_queries": 5000}  # budgets below which AutoAttack is not the standard one
_TARGETS = 9  # classes that the standard attacks aim at, where there are so many


def white_box_verdicts(
    measurements: Measurements,
    masking: Mapping[str, Any],
    norm: Norm,
    clean: Reading | None,
    always: Sequence[float],
    values: int | None,
    classes: int | None = None,
    majority: float | None = None,
) -> list[dict[str, Any]]:
    """One verdict for each budget of the strongest attack that was run, and for those that are always judged.

    Args:
        measurements: Entries by key.
        masking: What ``masking_panel`` returned for them.
        norm: "linf" or "l2".
        clean: Accuracy without attack; None if it was not measured.
        always: Budgets to judge in any case, unless only larger ones were run.
        values: Pixels times channels of an image; None leaves L2 decision distances out.
        classes: Classes of the task, for claims only clearly above chance; None leaves that out.
        majority: Share of the images in the most frequent class, which a constant answer gets right.

    Returns:
        Verdicts in the order of the budgets.
    """
    attacks, strong = _attacks(measurements, norm), _strong(measurements, norm)
    if not attacks:
        keys = [f"autoattack_{norm}", f"adaptive_{norm}", f"pgd_{norm}"]
        return [not_measured("white_box", f"White-box robustness ({NORM_TEXT[norm]})", measurements, keys)]
    plain = readings(measurements, [f"pgd_{norm}"]) or sorted(attacks, key=lambda r: r.epsilon)[:1]
    smallest = min(r.epsilon for r in attacks)
    wanted = [e for e in always if e >= smallest * (1 - 1e-4)] + [r.epsilon for r in strong or plain]
    budgets: list[float] = []
    for epsilon in sorted(wanted):
        if not any(same_epsilon(epsilon, other) for other in budgets):
            budgets.append(epsilon)
    attacks += distance_readings(measurements, f"hopskipjump_{norm}", budgets, values)
    doubts = [*_masking_doubts(masking), *_chance_doubts(clean, classes, majority), *_random_doubts(measurements)]
    return [_at_budget(measurements, doubts, norm, e, attacks, strong, clean) for e in budgets]


def _at_budget(
    measurements: Measurements,
    general_doubts: Sequence[str],
    norm: Norm,
    epsilon: float,
    attacks: Sequence[Reading],
    strong: Sequence[Reading],
    clean: Reading | None,
) -> dict[str, Any]:
    where = f"at {epsilon_text(epsilon)} ({NORM_TEXT[norm]})"
    within = [r for r in attacks if r.epsilon <= epsilon * (1 + 1e-4)]
    here = sorted((r for r in strong if same_epsilon(r.epsilon, epsilon)), key=lambda r: r.accuracy)
    # the most telling: a few images that all fell say less than many of which most did
    least = min(within, key=lambda r: (r.interval[1], r not in here, -r.epsilon))
    quoted = next((r for r in here if r.interval[1] <= NO_ROBUSTNESS), least)
    decided = quoted.interval[1] <= NO_ROBUSTNESS
    if not decided and here and here[0].accuracy <= quoted.accuracy:  # weaker attacks support no claim
        quoted = here[0]
    survive = _survive(quoted, epsilon)
    evidence = [r.evidence() for r in sorted({*here, quoted}, key=lambda r: (r.accuracy, r.key))]
    if quoted.interval[1] <= NO_ROBUSTNESS:
        return verdict("white_box", f"No white-box robustness {where}: {survive}.", evidence)
    if _is_refuted(least, clean):
        return verdict("white_box", f"Little or no white-box robustness {where}: {_survive(least, epsilon)}.", evidence)
    doubts = [*([] if here else [_why_weak(measurements, norm)]), *general_doubts]
    if doubts:
        text = f"White-box robustness {where} is not established: {survive}, an upper bound only: {listed(doubts)}."
        return verdict("white_box", text, evidence)
    # a weaker attack on more images may lower a claim, and not raise it
    lower = min(r.interval[0] for r in (quoted, *here))
    upper = min(r.interval[1] for r in (quoted, *here))
    degree = _degree(lower, upper, clean)
    if degree is None:
        text = f"White-box robustness {where} is not established: {survive}, of too few images (n = {quoted.n})."
        return verdict("white_box", text, evidence)
    return verdict("white_box", f"{degree} white-box robustness {where}: {survive}.", evidence)


def _is_refuted(reading: Reading, clean: Reading | None) -> bool:
    """Whether next to nothing is left, of enough images to rule out half of the clean accuracy: from any attack."""
    much = None if clean is None else SUBSTANTIAL * clean.accuracy
    return reading.accuracy <= NO_ROBUSTNESS and much is not None and reading.interval[1] < much


def _masking_doubts(masking: Mapping[str, Any]) -> list[str]:
    """What the panel has against a claim; looking at the model's output alone says nothing about gradients."""
    checks = masking.get("checks", ())
    if masking.get("suspicious"):
        failed = [str(check["name"]) for check in checks if check["passed"] is False]
        return [f"gradients may be masked, as checks failed ({', '.join(failed)})"]
    made = {str(check["name"]) for check in checks if check["passed"] is not None}
    lacking = [" or ".join(names) for names in DECISIVE if not made & set(names)]
    if len(lacking) == len(DECISIVE):
        return ["it was not checked for masked gradients"]
    return [f"gradients may be masked, as checks were not made ({', '.join(lacking)})"] if lacking else []


def _random_doubts(measurements: Measurements) -> list[str]:
    """Whether the numbers are those of a mean answer that the model itself does not give."""
    sweep = sweep_of(measurements, "clean")
    samples = 1 if sweep is None else sweep.settings.get("samples", 1)
    return [f"the model is random, and this is its mean answer over {samples} passes"] if samples > 1 else []


def _chance_doubts(clean: Reading | None, classes: int | None, majority: float | None) -> list[str]:
    """Whether the model is too close to a constant answer, which no attack changes."""
    if classes is None and majority is None:
        return []
    if clean is None:
        return ["clean accuracy was not measured"]
    constant = max(1 / classes if classes else 0.0, majority or 0.0)
    if clean.interval[0] >= min(2 * constant, (1 + constant) / 2):  # twice the share, where there is room for it
        return []
    clear = share_text(clean.accuracy, clean.interval)
    return [f"clean accuracy {clear} is not clearly above that of a constant answer, {share_text(constant)}"]


def _degree(lower: float, upper: float, clean: Reading | None) -> str | None:
    """A word for what survives; None where the interval reaches from nothing to much."""
    much = None if clean is None else SUBSTANTIAL * clean.accuracy
    if lower <= NO_ROBUSTNESS:
        return None if much is not None and upper >= much else "Little"
    return "Substantial" if much is not None and lower >= much else "Some"


def _survive(reading: Reading, epsilon: float) -> str:
    amount = share_text(reading.accuracy)
    low, high = reading.interval
    interval = f"(95 % interval {100 * low:.1f}-{100 * high:.1f})"
    if same_epsilon(reading.epsilon, epsilon):
        return f"{amount} of images survive {reading.attack} {interval}"
    smaller = epsilon_text(reading.epsilon)
    return f"no more than {amount} of images survive {reading.attack} at the smaller {smaller} already {interval}"


def _why_weak(measurements: Measurements, norm: Norm) -> str:
    """Why no strong attack speaks for this budget."""
    key = f"autoattack_{norm}"
    sweep = sweep_of(measurements, key)
    if sweep is None:
        reason = measurements.get(key, {}).get("reason")
        return f"AutoAttack was not run{f' ({reason})' if reason else ''}"
    return "AutoAttack was not run at this budget" if _is_standard(sweep.settings) else "AutoAttack was not run in full"


def _attacks(measurements: Measurements, norm: Norm) -> list[Reading]:
    """All attacks in this norm: one who has the model can run those without gradients too."""
    keys = [f"{name}_{norm}" for name in ("autoattack", "adaptive", "pgd", "fgsm", "square")]
    found = readings(measurements, [*keys, "pgd_linf_large"] if norm == "linf" else keys)
    for key in ("transferred_fgsm", "transferred_pgd"):
        sweep = sweep_of(measurements, key)
        if sweep is not None and sweep.settings.get("norm", "linf") == norm:
            found += readings(measurements, [key])
    return found


def _strong(measurements: Measurements, norm: Norm) -> list[Reading]:
    """Readings that a claim of robustness may rest on: the adaptive attack, and AutoAttack as it should be run."""
    found = []
    adaptive, sweep = (sweep_of(measurements, f"{name}_{norm}") for name in ("adaptive", "autoattack"))
    if adaptive is not None and _is_full_adaptive(adaptive.settings):
        found += readings(measurements, [f"adaptive_{norm}"])
    if sweep is not None and _is_standard(sweep.settings):
        found += readings(measurements, [f"autoattack_{norm}"])
    return found


def _is_full_adaptive(settings: Mapping[str, Any]) -> bool:
    """Whether the settings show enough steps, and that features of layers were attacked."""
    return bool(settings.get("features")) and settings.get("steps", 0) >= ADAPTIVE_STEPS


def _is_standard(settings: Mapping[str, Any]) -> bool:
    """Whether the settings say that all four attacks were run, at their standard budgets."""
    if settings.get("version") != "standard" or settings.get("not_run") != []:
        return False
    targets = min(_TARGETS, settings.get("classes", _TARGETS + 1) - 1)
    return settings.get("targets", 0) >= targets and all(settings.get(k, 0) >= least for k, least in _FULL.items())
