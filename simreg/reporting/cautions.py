"""What numbers can't say: rules that read a file's own budgets and sizes, and name what they leave open."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from simreg.reporting import names
from simreg.reporting.blocks import plural
from simreg.reporting.groups import Group, chance_line, clean, keys_of, near_chance, setting, threat_of
from simreg.reporting.numbers import count, number, percent, ratio, significant
from simreg.reporting.runs import items, words

_FEW_IMAGES = 500
_FEW_SEEDS = 5
_FEW_STEPS = 1000
_FEW_QUERIES = 2000
_MADE_PROGRESS = 0.8  # of the last third of the curve: what fell below was still falling
_LOW_CLEAN = 0.4


def cautions(groups: Sequence[Group]) -> list[str]:
    """Sentences that belong to these results, none of them general."""
    rules: tuple[Callable[[Sequence[Group]], list[str]], ...] = (
        _seeds,
        _few_seeds,
        _sizes,
        _upper_bounds,
        _attack_versions,
        _decisions,
        _queries,
        _transfer,
        _budgets,
        _corruptions,
        _clean,
    )
    return [line for rule in rules for line in rule(groups)]


def _named(labels: Sequence[str], groups: Sequence[Group]) -> str:
    """Which models a sentence is about; nothing where it is all of them."""
    labels = list(dict.fromkeys(labels))
    return "" if len(labels) == len(groups) else f" ({', '.join(labels)})"


def _seeds(groups: Sequence[Group]) -> list[str]:
    single = [group.label for group in groups if len(group.runs) == 1]
    if not single:
        return []
    return [
        f"One training run each{_named(single, groups)}: the intervals say how much the choice of test images moves a "
        "number, not how much another seed of the training would. Differences between single runs need several seeds."
    ]


def _few_seeds(groups: Sequence[Group]) -> list[str]:
    few = [group.label for group in groups if 1 < len(group.runs) < _FEW_SEEDS]
    if not few:
        return []
    return [
        f"Fewer than {_FEW_SEEDS} training runs{_named(few, groups)}: Student's t intervals of so few are wide, and "
        "rest on the runs being normally distributed."
    ]


def _attack_versions(groups: Sequence[Group]) -> list[str]:
    """What stood in for a named attack, and which of its parts did not run."""
    lines: dict[str, list[str]] = {}
    for key in keys_of(groups):
        for group in groups:
            made = setting(group, key, "implementation")
            if key.startswith("autoattack") and made is not None:
                left = [words(part) for part in setting(group, key, "not_run") or []]
                without = f", without {', '.join(left)}" if left else ""
                lines.setdefault(f"{names.inline(key)} was {words(made)}{without}", []).append(group.label)
    return [f"{line}{_named(labels, groups)}." for line, labels in lines.items()]


def _sizes(groups: Sequence[Group]) -> list[str]:
    small: dict[int, list[str]] = {}
    for key in keys_of(groups):
        sizes = [count(r.get("n")) for g in groups for kind in ("sweep", "corruptions") for r in g.results(key, kind)]
        if sizes and 0 < min(sizes) < _FEW_IMAGES:
            small.setdefault(min(sizes), []).append(names.inline(key))
    if not small:
        return []
    told = [
        f"{98 / n**0.5:.0f} points with {plural(n, 'image')} ({', '.join(keys)})" for n, keys in sorted(small.items())
    ]
    return [f"Few images: to either side a 95 % interval is up to {'; '.join(told)}."]


def _upper_bounds(groups: Sequence[Group]) -> list[str]:
    keys = [key for key in keys_of(groups) if threat_of(groups, key) == "white_box"]
    strong = [key for key in keys if key.startswith(("autoattack", "adaptive"))]
    without = [group.label for group in groups if all(group.reason(key) for key in strong)]
    lines = []
    if without:
        lines.append(
            f"Neither AutoAttack nor an adaptive attack was run{_named(without, groups)}: the white-box numbers are "
            "upper bounds that a stronger attack may lower."
        )
    suspicious = [group.label for group in groups if group.masking.get("suspicious")]
    if suspicious:
        lines.append(
            f"Gradients look masked in {', '.join(suspicious)}: take the lowest accuracy over all attacks, gradient-"
            "free ones included, and even that as an upper bound."
        )
    return lines


def _decisions(groups: Sequence[Group]) -> list[str]:
    lines = []
    for key in keys_of(groups):
        short, falling, ratios = [], [], []
        for group in groups:
            for result in group.results(key, "distances"):
                medians = [number(value) for value in items(result, "curve_medians")]
                steps = count(result.get("steps"))
                if key.startswith("boundary") and 0 < steps < _FEW_STEPS:
                    short.append((group.label, steps))
                if len(medians) > 1 and medians[0] > 0 and math.isfinite(medians[0] + medians[-1]):
                    ratios.append(medians[-1] / medians[0])
                third = medians[-1 - max(1, len(medians) // 3)] if len(medians) > 2 else math.nan
                if math.isfinite(third) and medians[-1] < _MADE_PROGRESS * third:
                    falling.append(group.label)
        name = names.inline(key)
        if short:
            left = ""
            if ratios:
                ends = " to ".join(dict.fromkeys((percent(min(ratios), 0), percent(max(ratios), 0))))
                left = f" The median ended at {ends} % of that of the starting points."
            lines.append(
                f"{name}: {max(steps for _, steps in short):,} steps{_named([s[0] for s in short], groups)} stay near "
                f"the noisy image that the attack starts from, so the distances mostly restate noise robustness.{left}"
            )
        elif falling:
            lines.append(
                f"{name}: the median was still falling at the end{_named(falling, groups)}: the distances are upper "
                "bounds, and more queries would shrink them."
            )
    return lines


def _queries(groups: Sequence[Group]) -> list[str]:
    lines = []
    for key in keys_of(groups):
        if threat_of(groups, key) == "score":
            budgets = {count(setting(group, key, "max_queries")) for group in groups if not group.reason(key)} - {0}
            if budgets and max(budgets) < _FEW_QUERIES:
                lines.append(
                    f"{names.inline(key)}: {max(budgets):,} queries are few (5,000 are usual): the accuracy is an "
                    "upper bound."
                )
    return lines


def _transfer(groups: Sequence[Group]) -> list[str]:
    keys = [key for key in keys_of(groups) if threat_of(groups, key) == "transfer"]
    if not any(not group.reason(key) for group in groups for key in keys):
        return []
    surrogates = {str(setting(group, key, "surrogate_fingerprint")) for group in groups for key in keys}
    lines = [
        "Transferred attacks also measure how unlike the attacked model and the surrogate are: they are no evidence of "
        "robustness against an attacker who has the model."
    ]
    if len(surrogates - {"None"}) > 1:
        lines.append("The transferred attacks came from different surrogates: these numbers do not compare.")
    return lines


def _budgets(groups: Sequence[Group]) -> list[str]:
    """Attacks whose measured perturbation is larger than they were allowed."""
    lines = []
    for key in keys_of(groups):
        for group in groups:
            for result in group.results(key, "sweep"):
                norm = setting(group, key, "norm")
                measured = items(result.get("settings") or {}, "max_perturbation")
                allowed = [number(value) for value in items(result, "epsilons")]
                over = [e for e, m in zip(allowed, map(number, measured), strict=False) if m > e + 1e-4 + 1e-3 * e]
                if over and norm == "linf":
                    lines.append(
                        f"{names.inline(key)} on {group.label} changed pixels by more than its budget at "
                        f"ε = {', '.join(map(significant, over))}: these numbers are wrong."
                    )
    return lines


def _corruptions(groups: Sequence[Group]) -> list[str]:
    results = [result for group in groups for result in group.results("corruptions", "corruptions")]
    if not results or all(result.get("is_published") is True for result in results):
        return []
    return ["The corrupted images are not the published arrays: no comparison with published figures holds."]


def _clean(groups: Sequence[Group]) -> list[str]:
    """Models that hold because they answer little: distances of a model with low clean accuracy mean little."""
    found = {group.label: clean(group).value for group in groups if not near_chance(group)}
    known = [value for value in found.values() if math.isfinite(value)]
    best = max(known, default=math.nan)
    lines = chance_line(groups)
    for label, value in found.items():
        if math.isfinite(value) and value < best and value / best < 0.9:
            lines.append(
                f"{label} has {ratio(value / best)} of the best clean accuracy here: robust numbers of a model that is "
                "less accurate, or was trained less, can be higher for that reason alone."
            )
        elif value < _LOW_CLEAN:
            lines.append(
                f"{label} has a clean accuracy of {percent(value)} %: distances of so weak a model say little."
            )
    return lines
