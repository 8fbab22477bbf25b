import contextlib
import copy
import dataclasses
import gc
import warnings
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf
from torch import nn

import simreg
from simreg import PairBatch, PixelTarget, RegularizationPool, SimilarityRegularizer, ThresholdTarget
from simreg import functional as F

LAYERS = ["relu1", "relu2"]


@pytest.fixture
def double_loop():
    import importlib.util
    import pathlib

    spec = importlib.util.spec_from_file_location("double_loop", pathlib.Path(__file__).parent / "double_loop.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(model, images, layers=LAYERS):
    """Features by plain hooks of the test's own."""
    found = {}
    handles = [
        model.get_submodule(n).register_forward_hook(lambda m, a, o, n=n: found.__setitem__(n, o)) for n in layers
    ]
    model(images)
    for handle in handles:
        handle.remove()
    return [found[n] for n in layers]


def test_official_loss_and_gradients_match_the_double_loop_over_several_steps(make_net, generator, double_loop):
    model = make_net().double()
    reg = SimilarityRegularizer(model, LAYERS, alpha=10.0)
    reg.layer_logits.data = torch.tensor([0.3, -0.4], dtype=torch.float64)
    loop = double_loop.OfficialLoss([6, 8])
    for step in range(4):
        images = torch.rand(6, 1, 8, 8, generator=generator, dtype=torch.float64)
        targets = torch.tensor([1.0, -1.0, 0.3 * step], dtype=torch.float64) * (0.2 if step else 1.0)
        features = read(copy.deepcopy(model), images)
        arrays = [f.detach().numpy() for f in features]
        loop.update(arrays)
        ours = reg(PairBatch(images, targets))
        expected = 10.0 * loop.loss(arrays, targets.numpy(), reg.layer_logits.tolist())
        assert ours.item() == pytest.approx(expected, rel=1e-9)
        np.testing.assert_allclose(reg._last["similarities"].numpy(), loop.similarities(arrays), rtol=1e-9)
        _check_gradients(reg, ours, loop, arrays, targets)


def _check_gradients(reg, ours, loop, arrays, targets):
    """Gradient of the layer logits against central differences of the double loop."""
    (grad,) = torch.autograd.grad(ours, reg.layer_logits)
    logits, h = reg.layer_logits.tolist(), 1e-6
    for i in range(2):
        up, down = list(logits), list(logits)
        up[i] += h
        down[i] -= h
        numeric = 10.0 * (loop.loss(arrays, targets.numpy(), up) - loop.loss(arrays, targets.numpy(), down)) / (2 * h)
        assert float(grad[i]) == pytest.approx(numeric, rel=1e-5, abs=1e-6)


def test_gradient_of_features_matches_differences_of_the_double_loop(generator, double_loop):
    model = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(2 * 9, 3)).double()
    x = torch.rand(4, 2, 3, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0.4, -0.2], dtype=torch.float64)
    ours = SimilarityRegularizer(model, ["0"], alpha=1.0)(x, targets=targets)
    (grad,) = torch.autograd.grad(ours, x)
    loop = double_loop.OfficialLoss([2])
    loop.update([x.detach().numpy()])
    rng = np.random.default_rng(0)
    for _ in range(12):
        at = tuple(rng.integers(0, s) for s in x.shape)
        values = []
        for h in (1e-6, -1e-6):  # the running mean takes no part in the gradient
            moved = x.detach().numpy().copy()
            moved[at] += h
            values.append(loop.loss([moved], targets.numpy(), [0.0]))
        assert float(grad[at]) == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-6, abs=1e-8)


def test_float32_official_loss_stays_within_1e6_of_float64(make_net, generator):
    model = make_net()
    images, targets = torch.rand(32, 1, 8, 8, generator=generator), torch.linspace(-0.9, 0.9, 16)
    features = read(model, images)
    one = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(1, 1))
    values = []
    for f in (features[0].detach(), features[0].detach().double()):
        reg = SimilarityRegularizer(one, ["0"], alpha=1.0, early_exit=True)
        f.requires_grad_()
        loss = reg(f, targets=targets.to(f.dtype))
        values.append((loss.item(), torch.autograd.grad(loss, f)[0].double()))
    assert values[0][0] == pytest.approx(values[1][0], rel=1e-6)
    worst = (values[0][1] - values[1][1]).abs().max() / values[1][1].abs().max()
    assert float(worst) < 2e-6


@pytest.mark.parametrize("centering", ["channel", "batch", "image", "none"])
@pytest.mark.parametrize("convention", ["official", "paper", "mean"])
@pytest.mark.parametrize("transform", ["arctanh", "none"])
def test_module_equals_the_functions(make_net, images, centering, convention, transform):
    model = make_net()
    with SimilarityRegularizer(
        model, LAYERS, centering=centering, convention=convention, transform=transform, alpha=2.0, pairing="all"
    ) as reg:
        targets = torch.linspace(-0.5, 0.5, 28)
        ours = reg(images, targets=targets)
    features = read(copy.deepcopy(model), images)
    rows = [
        F.center_features(f, centering, mean=0.1 * f.mean((0, 2, 3)) if centering == "channel" else None)
        for f in features
    ]
    i, j = F.all_pairs(8).T
    layered = torch.stack([F.pairwise_cosine(r, centering="none")[i, j] for r in rows])
    mixed = F.mix_similarities(layered, torch.zeros(2))
    expected = 2.0 * F.similarity_loss(mixed, targets, convention=convention, transform=transform)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


def test_pairings_agree_on_the_same_pairs(make_net, images):
    model = make_net()
    pairs = torch.tensor([[0, 5], [2, 3]])
    targets = torch.tensor([0.5, -0.5])
    losses = [
        float(
            SimilarityRegularizer(model, LAYERS, pairing=p, batch_norm="freeze")(images, targets=targets, pairs=pairs)
        )
        for p in ("pairs", "all")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_swapping_the_images_of_a_pair_changes_nothing(make_net, images):
    model, targets = make_net().eval(), torch.linspace(-0.5, 0.5, 4)
    reg = SimilarityRegularizer(model, LAYERS, centering="image")
    swapped = torch.cat([images[4:], images[:4]])
    torch.testing.assert_close(reg(images, targets=targets), reg(swapped, targets=targets))


def test_the_three_modes_agree_without_batch_norm(generator):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
    x = torch.rand(6, 1, 8, 8, generator=generator)
    target = PixelTarget()
    make = lambda: SimilarityRegularizer(model, ["0", "1"], target=target, pairing="all")  # noqa: E731
    separate = make()(x)
    observer = make()
    with observer.observe():
        logits = model(x)
    same_batch = observer.penalty(x)
    output, joint = make().joint(x[:3], x)
    torch.testing.assert_close(separate, same_batch)
    torch.testing.assert_close(separate, joint)
    torch.testing.assert_close(output, logits[:3])


def test_penalty_takes_targets_as_matrix_or_vector(make_net, images):
    model = make_net()
    matrix = F.pairwise_cosine(images)
    i, j = F.all_pairs(8).T
    losses = []
    for targets in (matrix, matrix[i, j]):
        reg = SimilarityRegularizer(model, LAYERS, pairing="all")
        with reg.observe():
            model(images)
        losses.append(float(reg.penalty(targets)))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_joint_returns_the_rows_of_structured_outputs(images):
    class Outputs(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)

        def forward(self, x):
            f = self.conv(x)
            return {"logits": f.mean(dim=(2, 3)), "maps": (f, [f])}

    reg = SimilarityRegularizer(Outputs(), ["conv"], target=PixelTarget())
    output, penalty = reg.joint(images[:3], images)
    assert output["logits"].shape == (3, 2)
    assert output["maps"][0].shape[0] == output["maps"][1][0].shape[0] == 3
    assert penalty.requires_grad


def train(make_net, alpha, mode, epochs=3):
    """Weights after training with dropout and augmentation from the global generator."""
    torch.manual_seed(1)
    model = make_net(dropout=0.3)
    data = torch.Generator().manual_seed(2)
    x, y = torch.rand(40, 1, 8, 8, generator=data), torch.randint(10, (40,), generator=data)
    pool = RegularizationPool(x, PixelTarget())
    reg = (
        None
        if alpha is None
        else SimilarityRegularizer(model, LAYERS, target=PixelTarget(), pairing=mode[1], alpha=alpha)
    )
    parameters = [*model.parameters(), *([] if reg is None else reg.parameters())]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-3)
    batches = pool.batches(4)
    for _ in range(epochs):
        for rows in torch.randperm(40).split(8):
            xb = x[rows] + 0.01 * torch.randn(8, 1, 8, 8)
            if reg is None:
                loss = nnf.cross_entropy(model(xb), y[rows])
            elif mode[0] == "observe":
                with reg.observe():
                    out = model(xb)
                loss = nnf.cross_entropy(out, y[rows]) + reg.penalty(x[rows])
            elif mode[0] == "joint":
                out, penalty = reg.joint(xb, next(batches))
                loss = nnf.cross_entropy(out, y[rows]) + penalty
            else:
                loss = nnf.cross_entropy(model(xb), y[rows]) + reg(next(batches))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.state_dict()


@pytest.mark.parametrize("mode", [("separate", "pairs"), ("observe", "all"), ("joint", "pairs")])
def test_alpha_zero_trains_bit_identically_to_no_regularizer(make_net, mode):
    plain, zero, ten = (train(make_net, a, mode) for a in (None, 0.0, 10.0))
    assert all(torch.equal(plain[k], zero[k]) for k in plain)
    assert any(not torch.equal(plain[k], ten[k]) for k in plain)


def test_training_follows_the_target(make_net, generator):
    model = make_net()
    images = torch.rand(16, 1, 8, 8, generator=generator)
    reg = SimilarityRegularizer(model, LAYERS, target=PixelTarget(), pairing="all")
    optimizer = torch.optim.SGD([*model.parameters(), *reg.parameters()], lr=0.02, momentum=0.9)
    losses = []
    for _ in range(60):
        loss = reg(images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(reg.stats["loss"])
    assert losses[-1] < 0.5 * losses[0]
    assert reg.stats["correlation"] > 0.8
    assert sum(reg.layer_weights.values()) == pytest.approx(1)
    assert len(set(reg.layer_weights.values())) == 2


def test_state_dict_and_parameters_exclude_the_model(make_net, images):
    model = make_net()
    before = set(model.state_dict())
    reg = SimilarityRegularizer(model, LAYERS, target=PixelTarget())
    assert [n for n, _ in reg.named_parameters()] == ["layer_logits"]
    reg(images)
    assert set(reg.state_dict()) == {"layer_logits", "channel_means.layer_0", "channel_means.layer_1"}
    assert set(model.state_dict()) == before
    assert reg.parameter_group() == {"params": [reg.layer_logits], "weight_decay": 0.0}


def test_state_dict_resumes_running_means_and_logits(make_net, images):
    first, second = (SimilarityRegularizer(make_net(), LAYERS, target=PixelTarget()) for _ in range(2))
    first.layer_logits.data.copy_(torch.tensor([0.5, -0.5]))
    first(images)
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(second(images), first(images))
    assert second.channel_means.layer_0.shape == (6,)


def test_copies_tap_the_copied_model(make_net, images):
    reg = SimilarityRegularizer(make_net(), LAYERS, target=PixelTarget())
    holder = copy.deepcopy(nn.ModuleDict({"reg": reg}))
    copied = holder["reg"]
    assert copied._tap.model is not reg._tap.model
    torch.testing.assert_close(copied(images), reg(images))


def test_alpha_zero_returns_a_zero_that_adds_to_any_loss(make_net, images):
    reg = SimilarityRegularizer(make_net(), LAYERS, alpha=0.0, target=PixelTarget())
    assert float(reg(images)) == 0
    reg.alpha = 1.0
    assert float(reg(images)) > 0


def test_layer_weights_may_be_fixed(make_net, images):
    reg = SimilarityRegularizer(make_net(), LAYERS, layer_weights=[3, 1], target=PixelTarget())
    assert reg.layer_weights == pytest.approx({"relu1": 0.75, "relu2": 0.25})
    reg(images).backward()
    assert reg.layer_logits.grad is None
    only = SimilarityRegularizer(make_net(), LAYERS, layer_weights=[1, 0], target=PixelTarget())
    assert torch.isfinite(only(images))
    assert only.layer_weights == {"relu1": 1.0, "relu2": 0.0}


def test_selecting_targets_drops_pairs_in_same_batch_mode(make_net, images):
    target = ThresholdTarget(0.2, select="high")
    reg = SimilarityRegularizer(make_net(), LAYERS, target=target, pairing="all", target_clamp=0.9)
    reg(images)
    base = target.paired(F.all_pairs(8), images)
    assert reg._last["targets"].numel() == int((base.abs() > 0.2).sum())
    none = SimilarityRegularizer(make_net(), LAYERS, target=ThresholdTarget(0.999, select="high"), pairing="all")
    assert float(none(images)) == 0


def test_stats_describe_the_last_penalty(make_net, images):
    reg = SimilarityRegularizer(make_net(), LAYERS)
    assert reg.stats == {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        penalty = reg(images, targets=torch.tensor([1.0, -1.0, 0.0, 0.5]))
    stats = reg.stats
    assert stats["penalty"] == pytest.approx(float(penalty))
    assert stats["loss"] == pytest.approx(float(penalty) / 10)
    assert stats["target_share"] == 0.5
    assert set(stats["similarity_spread"]) == set(LAYERS)
    assert -1 <= stats["correlation"] <= 1


def test_autocast_and_half_features_give_finite_float32_loss(make_net, images):
    reg = SimilarityRegularizer(make_net(), LAYERS, target=PixelTarget())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        penalty = reg(images)
    assert penalty.dtype == torch.float32
    penalty.backward()
    assert torch.isfinite(penalty)


@pytest.mark.filterwarnings("ignore:.*targets so far are ±1", "ignore:the gradient of the penalty is zero")
def test_duplicate_constant_and_zero_images_train_on(make_net):
    images = torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8), torch.zeros(1, 8, 8), torch.ones(1, 8, 8) * 0.5])
    model = make_net()
    for centering in ("channel", "batch", "image", "none"):
        reg = SimilarityRegularizer(model, LAYERS, target=PixelTarget(), pairing="all", centering=centering)
        model.zero_grad()
        penalty = reg(images)
        penalty.backward()
        assert torch.isfinite(penalty)
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_no_activation_survives_backward(make_net, images):
    model = make_net()
    reg = SimilarityRegularizer(model, LAYERS, target=PixelTarget())
    refs = []
    reference = lambda m, a, o: refs.append(weakref.ref(o))  # noqa: E731
    handles = [model.get_submodule(n).register_forward_hook(reference) for n in (*LAYERS, "conv1")]
    for penalise in (lambda: reg(images), lambda: observe_once(reg, model, images)):
        penalise().backward()
    for handle in handles:
        handle.remove()
    gc.collect()
    assert len(refs) == 5  # the early exit skips what comes after the last tapped layer
    assert all(r() is None for r in refs)


def observe_once(reg, model, images):
    with reg.observe():
        model(images)
    return reg.penalty(images)


def test_memory_is_flat_over_50_steps(make_net, images):
    model = make_net()
    reg = SimilarityRegularizer(model, LAYERS, target=PixelTarget())

    def tensors():
        gc.collect()
        return sum(type(o) is torch.Tensor for o in gc.get_objects())

    counts = []
    for step in range(50):
        (reg(images) + observe_once(reg, model, images)).backward()
        model.zero_grad()
        if step in (9, 49):
            counts.append(tensors())
    assert counts[0] == counts[1]


def test_regularizer_draws_nothing_from_the_global_generator(make_net, images):
    model = make_net()
    state = torch.get_rng_state()
    pool = RegularizationPool(images, PixelTarget())
    reg = SimilarityRegularizer(model, LAYERS, target=PixelTarget())
    reg(next(pool.batches(4)))
    reg(next(pool.batches(6, pairing="all")))
    pool.health()
    assert torch.equal(state, torch.get_rng_state())


def test_mode_and_inputs_of_the_caller_are_left_alone(make_net, images):
    model = make_net().eval()
    model.bn1.train()
    modes = [m.training for m in model.modules()]
    before = images.clone()
    for batch_norm in ("update", "freeze", "eval", "separate", "official"):
        SimilarityRegularizer(model, LAYERS, target=PixelTarget(), batch_norm=batch_norm)(images)
        assert [m.training for m in model.modules()] == modes
    assert torch.equal(images, before)


def test_optimizer_without_layer_logits_is_warned_about_once(make_net, images):
    model = make_net()
    reg = SimilarityRegularizer(model, LAYERS, target=PixelTarget())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with pytest.warns(UserWarning, match="layer logits") as caught:
        for _ in range(5):
            reg(images).backward()
            optimizer.step()
    assert len(caught) == 1


def test_optimizer_with_layer_logits_is_not_warned_about(make_net, images):
    model = make_net()
    reg = SimilarityRegularizer(model, LAYERS, target=PixelTarget())
    one = torch.optim.SGD(model.parameters(), lr=0.01)
    two = torch.optim.AdamW([reg.parameter_group()], lr=0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(4):
            reg(images).backward()
            one.step()
            two.step()


def test_arctanh_with_common_extreme_targets_is_warned_about(make_net, images):
    targets = torch.tensor([1.0, -1.0, 1.0, 1.0])
    with pytest.warns(UserWarning, match="target_clamp=0.95") as caught:
        reg = SimilarityRegularizer(make_net(), LAYERS)
        for _ in range(3):
            reg(images, targets=targets)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SimilarityRegularizer(make_net(), LAYERS, target_clamp=0.95)(images, targets=targets)
        SimilarityRegularizer(make_net(), LAYERS, transform="none")(images, targets=targets)
        rare = SimilarityRegularizer(make_net(), LAYERS)
        for step in range(20):
            rare(images, targets=torch.tensor([float(step % 19 == 0), 0, 0, 0]))


def test_every_public_choice_of_the_contract_runs(make_net, images):
    for batch_norm in ("update", "freeze", "eval", "separate", "official"):
        for early_exit in (True, False, "auto"):
            reg = SimilarityRegularizer(
                make_net(), LAYERS, target=PixelTarget(), batch_norm=batch_norm, early_exit=early_exit, backend="torch"
            )
            penalty = reg(images)
            penalty.backward()
            assert penalty.requires_grad


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"layers": ["rleu1"]}, ValueError, "relu1"),
        ({"layers": []}, TypeError, "layers must be"),
        ({"alpha": -1.0}, ValueError, "alpha"),
        ({"alpha": float("nan")}, ValueError, "alpha"),
        ({"alpha": "10"}, TypeError, "alpha"),
        ({"convention": "offical"}, ValueError, "official"),
        ({"batch_norm": "frozen"}, ValueError, "freeze"),
        ({"pairing": "all", "batch_norm": "official"}, ValueError, "pairing"),
        ({"target": 0.8}, TypeError, "PixelTarget"),
        ({"layer_weights": [1.0]}, ValueError, "2 non-negative"),
        ({"layer_weights": "fixed"}, ValueError, "learned"),
        ({"early_exit": "yes"}, ValueError, "early_exit"),
        ({"target_clamp": 2.0}, ValueError, "target_clamp"),
        ({"select": {"conv9": 0}}, ValueError, "conv9"),
        ({"backend": "cuda"}, ValueError, "backend"),
    ],
)
def test_constructor_mistakes_are_named(make_net, kwargs, error, message):
    with pytest.raises(error, match=message):
        SimilarityRegularizer(make_net(), **{"layers": LAYERS, **kwargs})


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda reg, x: reg(x), ValueError, "target"),
        (lambda reg, x: reg(x[:1], targets=torch.zeros(1)), ValueError, "at least 2"),
        (lambda reg, x: reg(x[:3], targets=torch.zeros(1)), ValueError, "even number"),
        (lambda reg, x: reg(x, targets=torch.zeros(3)), ValueError, r"shape \(4,\)"),
        (lambda reg, x: reg(x, targets=torch.full((4,), 1.5)), ValueError, r"\[-1, 1\]"),
        (lambda reg, x: reg(x, targets=torch.full((4,), float("nan"))), ValueError, r"\[-1, 1\]"),
        (lambda reg, x: reg(x, targets=torch.zeros(1), pairs=torch.tensor([[0, 8]])), ValueError, "0 to 7"),
        (lambda reg, x: reg(x, targets=torch.zeros(0), pairs=torch.zeros(0, 2).long()), ValueError, "P >= 1"),
        (lambda reg, x: reg(x[0], targets=torch.zeros(4)), ValueError, r"\(N, C, H, W\)"),
        (lambda reg, x: reg([x], targets=torch.zeros(4)), TypeError, "image tensor"),
        (lambda reg, x: reg(x, targets=[0.0] * 4), TypeError, "targets"),
        (
            lambda reg, x: reg(x, targets=torch.zeros(2), pairs=torch.ones(2, 2, dtype=torch.bool)),
            ValueError,
            "integers",
        ),
        (lambda reg, x: reg(PairBatch(x, torch.zeros(4)), targets=torch.zeros(4)), ValueError, "PairBatch has its own"),
        (lambda reg, x: reg.penalty(x), RuntimeError, "observe"),
        (lambda reg, x: reg.joint(x[..., :4], PairBatch(x, torch.zeros(4))), ValueError, "cannot share a pass"),
    ],
)
def test_call_mistakes_are_named(make_net, images, call, error, message):
    with pytest.raises(error, match=message):
        call(SimilarityRegularizer(make_net(), LAYERS), images)


def test_observed_pass_and_images_must_fit(make_net, images):
    model = make_net()
    reg = SimilarityRegularizer(model, LAYERS, target=PixelTarget())
    with reg.observe():
        model(images)
    with pytest.raises(ValueError, match="8 rows, got 6 images"):
        reg.penalty(images[:6])


@pytest.mark.parametrize("spoil", [lambda x: (x - 0.5) / 0.2, lambda x: 2 * x - 1, lambda x: 255 * x])
def test_targets_of_normalised_images_are_refused(make_net, images, spoil):
    model = make_net()
    reg = SimilarityRegularizer(model, LAYERS, target=PixelTarget())
    with reg.observe():
        model(images)
    with pytest.raises(ValueError, match=r"images must lie in \[0, 1\]"):
        reg.penalty(spoil(images))
    with pytest.raises(ValueError, match=r"images must lie in \[0, 1\]"):
        reg(spoil(images))
    noisy = images + 0.05 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(reg(noisy))


def test_two_passes_cannot_be_observed_as_one(make_net, images):
    model = make_net()
    reg = SimilarityRegularizer(model, LAYERS, target=PixelTarget())
    with pytest.raises(RuntimeError, match="second forward pass"), reg.observe():
        _ = [model(half) for half in images.chunk(2)]
    assert torch.isfinite(observe_once(reg, model, images))


def test_frozen_layers_raise_instead_of_doing_nothing(make_net, images):
    model = make_net()
    for p in [*model.conv1.parameters(), *model.bn1.parameters()]:
        p.requires_grad_(False)
    reg = SimilarityRegularizer(model, LAYERS, target=PixelTarget())
    with pytest.raises(ValueError, match="'relu1' carry no gradient"):
        reg(images)
    with torch.no_grad():
        assert torch.isfinite(reg(images))


def test_layers_without_a_row_for_each_image_raise(images):
    class Scalar(nn.Module):
        def forward(self, x):
            return x.sum()

    model = nn.Sequential(nn.Conv2d(1, 2, 3), Scalar())
    with pytest.raises(ValueError, match="one floating-point row"):
        SimilarityRegularizer(model, ["1"], target=PixelTarget())(images)


def test_joint_refuses_batch_norm_policies_it_cannot_keep(make_net, images):
    reg = SimilarityRegularizer(make_net(), LAYERS, target=PixelTarget(), batch_norm="freeze")
    with pytest.raises(ValueError, match="joint pass"):
        reg.joint(images, images)


def test_closed_regularizer_says_so_and_leaves_no_hook(make_net, images):
    model = make_net()
    with SimilarityRegularizer(model, LAYERS, target=PixelTarget()) as reg:
        reg(images)
        assert any(m._forward_hooks for m in model.modules())
    assert not any(m._forward_hooks for m in model.modules())
    with pytest.raises(RuntimeError, match="closed"):
        reg(images)
    reg.close()


def test_evaluation_mode_uses_the_running_means_and_lets_them_rest(make_net, images):
    reg = SimilarityRegularizer(make_net(), LAYERS, target=PixelTarget())
    reg(images)
    before = reg.channel_means.layer_0.clone()
    reg.eval()
    reg(images * 0.5)
    assert torch.equal(reg.channel_means.layer_0, before)
    reg.train()
    reg(images * 0.5)
    assert not torch.equal(reg.channel_means.layer_0, before)


def test_gradient_of_a_joint_penalty_reaches_the_model(make_net, images):
    grads = []
    for joint in (True, False):
        model = make_net().eval()  # batch norm would tie the two batches together
        reg = SimilarityRegularizer(model, LAYERS, target=PixelTarget())
        penalty = reg.joint(images[:3], images)[1] if joint else reg(images)
        grads.append(torch.autograd.grad(penalty, model.conv1.weight)[0])
    assert grads[0].abs().sum() > 0
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-3)  # of entries up to 50


def test_joint_keeps_the_memory_format_of_the_task_images(make_net, images):
    model, formats = make_net(channels=3), []
    model.conv1.register_forward_pre_hook(
        lambda m, a: formats.append(a[0].is_contiguous(memory_format=torch.channels_last))
    )
    colour = images.expand(-1, 3, -1, -1).contiguous()
    reg = SimilarityRegularizer(model, LAYERS, target=PixelTarget())
    reg.joint(colour.to(memory_format=torch.channels_last), colour)
    reg.joint(colour, colour)
    assert formats == [True, False]


def test_joint_refuses_outputs_it_cannot_split(images):
    class Opaque:
        pass

    class Returns(nn.Module):
        def __init__(self, make):
            super().__init__()
            self.conv, self.make = nn.Conv2d(1, 2, 3), make

        def forward(self, x):
            return self.make(self.conv(x).mean(dim=(2, 3)))

    @dataclasses.dataclass
    class Output:
        logits: torch.Tensor
        loss: torch.Tensor

    model = Returns(lambda f: Output(f, f.mean()))
    output, _ = SimilarityRegularizer(model, ["conv"], target=PixelTarget()).joint(images[:3], images)
    assert output.logits.shape == (3, 2)
    assert output.loss.ndim == 0
    with pytest.raises(TypeError, match="joint cannot take"):
        SimilarityRegularizer(Returns(lambda f: Opaque()), ["conv"], target=PixelTarget()).joint(images, images)


def test_early_exit_is_for_plain_models_only(make_net, images):
    ran = []
    for wrap, expected in ((lambda m: m, 0), (lambda m: torch.compile(m, backend="eager"), 1), (distributed, 1)):
        ran.clear()
        model = make_net()
        model.fc.register_forward_hook(lambda *a: ran.append("fc"))
        SimilarityRegularizer(wrap(model), LAYERS, target=PixelTarget())(images)
        assert len(ran) == expected
    torch._dynamo.reset()


def distributed(model):
    class Wrapper(nn.Module):
        """What makes a data-parallel wrapper known: no_sync."""

        def __init__(self):
            super().__init__()
            self.module = model

        def no_sync(self):
            return contextlib.nullcontext()

        def forward(self, x):
            return self.module(x)

    return Wrapper()


def test_running_means_of_another_model_are_refused(make_net, images):
    reg = SimilarityRegularizer(make_net(), ["relu1"], target=PixelTarget())
    state = SimilarityRegularizer(make_net(), ["relu2"], target=PixelTarget())
    state(images)
    reg.load_state_dict(dict(state.state_dict()))  # a plain dict names no layers
    with pytest.raises(ValueError, match="6 channels, but its running mean 8"):
        reg(images)


def test_state_of_equally_many_other_layers_is_refused(make_net, images):
    reg, other = (SimilarityRegularizer(make_net(), names) for names in (LAYERS, ["relu1", "conv2"]))
    before = {k: v.clone() for k, v in reg.state_dict().items()}
    other.layer_logits.data = torch.tensor([2.0, 1.0])
    with pytest.raises(ValueError, match=r"of the layers \['relu1', 'conv2'\].* taps \['relu1', 'relu2'\]"):
        reg.load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match="taps"):
        nn.ModuleDict({"reg": reg}).load_state_dict(nn.ModuleDict({"reg": other}).state_dict(), strict=False)
    torch.testing.assert_close(dict(reg.state_dict()), before)
    reg.load_state_dict(dict(other.state_dict()))  # names no layers: taken by their places
    assert torch.equal(reg.layer_logits, other.layer_logits)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrappers_do_not_make_layers_others(make_net, prefix):
    reg, saved = (SimilarityRegularizer(make_net(), LAYERS) for _ in range(2))
    saved.layer_logits.data = torch.tensor([2.0, 1.0])
    state = saved.state_dict()
    state._metadata[""]["layers"] = [prefix + name for name in saved.layers]
    reg.load_state_dict(state)
    assert torch.equal(reg.layer_logits, saved.layer_logits)


def test_states_travel_between_wrapped_and_plain_models(make_net, images):
    model = make_net()
    regs = [SimilarityRegularizer(wrap(model), LAYERS) for wrap in (lambda m: m, torch.compile, distributed)]
    for i, saved in enumerate(regs):
        saved.layer_logits.data = torch.tensor([float(i), 1.0])
        for reg in regs:
            reg.load_state_dict(saved.state_dict())
            assert reg.layers == LAYERS
            assert torch.equal(reg.layer_logits, saved.layer_logits)


def test_model_on_another_device_is_named(make_net, images):
    model = make_net()
    reg = SimilarityRegularizer(model, LAYERS, target=PixelTarget())
    model.to("meta")
    with pytest.raises(RuntimeError, match=r"the model is on meta.*reg\.to\('meta'\)"):
        reg(images)


def test_half_precision_features_and_targets_are_widened(generator):
    features = torch.randn(4, 2, 30, 30, generator=generator)
    model = nn.Sequential(nn.Identity(), nn.Flatten())
    losses = []
    for dtype in (torch.float32, torch.float16):
        reg = SimilarityRegularizer(model, ["0"], alpha=1.0)
        f = features.half().to(dtype).requires_grad_()
        losses.append(float(reg(f, targets=torch.tensor([0.5, 0.9995]).to(dtype)).detach()))
        assert reg.channel_means.layer_0.dtype == torch.float32
    assert losses[0] == pytest.approx(losses[1], rel=2e-2)


def test_float64_models_take_float32_pools(make_net, images):
    model = make_net().double()
    reg = SimilarityRegularizer(model, LAYERS, target=PixelTarget())
    batch = next(RegularizationPool(images, PixelTarget()).batches(3))
    assert reg(batch).dtype == torch.float64
    as_bytes = PairBatch((batch.images * 255).to(torch.uint8), batch.targets)
    assert torch.isfinite(reg(as_bytes))
    assert torch.isfinite(reg(images, targets=torch.tensor([True, False, False, False])))


def test_inference_mode_measures_the_penalty(make_net, images):
    reg = SimilarityRegularizer(make_net().eval(), LAYERS, target=PixelTarget())
    expected = reg(images).detach()
    reg.eval()
    with torch.inference_mode():
        measured = reg(images)
    torch.testing.assert_close(measured, expected)


def test_modes_may_alternate_when_a_layer_is_overwritten_in_place(make_net, images):
    model = make_net(inplace=True)
    reg = SimilarityRegularizer(model, ["bn2"], target=PixelTarget())
    for _ in range(2):
        reg(images).backward()
        observe_once(reg, model, images).backward()


def test_zero_gradient_is_warned_about_once(make_net, images):
    model = make_net()
    model.bn1.bias.data.fill_(-100)
    reg = SimilarityRegularizer(model, ["relu1"], target=PixelTarget())
    with pytest.warns(UserWarning, match=r"zero in all tapped layers \(relu1\)") as caught:
        for _ in range(4):
            reg(images).backward()
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        healthy = SimilarityRegularizer(make_net(), ["relu1"], target=PixelTarget())
        for _ in range(3):
            healthy(images).backward()


class Holder(nn.Module):
    """A module that holds the regularizer of itself, as a LightningModule may."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.reg = SimilarityRegularizer(self, ["net.relu1"], target=PixelTarget())

    def forward(self, x):
        return self.net(x)


def test_copies_survive_cycles_closing_and_observed_passes(make_net, images):
    holder = Holder(make_net())
    copied = copy.deepcopy(holder)
    assert copied.reg._tap.model is copied
    torch.testing.assert_close(copied.reg(images), holder.reg(images))
    with holder.reg.observe():
        holder(images)
    assert copy.deepcopy(holder).reg._observed is None
    holder.reg.close()
    with pytest.raises(RuntimeError, match="closed"):
        copy.deepcopy(holder.reg)(images)


def test_official_batch_norm_takes_no_other_pairs(make_net, images):
    reg = SimilarityRegularizer(make_net(), LAYERS, target=PixelTarget(), batch_norm="official")
    with pytest.raises(ValueError, match="no other pairs"):
        reg(images, pairs=torch.tensor([[0, 1]]))


def test_clamp_at_one_bounds_nothing_and_is_warned_about(make_net, images):
    reg = SimilarityRegularizer(make_net(), LAYERS, target_clamp=1.0)
    with pytest.warns(UserWarning, match="target_clamp=0.95"):
        reg(images, targets=torch.ones(4))


def test_alpha_stays_a_strength(make_net):
    reg = SimilarityRegularizer(make_net(), LAYERS)
    with pytest.raises(ValueError, match="alpha"):
        reg.alpha = -1.0


def test_public_names_are_those_of_the_contract():
    names = "FeatureTap LabelTarget MatrixTarget NeuralTarget PairBatch PixelTarget RegularizationPool "
    names += "SimilarityRegularizer ThresholdTarget convert_alpha functional"
    assert set(names.split()) <= set(simreg.__all__)
    functions = "center_features pairwise_cosine paired_cosine mix_similarities fisher_z similarity_loss"
    assert all(callable(getattr(F, n)) for n in functions.split())


@pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6),
    reason="older compilers cannot trace `with reg.observe():`",
)
@pytest.mark.parametrize("pairing", ["pairs", "all"])
@pytest.mark.parametrize("centering", ["channel", "image"])
def test_a_compiled_step_has_no_graph_break_and_equals_eager(make_net, images, pairing, centering):
    targets = torch.linspace(-0.5, 0.5, 4 if pairing == "pairs" else 28)
    results, graphs = [], []

    def count(module, inputs):
        graphs.append(module)
        return module.forward

    for compiled in (False, True):
        torch._dynamo.reset()
        net = make_net()
        reg = SimilarityRegularizer(net, LAYERS, pairing=pairing, centering=centering)

        def loss(x, y, t, net=net, reg=reg):
            with reg.observe():
                logits = net(x)
            return nn.functional.cross_entropy(logits, y) + reg.penalty(t)

        step = torch.compile(loss, fullgraph=True, backend=count) if compiled else loss
        optimizer = torch.optim.SGD([*net.parameters(), *reg.parameters()], lr=0.01)
        history = []
        for _ in range(4):
            optimizer.zero_grad()
            value = step(images, torch.arange(8), targets)
            value.backward()
            optimizer.step()
            history.append(value.detach())
        results.append([torch.stack(history), reg.channel_means.layer_0, reg.layer_logits.detach()])
        assert reg.stats["loss"] > 0
    torch._dynamo.reset()
    assert len(graphs) <= 2  # the first step also makes the running means
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)


def test_measuring_in_inference_mode_leaves_training_as_it_is(make_net, images):
    penalties = []
    for measured in (False, True):
        reg = SimilarityRegularizer(make_net(), LAYERS, target=PixelTarget())
        if measured:
            with torch.inference_mode():
                reg.eval()(images)
        penalties.append(reg.train()(images))
        penalties[-1].backward()
    assert torch.equal(*penalties)
    reg = SimilarityRegularizer(make_net(), LAYERS, target=PixelTarget())
    with torch.inference_mode():
        reg(images)
    reg(images).backward()


def test_logits_that_no_penalty_is_trained_on_are_not_warned_about(make_net, images, recwarn):
    model = make_net()
    reg = SimilarityRegularizer(model, LAYERS, target=PixelTarget())
    optimizer = torch.optim.SGD([*model.parameters(), *reg.parameters()], lr=0.01)
    for _ in range(4):
        optimizer.zero_grad()
        model(images).sum().backward()
        optimizer.step()
        reg(images)  # looked at only
    assert not [w for w in recwarn if "layer logits" in str(w.message)]


def test_an_empty_selection_counts_as_a_call_and_has_no_stats(make_net, images):
    reg = SimilarityRegularizer(make_net(), LAYERS, target=ThresholdTarget(0.999, select="high"), pairing="all")
    reg(images)
    assert (reg.stats, reg._watch.calls) == ({}, 1)


@pytest.mark.parametrize("batch", [PairBatch, None])
def test_targets_that_a_device_hides_are_checked_in_the_first_calls(make_net, images, batch, monkeypatch):
    monkeypatch.setattr("simreg.batch.readable", lambda tensor: False)  # as on CUDA
    reg, wrong = SimilarityRegularizer(make_net(), LAYERS), torch.full((4,), 5.0)
    with pytest.raises(ValueError, match=r"\[-1, 1\]"):
        reg(batch(images, wrong)) if batch else reg(images, targets=wrong)


def test_a_penalty_that_was_refused_may_be_asked_for_again(make_net, images):
    model = make_net()
    reg = SimilarityRegularizer(model, LAYERS, target=PixelTarget())
    with reg.observe():
        model(images)
    with pytest.raises(ValueError, match="had 8 rows"):
        reg.penalty(images[:4])
    assert torch.isfinite(reg.penalty(images))
    reg.close()
    with pytest.raises(RuntimeError, match="closed"):
        reg.penalty(images)
