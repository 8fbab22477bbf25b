"""Measurements that were never made: drawn by a seeded function in the layout of results.json, for tests alone."""

import math

import numpy as np

CORRUPTIONS = {
    **dict.fromkeys(("brightness", "frost", "fog", "snow", "contrast"), "low"),
    **dict.fromkeys(
        ("motion_blur", "zoom_blur", "elastic_transform", "glass_blur", "jpeg_compression", "defocus_blur", "pixelate"),
        "medium",
    ),
    **dict.fromkeys(("shot_noise", "gaussian_noise", "impulse_noise"), "high"),
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


def masking(suspicious=False, without=()):
    """A panel of all checks but those in ``without``, which were not possible; the large budget fails if suspicious."""
    details = {
        "black_box": "at 8/255 Square leaves 3.0 % (n = 200), PGD 2.0 % (n = 500)",
        "zero_gradients": "0.0 % in fgsm_linf",
        "large_budget": "PGD at 0.5 leaves 40.0 % of 200" if suspicious else "PGD at 0.5 leaves 0.0 % of 200",
        "square_after_gradients": "AutoAttack with Square was not run",
    }
    checks = []
    for name, detail in details.items():
        passed = None if name in (*without, "square_after_gradients") else not (suspicious and name == "large_budget")
        question = f"Is {name.replace('_', ' ')} all right?"
        checks.append({"name": name, "question": question, "value": 0.0, "passed": passed, "detail": detail})
    return {"suspicious": suspicious, "checks": checks}


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
