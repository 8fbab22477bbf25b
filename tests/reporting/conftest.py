"""Results that were never measured: drawn by a seeded function in the layout of results.json, for tests alone."""

from __future__ import annotations

import math

import numpy as np
import pytest

from simreg.reporting import load_runs
from simreg.reporting.blocks import Figure
from simreg.reporting.build import build_document
from simreg.reporting.html import render_page
from simreg.reporting.judgements import judged
from simreg.reporting.markdown import render_markdown
from simreg.robustness import write_results

from .made_up import masking, measurements, sweep, verdicts

HEADER = {"device": "cpu", "hardware": "Imaginary CPU, 2 cores", "seed": 0}
DATA = {
    "name": "cifar10",
    "source": "made up",
    "n": 1000,
    "shape": [1, 32, 32],
    "classes": [f"class {i}" for i in range(10)],
    "fingerprint": "cd" * 32,
}


def evaluation(name="plain", seed=0, clean=0.7, fall=1.0, **changes):
    """Results of ``simreg evaluate``."""
    rng = np.random.default_rng(seed)
    model = {
        "name": name,
        "spec": "model.safetensors",
        "fingerprint": f"{seed:02d}" * 32,
        "parameters": 703_914,
        "mean": [0.5],
        "std": [0.2],
        "random": False,
        "samples": 1,
        "notes": [],
    }
    return {
        "kind": "evaluation",
        "model": model,
        "data": dict(DATA),
        "suite": "standard",
        "seconds": 812.0,
        "surrogate": {"name": "unregularized ResNet18", "fingerprint": "ef" * 32},
        "measurements": measurements(rng, clean, fall),
        "masking": masking(),
        "verdicts": verdicts(),
        **HEADER,
        **changes,
    }


def history(rng, layers=("stem", "layer1", "layer2"), points=50):
    steps = [20 * i for i in range(points)]
    logits = np.cumsum(rng.normal(0, 0.1, (points, len(layers))), axis=0)
    weights = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return {
        "step": steps,
        "loss": [3 * math.exp(-i / 20) + 0.1 * float(rng.random()) for i in range(points)],
        "correlation": [1 - math.exp(-i / 10) for i in range(points)],
        "target_share": [0.0] * points,
        "layer_weights": {name: weights[:, i].tolist() for i, name in enumerate(layers)} if layers else {},
    }


METHODS = {"none": (1.0, 1.0), "simreg": (0.6, 1.2), "gaussian": (0.7, 1.05), "fgsm-rs": (0.4, 2.0)}


def comparison(seeds=(0, 1, 2), budgets=("equal_epochs", "equal_time"), methods=METHODS):
    """Results of ``simreg compare``."""
    found = {}
    for m, (name, (fall, cost)) in enumerate(methods.items()):
        runs = []
        for budget in budgets:
            for seed in seeds:
                rng = np.random.default_rng(100 * m + 10 * seed + len(budget))
                ahead = cost if budget == "equal_epochs" else 1.0
                run = {
                    "seed": seed,
                    "budget": budget,
                    "status": "ok",
                    "training_seconds": 120 * ahead + float(rng.random()),
                    "steps": 2343 if budget == "equal_epochs" else round(2343 / cost),
                    "epochs": 3.0 if budget == "equal_epochs" else 3 / cost,
                    "milliseconds_per_step": 50 * cost + float(rng.random()),
                    "measurements": measurements(rng, 0.66 - 0.03 * m, fall, n=500),
                    "collapse": {"step": 900, "kept_step": 850, "best": 0.4}
                    if (name, seed) == ("fgsm-rs", 1)
                    else None,
                    "history": history(rng, ("stem", "layer1") if name == "simreg" else ()),
                }
                runs.append(run)
        found[name] = {"label": f"{name} label", "description": f"what {name} does", "settings": {"alpha": 10.0}}
        found[name]["runs"] = runs
    failed = [{"seed": s, "budget": "equal_epochs", "status": "not run", "reason": "needs timm"} for s in seeds]
    found["augmix"] = {"label": "AugMix", "description": "mixes augmentations", "settings": {}, "runs": failed}
    return {
        "kind": "comparison",
        "data": {**DATA, "test": {"n": 10_000, "fingerprint": "ba" * 32}},
        "recipe": {"optimizer": "SGD", "batch_size": 64, "peak_rate": 0.1},
        "network": {"name": "ResNet18", "width": 16, "stem_stride": 2},
        "suite": "quick",
        "epochs": 3,
        "budget_seconds": 120.0,
        "methods": found,
        **HEADER,
    }


def selection(alphas=(1.0, 3.0, 10.0), thresholds=(0.4, 0.8), pairs=(8, 16, 32), chosen=True, seeds=(0, 1)):
    """Results of ``simreg select``."""
    rng = np.random.default_rng(5)
    tenths = [i / 100 for i in range(11)]

    def runs(clean, fall):
        found = []
        for seed in seeds:
            curve = sweep(rng, "gaussian", tenths, clean, fall, 1000)
            ends = {"clean": curve["accuracies"][0], "robust": curve["accuracies"][-1], "n": 1000}
            found.append({"seed": seed, "status": "ok", **ends, "sweep": curve, "history": history(rng)})
        return found

    reference = runs(0.7, 6)
    base = {name: float(np.mean([run[name] for run in reference])) for name in ("clean", "robust")}
    grid = [(a, t, 16) for a in alphas for t in thresholds] + [(3.0, 0.8, k) for k in pairs if k != 16]
    points = []
    for alpha, threshold, k in grid:
        found = runs(0.7 - 0.02 * math.log2(1 + alpha) - 0.02 * (threshold < 0.5), 6 - math.log2(1 + alpha * k / 16))
        point = {"settings": {"alpha": alpha, "threshold": threshold, "pairs": k, "pool_size": 5000}, "runs": found}
        for name in ("clean", "robust"):
            value = float(np.mean([run[name] for run in found]))
            share = value / base[name]
            point |= {name: value, f"{name}_ratio": share, f"{name}_ratio_interval": [share - 0.03, share + 0.03]}
        point["acceptable"] = point["clean_ratio"] >= 0.9 and point["robust_ratio"] > 1
        points.append(point)
    for point in points:
        point["pareto"] = not any(
            p["clean_ratio"] > point["clean_ratio"] and p["robust_ratio"] > point["robust_ratio"] for p in points
        )
    best = (
        max((p for p in points if p["acceptable"]), key=lambda p: p["robust_ratio"], default=None) if chosen else None
    )
    reason = "largest RD/UD of the acceptable settings." if best else "no setting is acceptable."
    return {
        "kind": "selection",
        "data": dict(DATA),
        "recipe": {"batch_size": 64},
        "network": {"name": "ResNet18", "width": 16},
        "grid": {"alpha": list(alphas), "threshold": list(thresholds), "pairs": list(pairs), "pool_size": [5000]},
        "minimum_clean_ratio": 0.9,
        "distortion": {"name": "gaussian", "epsilon": 0.1},
        "split": {"train": 45_000, "validation": 5000},
        "reference": {**base, "runs": reference},
        "points": points,
        "choice": {"settings": best["settings"] if best else None, "reason": reason},
        **HEADER,
    }


@pytest.fixture
def save(tmp_path):
    """Write results below the test's folder, always with the same date; returns the path."""

    def write(name, results):
        path = write_results(tmp_path / name / "results.json", results)
        text = path.read_text().splitlines()
        dated = ['  "created": "2026-11-21T03:10:58+00:00",' if '"created"' in line[:12] else line for line in text]
        path.write_text("\n".join(dated))
        return path

    return write


@pytest.fixture
def make():
    """Seeded results by kind, and masking panels."""
    return {"evaluation": evaluation, "comparison": comparison, "selection": selection, "masking": masking}


@pytest.fixture
def whole(save):
    """The text of all sections of a report, without figures, and its figures."""

    def build(results):
        document = build_document([judged(run) for run in load_runs([save("run", results)])])
        return render_markdown(document).replace("\\", ""), _figures(document.sections)

    return build


@pytest.fixture
def undrawn(save):
    """The page of one or several results, without its figures."""

    def build(*results):
        runs = load_runs([save(f"run{i}", found) for i, found in enumerate(results)])
        return render_page(build_document(runs), figures=False)

    return build


def _figures(sections):
    inner = [figure for section in sections for figure in _figures(section.sections)]
    return [block for section in sections for block in section.blocks if isinstance(block, Figure)] + inner
