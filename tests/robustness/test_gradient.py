from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from simreg.robustness import (
    Classifier,
    Surrogate,
    auto_attack_accuracy,
    fgsm,
    fgsm_sweep,
    pgd,
    pgd_accuracy,
    transfer_sweep,
)
from simreg.robustness._norms import unit
from simreg.robustness.gradient_sign import FGSM_EPSILONS, FGSM_L2_EPSILONS
from simreg.robustness.projected_gradient import PGD
from simreg.robustness.transfer import transfer_pgd_sweep

D = 9


def linear_problem(n=200, seed=0):
    """A two-class linear model with logit difference w x + b, images and labels, and each image's signed margin."""
    g = torch.Generator().manual_seed(seed)
    images = 0.3 + 0.4 * torch.rand(n, 1, 3, 3, generator=g)
    w = torch.randn(D, generator=g)
    model = nn.Sequential(nn.Flatten(), nn.Linear(D, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.stack([torch.zeros(D), w]))
        model[1].bias.copy_(torch.tensor([0.0, -(images.flatten(1) @ w).mean().item()]))
    difference = images.flatten(1) @ w + model[1].bias[1].detach()
    labels = (difference + 0.2 * torch.randn(n, generator=g) > 0).long()  # some labels are wrong
    margin = torch.where(labels == 1, difference, -difference)
    return model, images, labels, margin, w


@pytest.mark.parametrize("epsilon", [0.0, 0.02, 0.05, 0.1])
def test_linf_attacks_reach_the_exact_robust_accuracy_of_a_linear_model(epsilon):
    model, images, labels, margin, w = linear_problem()
    exact = (margin > epsilon * w.abs().sum()).float().mean().item()
    assert fgsm_sweep(model, images, labels, [epsilon]).at(epsilon) == pytest.approx(exact)
    assert pgd_accuracy(model, images, labels, epsilon).at(epsilon) == pytest.approx(exact, abs=0.011)
    no_start = pgd_accuracy(model, images, labels, epsilon, random_start=False)
    assert no_start.at(epsilon) == pytest.approx(exact)


@pytest.mark.parametrize("epsilon", [0.05, 0.15])
def test_l2_pgd_reaches_the_exact_robust_accuracy_of_a_linear_model(epsilon):
    model, images, labels, margin, w = linear_problem()
    exact = (margin > epsilon * w.norm()).float().mean().item()
    sweep = pgd_accuracy(model, images, labels, epsilon, norm="l2", steps=20, step_size=epsilon)
    assert sweep.at(epsilon) == pytest.approx(exact, abs=0.011)
    assert 0.5 * epsilon < sweep.settings["max_perturbation"][0] <= epsilon + 1e-6


@pytest.mark.parametrize("epsilon", [0.0, 0.05, 0.15])
def test_l2_fgsm_reaches_the_exact_robust_accuracy_of_a_linear_model(epsilon):
    model, images, labels, margin, w = linear_problem()
    exact = (margin > epsilon * w.norm()).float().mean().item()
    sweep = fgsm_sweep(model, images, labels, [epsilon], norm="l2")
    assert sweep.at(epsilon) == pytest.approx(exact)
    assert sweep.settings["norm"] == "l2"
    assert sweep.settings["max_perturbation"] == [pytest.approx(epsilon, abs=1e-6)]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_confidence_does_not_hide_the_way(norm):
    model, images, labels, margin, w = linear_problem()

    def confident(x):  # cross-entropy is rounded to 0, and its gradient with it
        return 1e5 * model(x)

    epsilon = 0.05 if norm == "linf" else 0.1
    exact = (margin > epsilon * (w.abs().sum() if norm == "linf" else w.norm())).float().mean().item()
    one = fgsm_sweep(confident, images, labels, [epsilon], norm=norm)
    assert one.at(epsilon) == pytest.approx(exact)
    assert one.settings["zero_gradient_share"] == 0
    assert one.settings["saturated_share"] > 0.5
    many = pgd_accuracy(confident, images, labels, epsilon, norm=norm, steps=20)
    assert many.at(epsilon) == pytest.approx(exact, abs=0.011)
    assert fgsm_sweep(model, images, labels, [epsilon]).settings["saturated_share"] == 0


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("end", ["both", "zero"])
def test_a_model_that_clamps_its_input_is_attacked_like_the_same_model_without(norm, end):
    model, images, labels, _, w = linear_problem()
    images = images.round() if end == "both" else images.sub(0.5).clamp_min(0)  # pixels at the ends of [0, 1]
    with torch.no_grad():
        model[1].bias[1] = -(images.flatten(1) @ w).mean()
    labels = model(images).argmax(dim=1)

    def clamped(x):
        return model(x.clamp(0, 1) if end == "both" else x.relu())

    budgets = [0.02, 0.1]
    for attack in (fgsm_sweep, pgd_accuracy, auto_attack_accuracy):
        options = {"max_queries": 1, "steps": 10} if attack is auto_attack_accuracy else {}
        assert attack(clamped, images, labels, budgets, norm=norm, **options).accuracies == pytest.approx(
            attack(model, images, labels, budgets, norm=norm, **options).accuracies, abs=0.011
        )


def test_gradients_inside_the_image_range_are_untouched(batch):
    images, labels = batch
    passes = []

    def counted(x):
        passes.append(len(x))
        return MODEL(x)

    fgsm(counted, images.clamp(0.01, 0.99), labels, 0.1)
    assert len(passes) == 1
    fgsm(counted, images.round(), labels, 0.1)  # at the ends, but with a gradient there
    assert len(passes) == 2


def test_l2_transfer_follows_the_surrogate_and_not_the_model():
    model, images, labels, margin, w = linear_problem()
    other, *_ = linear_problem(seed=1)
    v = other[1].weight.detach()[1]
    exact = (margin > 0.15 * (w * v).sum() / v.norm()).float().mean().item()
    sweep = transfer_sweep(model, Surrogate(other, name="other"), images, labels, [0.15], norm="l2")
    assert sweep.at(0.15) == pytest.approx(exact)
    assert (sweep.name, sweep.settings["norm"]) == ("transferred_fgsm", "l2")


def test_each_norm_has_its_own_ten_steps():
    model, images, labels, *_ = linear_problem(n=10)
    surrogate = Surrogate(linear_problem(seed=1)[0], name="other")
    for norm, grid in (("linf", FGSM_EPSILONS), ("l2", FGSM_L2_EPSILONS)):
        assert fgsm_sweep(model, images, labels, norm=norm).epsilons == grid
        assert transfer_sweep(model, surrogate, images, labels, norm=norm).epsilons == grid
        assert transfer_pgd_sweep(model, surrogate, images, labels, norm=norm, steps=1).epsilons == grid
    assert (FGSM_EPSILONS[-1], FGSM_L2_EPSILONS[-1]) == (0.02, 1.0)


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.05), ("l2", 0.15)])
def test_transferred_pgd_goes_on_behind_the_surrogates_boundary(norm, epsilon):
    """The model has the surrogate's direction, but each class has more room: the whole budget is needed."""
    surrogate, images, labels, margin, w = linear_problem()
    reach = epsilon * (w.abs().sum() if norm == "linf" else w.norm())
    shift = 0.9 * reach

    def farther(x):  # raises the logit that is the label of the nearest image of the set
        classes = labels[torch.cdist(x.flatten(1), images.flatten(1)).argmin(dim=1)]
        return surrogate(x) + shift * nn.functional.one_hot(classes, 2)

    exact = (margin + shift > reach).float().mean().item()
    options = {"norm": norm, "steps": 10}
    sweep = transfer_pgd_sweep(
        farther, Surrogate(surrogate, name="same direction"), images, labels, [epsilon], **options
    )
    assert sweep.at(epsilon) == pytest.approx(exact, abs=0.011)
    stopped = pgd(surrogate, images, labels, epsilon, **options)
    assert (Classifier(farther).predict(stopped) == labels).float().mean().item() > exact + 0.03
    assert 0.99 * epsilon < sweep.settings["max_perturbation"][0] <= epsilon + 1e-6


def test_transferred_pgd_says_what_decided_it():
    model, images, labels, *_ = linear_problem(n=20)
    surrogate = Surrogate(linear_problem(seed=1)[0], name="other", info={"epochs": 2})
    sweep = transfer_pgd_sweep(model, surrogate, images, labels, [0.0, 0.1], steps=3, restarts=2, seed=5)
    assert (sweep.name, sweep.seed, sweep.n) == ("transferred_pgd", 5, 20)
    expected = {"surrogate": "other", "surrogate_info": {"epochs": 2}, "steps": 3, "restarts": 2, "norm": "linf"}
    assert sweep.settings.items() >= expected.items()
    assert sweep.settings["surrogate_fingerprint"] == surrogate.fingerprint
    right = (surrogate.classifier.predict(images) == labels).float().mean().item()
    assert sweep.settings["surrogate_accuracy"] == pytest.approx(right)
    assert sweep.clean == pytest.approx((Classifier(model).predict(images) == labels).float().mean().item())
    with pytest.raises(TypeError, match="surrogate must be a Surrogate"):
        transfer_pgd_sweep(model, model, images, labels)
    with pytest.warns(UserWarning, match=r"this is a white-box attack. Use pgd_accuracy"):
        transfer_pgd_sweep(surrogate.module, surrogate, images, labels, [0.1], steps=1)


def test_largest_loss_is_kept_and_the_last_of_equals():
    seen = []

    def wave(x):  # the loss of class 0 rises and falls with the mean, its gradient always points up
        m = x.mean(dim=(1, 2, 3))
        height = torch.round(4 * torch.sin(20 * m)) / 4
        seen.append((x.detach().clone(), height.detach()))
        return torch.stack([torch.zeros_like(m), height.detach() + m - m.detach()], dim=1)

    images, labels = torch.tensor([0.2, 0.5, 0.6]).view(3, 1, 1, 1).expand(3, 1, 2, 2), torch.zeros(3, dtype=torch.long)
    attack = PGD(Classifier(wave), 12, 0.02, "linf", 2, True, 0, keep="largest_loss")
    attacked = attack(images, labels, 0.15, range(3))
    iterates = torch.stack([x for x, _ in seen])  # (26, 3, 1, 2, 2)
    heights = torch.stack([h for _, h in seen])
    assert len(seen) == 2 * 13
    for i in range(3):
        last = [t for t in range(26) if heights[t, i] == heights[:, i].max()][-1]
        assert torch.equal(attacked[i], iterates[last, i])
    assert len({tuple(heights[:, i].tolist()) for i in range(3)}) == 3


def test_transfer_follows_the_surrogate_and_not_the_model():
    model, images, labels, margin, w = linear_problem()
    other, *_ = linear_problem(seed=1)
    direction = other[1].weight.detach()[1].sign()
    epsilon = 0.05
    # the attack lowers the surrogate's margin; what the model loses is w . sign(v)
    exact = (margin > epsilon * (w * direction).sum()).float().mean().item()
    sweep = transfer_sweep(model, Surrogate(other, name="other"), images, labels, [0.0, epsilon])
    assert sweep.at(epsilon) == pytest.approx(exact)
    assert sweep.clean == pytest.approx((margin > 0).float().mean().item())
    # the sign does not depend on the normalisation's scale
    scaled = Surrogate(Classifier(other, mean=0.0, std=0.5), name="scaled")
    assert transfer_sweep(model, scaled, images, labels, [epsilon]).at(epsilon) == pytest.approx(exact)


def small_network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 64, 5)]
    return nn.Sequential(*layers).eval()


MODEL = small_network()


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(1)
    images = torch.rand(20, 1, 8, 8, generator=g)
    images[0], images[1] = 0.0, 1.0  # at the bounds of the range
    return images, torch.randint(0, 5, (20,), generator=g)


@pytest.mark.parametrize("epsilon", [0.01, 0.3])
def test_attacks_keep_budget_and_range(batch, epsilon):
    images, labels = batch
    model = MODEL
    for attacked in (
        fgsm(model, images, labels, epsilon),
        pgd(model, images, labels, epsilon, restarts=2),
        pgd(model, images, labels, epsilon, step_size=10.0),
    ):
        assert (attacked - images).abs().max() <= epsilon + 1e-6
        assert ((attacked >= 0) & (attacked <= 1)).all()
    attacked = pgd(model, images, labels, epsilon, norm="l2", step_size=10.0)
    assert (attacked - images).flatten(1).norm(dim=1).max() <= epsilon + 1e-6
    assert ((attacked >= 0) & (attacked <= 1)).all()


def test_fgsm_equals_autograd_formula(batch):
    images, labels = batch
    model = MODEL
    x = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(x), labels), x)
    wanted = (images + 0.05 * gradient.sign()).clamp(0, 1)
    torch.testing.assert_close(fgsm(model, images, labels, 0.05, batch_size=7), wanted)


def test_l2_fgsm_equals_autograd_formula(batch):
    images, labels = batch
    x = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(MODEL(x), labels, reduction="sum"), x)
    wanted = (images + 0.5 * gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)).clamp(0, 1)
    attacked = fgsm(MODEL, images, labels, 0.5, norm="l2", batch_size=7)
    torch.testing.assert_close(attacked, wanted)
    assert (attacked - images).flatten(1).norm(dim=1).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("size", [1.0, 1e-20, 1e-35, 1e-42])
def test_directions_have_length_one_however_small_the_gradient(size):
    g = torch.Generator().manual_seed(0)
    values = torch.randn(3, 2, 4, 4, generator=g) * size
    lengths = unit(values).flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(3))
    assert torch.equal(unit(torch.zeros(2, 1, 3, 3)), torch.zeros(2, 1, 3, 3))


@pytest.mark.parametrize("run", [fgsm, fgsm_sweep])
def test_unknown_norm_of_fgsm_is_named(batch, run):
    epsilon = 0.1 if run is fgsm else [0.1]
    with pytest.raises(ValueError, match="norm='l1' is not one of"):
        run(MODEL, *batch, epsilon, norm="l1")


def test_pgd_is_stronger_than_fgsm_and_restarts_never_help_the_model(batch):
    images, labels = batch
    model = MODEL
    labels = Classifier(model).predict(images)
    by_fgsm = fgsm_sweep(model, images, labels, [0.05]).at(0.05)
    once = pgd_accuracy(model, images, labels, 0.05, steps=20).at(0.05)
    often = pgd_accuracy(model, images, labels, 0.05, steps=20, restarts=4).at(0.05)
    assert often <= once <= by_fgsm < 1


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_depends_on_seed_and_not_on_batch_size_or_global_generator(batch, norm):
    images, labels = batch
    labels = Classifier(MODEL).predict(images)
    state = torch.random.get_rng_state()
    options = {"norm": norm, "steps": 1, "step_size": 0.0002}  # short enough to remember the random start
    runs = [pgd(MODEL, images, labels, 0.001, batch_size=b, seed=s, **options) for b, s in ((20, 0), (3, 0), (20, 1))]
    torch.testing.assert_close(runs[0], runs[1], atol=1e-6, rtol=0)
    assert not torch.allclose(runs[0], runs[2], atol=1e-6, rtol=0)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_pgd_keeps_the_iterate_that_fooled_the_model():
    def band(x):  # class 1 only between 0.52 and 0.56, with a gradient that points up everywhere
        m = x.mean(dim=(1, 2, 3))
        inside = torch.where((m > 0.52) & (m < 0.56), 0.1, -0.1)
        return torch.stack([torch.zeros_like(m), inside + m - m.detach()], dim=1)

    images, labels = torch.tensor([0.2, 0.5]).view(2, 1, 1, 1).expand(2, 1, 2, 2), torch.tensor([0, 0])
    attacked = pgd(band, images, labels, 0.2, step_size=0.03, random_start=False)
    assert 0.52 < attacked[1].mean() < 0.56
    assert attacked[0].mean() == pytest.approx(0.4)  # never fooled: the last iterate, at the budget


def test_attacks_work_where_the_caller_switched_gradients_off(batch):
    images, labels = batch
    wanted = fgsm(MODEL, images, labels, 0.05)
    with torch.no_grad():
        assert torch.equal(fgsm(MODEL, images, labels, 0.05), wanted)
    with torch.inference_mode():
        inside = fgsm(MODEL, images.clone(), labels.clone(), 0.05)
    assert torch.equal(inside.clone(), wanted)


def test_several_epsilons_need_one_gradient(batch):
    images, labels = batch
    calls = []

    def model(x):
        calls.append(x.requires_grad)
        return MODEL(x)

    fgsm_sweep(model, images, labels, [0.0, 0.01, 0.02, 0.03])
    assert sum(calls) == 1
    assert len(calls) == 5


def test_probabilities_instead_of_logits_are_noticed(batch):
    images, labels = batch
    for run in (fgsm_sweep, pgd_accuracy):
        with pytest.warns(UserWarning, match=r"probabilities.*Return logits") as caught:
            run(lambda x: MODEL(x).softmax(dim=1), images, labels, [0.01])
        assert caught[0].filename == __file__  # the warning points at the user's line
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fgsm_sweep(MODEL, images, labels, [0.01])


def test_masked_gradients_are_noticed_and_recorded(batch):
    images, labels = batch

    def quantised(x):
        return MODEL((x * 4).round() / 4 + 0 * x)

    with pytest.warns(UserWarning, match=r"exactly zero for 100%.*boundary_attack"):
        sweep = fgsm_sweep(quantised, images, labels, [0.01])
    assert sweep.settings["zero_gradient_share"] == 1


def test_models_without_gradient_are_named(batch):
    images, labels = batch
    with pytest.raises(ValueError, match=r"carry no gradient.*boundary_attack"):
        fgsm_sweep(lambda x: MODEL(x).detach(), images, labels)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"steps": 0}, ValueError, "steps must be at least 1"),
        ({"norm": "L2"}, ValueError, "norm='L2' is not one of"),
        ({"step_size": -1.0}, ValueError, "step_size"),
        ({"restarts": 2, "random_start": False}, ValueError, "random_start=True"),
        ({"seed": None}, TypeError, "seed must be an integer"),
    ],
)
def test_bad_pgd_options_are_named(batch, options, error, words):
    with pytest.raises(error, match=words):
        pgd(MODEL, *batch, 0.01, **options)
    with pytest.raises(error, match=words):
        pgd_accuracy(MODEL, *batch, 0.01, **options)
