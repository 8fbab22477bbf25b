from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

from simreg.robustness import Classifier, Sweep, accuracy, pgd_accuracy
from simreg.robustness._attack_losses import logit_ratio, ranked_rivals
from simreg.robustness._auto_attack_stages import STANDARD, Budgets, own_lineup
from simreg.robustness._auto_pgd import auto_pgd, checkpoints, random_start
from simreg.robustness._boundary_projection import shortest_way, targeted_fab
from simreg.robustness._worst_case import Stage, Survivors, worst_case_sweep
from simreg.robustness.auto_attack import auto_attack, auto_attack_accuracy
from simreg.robustness.expectation import ExpectedClassifier

SMALL = {"implementation": "simreg", "max_queries": 30, "steps": 40}
TINY = {"implementation": "simreg", "max_queries": 20, "steps": 12, "targets": 3}


def linear_problem(classes=5, n=80, size=4, seed=0):
    """A linear model, images away from the bounds, labels of which some are wrong."""
    g = torch.Generator().manual_seed(seed)
    images = 0.3 + 0.4 * torch.rand(n, 1, size, size, generator=g)
    model = nn.Sequential(nn.Flatten(), nn.Linear(size**2, classes))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(classes, size**2, generator=g))
        model[1].bias.copy_(-(images.flatten(1) @ model[1].weight.T).mean(dim=0))
        labels = model(images).argmax(dim=1)
    wrong = torch.rand(n, generator=g) < 0.1
    labels[wrong] = (labels[wrong] + 1) % classes
    return model, images, labels


def exactly_robust(model, images, labels, epsilon, norm):
    """Images (N,) whose label stays ahead of each class by more than epsilon times the dual norm of the weights."""
    with torch.no_grad():
        weight, logits = model[1].weight.detach(), model(images)
        robust = torch.ones(len(images), dtype=torch.bool)
        for k in range(weight.shape[0]):
            slope = weight[labels] - weight[k]
            reach = slope.abs().sum(dim=1) if norm == "linf" else slope.norm(dim=1)
            robust &= (logits.gather(1, labels[:, None])[:, 0] - logits[:, k] > epsilon * reach) | (labels == k)
    return robust


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize(("norm", "epsilons"), [("linf", (0.01, 0.04)), ("l2", (0.05, 0.15))])
def test_auto_attack_reaches_the_exact_robust_accuracy_of_a_linear_model(classes, norm, epsilons):
    model, images, labels = linear_problem(classes)
    sweep = auto_attack_accuracy(model, images, labels, [0.0, *epsilons], norm=norm, **SMALL)
    wanted = [exactly_robust(model, images, labels, e, norm).float().mean().item() for e in (0.0, *epsilons)]
    assert sweep.accuracies == pytest.approx(wanted)
    assert 0 < wanted[1] < wanted[0]
    assert sweep.name == "autoattack"
    assert sweep.clean == pytest.approx(accuracy(model, images, labels))


@pytest.mark.parametrize("name", ["apgd-t", "fab-t"])
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.02), ("l2", 0.1)])
def test_each_targeted_attack_is_exact_alone_on_a_linear_model(name, norm, epsilon):
    model, images, labels = linear_problem(5)
    survivors = Survivors(Classifier(model), images, labels, norm, 0, 80)
    survivors.attack(own_lineup(survivors.classifier, [name], norm, Budgets(steps=60), 5, (1, 4, 4)).stages, epsilon)
    assert torch.equal(survivors.resisting, exactly_robust(model, images, labels, epsilon, norm))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_box_is_respected_exactly_where_images_touch_it(norm):
    # one weight, one pixel at its bound: the bound takes that pixel out of the attack's reach
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
        model[1].bias.copy_(torch.tensor([-0.45, 0.0]))
    images = torch.tensor([[0.5, 0.0], [0.25, 0.25]]).view(2, 1, 1, 2)  # both 0.05 ahead
    labels = torch.tensor([0, 0])
    reach = {"linf": (0.05, 0.025), "l2": (0.05, 0.05 / 2**0.5)}[norm]
    for i in range(2):
        for factor, robust in ((0.99, True), (1.01, False)):
            one, epsilon = slice(i, i + 1), factor * reach[i]
            attacked = auto_attack(model, images[one], labels[one], epsilon, norm=norm, **SMALL)
            assert (Classifier(model).predict(attacked)[0].item() == 0) is robust


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 6)
        ).eval()
        model[1].running_var.fill_(0.1)
    images = torch.rand(16, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    images[0], images[1] = 0.0, 1.0
    return model, images, Classifier(model).predict(images)


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.04), ("l2", 0.2)])
def test_attacked_images_keep_budget_and_range_and_are_misclassified_or_left_alone(network, norm, epsilon):
    model, images, labels = network
    labels = labels.clone()
    labels[:3] = (labels[:3] + 1) % 6  # wrong to begin with
    attacked = auto_attack(model, images, labels, epsilon, norm=norm, **TINY)
    change = (attacked - images).flatten(1)
    measured = change.abs().amax(dim=1) if norm == "linf" else change.norm(dim=1)
    assert measured.max() <= epsilon + 1e-6
    assert ((attacked >= 0) & (attacked <= 1)).all()
    robust = Classifier(model).predict(attacked) == labels
    assert not robust[:3].any()
    assert (measured[:3] == 0).all()
    assert (measured[robust] == 0).all()
    assert (measured[~robust][3:] > 0).all()
    assert 0 < robust.sum() < 13
    sweep = auto_attack_accuracy(model, images, labels, epsilon, norm=norm, **TINY)
    assert sweep.at(epsilon) == pytest.approx(robust.float().mean().item())
    assert 0.9 * epsilon < sweep.settings["max_perturbation"][0] <= epsilon + 1e-6


def test_auto_attack_is_stronger_than_pgd_and_falls_with_the_budget(network):
    model, images, labels = network
    epsilons = [0.02, 0.04, 0.06]
    sweep = auto_attack_accuracy(model, images, labels, epsilons, **TINY)
    by_pgd = pgd_accuracy(model, images, labels, epsilons, steps=12)
    assert all(a <= p for a, p in zip(sweep.accuracies, by_pgd.accuracies, strict=True))
    assert list(sweep.accuracies) == sorted(sweep.accuracies, reverse=True)
    assert sweep.accuracies[0] > sweep.accuracies[-1]
    stages = sweep.settings["stage_accuracies"]
    assert list(stages) == ["clean", *STANDARD]
    for earlier, later in zip(list(stages.values())[:-1], list(stages.values())[1:], strict=True):
        assert all(b <= a for a, b in zip(earlier, later, strict=True))
    assert stages["square"] == list(sweep.accuracies)


def test_results_do_not_depend_on_batch_size_order_of_epsilons_or_parts(network):
    model, images, labels = network
    epsilons, state = [0.05, 0.0, 0.03], torch.random.get_rng_state()
    whole = auto_attack_accuracy(model, images, labels, epsilons, **TINY)
    assert auto_attack_accuracy(model, images, labels, epsilons, batch_size=5, **TINY).accuracies == whole.accuracies
    parts = [
        auto_attack_accuracy(model, images[p], labels[p], epsilons, first_index=p.start, **TINY)
        for p in (slice(0, 10), slice(10, 16))
    ]
    assert Sweep.join(parts) == whole
    assert torch.equal(torch.random.get_rng_state(), state)
    assert sorted(zip(epsilons, whole.accuracies, strict=True))[0][1] == 1.0


def test_starts_depend_on_seed_and_index_alone(network):
    _, images, _ = network
    for norm, size in (("linf", lambda v: v.abs().amax(dim=1)), ("l2", lambda v: v.norm(dim=1))):
        start = random_start(images, 0.01, norm, range(16), seed=0)
        assert torch.equal(random_start(images[7:9], 0.01, norm, [7, 8], seed=0), start[7:9])
        assert not torch.equal(random_start(images, 0.01, norm, range(16), seed=1), start)
        lengths = size((start - images).flatten(1))[2:]
        assert lengths.max() <= 0.01 + 1e-7
        assert lengths.median() > 0.0099  # on the surface, but for what the box cuts off


def test_the_callers_model_keeps_its_mode_its_statistics_and_its_gradients(network):
    model, images, labels = network
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    mine = model[0].bias.grad = torch.ones(8)  # of a step that the caller is in the middle of
    try:
        for implementation in ("simreg", "art"):
            auto_attack(model, images, labels, 0.01, **{**TINY, "implementation": implementation, "steps": 3})
            assert all(module.training for module in model.modules())
            assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
            assert model[0].bias.grad is mine
            assert torch.equal(mine, torch.ones(8))
            assert all(p.grad is None for name, p in model.named_parameters() if name != "0.bias")
    finally:
        model[0].bias.grad = None
        model.eval()


def test_scale_of_the_logits_does_not_hide_the_gradient(network):
    model, images, labels = network
    with torch.no_grad():
        top = model(images).topk(2, dim=1).values
    keep = top[:, 0] - top[:, 1] > 0.02  # cross-entropy of 1e4 times that has no gradient in float32
    images, labels = images[keep], labels[keep]

    def loud(x):
        return 1e4 * model(x)

    sweep = auto_attack_accuracy(loud, images, labels, 0.06, **TINY)
    assert sweep.settings["saturated_share"] > 0.5
    plain = auto_attack_accuracy(model, images, labels, 0.06, **TINY)
    assert sweep.accuracies[0] == pytest.approx(plain.accuracies[0], abs=0.05)
    assert sweep.settings["stage_accuracies"]["apgd-ce"][0] > plain.settings["stage_accuracies"]["apgd-ce"][0] + 0.2


def test_checkpoints_follow_the_paper_and_cover_short_runs():
    assert list(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    for steps in (1, 2, 3, 10, 37):
        marks = checkpoints(steps)
        assert all(1 <= mark <= steps for mark in marks)
        assert list(marks.values()) == [b - a for a, b in zip([0, *marks], marks, strict=False)]


def test_auto_pgd_halves_its_step_until_it_sits_on_a_narrow_maximum():
    # the loss is -|mean - 0.53|: a fixed step of 2 epsilon jumps over the maximum for ever
    seen = []

    def loss(pixels, logits, rows):
        value = -(pixels.mean(dim=(1, 2, 3)) - 0.53).abs()
        seen.append(pixels.mean().item())
        return value

    images = torch.full((1, 1, 2, 2), 0.5)
    model = Classifier(lambda x: torch.stack([x.sum(dim=(1, 2, 3)), -x.sum(dim=(1, 2, 3))], dim=1))
    found = auto_pgd(model, images, torch.tensor([0]), loss, epsilon=0.1, norm="linf", steps=100, start=images.clone())
    assert found.mean().item() == pytest.approx(0.53, abs=1e-3)
    assert abs(seen[1] - 0.6) < 1e-6  # the first step reached the end of the ball


def reference_auto_pgd(loss_and_gradient, x, epsilon, norm, steps, start):
    """Algorithm 1 for one image (D,) as a plain loop: the best point and its loss."""

    def project(z):
        offset = z - x
        length = offset.norm()
        offset = offset.clamp(-epsilon, epsilon) if norm == "linf" else offset * min(1.0, epsilon / float(length))
        return (x + offset).clamp(0, 1)

    marks, count, last = checkpoints(steps), 0, 0
    eta, now, before = 2 * epsilon, start, start
    loss, gradient = loss_and_gradient(now)
    best, best_loss, best_gradient = now, loss, gradient
    eta_then, best_then = eta, best_loss
    for step in range(1, steps + 1):
        direction = gradient.sign() if norm == "linf" else gradient / gradient.norm()
        z = project(now + eta * direction)
        new = z if step == 1 else project(now + 0.75 * (z - now) + 0.25 * (now - before))
        before, now, old = now, new, loss
        loss, gradient = loss_and_gradient(now)
        count += loss > old
        if loss > best_loss:
            best, best_loss, best_gradient = now, loss, gradient
        if step in marks:
            slow = count < 0.75 * (step - last) or (eta == eta_then and best_loss == best_then)
            eta_then, best_then, count, last = eta, best_loss, 0, step
            if slow:
                eta, now, before, loss, gradient = eta / 2, best, best, best_loss, best_gradient
    return best, best_loss


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.1), ("l2", 0.4)])
@pytest.mark.parametrize("steps", [7, 40, 100])
def test_auto_pgd_equals_a_plain_loop_over_single_images(norm, epsilon, steps):
    g = torch.Generator().manual_seed(3)
    a, b = torch.randn(9, 16, generator=g, dtype=torch.float64), torch.randn(16, generator=g, dtype=torch.float64)
    images = torch.rand(6, 1, 3, 3, generator=g, dtype=torch.float64)
    start = random_start(images, epsilon, norm, range(6), seed=0)

    def wavy(x):
        return (6 * x.flatten(1) @ a).sin() @ b  # (n,)

    def single(x):
        x = x.clone().requires_grad_()
        value = wavy(x[None])[0]
        return value.item(), torch.autograd.grad(value, x)[0]

    never = Classifier(lambda x: torch.stack([1 + 0 * x.sum(dim=(1, 2, 3)), 0 * x.sum(dim=(1, 2, 3))], dim=1))
    options = {"epsilon": epsilon, "norm": norm, "steps": steps, "start": start}
    found = auto_pgd(never, images, torch.zeros(6, dtype=torch.long), lambda x, *_: wavy(x), **options)
    for i in range(6):
        best, best_loss = reference_auto_pgd(single, images[i].flatten(), epsilon, norm, steps, start[i].flatten())
        torch.testing.assert_close(found[i].flatten(), best, atol=1e-9, rtol=0)
        assert wavy(found[i : i + 1]).item() == pytest.approx(best_loss)
        assert best_loss > wavy(start[i : i + 1]).item()


def test_auto_pgd_keeps_the_iterate_that_fooled_the_model():
    def band(x):  # class 1 only between 0.52 and 0.56, with a gradient that points up everywhere
        m = x.mean(dim=(1, 2, 3))
        inside = torch.where((m > 0.57) & (m < 0.63), 0.1, -0.1)
        return torch.stack([torch.zeros_like(m), inside + m - m.detach()], dim=1)

    images = torch.tensor([0.2, 0.5]).view(2, 1, 1, 1).expand(2, 1, 2, 2)
    attacked = auto_attack(band, images, torch.tensor([0, 0]), 0.1, **SMALL)
    assert 0.57 < attacked[1].mean() < 0.63
    assert torch.equal(attacked[0], images[0])


def test_logit_ratio_by_hand_and_without_scale():
    logits = torch.tensor([[3.0, 1.0, 0.0, -2.0]])
    labels, targets = torch.tensor([0]), torch.tensor([2])
    assert logit_ratio(logits, labels).item() == pytest.approx(-(3 - 1) / (3 - 0))
    assert logit_ratio(logits, labels, targets).item() == pytest.approx(-(3 - 0) / (3 - (0 - 2) / 2))
    assert logit_ratio(logits, torch.tensor([1])).item() == pytest.approx(-(1 - 3) / (3 - 0))
    torch.testing.assert_close(logit_ratio(1e4 * logits + 7, labels, targets), logit_ratio(logits, labels, targets))
    assert logit_ratio(logits[:, :2], labels).item() == -2
    assert logit_ratio(logits[:, :3], labels, targets).item() == -3
    assert ranked_rivals(logits, torch.tensor([1])).tolist() == [[0, 2, 3]]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_shortest_way_is_feasible_and_beats_every_other_way(norm):
    g = torch.Generator().manual_seed(0)
    x = torch.rand(40, 1, 1, 5, generator=g, dtype=torch.float64)
    w = torch.randn(40, 1, 1, 5, generator=g, dtype=torch.float64)
    x[0, ..., 0], x[1, ..., 1], w[2, ..., 2] = 0.0, 1.0, 0.0
    values = 0.6 * torch.randn(40, generator=g, dtype=torch.float64)
    way = shortest_way(x, w, values, norm)
    size = (lambda v: v.flatten(1).abs().amax(dim=1)) if norm == "linf" else (lambda v: v.flatten(1).norm(dim=1))
    assert ((x + way >= -1e-12) & (x + way <= 1 + 1e-12)).all()
    reached = (values + (w * way).sum(dim=(1, 2, 3))).abs() < 1e-9
    assert reached.float().mean() > 0.8
    # any feasible point at most as far away stays on its side of the plane
    for _ in range(300):
        other = torch.randn(x.shape, generator=g, dtype=torch.float64)
        other = other / size(other).view(-1, 1, 1, 1) * size(way).view(-1, 1, 1, 1) * 0.999
        other = (x + other).clamp(0, 1) - x
        after = values + (w * other).sum(dim=(1, 2, 3))
        assert (after.sign() == values.sign())[reached].all()
    # out of reach: as far as it goes
    corner = (x + shortest_way(x, w, torch.full((40,), 100.0, dtype=torch.float64), norm))[3].flatten()
    assert torch.equal(corner, (w[3].flatten() < 0).double())


def test_fab_finds_the_minimal_distance_of_a_linear_model():
    model, images, labels = linear_problem(3)
    labels = Classifier(model).predict(images)
    targets = (labels + 1) % 3
    with torch.no_grad():
        slope = model[1].weight[labels] - model[1].weight[targets]
        lead = (model(images).gather(1, labels[:, None]) - model(images).gather(1, targets[:, None]))[:, 0]
    for norm, distance in (("linf", lead / slope.abs().sum(dim=1)), ("l2", lead / slope.norm(dim=1))):
        options = {"norm": norm, "steps": 30}
        for factor, taken in ((1.05, True), (0.95, False)):
            for i in range(0, 80, 16):
                one = slice(i, i + 1)
                if Classifier(model).predict(images[one]) != labels[one]:
                    continue
                epsilon = factor * distance[i].item()
                found = targeted_fab(
                    Classifier(model), images[one], labels[one], targets[one], epsilon=epsilon, **options
                )
                crossed = Classifier(model).predict(found)[0] != labels[i]
                third = exactly_robust(model, images[one], labels[one], epsilon, norm)[0]
                assert bool(crossed) == taken or not third  # the third class may be nearer


def test_fab_comes_back_to_a_crossing_within_the_budget():
    # made linear at 0.5, the boundary at mean 0.6 seems to be at 0.648; the walk overshoots to 0.656
    def model(x):
        ahead = (8 * (x.mean(dim=(1, 2, 3)) - 0.6)).tanh()
        return torch.stack([-ahead / 2, ahead / 2], dim=1)

    images, labels, targets = torch.full((1, 1, 2, 2), 0.5), torch.tensor([0]), torch.tensor([1])
    for epsilon, taken in ((0.12, True), (0.115, False)):
        found = targeted_fab(Classifier(model), images, labels, targets, epsilon=epsilon, norm="linf", steps=1)
        assert bool(Classifier(model).predict(found)[0] == 1) is taken
        assert (found - images).abs().max() <= epsilon


def test_stages_see_the_images_that_resist_with_their_own_indices():
    model, images, labels = linear_problem(2, n=12)
    labels = Classifier(model).predict(images)
    labels[3] = 1 - labels[3]  # wrong to begin with
    survivors, seen = Survivors(Classifier(model), images, labels, "linf", 100, 5), []

    def flip_even(x, y, indices, epsilon):
        seen.append(list(indices))
        assert torch.equal(x, images[[i - 100 for i in indices]])
        assert torch.equal(y, labels[[i - 100 for i in indices]])
        other = images[(Classifier(model).predict(images) != labels[0]).nonzero()[0, 0]]
        mine = images[(Classifier(model).predict(images) == labels[0]).nonzero()[0, 0]]
        wrong = torch.stack([other if label == labels[0] else mine for label in y])
        even = torch.tensor([i % 2 == 0 for i in indices]).view(-1, 1, 1, 1)
        return torch.where(even, wrong, x)

    shares = survivors.attack([Stage("a", flip_even), Stage("b", flip_even)], 1.0)
    assert seen[:3] == [[100, 101, 102, 104, 105], [106, 107, 108, 109, 110], [111]]
    assert seen[3:] == [[101, 105, 107, 109, 111]]
    assert shares == {"a": 5 / 12, "b": 5 / 12}


def test_what_gradients_left_counts_no_takes_of_square_at_smaller_budgets():
    model, images, labels = linear_problem(2, n=12)
    labels = Classifier(model).predict(images)
    opposite = torch.stack([images[(labels != label).nonzero()[0, 0]] for label in labels])

    def take(first, at_least):
        def attack(x, y, indices, epsilon):
            chosen = torch.tensor([i in first and epsilon >= at_least for i in indices]).view(-1, 1, 1, 1)
            return torch.where(chosen, opposite[list(indices)], x)

        return attack

    stages = [Stage("apgd-ce", take({0, 1}, 2.0)), Stage("square", take({1, 2, 3}, 1.0))]
    survivors = Survivors(Classifier(model), images, labels, "linf", 0, 5)
    sweep = worst_case_sweep("autoattack", survivors, stages, (1.0, 2.0), 0, {}, None)
    assert sweep.accuracies == (9 / 12, 8 / 12)
    assert sweep.settings["stage_accuracies"]["apgd-ce"] == [1.0, 8 / 12]
    assert sweep.settings["gradient_shares"] == [1.0, 10 / 12]  # image 1 too, which Square had taken before


def test_random_models_are_attacked_in_expectation(network):
    model, images, labels = network

    def noisy(x):
        return model(x) + 0.02 * torch.randn(len(x), 6)

    sweep = auto_attack_accuracy(noisy, images, labels, 0.06, version="rand", implementation="simreg", steps=8)
    assert sweep.settings["implementation"] == "simreg (APGD-CE, APGD-DLR)"
    assert sweep.accuracies[0] < accuracy(model, images, labels) - 0.3
    expected = ExpectedClassifier(noisy, samples=20)
    again = auto_attack_accuracy(expected, images, labels, 0.06, version="rand", implementation="simreg", steps=8)
    assert again.accuracies == sweep.accuracies


def test_settings_say_what_ran(network):
    model, images, labels = network
    settings = auto_attack_accuracy(model, images, labels, 0.01, **TINY).settings
    assert settings["implementation"] == "simreg (APGD-CE, APGD-T, FAB-T, Square 20)"
    assert settings["not_run"] == []
    assert (settings["norm"], settings["targets"], settings["steps"], settings["max_queries"]) == ("linf", 3, 12, 20)
    assert settings["zero_gradient_share"] == 0
    sweep = auto_attack_accuracy(model, images, labels, 0.01, **TINY)
    assert Sweep.from_dict(sweep.to_dict()) == sweep


@pytest.fixture
def art():
    pytest.importorskip("art.attacks.evasion")


@pytest.mark.parametrize(("norm", "epsilon", "run"), [("linf", 0.02, "Square 30"), ("l2", 0.1, None)])
def test_art_is_close_to_exact_under_an_honest_label_and_leaves_generators_alone(art, norm, epsilon, run):
    model, images, labels = linear_problem(5, n=40, size=8)
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.random.get_rng_state()  # noqa: NPY002
    options = {**SMALL, "implementation": "art"}
    sweep = auto_attack_accuracy(model, images, labels, epsilon, norm=norm, **options)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    exact = exactly_robust(model, images, labels, epsilon, norm).double().mean().item()
    assert exact <= sweep.accuracies[0] < exact + 0.15
    assert sweep.settings["implementation"].startswith("art 1.")
    names = ", ".join(["APGD-CE", "APGD-DLR", *filter(None, [run])])
    assert sweep.settings["implementation"].endswith(f"({names})")
    lacking = ["apgd-t", "fab-t"] if run else ["apgd-t", "fab-t", "square"]  # its L2 Square fails on small images
    assert sweep.settings["not_run"] == lacking
    assert auto_attack_accuracy(model, images, labels, epsilon, norm=norm, **options).accuracies == sweep.accuracies


def test_art_on_two_classes_leaves_out_the_ratio_loss(art):
    model, images, labels = linear_problem(2, n=20, size=6)
    sweep = auto_attack_accuracy(model, images, labels, 0.02, implementation="art", steps=5, max_queries=5)
    assert sweep.settings["implementation"].endswith("(APGD-CE, Square 5)")


class FakeOriginal:
    """Stands for the authors' class: takes one step along the sign for every attack and notes what it was told."""

    told: list = []  # noqa: RUF012

    def __init__(self, model, norm, eps, seed, device, verbose, version, attacks_to_run):
        self.model, self.eps, self.attacks = model, eps, attacks_to_run
        self.apgd, self.apgd_targeted, self.fab, self.square = (types.SimpleNamespace() for _ in range(4))
        self.told.append((self, norm, seed, version, attacks_to_run))

    def run_standard_evaluation(self, x, y, bs):
        torch.manual_seed(0)  # as theirs does
        x = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(self.model(x), y), x)
        return (x + 1.5 * self.eps * gradient.sign()).detach()  # too far, and out of the box: must be brought back


def test_original_is_run_with_standard_budgets_and_checked(network, monkeypatch):
    model, images, labels = network
    FakeOriginal.told.clear()
    package = types.SimpleNamespace(AutoAttack=FakeOriginal)
    monkeypatch.setitem(sys.modules, "autoattack", package)
    state = torch.random.get_rng_state()
    sweep = auto_attack_accuracy(model, images, labels, 0.01, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert sweep.settings["implementation"] == "autoattack of unknown version (APGD-CE, APGD-T, FAB-T, Square 5000)"
    assert sweep.settings["max_perturbation"][0] <= 0.01 + 1e-6
    assert [told[4] for told in FakeOriginal.told] == [["apgd-ce"], ["apgd-t"], ["fab-t"], ["square"]]
    adversary, norm, seed, version, _ = FakeOriginal.told[0]
    assert (norm, seed, version) == ("Linf", 3, "custom")
    assert (adversary.apgd.n_iter, adversary.apgd.n_restarts, adversary.square.n_queries) == (100, 1, 5000)
    assert adversary.apgd_targeted.n_target_classes == adversary.fab.n_target_classes == 5
    three, x, y = linear_problem(3, n=10)
    few = auto_attack_accuracy(three, x, y, 0.001)
    assert few.settings["not_run"] == ["apgd-t"]  # their ratio loss needs four classes


def test_missing_packages_are_named(network, monkeypatch):
    model, images, labels = network
    for name in ("autoattack", "art.attacks.evasion", "art"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"not on PyPI.*fra31/auto-attack"):
        auto_attack(model, images, labels, 0.01, implementation="original")
    with pytest.raises(ImportError, match=r"simreg\[autoattack\]"):
        auto_attack(model, images, labels, 0.01, implementation="art")
    small = {**SMALL, "implementation": "auto", "steps": 2, "max_queries": 2}
    sweep = auto_attack_accuracy(model, images, labels, 0.01, **small)
    assert sweep.settings["implementation"].startswith("simreg")
    monkeypatch.setitem(sys.modules, "autoattack", types.SimpleNamespace())
    with pytest.raises(ImportError, match="another package"):
        auto_attack(model, images, labels, 0.01, implementation="original")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"norm": "L2"}, ValueError, "norm='L2' is not one of"),
        ({"version": "plus"}, ValueError, "version='plus'"),
        ({"implementation": "orig"}, ValueError, "Did you mean 'original'"),
        ({"steps": 0}, ValueError, "steps must be at least 1"),
        ({"targets": 1.5}, TypeError, "targets must be an integer"),
        ({"max_queries": 0}, ValueError, "max_queries"),
        ({"first_index": -1}, ValueError, "first_index"),
        ({"seed": None}, TypeError, "seed must be an integer"),
        ({"epsilon": -0.1}, ValueError, "epsilon"),
    ],
)
def test_bad_options_are_named(network, options, error, words):
    model, images, labels = network
    for run in (auto_attack, auto_attack_accuracy):
        with pytest.raises(error, match=words):
            run(model, images, labels, **{"epsilon": 0.01, **options})


def test_models_without_gradient_are_named(network):
    model, images, labels = network
    with pytest.raises(ValueError, match="carry no gradient"):
        auto_attack(lambda x: model(x).detach(), images, labels, 0.01)


def test_works_where_the_caller_switched_gradients_off_and_on_uint8(network):
    model, images, _ = network
    pixels = (255 * images).round().to(torch.uint8)
    labels = Classifier(model).predict(pixels.float() / 255)
    wanted = auto_attack(model, pixels, labels, 0.05, **TINY)
    with torch.no_grad():
        assert torch.equal(auto_attack(model, pixels, labels, 0.05, **TINY), wanted)
    with torch.inference_mode():
        inside = auto_attack(model, pixels.clone(), labels.clone(), 0.05, **TINY)
    assert torch.equal(inside.clone(), wanted)
    assert wanted.dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cpu_images_are_brought_to_a_model_on_cuda_and_back():
    model, images, labels = linear_problem(5)
    wanted = [exactly_robust(model, images, labels, e, "linf").double().mean().item() for e in (0.0, 0.02)]
    classifier, state = Classifier(model.cuda()), torch.cuda.get_rng_state()
    for implementation in ("simreg", "art"):
        options = {**SMALL, "implementation": implementation}
        sweep = auto_attack_accuracy(classifier, images, labels, [0.0, 0.02], **options)
        assert sweep.accuracies == pytest.approx(wanted, abs=0.02 if implementation == "simreg" else 0.15)
        assert auto_attack(lambda x: model(x.cuda()), images, labels, 0.02, **options).device.type == "cpu"
    assert torch.equal(torch.cuda.get_rng_state(), state)
