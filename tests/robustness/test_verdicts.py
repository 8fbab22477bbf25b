from __future__ import annotations

import math
import re

import pytest
import torch
from torch import nn

from simreg.robustness import Classifier, pgd_accuracy
from simreg.robustness.auto_attack import auto_attack_accuracy
from simreg.robustness.masking import masking_panel
from simreg.robustness.verdicts import verdicts

FINE = {
    "suspicious": False,
    "checks": [
        {"name": name, "question": "?", "value": 0.0, "passed": True, "detail": ""}
        for name in ("zero_gradients", "large_budget", "black_box")
    ],
}
STANDARD = {"version": "standard", "not_run": [], "steps": 100, "max_queries": 5000, "targets": 9}
FULL = {"steps": 50, "features": ["1"]}
MASKED = {
    "suspicious": True,
    "checks": [
        {"name": "zero_gradients", "question": "?", "value": 1.0, "passed": False, "detail": ""},
        {"name": "monotone", "question": "?", "value": 0.0, "passed": True, "detail": ""},
    ],
}
E8 = 8 / 255


def sweep(name, epsilons, accuracies, n=1000, **settings):
    settings = {**STANDARD, **settings} if name == "autoattack" else settings
    result = {"name": name, "epsilons": epsilons, "accuracies": accuracies, "n": n, "settings": settings}
    return {"status": "ok", "type": "sweep", "threat": "white_box", "result": result}


def clean(accuracy=0.9, n=10_000):
    return {"clean": sweep("clean", [0.0], [accuracy], n)}


def sentences(entries, threat="white_box", masking=FINE, **options):
    return [v["verdict"] for v in verdicts(entries, masking, **options) if v["threat"] == threat]


def linf(entries, masking=FINE, **options):
    return [s for s in sentences(entries, masking=masking, **options) if "L-inf" in s]


def test_every_threat_has_a_sentence_even_when_nothing_was_run():
    found = verdicts({}, FINE)
    assert [v["threat"] for v in found] == [
        "clean",
        "white_box",
        "white_box",
        "noise",
        "transfer",
        "score",
        "decision",
        "corruption",
    ]
    assert all(v["verdict"].endswith("not measured: not part of this run.") for v in found)
    assert all(v["evidence"] == [] for v in found)
    entries = {
        "autoattack_linf": {"status": "not run", "reason": "no time", "threat": "white_box"},
        "boundary": {"status": "not run", "reason": "foolbox is missing", "threat": "decision"},
    }
    assert linf(entries) == ["White-box robustness (L-inf): not measured: no time."]
    assert sentences(entries, "decision") == ["Decision-based attacks: not measured: foolbox is missing."]


def test_no_robustness_is_said_with_number_and_interval():
    entries = {**clean(), "autoattack_linf": sweep("autoattack", [0.0, E8], [0.9, 0.003])}
    wanted = "No white-box robustness at 8/255 (L-inf): 0.3 % of images survive AutoAttack (95 % interval 0.1-0.9)."
    assert linf(entries) == [wanted]
    assert linf(entries, MASKED) == [wanted]  # masking can only make it worse
    evidence = next(v for v in verdicts(entries, FINE) if v["threat"] == "white_box")["evidence"]
    assert evidence == ["autoattack_linf at 8/255: 0.3 % (95 % interval 0.1-0.9), n = 1000"]


@pytest.mark.parametrize(
    ("share", "n", "words"),
    [
        (0.0, 1000, "No white-box robustness"),
        (0.03, 1000, "No white-box robustness"),
        (0.03, 30, "Little or no white-box robustness"),
        (0.06, 200, "Little white-box robustness"),
        (0.2, 1000, "Some white-box robustness"),
        (0.47, 1000, "Some white-box robustness"),  # lower end 0.439 < 0.45
        (0.5, 1000, "Substantial white-box robustness"),
        (0.5, 50, "Some white-box robustness"),
    ],
)
def test_degrees_follow_the_interval_and_not_the_estimate(share, n, words):
    found = linf({**clean(), "autoattack_linf": sweep("autoattack", [E8], [share], n)})
    assert len(found) == 1
    assert found[0].startswith(words)


def test_without_clean_accuracy_nothing_is_substantial():
    assert linf({"autoattack_linf": sweep("autoattack", [E8], [0.9])})[0].startswith("Some")


def test_weak_attacks_give_upper_bounds_but_can_refute():
    weak = {
        **clean(),
        "pgd_linf": sweep("pgd", [E8], [0.6]),
        "autoattack_linf": {"status": "not run", "reason": "slow"},
    }
    (found,) = linf(weak)
    assert found == (
        "White-box robustness at 8/255 (L-inf) is not established: 60.0 % of images survive PGD "
        "(95 % interval 56.9-63.0), an upper bound only: AutoAttack was not run (slow)."
    )
    for key in ("pgd_linf", "fgsm_linf", "square_linf", "transferred_pgd"):
        (found,) = linf({**clean(), key: sweep(key, [E8], [0.004])})
        assert found.startswith("No white-box robustness at 8/255")


def test_masked_gradients_turn_claims_into_upper_bounds():
    entries = {**clean(), "autoattack_linf": sweep("autoattack", [E8], [0.6])}
    (found,) = linf(entries, MASKED)
    assert "is not established" in found
    assert "upper bound only: gradients may be masked, as checks failed (zero_gradients)" in found
    assert "Substantial" in linf(entries)[0]
    weak = {**clean(), "pgd_linf": sweep("pgd", [E8], [0.6])}
    assert "AutoAttack was not run and gradients may be masked" in linf(weak, MASKED)[0]


def test_the_most_telling_attack_is_quoted():
    entries = {
        **clean(),
        "autoattack_linf": sweep("autoattack", [E8], [0.40]),
        "adaptive_linf": sweep("adaptive", [E8], [0.35]),
        "square_linf": sweep("square", [E8], [0.30], n=20),  # fewer left, but of 20 images
    }
    (found,) = linf(entries)
    assert "35.0 % of images survive the adaptive attack" in found
    entries["square_linf"] = sweep("square", [E8], [0.30])
    assert "30.0 % of images survive Square" in linf(entries)[0]
    entries["pgd_linf"] = sweep("pgd", [0.0, 2 / 255], [0.9, 0.02])
    (found,) = linf(entries)
    assert found.startswith("No white-box robustness at 8/255 (L-inf): no more than 2.0 % of images survive PGD at the")
    assert "2/255" in found


def test_a_weak_attack_on_many_images_can_refute_but_not_speak_for_a_claim():
    entries = {
        **clean(0.6, 1000),
        "autoattack_linf": sweep("autoattack", [E8], [0.40], n=200),
        "pgd_linf": sweep("pgd", [E8], [0.41], n=2000),  # its interval ends lower
    }
    assert "40.0 % of images survive AutoAttack" in linf(entries)[0]
    entries["autoattack_linf"] = sweep("autoattack", [E8], [0.0], n=5)
    entries["pgd_linf"] = sweep("pgd", [E8], [0.02], n=1000)
    assert linf(entries)[0].startswith("No white-box robustness at 8/255 (L-inf): 2.0 % of images survive PGD")


def test_a_larger_budget_says_nothing_about_a_smaller_one():
    entries = {**clean(), "pgd_linf_large": sweep("pgd", [0.25, 0.5], [0.0, 0.0])}
    assert all("8/255" not in s for s in linf(entries))
    entries["autoattack_linf"] = sweep("autoattack", [E8], [0.5])
    assert linf(entries)[0].startswith("Substantial white-box robustness at 8/255")


def test_every_budget_of_the_strong_attacks_is_judged_and_8_of_255_always():
    entries = {
        **clean(),
        "autoattack_linf": sweep("autoattack", [0.0, 1 / 255, 4 / 255], [0.9, 0.6, 0.2]),
        "autoattack_l2": sweep("autoattack", [0.25, 0.5], [0.5, 0.01]),
        "pgd_linf": sweep("pgd", [0.01, 0.02, 0.03], [0.5, 0.4, 0.3]),
    }
    found = linf(entries)
    assert [re.search(r"at (\S+) \(", s).group(1) for s in found] == ["1/255", "4/255", "8/255"]
    assert "not established" in found[2]
    assert "AutoAttack was not run at this budget" in found[2]
    assert [s[:40] for s in sentences(entries) if "(L2)" in s] == [
        "Substantial white-box robustness at 0.25",
        "No white-box robustness at 0.5 (L2): 1.0",
    ]
    digits = {**clean(), "autoattack_linf": sweep("autoattack", [0.1, 0.3], [0.5, 0.0])}
    assert ["at 0.1 " in s or "at 0.3 " in s for s in linf(digits)] == [True, True]
    assert len(linf(digits, threat_linf=0.3)) == 2


@pytest.mark.parametrize(
    "settings",
    [{"not_run": ["fab-t"]}, {"steps": 10}, {"max_queries": 100}, {"version": "rand"}, {"targets": 1, "classes": 10}],
)
def test_an_incomplete_auto_attack_supports_no_claim(settings):
    (found,) = linf({**clean(), "autoattack_linf": sweep("autoattack", [E8], [0.6], **settings)})
    assert "an upper bound only: AutoAttack was not run in full" in found


def test_decision_distances_bound_white_box_accuracy():
    result = {"name": "hopskipjump", "distances": [0.001] * 195 + [1.0] * 5, "settings": {"norm": "linf"}}
    entries = {
        **clean(),
        "pgd_linf": sweep("pgd", [E8], [0.8]),
        "hopskipjump_linf": {"status": "ok", "type": "distances", "threat": "decision", "result": result},
    }
    (found,) = linf(entries)
    assert "survive HopSkipJump" in found


def test_noise_is_graded_by_what_is_kept():
    def noise(last):
        return {**clean(0.8), "gaussian": sweep("gaussian", [0.0, 0.1], [0.8, last])}

    assert sentences(noise(0.79), "noise") == [
        "Under random noise accuracy holds: 79.0 % under Gaussian noise of strength 0.1, of 80.0 % without."
    ]
    assert "falls" in sentences(noise(0.6), "noise")[0]
    assert "breaks down" in sentences(noise(0.3), "noise")[0]
    both = {**noise(0.79), "salt_and_pepper": sweep("salt_and_pepper", [0.1], [0.3])}
    (found,) = sentences(both, "noise")
    assert "breaks down" in found  # the worst decides
    assert "30.0 % under salt-and-pepper" in found
    unknown = {"gaussian": sweep("gaussian", [0.1], [0.5])}
    assert sentences(unknown, "noise") == [
        "Under random noise accuracy is 50.0 % under Gaussian noise of strength 0.1."
    ]


@pytest.mark.parametrize(
    ("key", "threat", "result"),
    [
        ("gaussian", "noise", sweep("gaussian", [0.0, 0.1], [0.6, 0.58], 500)),
        ("transferred_fgsm", "transfer", sweep("transferred_fgsm", [0.0, 0.02], [0.6, 0.58], 500)),
        (
            "square_linf",
            "score",
            sweep("square", [E8], [0.58], 500, query_marks=[0, 100], accuracy_by_queries=[[0.6, 0.58]]),
        ),
    ],
)
def test_accuracy_is_compared_with_that_on_the_same_images(key, threat, result):
    (found,) = sentences({**clean(0.9), key: result}, threat)  # against 90 % of all images it would fall
    assert "of 60.0 % without" in found
    assert "falls:" not in found


def test_kinds_with_other_clean_accuracies_show_the_range():
    entries = {
        "gaussian": sweep("gaussian", [0.0, 0.1], [0.9, 0.3]),
        "uniform": sweep("uniform", [0.0, 0.1], [0.88, 0.3]),
        "salt_and_pepper": sweep("salt_and_pepper", [0.0, 0.1], [0.7, 0.3]),
    }
    assert "of 70.0 % to 90.0 % without" in sentences(entries, "noise")[0]


def test_transfer_score_and_corruption_sentences():
    corruptions = {
        "name": "corruptions",
        "accuracies": {"fog": [0.7, 0.5], "impulse_noise": [0.4, 0.2]},
        "n": 1000,
        "clean": 0.8,
        "is_published": False,
        "mean": 0.45,
    }
    entries = {
        **clean(0.8),
        "transferred_fgsm": sweep("transferred_fgsm", [0.0, 0.02], [0.8, 0.5]),
        "square_linf": sweep("square", [E8], [0.1], max_queries=1000),
        "corruptions": {"status": "ok", "type": "corruptions", "threat": "corruption", "result": corruptions},
    }
    (transfer,) = sentences(entries, "transfer")
    assert transfer == (
        "Under attacks made on another model accuracy falls: 50.0 % under transferred FGSM at 0.02, of 80.0 % without; "
        "one who has the model can do at least as much."
    )
    (score,) = sentences(entries, "score")
    assert "breaks down: 10.0 % under Square at 8/255 (L-inf) with 1000 queries, of 80.0 % without." in score
    (corruption,) = sentences(entries, "corruption")
    assert corruption == (
        "Under common corruptions accuracy falls: 45.0 % on average over 2 kinds, of 80.0 % without, lowest for impulse "
        "noise (30.0 %); corruptions made here, not the published images."
    )


def test_decision_sentence_has_medians_failures_and_clean_accuracy():
    result = {"name": "boundary", "distances": [0.001, 0.002, 0.003, 0.004, 0.005, 0.006, math.inf], "settings": {}}
    entries = {**clean(0.7), "boundary": {"status": "ok", "type": "distances", "threat": "decision", "result": result}}
    (found,) = [v for v in verdicts(entries, FINE) if v["threat"] == "decision"]
    assert found["verdict"] == (
        "With decisions alone another class is reached within a median distance of 0.004 by the Boundary Attack "
        "(squared L2 per pixel) at a clean accuracy of 70.0 %; true distances are smaller."
    )
    assert found["evidence"] == ["boundary: median 0.004 (0.001-inf), 1 of 7 not reached"]


def test_clean_accuracy_comes_from_the_largest_measurement():
    entries = {"gaussian": sweep("gaussian", [0.0, 0.1], [0.75, 0.4], 500), "pgd_linf": sweep("pgd", [0.0], [0.7], 100)}
    assert sentences(entries, "clean") == ["Without attack 75.0 % (95 % interval 71.0-78.6) of 500 images are right."]
    entries.update(clean(0.74))
    assert "74.0 %" in sentences(entries, "clean")[0]


def noise_sentence(before, n_before, after, n_after):
    entries = {**clean(before, n_before), "gaussian": sweep("gaussian", [0.1], [after], n_after)}
    return sentences(entries, "noise")[0]


@pytest.mark.parametrize(("before", "after", "n"), [(1.0, 1.0, 1), (0.15, 0.15, 20), (0.8, 0.7, 20)])
def test_few_images_say_neither_that_accuracy_falls_nor_that_it_holds(before, after, n):
    assert noise_sentence(before, n, after, n) == (
        f"Under random noise accuracy is {100 * after:.1f} % under Gaussian noise of strength 0.1, of "
        f"{100 * before:.1f} % without: too few images to say whether it falls (n = {n})."
    )


def test_falling_and_breaking_down_need_the_upper_end_of_the_ratio():
    assert "breaks down" in noise_sentence(0.8, 1000, 0.3, 1000)
    assert "falls" in noise_sentence(0.8, 50, 0.36, 50)  # 45 % of it, but up to more than half
    assert "falls" in noise_sentence(0.8, 1000, 0.7, 1000)
    assert "holds" in noise_sentence(0.8, 10_000, 0.79, 10_000)


def test_an_adaptive_attack_supports_claims_with_steps_and_features_only():
    def claim(**settings):
        return linf({**clean(), "adaptive_linf": sweep("adaptive", [E8], [0.6], **settings)})[0]

    assert claim(**FULL).startswith("Substantial")
    for settings in ({}, {"steps": 1, "features": ["1"]}, {"steps": 100, "features": None}, {"steps": 100}):
        assert "Substantial" not in claim(**settings)
        assert "an upper bound only" in claim(**settings)


def test_chance_level_is_not_called_robust():
    entries = {**clean(0.1), "autoattack_linf": sweep("autoattack", [E8], [0.1], 10_000)}
    (found,) = linf(entries, classes=10)
    assert "is not established" in found
    assert "not clearly above that of a constant answer, 10.0 %" in found
    assert "not established" in linf({"autoattack_linf": entries["autoattack_linf"]}, classes=10)[0]
    fair = {**clean(0.9), "autoattack_linf": sweep("autoattack", [E8], [0.6])}
    assert all(linf(fair, classes=k)[0].startswith("Substantial") for k in (2, 3, 10, None))


def test_claims_need_a_panel_that_looked_at_gradients():
    entries = {**clean(), "autoattack_linf": sweep("autoattack", [E8], [0.6])}
    unmade = {"name": "monotone", "question": "?", "value": None, "passed": None, "detail": ""}
    output = {**unmade, "name": "logits", "passed": True}
    for checks in ([], [unmade], [unmade, output]):
        (found,) = linf(entries, {"suspicious": False, "checks": checks})
        assert found.endswith("an upper bound only: it was not checked for masked gradients.")


@pytest.mark.parametrize("name", ["zero_gradients", "large_budget", "black_box"])
def test_claims_need_every_decisive_check(name):
    entries = {**clean(), "autoattack_linf": sweep("autoattack", [E8], [0.6])}
    checks = [{**c, "passed": None} if c["name"] == name else c for c in FINE["checks"]]
    (found,) = linf(entries, {"suspicious": False, "checks": checks})
    assert "not established" in found
    assert f"checks were not made ({name}" in found
    other = {**FINE["checks"][0], "name": "square_after_gradients"}  # stands for black_box
    assert linf(entries, {"suspicious": False, "checks": [*checks, other]})[0].startswith("Substantial") == (
        name == "black_box"
    )


def test_another_attack_never_raises_a_claim():
    entries = {**clean(1.0), "autoattack_linf": sweep("autoattack", [E8], [0.52], n=200)}
    assert linf(entries)[0].startswith("Some")  # lower end 0.45 < 0.5; that of 0.51 of 50,000 is above
    for share in (0.55, 0.52, 0.51, 0.49):
        entries["pgd_linf"] = sweep("pgd", [E8], [share], n=50_000)
        assert linf(entries)[0].startswith("Some"), share


@pytest.mark.parametrize(("share", "n", "words"), [(0.0, 3, "(n = 3)"), (0.1, 10, "(n = 10)"), (0.06, 200, "Little")])
def test_few_images_say_neither_little_nor_much(share, n, words):
    (found,) = linf({**clean(0.8), "autoattack_linf": sweep("autoattack", [E8], [share], n=n)})
    assert words in found
    assert ("is not established" in found and "too few images" in found) == (n < 200)


@pytest.mark.parametrize("name", ["pgd", "square", "autoattack"])
def test_any_attack_that_leaves_next_to_nothing_refutes(name):
    found = linf({**clean(), f"{name}_linf": sweep(name, [E8], [0.0], n=60)}, {"suspicious": True, "checks": []})
    assert found[0].startswith("Little or no white-box robustness at 8/255 (L-inf): 0.0 % of images survive")
    found = linf({**clean(), f"{name}_linf": sweep(name, [E8], [0.0], n=3)})  # up to 56 %
    assert "not established" in found[0]


def test_a_frequent_class_is_no_robustness():
    entries = {**clean(0.9), "autoattack_linf": sweep("autoattack", [E8], [0.85])}
    assert linf(entries, classes=2)[0].startswith("Substantial")
    (found,) = linf(entries, classes=2, majority=0.9)
    assert "not clearly above that of a constant answer, 90.0 %" in found
    better = {**clean(0.97), "autoattack_linf": sweep("autoattack", [E8], [0.85])}
    assert linf(better, classes=2, majority=0.9)[0].startswith("Substantial")


def test_the_mean_answer_of_a_random_model_is_called_so_and_supports_no_claim():
    measured = sweep("clean", [0.0], [0.9], samples=16, single_pass_accuracy=0.5)
    entries = {"clean": measured, "autoattack_linf": sweep("autoattack", [E8], [0.6])}
    (found,) = sentences(entries, "clean")
    assert "by the mean answer over 16 passes of this random model; a single answer is right on 50.0 %" in found
    (found,) = linf(entries)
    assert "the model is random, and this is its mean answer over 16 passes" in found
    assert "not established" in found


def test_an_infinite_median_is_said_in_images():
    def entry(distances):
        result = {"name": "boundary", "distances": distances, "settings": {}}
        return {"status": "ok", "type": "distances", "threat": "decision", "result": result}

    entries = {**clean(0.7), "boundary": entry([0.1, math.inf, None])}
    assert sentences(entries, "decision") == [
        "With decisions alone no other class was reached on 2 of 3 images by the Boundary Attack (squared L2 per "
        "pixel) at a clean accuracy of 70.0 %."
    ]
    entries["hopskipjump_l2"] = entry([0.1, 0.2, 0.3])
    (found,) = sentences(entries, "decision")
    assert "within a median distance of 0.2 by HopSkipJump (squared L2 per pixel) and no other class was" in found
    assert found.endswith("; true distances are smaller.")


def test_large_budgets_of_pgd_have_a_name_in_prose():
    (found,) = linf({**clean(), "pgd_linf_large": sweep("pgd", [0.25], [0.5])}, threat_linf=0.25)
    assert "survive PGD (95 %" in found


def test_verdict_of_a_real_evaluation_agrees_with_the_exact_robust_accuracy():
    g = torch.Generator().manual_seed(0)
    images = 0.3 + 0.4 * torch.rand(60, 1, 4, 4, generator=g)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(3, 16, generator=g))
        model[1].bias.copy_(-(images.flatten(1) @ model[1].weight.T).mean(dim=0))
    labels = Classifier(model).predict(images)
    epsilons = [0.0, 0.005, 0.02]
    entries = {
        "pgd_linf": sweep_of(pgd_accuracy(model, images, labels, epsilons)),
        "autoattack_linf": sweep_of(
            auto_attack_accuracy(model, images, labels, epsilons, implementation="simreg", max_queries=5000)
        ),
        "pgd_linf_large": sweep_of(pgd_accuracy(model, images, labels, [0.5])),
    }
    found = [
        v
        for v in verdicts(entries, masking_panel(entries), threat_linf=0.02)
        if v["threat"] == "white_box" and "L-inf" in v["verdict"]
    ]
    assert [v["verdict"].split(" white-box")[0] for v in found] == ["Substantial", "Some"]
    for v, epsilon in zip(found, epsilons[1:], strict=True):
        share = float(re.search(r"([\d.]+) % of images", v["verdict"]).group(1)) / 100
        assert share == pytest.approx(exact(model, images, labels, epsilon), abs=6e-4)


def sweep_of(result):
    return {"status": "ok", "type": "sweep", "threat": "white_box", "result": result.to_dict()}


def exact(model, images, labels, epsilon):
    with torch.no_grad():
        weight, logits = model[1].weight, model(images)
        robust = torch.ones(len(images), dtype=torch.bool)
        for k in range(3):
            lead = logits.gather(1, labels[:, None])[:, 0] - logits[:, k]
            robust &= (lead > epsilon * (weight[labels] - weight[k]).abs().sum(dim=1)) | (labels == k)
    return robust.double().mean().item()
