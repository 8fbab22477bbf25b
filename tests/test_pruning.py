import copy
import gc
import io
import pickle
import warnings

import pytest
import torch
from torch import nn

from simreg import FeatureTap, PixelTarget, SimilarityRegularizer
from simreg.batch import PairBatch

LAYERS = ["conv1", "relu1", "relu2"]
TARGETS = torch.tensor([0.4, -0.2, 0.1, 0.3])
OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, centered=True, momentum=0.5),
}


def made(model, layers=LAYERS, logits=(2.0, 2.5, -2.0), **kwargs):
    reg = SimilarityRegularizer(model, layers, alpha=0.1, **kwargs)
    if reg.layer_logits.requires_grad:
        reg.layer_logits.data = torch.tensor(logits[: len(reg.layers)])
    return reg


def hooks_of(model):
    return {n for n, m in model.named_modules() if m._forward_hooks}


def step(reg, optimizer, images):
    loss = reg(images, targets=TARGETS)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


@pytest.mark.parametrize(("min_weight", "dropped"), [(0.001, []), (0.01, ["relu2"]), (0.5, ["conv1", "relu2"])])
def test_layers_below_the_bound_are_dropped(make_net, min_weight, dropped):
    reg = made(make_net())
    logits = reg.layer_logits
    assert reg.prune_layers(min_weight) == dropped
    assert reg.layers == [n for n in LAYERS if n not in dropped]
    assert reg.layer_logits is logits
    assert logits.requires_grad
    assert logits.is_leaf
    assert dict(reg.named_parameters())["layer_logits"] is logits
    assert sum(reg.layer_weights.values()) == pytest.approx(1)


def test_the_heaviest_layer_stays_even_below_the_bound(make_net, images):
    reg = made(make_net(), logits=(0.0, 0.1, 0.0))
    assert reg.prune_layers(0.9) == ["conv1", "relu2"]
    assert reg.layer_weights == {"relu1": 1.0}
    assert reg.prune_layers(0.9) == []
    equal = made(make_net(), logits=(0.0, 0.0, 0.0))
    assert equal.prune_layers(0.9) == ["relu1", "relu2"]
    equal(images, targets=TARGETS).backward()


@pytest.mark.parametrize("centering", ["channel", "batch", "image"])
@pytest.mark.parametrize("batch_norm", ["update", "freeze", "official"])
def test_pruned_regularizer_equals_one_made_with_the_layers_that_stay(make_net, images, centering, batch_norm):
    model = make_net()
    reg = made(model, logits=(2.0, -3.0, 2.5), centering=centering, batch_norm=batch_norm)
    reg(images, targets=TARGETS)
    other = copy.deepcopy(model)
    fresh = made(other, ["conv1", "relu2"], (2.0, 2.5), centering=centering, batch_norm=batch_norm)
    fresh.channel_means.layer_0 = reg.channel_means.layer_0.clone()
    fresh.channel_means.layer_1 = reg.channel_means.layer_2.clone()
    assert reg.prune_layers(0.05) == ["relu1"]
    for _ in range(3):
        ours, expected = reg(images, targets=TARGETS), fresh(images, targets=TARGETS)
        assert torch.equal(ours, expected)
        model.zero_grad(), other.zero_grad(), reg.zero_grad(), fresh.zero_grad()
        ours.backward()
        expected.backward()
        assert torch.equal(reg.layer_logits.grad, fresh.layer_logits.grad)
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            assert (p.grad is None) == (q.grad is None)
            assert p.grad is None or torch.equal(p.grad, q.grad)
    assert [b.shape for b in reg.channel_means.buffers()] == [b.shape for b in fresh.channel_means.buffers()]


def test_hooks_of_dropped_layers_go_and_early_exit_bites(make_net, images):
    model = make_net()
    reg = made(model)
    reg(images, targets=TARGETS)
    ran = []
    model.conv2.register_forward_pre_hook(lambda *a: ran.append("conv2"))
    reg(images, targets=TARGETS)
    assert ran == ["conv2"]
    reg.prune_layers(0.05)
    reg(images, targets=TARGETS)
    assert ran == ["conv2"]
    assert hooks_of(model) == {"conv1", "relu1"}
    reg.close()
    assert hooks_of(model) == set()


def test_dropped_and_left_regularizers_leave_no_hook(make_net, images):
    model = make_net()
    with made(model) as reg:
        reg.prune_layers(0.05)
        assert hooks_of(model) == {"conv1", "relu1"}
    assert hooks_of(model) == set()
    with pytest.raises(RuntimeError, match="closed"):
        reg.prune_layers(0.05)
    reg = made(model)
    reg.prune_layers(0.05)
    del reg
    gc.collect()
    assert hooks_of(model) == set()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("passed", [True, False])
def test_optimizers_go_on_with_the_state_of_the_layers_that_stay(make_net, images, name, passed):
    model = make_net()
    reg = made(model, logits=(2.0, -3.0, 2.5))
    optimizer = OPTIMIZERS[name]([{"params": model.parameters()}, reg.parameter_group()])
    for _ in range(3):
        loss = step(reg, optimizer, images)  # stays alive: its graph remembers the old shape
    before = {k: v.clone() for k, v in optimizer.state[reg.layer_logits].items() if isinstance(v, torch.Tensor)}
    logits = reg.layer_logits.detach().clone()
    assert reg.prune_layers(0.05, optimizer=optimizer if passed else None) == ["relu1"]
    after = optimizer.state[reg.layer_logits]
    for key, value in before.items():
        assert torch.equal(after[key], value[[0, 2]] if value.shape == (3,) else value)
    assert torch.equal(reg.layer_logits.detach(), logits[[0, 2]])
    for _ in range(2):
        step(reg, optimizer, images)
    assert reg.layer_logits.shape == reg.layer_logits.grad.shape == (2,)
    assert not torch.equal(reg.layer_logits.detach(), logits[[0, 2]])
    assert loss.grad_fn is not None


@pytest.mark.parametrize("name", ["momentum", "adamw"])
@pytest.mark.parametrize("pruned_first", [True, False])
def test_pruned_training_resumes_bit_by_bit(make_net, images, name, pruned_first):
    def started():
        model = make_net()
        reg = made(model, logits=(2.0, -3.0, 2.5))
        return model, reg, OPTIMIZERS[name]([*model.parameters(), *reg.parameters()])

    model, reg, optimizer = started()
    step(reg, optimizer, images)
    reg.prune_layers(0.05)
    step(reg, optimizer, images)
    file = io.BytesIO()
    torch.save([model.state_dict(), reg.state_dict(), optimizer.state_dict()], file)
    file.seek(0)
    states = torch.load(file, weights_only=True)

    other_model, other, other_optimizer = started()
    if pruned_first:
        other.prune_layers(0.05)
    other_model.load_state_dict(states[0])
    other.load_state_dict(states[1])
    other_optimizer.load_state_dict(states[2])
    assert other.layers == ["conv1", "relu2"]
    assert hooks_of(other_model) == {"conv1", "relu2"}
    for _ in range(2):
        assert torch.equal(step(reg, optimizer, images), step(other, other_optimizer, images))
    assert torch.equal(reg.layer_logits, other.layer_logits)


def test_state_of_other_layers_is_refused(make_net, images):
    pruned, full = made(make_net()), made(make_net())
    whole = full.state_dict()
    assert pruned.prune_layers(0.05) == ["relu2"]
    with pytest.raises(ValueError, match=r"layers: the state is of the layers \['conv1', 'relu1', 'relu2'\]"):
        pruned.load_state_dict(whole)
    with pytest.raises(ValueError, match=r"of 2 layers, this regularizer taps \['conv1', 'relu1', 'relu2'\]"):
        full.load_state_dict(dict(pruned.state_dict()))  # a plain dict, as of safetensors, names no layers
    with pytest.raises(ValueError, match="bn2"):
        made(make_net(), ["conv1", "bn1", "bn2"]).load_state_dict(pruned.state_dict())
    assert full.layers == LAYERS
    pruned.load_state_dict(dict(pruned.state_dict()))


def test_state_dict_within_another_module_names_the_layers(make_net):
    outer, other = nn.ModuleDict({"reg": made(make_net())}), nn.ModuleDict({"reg": made(make_net())})
    outer["reg"].prune_layers(0.05)
    other.load_state_dict(outer.state_dict())
    assert other["reg"].layers == ["conv1", "relu1"]
    assert set(outer.state_dict()) == {"reg.layer_logits", "reg.channel_means.layer_0", "reg.channel_means.layer_1"}


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("run_before", [True, False])
def test_copies_are_pruned_and_can_be_pruned(make_net, images, clone, run_before):
    reg = made(make_net(), logits=(2.0, 1.0, -3.0))
    copied = clone(reg)
    if run_before:
        copied(images, targets=TARGETS)
        reg(images, targets=TARGETS)
    assert copied.prune_layers(0.05) == ["relu2"]  # before the copy has attached its hooks, or after
    assert reg.layers == LAYERS
    reg.prune_layers(0.05)
    again = clone(reg)
    expected = reg(images, targets=TARGETS)
    assert torch.equal(copied(images, targets=TARGETS), expected)
    assert torch.equal(again(images, targets=TARGETS), expected)
    assert hooks_of(again._tap.model) == {"conv1", "relu1"}


@pytest.mark.parametrize("weights", ["uniform", [3, 1, 0]])
def test_fixed_weights_are_renormalised(make_net, images, weights):
    reg = SimilarityRegularizer(make_net(), LAYERS, layer_weights=weights)
    reg.prune_layers(0.1)
    expected = {"conv1": 0.75, "relu1": 0.25} if weights != "uniform" else dict.fromkeys(LAYERS, 1 / 3)
    assert reg.layer_weights == pytest.approx(expected)
    assert not reg.layer_logits.requires_grad
    reg(images, targets=TARGETS).backward()


@pytest.mark.parametrize("attach", [False, True])
def test_an_observed_pass_goes_on_with_the_layers_that_stay(make_net, images, attach):
    model = make_net().eval()
    reg, fresh = made(model, attach=attach), made(model, LAYERS[:2], attach=attach)
    for pruned_before in (False, True):
        grads = []
        for r in (reg, fresh):
            with r.observe():
                model(images)
            if r is reg and not pruned_before:
                reg.prune_layers(0.05)
            model.zero_grad()
            penalty = r.penalty(TARGETS)
            penalty.backward()
            grads.append([penalty.detach(), model.conv1.weight.grad.clone(), r.layer_logits.grad.clone()])
        assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_pruning_during_an_observed_pass_is_refused(make_net, images):
    model = make_net()
    reg = made(model)
    with reg.observe():
        with pytest.raises(RuntimeError, match="being recorded"):
            reg.prune_layers(0.05)
        model(images)
    assert reg.layers == LAYERS
    assert reg.layer_logits.shape == (3,)
    reg.penalty(TARGETS)


def test_backward_of_an_earlier_loss_is_refused(make_net, images):
    reg = made(make_net())
    loss = reg(images, targets=TARGETS)
    reg.prune_layers(0.05)
    reg(images, targets=TARGETS).backward()
    assert reg.layer_logits.grad.shape == (2,)
    with pytest.raises(RuntimeError, match="before layers were dropped"):
        loss.backward()
    assert reg.layer_logits.grad.shape == (2,)


def test_gradients_that_wait_for_a_step_are_cut_alike(make_net, images):
    reg = made(make_net())
    reg(images, targets=TARGETS).backward()
    grad = reg.layer_logits.grad.clone()
    reg.prune_layers(0.05)
    assert torch.equal(reg.layer_logits.grad, grad[:2])


def test_diagnostics_are_those_of_the_layers_that_stay(make_net, images):
    reg = made(make_net())
    reg(images, targets=TARGETS)
    spread = reg.stats["similarity_spread"]
    reg.prune_layers(0.05)
    assert reg.stats["similarity_spread"] == {n: spread[n] for n in LAYERS[:2]}
    assert set(reg.stats["layer_weights"]) == set(LAYERS[:2])


def test_layers_may_be_dropped_again(make_net, images):
    model = make_net()
    reg = made(model, logits=(1.0, 3.0, -2.0))
    optimizer = OPTIMIZERS["adam"]([*model.parameters(), *reg.parameters()])
    for min_weight, left in ((0.02, 2), (0.3, 1)):
        step(reg, optimizer, images)
        reg.prune_layers(min_weight)
        assert len(reg.layers) == left
    step(reg, optimizer, images)
    assert reg.layers == ["relu1"]


def test_pruned_regularizers_do_not_warn_of_a_missing_optimizer(make_net, images):
    model = make_net()
    reg = made(model)
    optimizer = OPTIMIZERS["adam"]([*model.parameters(), *reg.parameters()])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            step(reg, optimizer, images)
            reg.prune_layers(0.05)


def test_compiled_models_can_be_pruned_without_a_reset(make_net, images):
    net = make_net().eval()
    model = torch.compile(net, backend="eager")
    reg, fresh = made(model), made(net, LAYERS[:2])
    for _ in range(2):
        reg(images, targets=TARGETS)
        model(images)
    fresh.channel_means.load_state_dict(
        {k: v for k, v in reg.channel_means.state_dict().items() if k != "layer_2"}, strict=False
    )
    reg.prune_layers(0.05)
    for _ in range(2):
        ours = reg(images, targets=TARGETS)
        torch.testing.assert_close(ours, fresh(images, targets=TARGETS))
        ours.backward()
    torch._dynamo.reset()


def test_select_and_shared_modules_are_kept_apart(images):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu, self.last = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)
            self.again = self.relu

        def forward(self, x):
            return self.last(self.relu(self.conv(x)))

    select = {"conv": lambda f: f[:, :1], "last": lambda f: f[:, :2]}
    with FeatureTap(Net(), ["conv", "relu", "again", "last"], select=select) as tap:
        before = tap.features(images)
        tap.keep(["last", "again"])
        after = tap.features(images)
        assert list(after) == ["last", "again"]
        assert all(torch.equal(after[n], before[n]) for n in after)
        assert copy.deepcopy(tap).layers == ["last", "again"]
        with pytest.raises(ValueError, match="layers must be some of"):
            tap.keep(["relu"])


def test_layers_overwritten_in_place_stay_copied(make_net, images):
    model = make_net(inplace=True)
    reg = made(model, ["conv1", "bn1", "bn2"], (-3.0, 2.0, 2.0))
    for _ in range(2):
        reg(images, targets=TARGETS).backward()
    reg.prune_layers(0.05)
    assert list(reg._tap._recorder.clone.values()) == [[True, False]]  # the pass ends at bn2, before it is overwritten
    reg(images, targets=TARGETS).backward()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda reg: reg.prune_layers(0.0), ValueError, "min_weight"),
        (lambda reg: reg.prune_layers(1.0), ValueError, "min_weight"),
        (lambda reg: reg.prune_layers(-0.1), ValueError, "min_weight"),
        (lambda reg: reg.prune_layers(float("nan")), ValueError, "min_weight"),
        (lambda reg: reg.prune_layers("0.1"), TypeError, "min_weight"),
        (lambda reg: reg.prune_layers(True), TypeError, "min_weight"),
        (lambda reg: reg.prune_layers(0.1, optimizer=0.1), TypeError, "optimizer"),
        (
            lambda reg: reg.prune_layers(0.1, optimizer=torch.optim.SGD(reg._tap.model.parameters(), lr=0.1)),
            ValueError,
            "optimizer does not hold",
        ),
    ],
)
def test_mistakes_are_named_and_change_nothing(make_net, images, call, error, message):
    reg = made(make_net())
    with pytest.raises(error, match=message):
        call(reg)
    assert reg.layers == LAYERS
    reg(PairBatch(images, TARGETS))


def test_diverged_weights_are_refused(make_net):
    reg = made(make_net(), target=PixelTarget())
    reg.layer_logits.data[0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        reg.prune_layers(0.1)
