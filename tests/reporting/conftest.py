"""Results that were never measured: drawn by a seeded function in the layout of results.json, for tests alone."""

from __future__ import annotations

import math

import numpy as np
import pytest

from simreg.robustness import write_results

CORRUPTIONS = {
    **dict.fromkeys(("brightness", "frost", "fog", "snow", "contrast"), "low"),
    **dict.fromkeys(
        ("motion_blur", "zoom_blur", "elastic_transform", "glass_blur", "jpeg_compression", "defocus_blur", "pixelate"),
        "medium",
    ),
    **dict.fromkeys(("shot_noise", "gaussian_noise", "impulse_noise"), "high"),
}
VERSIONS = {"python": "3.11.7", "torch": "2.15.0", "simreg": "0.1.0", "timm": None}
HEADER = {"device": "cpu", "hardware": "Imaginary CPU, 2 cores", "seed": 0}
DATA = {
    "name": "cifar10",
    "source": "made up",
    "n": 1000,
    "shape": [1, 32, 32],
    "classes": [f"class {i}" for i in range(10)],
    "fingerprint": "cd" * 32,
}
LINF = [0.0, *(k / 255 for k in (1, 2, 4, 8))]


def ok(kind, threat, result):
    return {"status": "ok", "type": kind, "threat": threat, "result": result, "seconds": 12.5, "passes": 1000}


def not_run(reason, threat):
    return {"status": "not run", "reason": reason, "threat": threat}


def sweep(rng, name, epsilons, clean, fall, n=1000, **settings):
    """Accuracies that fall from ``clean`` with the strength."""
    exact = [clean * math.exp(-fall * e) for e in epsilons]
    shares = [rng.binomial(n, p) / n for p in exact]
    settings = {"max_perturbation": list(epsilons), **settings}
    return {"name": name, "epsilons": list(epsilons), "accuracies": shares, "n": n, "seed": 0, "settings": settings}


def distances(rng, scale, n=100, steps=50, failures=3, norm="squared L2 per pixel", name="boundary"):
    """A decision attack whose median falls over its queries."""
    end = np.sort(rng.lognormal(math.log(scale), 1, n))
    end[n - failures :] = math.inf
    marks = [int(v) for v in np.linspace(0, steps, 11)]
    medians = [float(np.median(end)) * (1 + 2 * math.exp(-4 * m / steps)) for m in marks]
    return {
        "name": name,
        "n": n,
        "failed_starts": failures,
        "failures": failures,
        "median": float(np.median(end)),
        "distances": end.tolist(),
        "statuses": ["ok"] * (n - failures) + ["no_start"] * failures,
        "queries": [steps + 30] * n,
        "starts": ["noise"] * n,
        "steps": steps,
        "repeats": 1,
        "seed": 0,
        "curve_steps": marks,
        "curve_queries": [m + 30.0 for m in marks],
        "curve_medians": medians,
        "settings": {"norm": norm, "budget": {"steps": steps}},
    }


def corruptions(rng, clean, n=500, published=False):
    rates = {"low": 0.05, "medium": 0.12, "high": 0.2}
    accuracies = {
        name: [rng.binomial(n, clean * math.exp(-rates[group] * s)) / n for s in range(1, 6)]
        for name, group in CORRUPTIONS.items()
    }
    means = {name: float(np.mean(row)) for name, row in accuracies.items()}
    groups = {g: float(np.mean([means[c] for c in means if CORRUPTIONS[c] == g])) for g in rates}
    return {
        "name": "corruptions",
        "source": "CIFAR-10-C arrays" if published else "simreg's own corruptions",
        "is_published": published,
        "accuracies": accuracies,
        "severities": [1, 2, 3, 4, 5],
        "n": n,
        "clean": clean,
        "mean": float(np.mean(list(means.values()))),
        "groups": dict(CORRUPTIONS),
        "group_accuracies": groups,
        "incomplete_groups": {},
        "not_run": {},
        "seed": 0,
        "settings": {},
    }


def spectrum(rng, slope, size=32, steps=10_000):
    y, x = np.mgrid[-size // 2 : size // 2, -size // 2 : size // 2]
    radius = np.hypot(x, y)
    power = 1e-4 / (1 + radius) ** slope * rng.lognormal(0, 0.2, radius.shape)
    rings = [power[np.round(radius) == r] for r in range(size // 2 + 1)]
    radial = [float(ring.mean()) for ring in rings]
    return {
        "name": "spectrum",
        "n": 100,
        "failures": 2,
        "median": 0.0004,
        "mean_frequency": 5.5 / slope,
        "frequencies": list(range(len(radial))),
        "power": power.tolist(),
        "radial": radial,
        "power_of_mean": (power / 50).tolist(),
        "radial_of_mean": [r / 50 for r in radial],
        "steps": steps,
        "seed": 0,
        "settings": {},
    }


def square(rng, clean, fall, n=200, queries=1000):
    found = sweep(rng, "square", [2 / 255, 8 / 255], clean, fall, n, norm="linf", max_queries=queries)
    marks = [0, 1, 2, 5, 10, 20, 50, 100, 200, 500, queries]
    ends = found["accuracies"]
    curves = [[end + (clean - end) * math.exp(-m / 80) for m in marks[:-1]] + [end] for end in ends]
    found["settings"] |= {"query_marks": marks, "accuracy_by_queries": curves}
    return found


def measurements(rng, clean=0.7, fall=1.0, n=1000):
    """Everything that the suites measure."""
    tenths = [i / 100 for i in range(11)]
    stages = {"clean": [clean] * 2, "apgd-ce": [0.3, 0.02], "apgd-t": [0.28, 0.01], "square": [0.28, 0.01]}
    auto = sweep(rng, "autoattack", [1 / 255, 8 / 255], clean, 140 * fall, 200, norm="linf", stage_accuracies=stages)
    auto["settings"] |= {"implementation": "simreg (APGD-CE, APGD-T, Square)", "not_run": ["fab-t"]}
    large = sweep(rng, "pgd", [16 / 255, 0.25, 0.5], clean, 150 * fall, 200, norm="linf", steps=20)
    transferred = [i / 500 for i in range(11)]
    return {
        "clean": ok("sweep", "clean", sweep(rng, "clean", [0.0], clean, 0, 10_000)),
        "gaussian": ok("sweep", "noise", sweep(rng, "gaussian", tenths, clean, 6 * fall, n)),
        "uniform": ok("sweep", "noise", sweep(rng, "uniform", tenths, clean, 3 * fall, n)),
        "salt_and_pepper": ok("sweep", "noise", sweep(rng, "salt_and_pepper", tenths, clean, 8 * fall, n)),
        "fgsm_linf": ok("sweep", "white_box", sweep(rng, "fgsm", LINF, clean, 60 * fall, n, norm="linf")),
        "fgsm_l2": ok("sweep", "white_box", sweep(rng, "fgsm", [0, 0.1, 0.25, 0.5], clean, 5 * fall, n, norm="l2")),
        "pgd_linf": ok("sweep", "white_box", sweep(rng, "pgd", LINF, clean, 110 * fall, 500, norm="linf", steps=50)),
        "pgd_l2": ok("sweep", "white_box", sweep(rng, "pgd", [0, 0.1, 0.25, 0.5], clean, 8 * fall, 500, norm="l2")),
        "pgd_linf_large": ok("sweep", "white_box", large),
        "adaptive_linf": not_run("no regularized layers were named (--layers)", "white_box"),
        "autoattack_linf": ok("sweep", "white_box", auto),
        "transferred_fgsm": ok("sweep", "transfer", sweep(rng, "transferred_fgsm", transferred, clean, 40 * fall, n)),
        "transferred_pgd": ok("sweep", "transfer", sweep(rng, "transferred_pgd", transferred, clean, 50 * fall, n)),
        "boundary": ok("distances", "decision", distances(rng, 0.005 / fall)),
        "hopskipjump_l2": ok("distances", "decision", distances(rng, 0.001 / fall, 100, 2500, 0, name="hopskipjump")),
        "square_linf": ok("sweep", "score", square(rng, clean, 90 * fall)),
        "corruptions": ok("corruptions", "corruption", corruptions(rng, clean)),
        "spectrum": ok("spectrum", "decision", spectrum(rng, 1 + fall)),
    }


def masking(suspicious=False):
    question = "Does accuracy fall to nothing at budgets that no model withstands?"
    return {
        "suspicious": suspicious,
        "checks": [
            {
                "name": "large budgets",
                "question": question,
                "value": 0.4 if suspicious else 0.0,
                "passed": not suspicious,
                "detail": "40.0 % left at 0.5" if suspicious else "0.0 % left at 0.5",
            },
            {
                "name": "zero gradients",
                "question": "Are gradients there at all?",
                "value": 0.0,
                "passed": True,
                "detail": "0.0 % of images without gradient",
            },
            {
                "name": "adaptive attack",
                "question": "Does an attack on the features find more?",
                "value": None,
                "passed": None,
                "detail": "not run",
            },
        ],
    }


def verdicts():
    return [
        {
            "threat": "noise",
            "verdict": "Keeps 55 % of its accuracy under Gaussian noise of 0.1.",
            "evidence": ["38.4 %"],
        },
        {
            "threat": "white_box",
            "verdict": "No white-box robustness at 8/255.",
            "evidence": ["PGD leaves 2.0 % [1.1, 3.6]", "AutoAttack leaves 0.5 %"],
        },
        {"threat": "decision", "verdict": "Median distance 0.0050 per pixel.", "evidence": []},
    ]


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
    """Seeded results by kind."""
    return {"evaluation": evaluation, "comparison": comparison, "selection": selection}
