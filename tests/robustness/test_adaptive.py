from __future__ import annotations

import pytest
import torch
from torch import nn

from simreg.robustness import Classifier, Sweep, pgd_accuracy
from simreg.robustness._adaptive_stages import AdaptiveStages
from simreg.robustness._auto_attack_stages import Budgets
from simreg.robustness._worst_case import Survivors
from simreg.robustness.adaptive import adaptive_accuracy, adaptive_pgd, layer_features
from simreg.robustness.expectation import ExpectedClassifier

QUICK = {"steps": 10, "targets": 2}


def linear_problem(classes=4, n=60, seed=0):
    g = torch.Generator().manual_seed(seed)
    images = 0.3 + 0.4 * torch.rand(n, 1, 4, 4, generator=g)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, classes))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(classes, 16, generator=g))
        model[1].bias.copy_(-(images.flatten(1) @ model[1].weight.T).mean(dim=0))
        labels = model(images).argmax(dim=1)
    labels[:5] = (labels[:5] + 1) % classes
    return model, images, labels


@pytest.mark.parametrize(("norm", "epsilons"), [("linf", (0.01, 0.04)), ("l2", (0.05, 0.15))])
@pytest.mark.parametrize("with_features", [True, False])
def test_adaptive_attack_reaches_the_exact_robust_accuracy_of_a_linear_model(norm, epsilons, with_features):
    model, images, labels = linear_problem()
    features = layer_features(model, ["1"]) if with_features else None
    sweep = adaptive_accuracy(model, images, labels, [0.0, *epsilons], norm=norm, features=features, steps=25)
    with torch.no_grad():
        weight, logits = model[1].weight, model(images)
        for epsilon, found in zip((0.0, *epsilons), sweep.accuracies, strict=True):
            robust = torch.ones(60, dtype=torch.bool)
            for k in range(4):
                slope = weight[labels] - weight[k]
                reach = slope.abs().sum(dim=1) if norm == "linf" else slope.norm(dim=1)
                robust &= (logits.gather(1, labels[:, None])[:, 0] - logits[:, k] > epsilon * reach) | (labels == k)
            assert found == pytest.approx(robust.double().mean().item())
    assert sweep.accuracies[0] > sweep.accuracies[1] > sweep.accuracies[2]


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 6)
        ).eval()
        model[1].running_var.fill_(0.1)
    images = torch.rand(16, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    return model, images, Classifier(model).predict(images)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("restarts", [1, 2])
def test_adaptive_attack_is_never_weaker_than_pgd_with_the_same_budget(network, norm, restarts):
    model, images, labels = network
    epsilons = {"linf": [0.02, 0.04, 0.06], "l2": [0.1, 0.2, 0.3]}[norm]
    options = {"steps": 5, "norm": norm, "restarts": restarts, "seed": 2}
    by_pgd = pgd_accuracy(model, images, labels, epsilons, **options)
    sweep = adaptive_accuracy(
        model, images, labels, epsilons, features=layer_features(model, ["2"]), targets=1, weights=(1.0,), **options
    )
    assert all(a <= p for a, p in zip(sweep.accuracies, by_pgd.accuracies, strict=True))
    assert sweep.settings["stage_accuracies"]["pgd"][0] == by_pgd.accuracies[0]
    assert list(sweep.settings["stage_accuracies"]) == [
        "clean",
        "pgd",
        "apgd-ce",
        "apgd-t",
        "ce +1 features",
        "dlr +1 features",
    ]


def test_attacked_images_keep_budget_and_range(network):
    model, images, labels = network
    for norm, epsilon in (("linf", 0.04), ("l2", 0.2)):
        attacked = adaptive_pgd(
            model, images, labels, epsilon, norm=norm, features=layer_features(model, ["2"]), **QUICK
        )
        change = (attacked - images).flatten(1)
        assert (change.abs().max() if norm == "linf" else change.norm(dim=1).max()) <= epsilon + 1e-6
        assert ((attacked >= 0) & (attacked <= 1)).all()
        robust = Classifier(model).predict(attacked) == labels
        assert 0 < robust.sum() < 16
        assert torch.equal(attacked[robust], images[robust])


def test_results_do_not_depend_on_batch_size_or_parts(network):
    model, images, labels = network
    state = torch.random.get_rng_state()
    options = {"features": layer_features(model, ["2"]), "weights": (2.0,), **QUICK}
    whole = adaptive_accuracy(model, images, labels, [0.0, 0.04], **options)
    assert adaptive_accuracy(model, images, labels, [0.0, 0.04], batch_size=5, **options).accuracies == whole.accuracies
    parts = [
        adaptive_accuracy(model, images[p], labels[p], [0.0, 0.04], first_index=p.start, **options)
        for p in (slice(0, 6), slice(6, 16))
    ]
    assert Sweep.join(parts) == whole
    assert torch.equal(torch.random.get_rng_state(), state)
    assert Sweep.from_dict(whole.to_dict()) == whole


class Guarded(nn.Module):
    """Two features of an image, its brightness in two halves; cross-entropy alone sees a gradient that leads astray.

    The logits follow a rounded feature, so they have no gradient at all; the feature has one.
    """

    def __init__(self):
        super().__init__()
        self.feature = nn.Identity()

    def forward(self, x):
        halves = torch.stack([x[..., :2].mean(dim=(1, 2, 3)), x[..., 2:].mean(dim=(1, 2, 3))], dim=1)  # (N, 2)
        f = self.feature(torch.cat([halves, 1 - halves], dim=1))
        margin = ((f[:, 0] - f[:, 1]) * 20).round() / 20
        # positive while the first half is the brighter one
        return torch.stack([margin + 0.01, -margin - 0.01], dim=1) + 0 * x.sum(dim=(1, 2, 3))[:, None]


def test_feature_term_finds_what_logits_hide():
    images = torch.tensor([0.55, 0.55, 0.45, 0.45]).view(1, 1, 1, 4)  # at 0.04 in each value the halves meet
    images = torch.cat([images, images + 0.01])
    labels, model = torch.tensor([0, 0]), Guarded()
    options = {"steps": 20, "targets": 1}
    with pytest.warns(UserWarning, match="exactly zero"):
        blind = adaptive_accuracy(model, images, labels, 0.08, **options)
    with pytest.warns(UserWarning, match="exactly zero"):
        sweep = adaptive_accuracy(model, images, labels, 0.08, features=layer_features(model, ["feature"]), **options)
    assert sweep.accuracies[0] == 0.0
    assert blind.accuracies[0] > 0.0


def test_negative_weight_goes_to_the_nearest_guide_of_another_class(network):
    model, images, _ = network
    features = layer_features(model, ["2"])
    classifier = Classifier(model)
    labels, guides = classifier.predict(images), images[8:]
    attack = AdaptiveStages(classifier, features, (-10.0,), guides, "linf", Budgets(10, 1, 1, 1, 0))
    attack.look_at_guides(torch.device("cpu"), 3)
    anchors = attack._anchors(images[:8], labels[:8], -10.0)[0]
    with torch.no_grad():
        rows = nn.functional.normalize((f := features(images)[0].flatten(1)) - f.mean(dim=1, keepdim=True), dim=1)
    for i in range(8):
        others = [j for j in range(8, 16) if labels[j] != labels[i]]
        nearest = max(others, key=lambda j: float(rows[i] @ rows[j]))
        torch.testing.assert_close(anchors[i], rows[nearest])
    # the term alone moves the image's features towards its guide, a positive weight away from its own
    for weight, anchor, sign in ((-1e4, anchors, 1), (1e4, rows[:8], -1)):
        stage = AdaptiveStages(classifier, features, (weight,), guides, "linf", Budgets(15, 1, 1, 1, 0))
        stage.look_at_guides(torch.device("cpu"), 256)
        attacked = stage.stages(6)[-2].attack(images[:8], labels[:8], range(8), 0.05)
        with torch.no_grad():
            after = nn.functional.normalize(
                (f := features(attacked)[0].flatten(1)) - f.mean(dim=1, keepdim=True), dim=1
            )
        moved = sign * ((after - rows[:8]) * anchor).sum(dim=1)
        assert (moved[classifier.predict(attacked) == labels[:8]] > 0).all()
        assert moved.mean() > 0.001


def test_guides_serve_from_outside_and_are_needed(network):
    model, images, labels = network
    options = {"features": layer_features(model, ["2"]), "weights": (-1.0,), **QUICK}
    sweep = adaptive_accuracy(model, images[:6], labels[:6], 0.04, guides=images[6:], **options)
    assert sweep.settings["guides"] == 10
    assert sweep.settings["weights"] == [0.0, -1.0]
    with pytest.raises(ValueError, match="needs guides"):
        adaptive_accuracy(model, images, labels, 0.04, **options)
    same = images[labels == labels[0]]
    with pytest.raises(ValueError, match="at least two classes"):
        adaptive_accuracy(model, images, labels, 0.01, guides=same, **options)


def test_layer_features_are_those_of_the_normalised_model_in_evaluation_mode(network):
    model, images, _ = network
    model.train()
    try:
        before = model[1].running_mean.clone()
        found = layer_features(Classifier(model, mean=0.5, std=0.2), ["2", "0"])(images)
        assert model.training
        assert torch.equal(model[1].running_mean, before)
    finally:
        model.eval()
    with torch.no_grad():
        x = (images - 0.5) / 0.2
        torch.testing.assert_close(found[0], model[:3](x))
        torch.testing.assert_close(found[1], model[:1](x))


def test_layer_features_are_differentiable(network):
    model, images, _ = network
    x = images.clone().requires_grad_()
    layer_features(model, ["2"])(x)[0].sum().backward()
    assert x.grad.abs().sum() > 0
    model.zero_grad()


def hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


def test_hooks_are_gone_after_the_call_and_after_exceptions(network):
    model, images, _ = network
    features = layer_features(model, ["0", "2"])
    assert hooks(model) == 0
    features(images)
    assert hooks(model) == 0
    with pytest.raises(RuntimeError):
        features(torch.rand(2, 3, 6, 6))
    assert hooks(model) == 0

    class Tuple(nn.Module):
        def forward(self, x):
            return x, x

    odd = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    odd.pair = Tuple()
    odd.forward = lambda x: odd[1](odd.pair(odd[0](x))[0])
    with pytest.raises(TypeError, match="'pair' returns a tuple"):
        layer_features(odd, ["pair"])(images)
    assert hooks(odd) == 0


def test_layers_that_do_not_exist_run_or_fit_are_named(network):
    _, images, _ = network
    named = nn.Sequential()
    named.add_module("section1", nn.Flatten())
    named.add_module("section2", nn.Linear(36, 2))
    with pytest.raises(ValueError, match=r"layers='sektion1' is no module.*section1"):
        layer_features(named, ["sektion1"])
    with pytest.raises(ValueError, match=r"layers='zzz'.*It has: section1, section2"):
        layer_features(named, ["zzz"])
    with pytest.raises(ValueError, match="sequence of at least one"):
        layer_features(named, [])
    with pytest.raises(ValueError, match="sequence of at least one"):
        layer_features(named, "section1")
    with pytest.raises(TypeError, match="model must be a module"):
        layer_features(Classifier(lambda x: x), ["section1"])
    named.unused = nn.Identity()
    named.forward = lambda x: named.section2(named.section1(x))
    with pytest.raises(ValueError, match="'unused' did not run"):
        layer_features(named, ["unused"])(images)


def test_a_layer_that_runs_several_times_gives_its_mean(network):
    _, images, _ = network
    noisy = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))
    noisy.noise = nn.Identity()
    noisy.forward = lambda x: noisy.noise(noisy[1](noisy[0](x)) + torch.randn(len(x), 4))
    expected = ExpectedClassifier(noisy, samples=400)
    with torch.no_grad():
        mean = layer_features(expected, ["noise"])(images)[0] - noisy[1](images.flatten(1))
    assert mean.abs().max() < 6 / 400**0.5
    assert layer_features(expected, ["noise"])(images)[0].shape == (16, 4)


def test_callers_model_and_given_callables_keep_their_mode(network):
    model, images, labels = network
    model.train()
    try:
        before = model[1].running_mean.clone()
        options = {"features": lambda x: [model[:3](x)], "weights": (1.0,), "steps": 2, "targets": 1}
        sweep = adaptive_accuracy(model, images, labels, 0.02, **options)
        assert torch.equal(model[1].running_mean, before)
        assert model.training
    finally:
        model.eval()
    assert sweep.settings["features"] == ["given"]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"features": "layer1"}, TypeError, "features must be a callable"),
        ({"weights": ()}, ValueError, "weights must be finite"),
        ({"weights": (float("inf"),)}, ValueError, "weights must be finite"),
        ({"features": lambda x: [x[:1]]}, ValueError, "one row per image"),
        ({"features": lambda x: [x.detach()]}, ValueError, "features carry no gradient"),
        ({"norm": "l1"}, ValueError, "norm='l1'"),
        ({"steps": 0}, ValueError, "steps"),
        ({"restarts": 0}, ValueError, "restarts"),
        ({"first_index": -1}, ValueError, "first_index"),
        ({"epsilon": -1.0}, ValueError, "epsilon"),
    ],
)
def test_bad_options_are_named(network, options, error, words):
    model, images, labels = network
    for run in (adaptive_pgd, adaptive_accuracy):
        with pytest.raises(error, match=words):
            run(model, images, labels, **{"epsilon": 0.005, "steps": 2, "targets": 1, **options})


def test_features_that_are_constant_do_not_break_the_attack(network):
    model, images, labels = network
    features = lambda x: [torch.ones(len(x), 5) + 0 * x.flatten(1)[:, :5]]  # noqa: E731
    sweep = adaptive_accuracy(model, images, labels, 0.04, features=features, weights=(1.0,), **QUICK)
    survivors = Survivors(Classifier(model), images, labels, "linf", 0, 16)
    assert sweep.accuracies[0] <= survivors.share
