"""What the main job says at the end: table, plain sentences computed from the numbers, plots."""

from __future__ import annotations

from math import hypot
from pathlib import Path
from typing import Any

from evaluation import Evaluation

from simreg.robustness import Sweep, TradeOff, plot_boundary, plot_history, plot_sweeps, summary_row, tradeoff

TITLES = {
    "gaussian": "Gaussian noise",
    "uniform": "Uniform noise",
    "salt_and_pepper": "Salt-and-pepper noise",
    "transferred_fgsm": "Transferred FGSM",
}
REGULARIZED, UNREGULARIZED = "regularized", "unregularized"


def table_rows(evaluations: dict[str, Evaluation], labels: dict[str, str]) -> list[dict[str, str]]:
    """One row per model: clean, R0/U0, every distortion at its largest epsilon, Boundary median with n and failures."""
    reference = evaluations[UNREGULARIZED].clean
    rows = [
        summary_row(
            labels[name],
            clean=evaluation.clean,
            n=evaluation.sweeps["clean"].n,
            sweeps=evaluation.distortions,
            boundary=evaluation.boundary,
            reference_clean=reference,
        )
        for name, evaluation in evaluations.items()
    ]
    return [{_shorten(column): value for column, value in row.items()} for row in rows]


def caption(evaluation: Evaluation) -> str:
    """What the numbers of the table are, with the images and the error behind each."""
    counts = {_shorten(sweep.name): sweep.n for sweep in evaluation.sweeps.values()}
    images = ", ".join(f"{name} {n} (+-{50 / n**0.5:.1f})" for name, n in counts.items())
    return (
        f"Accuracy in %; test images, and the largest standard error in points: {images}. R0/U0: clean accuracy over "
        "that of the unregularized net; RD/UD: the same of robust accuracy. s&p: salt and pepper. tFGSM: made on a net "
        "of another seed. FGSM and PGD know the net that they attack. Boundary: median squared L2 distance per pixel, "
        "failed starts counted as infinite."
    )


def _shorten(name: str) -> str:
    return name.replace("salt_and_pepper", "s&p").replace("transferred_fgsm", "tFGSM")


def trade_offs(evaluations: dict[str, Evaluation]) -> dict[str, TradeOff]:
    """R0/U0 and RD/UD of the regularized net for every distortion, at its largest epsilon."""
    regularized, unregularized = evaluations[REGULARIZED], evaluations[UNREGULARIZED]
    return {
        sweep.name: tradeoff(
            sweep,
            unregularized.sweeps[sweep.name],
            clean_regularized=regularized.clean,
            clean_unregularized=unregularized.clean,
        )
        for sweep in regularized.distortions
    }


def trade_off_lines(trades: dict[str, TradeOff]) -> list[str]:
    """One line per distortion."""
    return [
        f"{name.replace('_', ' ')} {trade.distortion:g}: "
        f"R0/U0 = {trade.clean_ratio:.2f}, RD/UD = {trade.robust_ratio:.2f}"
        f" ({'acceptable' if trade.acceptable else 'not acceptable: wanted R0/U0 >= 0.9 and RD/UD > 1'})"
        for name, trade in trades.items()
    ]


def findings(evaluations: dict[str, Evaluation], labels: dict[str, str]) -> list[str]:
    """Where the regularized net is ahead and where it is not, in words."""
    regularized = evaluations[REGULARIZED]
    lines = [_below(regularized.sweeps[kind], evaluations[UNREGULARIZED].sweeps[kind]) for kind in _curves(regularized)]
    for name in evaluations:
        if name != REGULARIZED:
            lines.append(_comparison(regularized, evaluations[name], labels[name]))
    return lines


def _curves(evaluation: Evaluation) -> list[str]:
    return [sweep.name for sweep in evaluation.distortions if len(sweep.epsilons) > 2]


def _below(regularized: Sweep, unregularized: Sweep) -> str:
    """At which epsilons of one curve the regularized net is the worse one."""
    pairs = zip(regularized.epsilons, regularized.accuracies, unregularized.accuracies, strict=True)
    worse = [f"{epsilon:g} ({100 * (r - u):+.1f})" for epsilon, r, u in pairs if r < u]
    name = regularized.name.replace("_", " ")
    if not worse:
        return f"{name}: the regularized net is nowhere below the unregularized one."
    return f"{name}: the regularized net is below the unregularized one at epsilon {', '.join(worse)}."


def _comparison(regularized: Evaluation, other: Evaluation, label: str) -> str:
    """Points by which the regularized net leads or trails another one; differences within two standard errors apart."""
    sides: dict[str, list[str]] = {"ahead": [], "behind": [], "level": []}
    for sweep in [regularized.sweeps["clean"], *regularized.distortions]:
        epsilon, against = sweep.epsilons[-1], other.sweeps[sweep.name]
        difference = sweep.accuracies[-1] - against.accuracies[-1]
        error = hypot(sweep.standard_errors[-1], against.standard_errors[-1])
        side = "level" if abs(difference) <= 2 * error else "ahead" if difference > 0 else "behind"
        name = "clean" if sweep.name == "clean" else f"{sweep.name.replace('_', ' ')} {epsilon:g}"
        sides[side].append(f"{name} {100 * difference:+.1f}")
    parts = [
        f"ahead in {', '.join(sides['ahead']) or 'nothing'}",
        f"behind in {', '.join(sides['behind']) or 'nothing'}",
    ]
    if sides["level"]:
        parts.append(f"within two standard errors in {', '.join(sides['level'])}")
    return f"regularized against {label} (points): {'; '.join(parts)}."


def write_plots(
    folder: Path, evaluations: dict[str, Evaluation], labels: dict[str, str], history: dict[str, Any], source: str
) -> list[Path]:
    """All plots as PNG; every curve shows all models."""
    paths = []
    for kind in _curves(evaluations[REGULARIZED]):
        sweeps = {labels[name]: evaluation.sweeps[kind] for name, evaluation in evaluations.items()}
        title = f"{TITLES[kind]}, {source}"
        paths.append(plot_sweeps(sweeps, folder / f"{kind}.png", title=title))
    boundaries = {labels[name]: evaluation.boundary for name, evaluation in evaluations.items()}
    paths.append(plot_boundary(boundaries, folder / "boundary.png", title=f"Boundary Attack, {source}"))
    paths.append(plot_history(history, folder / "layer_weights.png", title="The regularizer while training"))
    return paths
