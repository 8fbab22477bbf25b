"""What an evaluation showed, in one plain sentence for each kind of attacker, with the numbers behind it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from simreg.robustness._norms import Norm
from simreg.robustness._readings import (
    Measurements,
    Reading,
    clean_reading,
    epsilon_text,
    listed,
    not_measured,
    readings,
    result_of,
    share_text,
    sweep_of,
    verdict,
)
from simreg.robustness._white_box_verdict import NORM_TEXT, white_box_verdicts
from simreg.robustness.intervals import median_interval, ratio_interval

HOLDS = 0.9
"""Share of the clean accuracy from which on, with the lower end of its interval, accuracy is said to hold."""

BREAKS_DOWN = 0.5
"""Share of the clean accuracy below which, with the upper end of its interval, accuracy is said to break down."""


def verdicts(
    measurements: Measurements,
    masking: Mapping[str, Any],
    *,
    threat_linf: float = 8 / 255,
    values_per_image: int | None = None,
    classes: int | None = None,
    majority: float | None = None,
) -> list[dict[str, Any]]:
    """One plain sentence for each threat, and for white_box one for each norm and budget.

    White-box sentences follow one rule: that a model is *not* robust can be learnt from any attack; that it is, only
    from AutoAttack with its standard budgets or an adaptive attack on features with 50 steps or more, and only if the
    masking panel made its decisive checks (``masking_panel``) and none failed. A random model's mean answer supports no
    claim, nor does a clean accuracy near that of a constant answer.
    In all other cases the number is called an upper bound. The number is the most telling that any attack within the
    budget left, smaller budgets included: the one whose interval ends lowest, unless such a strong attack left fewer.
    Other threats are compared with the accuracy without attack on the same images where the measurement has it.

    ============================================  =====================================================================
    "No white-box robustness"                     upper end of the interval <= 5 %, any attack
    "Little or no white-box robustness"           estimate <= 5 %, upper end < half of the clean accuracy, any attack
    "Little white-box robustness"                 lower end <= 5 %, upper end < half of the clean accuracy
    "Substantial white-box robustness"            lower end >= half of the clean accuracy
    "Some white-box robustness"                   in between
    "holds" (other threats)                       share of the clean accuracy kept: lower end >= 90 %
    "breaks down" (other threats)                 upper end of that share < 50 %
    "falls" (other threats)                       upper end < 100 %, and neither of these
    "too few images to say" (other threats)       else: the interval has both "holds" and 100 % or more in it
    ============================================  =====================================================================

    Args:
        measurements: Entries of an evaluation by key: {"status", "type", "threat", "result"} or {"status", "reason"}.
        masking: What ``masking_panel`` returned for them.
        threat_linf: L-inf budget that is always judged: 8/255 on photographs.
        values_per_image: C * H * W, which turns L2 decision distances into budgets; None leaves them out of white-box
            sentences.
        classes: Classes K of the task: no robustness is claimed unless the interval of the clean accuracy lies clearly
            above what a constant answer gets, c = 1 / K: above the smaller of 2 c and (1 + c) / 2. None leaves that
            check out.
        majority: Share of the images in the most frequent class, which is c where it is larger than 1 / K.

    Returns:
        [{"threat": str, "verdict": str, "evidence": [str, ...]}]; a threat whose measurements were not run says so.

    Example:
        >>> result = {"name": "autoattack", "epsilons": [8 / 255], "accuracies": [0.003], "n": 1000, "settings": {}}
        >>> entry = {"status": "ok", "type": "sweep", "threat": "white_box", "result": result}
        >>> found = verdicts({"autoattack_linf": entry}, {"suspicious": False, "checks": []})
        >>> print([v["verdict"] for v in found if v["threat"] == "white_box"][0])
        No white-box robustness at 8/255 (L-inf): 0.3 % of images survive AutoAttack (95 % interval 0.1-0.9).
    """
    clean = _clean_reading(measurements)
    task = (values_per_image, classes, majority)
    return [
        _clean(measurements, clean),
        *white_box_verdicts(measurements, masking, "linf", clean, (threat_linf,), *task),
        *white_box_verdicts(measurements, masking, "l2", clean, (), *task),
        _noise(measurements, clean),
        _transfer(measurements, clean),
        _score(measurements, clean),
        _decision(measurements, clean),
        _corruption(measurements, clean),
    ]


def _clean_reading(measurements: Measurements) -> Reading | None:
    """Accuracy without attack: of the clean measurement, else of the sweep with most images that recorded it."""
    sweeps = [key for key, entry in measurements.items() if entry.get("type") == "sweep"]
    found = [reading for key in sweeps if (reading := clean_reading(measurements, key)) is not None]
    return max(found, key=lambda r: (r.key == "clean", r.n), default=None)


def _clean(measurements: Measurements, clean: Reading | None) -> dict[str, Any]:
    if clean is None:
        return not_measured("clean", "Clean accuracy", measurements, ["clean"])
    text = f"Without attack {share_text(clean.accuracy, clean.interval)} of {clean.n} images are right."
    settings = {} if (sweep := sweep_of(measurements, clean.key)) is None else sweep.settings
    if settings.get("samples", 1) > 1:
        text = (
            f"{text[:-1]}, by the mean answer over {settings['samples']} passes of this random model; a single answer "
            f"is right on {share_text(settings['single_pass_accuracy'])}. All numbers are those of the mean answer."
        )
    return verdict("clean", text, [clean.evidence()])


def _noise(measurements: Measurements, clean: Reading | None) -> dict[str, Any]:
    keys = {"gaussian": "Gaussian", "uniform": "uniform", "salt_and_pepper": "salt-and-pepper"}
    last = _largest(measurements, list(keys))
    if not last:
        return not_measured("noise", "Noise", measurements, list(keys))
    parts = [f"{share_text(r.accuracy)} under {keys[r.key]} noise of strength {epsilon_text(r.epsilon)}" for r in last]
    text = _fall("Under random noise accuracy", last, _without(measurements, last, clean), parts)
    return verdict("noise", text, [r.evidence() for r in last])


def _transfer(measurements: Measurements, clean: Reading | None) -> dict[str, Any]:
    keys = ["transferred_fgsm", "transferred_pgd"]
    last = _largest(measurements, keys)
    if not last:
        return not_measured("transfer", "Transferred attacks", measurements, keys)
    parts = [f"{share_text(r.accuracy)} under {r.attack} at {epsilon_text(r.epsilon)}" for r in last]
    text = _fall("Under attacks made on another model accuracy", last, _without(measurements, last, clean), parts)
    text = f"{text[:-1]}; one who has the model can do at least as much."
    return verdict("transfer", text, [r.evidence() for r in last])


def _score(measurements: Measurements, clean: Reading | None) -> dict[str, Any]:
    keys = ["square_linf", "square_l2"]
    last = _largest(measurements, keys)
    if not last:
        return not_measured("score", "Score-based attacks", measurements, keys)
    parts = []
    for r in last:
        sweep = sweep_of(measurements, r.key)
        queries = sweep.settings.get("max_queries") if sweep else None
        spent = f" with {queries} queries" if queries else ""
        norm: Norm = "linf" if r.key.endswith("linf") else "l2"
        parts.append(f"{share_text(r.accuracy)} under Square at {epsilon_text(r.epsilon)} ({NORM_TEXT[norm]}){spent}")
    text = _fall("Under attacks that see scores alone accuracy", last, _without(measurements, last, clean), parts)
    return verdict("score", text, [r.evidence() for r in last])


def _decision(measurements: Measurements, clean: Reading | None) -> dict[str, Any]:
    names = {
        "hopskipjump_linf": "HopSkipJump (L-inf)",
        "hopskipjump_l2": "HopSkipJump (squared L2 per pixel)",
        "boundary": "the Boundary Attack (squared L2 per pixel)",
    }
    parts, unreached, evidence = [], [], []
    for key, name in names.items():
        result = result_of(measurements, key)
        if result is None:
            continue
        distances = [math.inf if d is None else float(d) for d in result["distances"]]
        low, high = median_interval(distances)
        median = statistics.median(distances)
        failures = sum(math.isinf(d) for d in distances)
        if math.isinf(median):
            unreached.append(f"{failures} of {len(distances)} images by {name}")
        else:
            parts.append(f"{median:.3g} by {name}")
        evidence.append(
            f"{key}: median {median:.4g} ({low:.4g}-{high:.4g}), {failures} of {len(distances)} not reached"
        )
    if not evidence:
        return not_measured("decision", "Decision-based attacks", measurements, list(names))
    at = f" at a clean accuracy of {share_text(clean.accuracy)}" if clean is not None else ""
    found = [f"another class is reached within a median distance of {listed(parts)}"] if parts else []
    found += [f"no other class was reached on {listed(unreached)}"] if unreached else []
    bound = "; true distances are smaller" if parts else ""
    return verdict("decision", f"With decisions alone {listed(found)}{at}{bound}.", evidence)


def _corruption(measurements: Measurements, clean: Reading | None) -> dict[str, Any]:
    result = result_of(measurements, "corruptions")
    if result is None:
        return not_measured("corruption", "Common corruptions", measurements, ["corruptions"])
    by_name = {name: statistics.fmean(values) for name, values in result["accuracies"].items()}
    mean, n = statistics.fmean(by_name.values()), int(result["n"])
    worst = min(by_name, key=lambda name: by_name[name])
    before = result.get("clean")
    reference = Reading("corruptions", 0.0, float(before), n) if before is not None else clean
    reading = Reading("corruptions", 0.0, mean, n)
    parts = [f"{share_text(mean)} on average over {len(by_name)} kinds"]
    text = _fall("Under common corruptions accuracy", [reading], [reference], parts)
    source = "the published images" if result.get("is_published") else "corruptions made here, not the published images"
    text = f"{text[:-1]}, lowest for {worst.replace('_', ' ')} ({share_text(by_name[worst])}); {source}."
    return verdict("corruption", text, [reading.evidence()])


def _largest(measurements: Measurements, keys: Sequence[str]) -> list[Reading]:
    """The largest budget of each of these sweeps."""
    found = (readings(measurements, [key]) for key in keys)
    return [max(sweep, key=lambda r: r.epsilon) for sweep in found if sweep]


def _without(measurements: Measurements, found: Sequence[Reading], clean: Reading | None) -> list[Reading | None]:
    """For each reading the accuracy without attack: on the same images where that is known."""
    return [clean_reading(measurements, r.key) or clean for r in found]


def _fall(subject: str, found: Sequence[Reading], clean: Sequence[Reading | None], parts: Sequence[str]) -> str:
    """How accuracy fares in the worst of these cases, each compared with that without attack."""
    pairs = [(r, c) for r, c in zip(found, clean, strict=True) if c is not None and c.accuracy > 0]
    if len(pairs) < len(found):
        return f"{subject} is {listed(parts)}."
    kept = [ratio_interval(r.accuracy, r.n, c.accuracy, c.n) for r, c in pairs]
    before = sorted({share_text(c.accuracy) for _, c in pairs}, key=lambda text: float(text.split()[0]))
    numbers = f"{listed(parts)}, of {' to '.join([before[0], *before[1:][-1:]])} without"
    lower, upper = min(low for low, _ in kept), min(high for _, high in kept)
    if lower < HOLDS and upper >= 1:
        images = listed([str(n) for n in sorted({reading.n for pair in pairs for reading in pair})])
        return f"{subject} is {numbers}: too few images to say whether it falls (n = {images})."
    verb = "holds" if lower >= HOLDS else "breaks down" if upper < BREAKS_DOWN else "falls"
    return f"{subject} {verb}: {numbers}."
