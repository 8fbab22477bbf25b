"""What things are called: measurements, threats, axes, corruptions."""

from __future__ import annotations

import re

THREATS = {
    "clean": "No distortion",
    "noise": "Random noise",
    "white_box": "White box: the attacker knows the model",
    "transfer": "Transfer: the attacker knows a similar model",
    "decision": "Decisions: the attacker sees the predicted class",
    "score": "Scores: the attacker sees the logits",
    "corruption": "Common corruptions",
}
"""Titles of the threat models, in the order of the report."""

BRIEF = {"white_box": "White-box attacks", "transfer": "Transferred attacks", "decision": "Decision attacks"}
BRIEF |= {"score": "Score attacks"}

THREAT_EXPLANATIONS = {
    "noise": "Random changes of every pixel, the same for every model; no attacker is involved.",
    "white_box": "Gradient attacks on the model itself. Accuracy under an attack is an upper bound: a stronger attack "
    "can only lower it. These numbers mean something only as far as the gradients do, hence the masking checks.",
    "transfer": "Perturbations made on another, unregularized model. What holds here also measures how unlike the two "
    "models are.",
    "decision": "The attacker sees nothing but the predicted class. Larger distances are better; images for which the "
    "attack found nothing count as infinitely far.",
    "score": "The attacker sees the logits but no gradient: random search, which masked gradients don't stop.",
    "corruption": "Blur, weather, digital and noise corruptions at several severities, none of them adversarial.",
}

MEASUREMENTS = {
    "clean": "Clean accuracy",
    "gaussian": "Gaussian noise",
    "uniform": "Uniform noise",
    "salt_and_pepper": "Salt-and-pepper noise",
    "fgsm_linf": "FGSM, L∞",
    "fgsm_l2": "FGSM, L2",
    "pgd_linf": "PGD, L∞",
    "pgd_l2": "PGD, L2",
    "pgd_linf_large": "PGD, L∞, large budgets",
    "transferred_fgsm": "Transferred FGSM, L∞",
    "transferred_pgd": "Transferred PGD, L∞",
    "boundary": "Boundary Attack",
    "boundary_paper": "Boundary Attack, budget of the paper",
    "hopskipjump_l2": "HopSkipJump, L2",
    "hopskipjump_linf": "HopSkipJump, L∞",
    "square_linf": "Square Attack, L∞",
    "square_l2": "Square Attack, L2",
    "autoattack_linf": "AutoAttack, L∞",
    "autoattack_l2": "AutoAttack, L2",
    "adaptive_linf": "Adaptive PGD, L∞",
    "corruptions": "Common corruptions",
    "spectrum": "Spectrum of smallest perturbations",
}
"""Names of the measurements, in the order of the report."""

KEY_THREATS = {
    **dict.fromkeys(("gaussian", "uniform", "salt_and_pepper"), "noise"),
    **dict.fromkeys(("transferred_fgsm", "transferred_pgd"), "transfer"),
    **dict.fromkeys(("boundary", "boundary_paper", "hopskipjump_l2", "hopskipjump_linf", "spectrum"), "decision"),
    **dict.fromkeys(("square_linf", "square_l2"), "score"),
    "clean": "clean",
    "corruptions": "corruption",
}
"""Threats of the measurements that a file does not say; all others are white-box."""

STRENGTHS = {
    "gaussian": "standard deviation ε (pixel units)",
    "uniform": "half width ε (pixel units)",
    "salt_and_pepper": "share of changed values ε",
}
GROUPS = {"low": "low frequency", "medium": "medium frequency", "high": "high frequency"}
CHECKS = {
    "black_box": "Attacks without gradients",
    "zero_gradients": "Zero gradients",
    "large_budget": "Large budget",
    "one_step": "One step against many",
    "under_run": "PGD against stronger attacks",
    "square_after_gradients": "Square after AutoAttack's gradient attacks",
    "monotone": "Accuracy against budget",
    "deterministic": "Determinism",
    "logits": "Logits",
}
"""Names of the masking checks."""

DECISIVE = {
    "black_box": "attacks without gradients beside gradient attacks",
    "large_budget": "a budget that no image withstands",
    "zero_gradients": "gradients of exactly zero",
}
"""What was not looked at where a check that decides on masking was not possible."""


def measurement(key: str) -> str:
    """Name of a measurement; an unknown key is made readable.

    Example:
        >>> measurement("pgd_linf"), measurement("my_attack")
        ('PGD, L∞', 'My attack')
    """
    if key in MEASUREMENTS:
        return MEASUREMENTS[key]
    return _sentence(key) or "Unnamed"


def inline(key: str) -> str:
    """Name of a measurement within a sentence or a list.

    Example:
        >>> inline("pgd_linf_large"), inline("clean")
        ('PGD (L∞, large budgets)', 'Clean accuracy')
    """
    name, _, about = measurement(key).partition(", ")
    return f"{name} ({about})" if about else name


def readable(text: str) -> str:
    """Text whose measurements are named in words.

    Example:
        >>> readable("0.0 % in fgsm_linf"), readable("boundary: median 0.1")
        ('0.0 % in FGSM (L∞)', 'Boundary Attack: median 0.1')
    """
    return _KEY.sub(lambda match: inline(match[0]), text)


_KEY = re.compile(
    rf"\b(?:{'|'.join(sorted((k for k in MEASUREMENTS if '_' in k), key=len, reverse=True))})\b"
    rf"|^(?:{'|'.join(k for k in MEASUREMENTS if '_' not in k)})(?=:| at )"
)


def check(name: str) -> str:
    """Name of a masking check.

    Example:
        >>> check("one_step"), check("my_check")
        ('One step against many', 'My check')
    """
    return CHECKS.get(name) or _sentence(name) or "Unnamed"


def _sentence(identifier: str) -> str:
    text = identifier.replace("_", " ").strip()
    return text[:1].upper() + text[1:]


def threat(key: str, said: object = None) -> str:
    """Threat model of a measurement: what its file says, else what its key stands for."""
    return said if isinstance(said, str) and said in THREATS else KEY_THREATS.get(key, "white_box")


def strength_label(key: str, norm: object = None) -> str:
    """Name and unit of the strength axis."""
    if key in STRENGTHS:
        return STRENGTHS[key]
    if norm == "l2" or key.endswith("_l2"):
        return "L2 budget ε (pixel units)"
    known = norm == "linf" or "_linf" in key or key.startswith("transferred")
    return "L∞ budget ε (pixel units)" if known else "strength ε (pixel units)"


def distance_label(norm: object) -> str:
    """Name and unit of a distance.

    Example:
        >>> distance_label("squared L2 per pixel"), distance_label("linf")
        ('squared L2 per pixel', 'largest change of a value (L∞)')
    """
    if norm == "linf":
        return "largest change of a value (L∞)"
    return "L2 distance" if norm == "l2" else "squared L2 per pixel" if norm is None else str(norm)


def order(keys: set[str]) -> list[str]:
    """Keys in the order of the report, unknown ones at the end by name."""
    known = list(MEASUREMENTS)
    return sorted(keys, key=lambda key: (known.index(key) if key in known else len(known), key))


def corruption(name: str) -> str:
    """Name of a corruption as text: "gaussian_noise" is "gaussian noise"."""
    return name.replace("_", " ")


def strength(value: float) -> str:
    """A strength as it is usually written: multiples of 1/255 as such.

    Example:
        >>> strength(8 / 255), strength(0.1), strength(0.0)
        ('8/255', '0.1', '0')
    """
    steps = value * 255
    if 0 < value < 0.2 and abs(steps - round(steps)) < 1e-6 and round(steps) >= 1 and f"{value:.4g}" != f"{value:.2g}":
        return f"{round(steps)}/255"
    return f"{value:.4g}"
