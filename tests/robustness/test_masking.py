from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from simreg.robustness import Classifier, fgsm_sweep, pgd_accuracy
from simreg.robustness.auto_attack import auto_attack_accuracy
from simreg.robustness.expectation import is_random, returns_probabilities
from simreg.robustness.hop_skip_jump import hop_skip_jump
from simreg.robustness.masking import loss_along_gradient, masking_panel
from simreg.robustness.square import square_sweep

BUDGETS = [0.0, 0.02, 0.05]


def data(n=120, seed=0):
    """Three classes of 6x6 images: a bright block, most often the right one, and a faint pattern that always is."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (n,), generator=g)
    blocks = torch.where(torch.rand(n, generator=g) < 0.7, labels, torch.randint(0, 3, (n,), generator=g))
    patterns = torch.randn(3, 1, 6, 6, generator=torch.Generator().manual_seed(9)).sign()
    images = 0.4 + 0.02 * torch.randn(n, 1, 6, 6, generator=g) + 0.03 * patterns[labels]
    for k in range(3):
        images[blocks == k, :, :, 2 * k : 2 * k + 2] += 0.13
    return images, labels


def train(adversarial, steps=150):
    """A small convolutional net, trained on clean images or on those of three projected steps."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3))
        images, labels = data(600, seed=1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(steps):
            rows = torch.randint(0, 600, (64,))
            clean, y = images[rows], labels[rows]
            x = clean + 0.05 * (2 * torch.rand_like(clean) - 1) if adversarial else clean
            for _step in range(3 if adversarial else 0):
                x.requires_grad_()
                (gradient,) = torch.autograd.grad(F.cross_entropy(model(x), y), x)
                x = (clean + (x.detach() + 0.025 * gradient.sign() - clean).clamp(-0.05, 0.05)).clamp(0, 1)
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def plain():
    return train(adversarial=False)


@pytest.fixture(scope="module")
def robust():
    return train(adversarial=True)


def ok(result, kind="sweep", threat="white_box"):
    return {"status": "ok", "type": kind, "threat": threat, "result": result.to_dict()}


def measure(model, *, pgd_steps=20):
    images, labels = data()
    found = {
        "fgsm_linf": fgsm_sweep(model, images, labels, BUDGETS),
        "pgd_linf": pgd_accuracy(model, images, labels, BUDGETS, steps=pgd_steps),
        "pgd_linf_large": pgd_accuracy(model, images, labels, [0.25, 0.5], steps=pgd_steps),
        "square_linf": square_sweep(model, images, labels, BUDGETS[1:], max_queries=150),
        "autoattack_linf": auto_attack_accuracy(
            model, images, labels, BUDGETS, implementation="simreg", steps=20, max_queries=150
        ),
    }
    entries = {key: ok(sweep) for key, sweep in found.items()}
    boundary = hop_skip_jump(model, images[:60], norm="linf", max_queries=400)
    entries["hopskipjump_linf"] = ok(boundary, "distances", "decision")
    return entries


def failed(panel):
    return {check["name"] for check in panel["checks"] if check["passed"] is False}


def passed(panel):
    return {check["name"] for check in panel["checks"] if check["passed"]}


FROM_SWEEPS = {
    "black_box",
    "zero_gradients",
    "large_budget",
    "one_step",
    "under_run",
    "square_after_gradients",
    "monotone",
}


def test_a_linear_model_is_not_flagged():
    images, labels = data()
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    centres = torch.stack([images[labels == k].mean(dim=0).flatten() for k in range(3)])
    with torch.no_grad():
        model[1].weight.copy_(4 * centres)
        model[1].bias.copy_(-2 * centres.square().sum(dim=1))
    panel = masking_panel(measure(model), random=is_random(model, images), probabilities=False)
    assert failed(panel) == set()
    assert not panel["suspicious"]
    assert passed(panel) == FROM_SWEEPS | {"deterministic", "logits"}


def test_plainly_and_adversarially_trained_nets_are_not_flagged(plain, robust):
    left = []
    for model in (plain, robust):
        entries = measure(model)
        assert failed(masking_panel(entries)) == set()
        assert passed(masking_panel(entries)) == FROM_SWEEPS
        left.append(entries["autoattack_linf"]["result"]["accuracies"][-1])
    assert left[1] > left[0] + 0.5  # robustness as such raises no flag


def test_rounding_the_input_is_flagged(plain):
    class Rounded(nn.Module):
        def forward(self, x):
            return plain((x * 12).round() / 12 + 0 * x)

    with pytest.warns(UserWarning, match="exactly zero"):
        entries = measure(Rounded())
    panel = masking_panel(entries)
    assert panel["suspicious"]
    assert {"zero_gradients", "black_box", "large_budget"} <= failed(panel)
    by_name = {check["name"]: check for check in panel["checks"]}
    assert by_name["zero_gradients"]["value"] == 1.0
    assert by_name["black_box"]["value"] > 0.2
    assert by_name["large_budget"]["value"] > 0.2


def test_saturated_cross_entropy_masks_nothing_and_is_named(plain):
    entries = measure(plain)
    loud = measure(lambda x: 3000 * plain(x))
    panel = masking_panel(loud)
    assert not panel["suspicious"]
    (check,) = (c for c in panel["checks"] if c["name"] == "zero_gradients")
    assert "cross-entropy is rounded to 0 on" in check["detail"]
    assert all("cross-entropy" not in c["detail"] for c in masking_panel(entries)["checks"])
    for key in ("fgsm_linf", "pgd_linf"):
        before, after = (np.array(e[key]["result"]["accuracies"]) for e in (entries, loud))
        assert np.abs(before - after).max() < 0.1


def test_a_gradient_that_leads_astray_is_flagged_without_a_single_zero(plain):
    class Astray(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return -gradient

    panel = masking_panel(measure(lambda x: plain(Astray.apply(x))))
    assert {"black_box", "square_after_gradients", "large_budget"} <= failed(panel)
    assert "zero_gradients" in passed(panel)


def sweep_entry(key, epsilons, accuracies, n=500, **settings):
    result = {"name": key, "epsilons": epsilons, "accuracies": accuracies, "n": n, "settings": settings}
    return {"status": "ok", "type": "sweep", "threat": "white_box", "result": result}


def distances_entry(distances, norm):
    return {
        "status": "ok",
        "type": "distances",
        "threat": "decision",
        "result": {"name": "hopskipjump", "distances": distances, "settings": {"norm": norm}},
    }


def check(entries, name, **options):
    return next(c for c in masking_panel(entries, **options)["checks"] if c["name"] == name)


def test_nothing_measured_is_neither_passed_nor_failed():
    entries = {"pgd_linf": {"status": "not run", "reason": "no time", "threat": "white_box"}}
    for measurements in ({}, entries):
        panel = masking_panel(measurements)
        assert panel["suspicious"] is False
        assert all(c["passed"] is None and c["value"] is None for c in panel["checks"])
        assert len(panel["checks"]) == 9
        assert all(set(c) == {"name", "question", "value", "passed", "detail"} for c in panel["checks"])


@pytest.mark.parametrize("key", ["square_linf", "transferred_fgsm", "transferred_pgd"])
def test_black_box_gap_counts_beyond_sampling_error_only(key):
    white = sweep_entry("pgd", [0.0, 0.02, 0.03], [0.9, 0.6, 0.5])
    small = {"pgd_linf": white, key: sweep_entry(key, [0.03], [0.46])}
    assert check(small, "black_box")["passed"] is True
    assert check(small, "black_box")["value"] == pytest.approx(0.04)
    large = {"pgd_linf": white, key: sweep_entry(key, [0.03], [0.38])}
    assert check(large, "black_box")["passed"] is False
    few = {"pgd_linf": white, key: sweep_entry(key, [0.03], [0.38], n=40)}
    assert check(few, "black_box")["passed"] is True
    elsewhere = {"pgd_linf": white, key: sweep_entry(key, [0.04], [0.1])}
    assert check(elsewhere, "black_box")["passed"] is None


def test_black_box_looks_at_the_same_norm_and_the_strongest_gradient_attack():
    entries = {
        "pgd_linf": sweep_entry("pgd", [0.03], [0.5]),
        "pgd_l2": sweep_entry("pgd", [0.03], [0.1]),
        "square_l2": sweep_entry("square", [0.03], [0.2], norm="l2"),
    }
    assert check(entries, "black_box")["value"] == pytest.approx(-0.1)
    entries["square_linf"] = sweep_entry("square", [0.03], [0.2], norm="linf")
    assert check(entries, "black_box")["passed"] is False
    # AutoAttack's own Square is not evidence for its gradients
    stages = {"clean": [0.9], "apgd-ce": [0.5], "fab-t": [0.48], "square": [0.1]}
    entries["autoattack_linf"] = sweep_entry("autoattack", [0.03], [0.1], stage_accuracies=stages)
    assert check(entries, "black_box")["value"] == pytest.approx(0.28)
    assert check(entries, "square_after_gradients")["passed"] is False
    assert check(entries, "square_after_gradients")["value"] == pytest.approx(0.38)
    entries["adaptive_linf"] = sweep_entry("adaptive", [0.03], [0.15])
    assert check(entries, "black_box")["passed"] is True


def test_black_box_meets_gradient_attacks_of_larger_budgets():
    entries = {
        "square_linf": sweep_entry("square", [4 / 255], [0.2]),
        "autoattack_linf": sweep_entry("autoattack", [8 / 255], [0.6], stage_accuracies={"clean": [0.9], "a": [0.6]}),
    }
    found = check(entries, "black_box")
    assert found["passed"] is False
    assert found["value"] == pytest.approx(0.4)
    assert found["detail"] == "at 4/255 Square leaves 20.0 % (n = 500), AutoAttack at the larger 8/255 60.0 % (n = 500)"
    photographs = {"transferred_pgd": sweep_entry("transferred_pgd", [0.01], [0.2]), "pgd_linf": entries["square_linf"]}
    assert check(photographs, "black_box")["passed"] is True
    larger = {**entries, "square_linf": sweep_entry("square", [10 / 255], [0.2])}
    assert check(larger, "black_box")["passed"] is None


def test_takes_of_square_at_smaller_budgets_are_not_those_of_gradients():
    entries = {
        "autoattack_linf": sweep_entry(
            "autoattack",
            [0.01, 0.03],
            [0.2, 0.2],
            stage_accuracies={"clean": [0.9, 0.9], "apgd-ce": [0.8, 0.2], "square": [0.2, 0.2]},
            gradient_shares=[0.8, 0.7],
        ),
        "square_linf": sweep_entry("square", [0.03], [0.25]),
    }
    assert check(entries, "black_box")["value"] == pytest.approx(0.45)
    assert check(entries, "square_after_gradients")["value"] == pytest.approx(0.6)


def test_distances_of_decision_attacks_are_accuracies_in_their_norm():
    linf = {
        "pgd_linf": sweep_entry("pgd", [0.03], [0.9], n=100),
        "hopskipjump_linf": distances_entry([0.01] * 60 + [0.05] * 30 + [math.inf] * 10, "linf"),
    }
    found = check(linf, "black_box")
    assert found["value"] == pytest.approx(0.9 - 0.4)
    assert found["passed"] is False
    l2 = {
        "pgd_l2": sweep_entry("pgd", [0.5], [0.9], n=100),
        "boundary": distances_entry([0.4**2 / 3072] * 80 + [0.6**2 / 3072] * 20, "squared L2 per pixel"),
    }
    assert check(l2, "black_box")["passed"] is None
    assert check(l2, "black_box", values_per_image=3072)["value"] == pytest.approx(0.9 - 0.2)


def test_zero_gradients_have_a_threshold():
    for share, wanted in ((0.0, True), (0.05, True), (0.06, False)):
        entries = {
            "fgsm_linf": sweep_entry("fgsm", [0.03], [0.5], zero_gradient_share=0.0),
            "pgd_l2": sweep_entry("pgd", [0.5], [0.5], zero_gradient_share=share),
            "transferred_fgsm": sweep_entry("transferred_fgsm", [0.5], [0.5], zero_gradient_share=1.0),
        }
        assert check(entries, "zero_gradients")["passed"] is wanted
        assert check(entries, "zero_gradients")["value"] == share


def test_large_budget_counts_the_largest_epsilon():
    def entries(accuracies, n=500, epsilons=(0.06, 0.25, 0.5)):
        return {"pgd_linf_large": sweep_entry("pgd", list(epsilons), accuracies, n)}

    assert check(entries([0.5, 0.2, 0.0]), "large_budget")["passed"] is True
    assert check(entries([0.5, 0.2, 0.01]), "large_budget")["passed"] is True
    assert check(entries([0.5, 0.2, 0.06]), "large_budget")["passed"] is False
    assert check(entries([0.0, 0.0, 0.05], n=20), "large_budget")["passed"] is True  # one image of twenty
    assert check(entries([0.5], epsilons=(0.06,)), "large_budget")["passed"] is None


def test_one_step_must_not_beat_many():
    entries = {
        "fgsm_linf": sweep_entry("fgsm", [0.01, 0.03], [0.7, 0.3]),
        "pgd_linf": sweep_entry("pgd", [0.01, 0.03], [0.68, 0.5]),
    }
    assert check(entries, "one_step")["passed"] is False
    assert "0.03" in check(entries, "one_step")["detail"]
    entries["fgsm_linf"] = sweep_entry("fgsm", [0.01, 0.03], [0.7, 0.52])
    assert check(entries, "one_step")["passed"] is True


def test_under_run_pgd_is_flagged_beyond_ten_points():
    for strong, wanted in ((0.42, True), (0.35, False)):
        entries = {
            "pgd_linf": sweep_entry("pgd", [0.03], [0.5]),
            "adaptive_linf": sweep_entry("adaptive", [0.03], [strong]),
            "autoattack_linf": sweep_entry("autoattack", [0.03], [0.44]),
        }
        assert check(entries, "under_run")["passed"] is wanted


@pytest.mark.parametrize("name", ["autoattack", "adaptive"])
def test_attacks_that_fall_by_construction_say_nothing_about_monotony(name):
    assert check({f"{name}_linf": sweep_entry(name, [0.01, 0.05], [0.5, 0.3])}, "monotone")["passed"] is None


def test_accuracy_must_not_rise_with_the_budget():
    assert check({"pgd_linf": sweep_entry("pgd", [0.05, 0.01], [0.3, 0.5])}, "monotone")["passed"] is True
    assert check({"pgd_linf": sweep_entry("pgd", [0.01, 0.05], [0.3, 0.31])}, "monotone")["passed"] is True
    found = check({"pgd_linf": sweep_entry("pgd", [0.01, 0.05], [0.3, 0.5])}, "monotone")
    assert found["passed"] is False
    assert found["value"] == pytest.approx(0.2)


def test_random_models_are_flagged_unless_mended_and_probabilities_are_said():
    def noisy(x):
        return x.mean(dim=(2, 3)).repeat(1, 3) + torch.randn(len(x), 3)

    images, _ = data(20)
    flags = {"random": is_random(noisy, images), "probabilities": returns_probabilities(noisy, images)}
    assert failed(masking_panel({}, **flags)) == {"deterministic"}
    assert failed(masking_panel({}, **flags, samples=20)) == set()
    assert failed(masking_panel({}, probabilities=True)) == set()  # their logarithm was attacked
    assert "logarithm" in check({}, "logits", probabilities=True)["detail"]
    assert check({}, "logits", probabilities=False)["detail"] == "they do"


def test_loss_along_gradient_is_exact_on_a_linear_model():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, -2.0, 0.5, 1.0], [0.0, 0.0, 0.0, 0.0]]))
        model[1].bias.zero_()
    images, labels = torch.full((3, 1, 2, 2), 0.5), torch.tensor([0, 0, 1])
    line = loss_along_gradient(model, images, labels, [0.0, 0.1], batch_size=2)
    own = torch.tensor([0.25, 0.25, -0.25])  # lead of the right class
    for i, epsilon in enumerate((0.0, 0.1)):
        lead = own - epsilon * 4.5
        wanted = torch.log1p(torch.exp(-lead))
        assert line["mean_loss"][i] == pytest.approx(wanted.mean().item(), rel=1e-5)
        assert line["median_loss"][i] == pytest.approx(wanted.median().item(), rel=1e-5)
        assert line["accuracies"][i] == pytest.approx((lead > 0).float().mean().item())
    assert line["n"] == 3
    l2 = loss_along_gradient(model, images, labels, [0.1], norm="l2")
    lead = own - 0.1 * math.sqrt(6.25)
    assert l2["mean_loss"][0] == pytest.approx(torch.log1p(torch.exp(-lead)).mean().item(), rel=1e-5)
    with pytest.raises(ValueError, match="norm='l1'"):
        loss_along_gradient(model, images, labels, [0.1], norm="l1")


def test_loss_along_gradient_shows_a_masked_gradient(plain):
    images, labels = data(40)
    line = loss_along_gradient(plain, images, labels, [0.0, 0.05, 0.1])["mean_loss"]
    assert line[0] < line[1] < line[2]
    flat = loss_along_gradient(lambda x: plain((x * 12).round() / 12 + 0 * x), images, labels, [0.0, 0.05, 0.1])
    assert len(set(flat["mean_loss"])) == 1
    assert Classifier(plain).predict(images).shape == (40,)


def test_silence_counts_only_if_the_decisive_checks_were_made():
    pgd = {"pgd_linf": sweep_entry("pgd", [0.0, 0.03], [0.9, 0.0], zero_gradient_share=0.0)}
    large = {"pgd_linf_large": sweep_entry("pgd", [0.5], [0.0], zero_gradient_share=0.0)}
    blind = {"square_linf": sweep_entry("square", [0.03], [0.1])}
    for entries in ({}, pgd, {**pgd, **large}, {**pgd, **blind}):
        panel = masking_panel(entries)
        assert (panel["suspicious"], panel["established"]) == (False, False)
    assert masking_panel({**pgd, **large, **blind})["established"]
    found = masking_panel({**pgd, **large, "square_linf": sweep_entry("square", [0.03], [0.0])}, random=True, samples=1)
    assert (found["suspicious"], found["established"]) == (True, False)


@pytest.mark.parametrize(("taken", "n", "passed"), [(12, 200, False), (2, 200, True), (1, 50, True), (40, 1000, False)])
def test_what_square_takes_after_gradients_is_no_sampling_error(taken, n, passed):
    settings = {"stage_accuracies": {"clean": [1.0], "apgd-ce": [0.87], "square": [0.87 - taken / n]}}
    entry = sweep_entry("autoattack", [0.03], [0.87 - taken / n], n, gradient_shares=[0.87], **settings)
    (check,) = (c for c in masking_panel({"autoattack_linf": entry})["checks"] if c["name"] == "square_after_gradients")
    assert check["passed"] is passed
    assert check["value"] == pytest.approx(taken / n)


@pytest.mark.parametrize(("key", "epsilon", "passed"), [("pgd_linf", 0.3, True), ("pgd_linf", 0.1, None)])
def test_any_large_budget_of_pgd_counts(key, epsilon, passed):
    panel = masking_panel({key: sweep_entry("pgd", [0.0, epsilon], [0.9, 0.0])})
    assert {c["name"]: c["passed"] for c in panel["checks"]}["large_budget"] is passed
