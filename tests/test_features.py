import copy
import io
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from simreg import FeatureTap, PixelTarget, SimilarityRegularizer


class Reuse(nn.Module):
    """One activation that runs twice, a layer that never runs, outputs that are no tensors."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.act = nn.ReLU()
        self.unused = nn.Conv2d(2, 2, 1)
        self.pair = Pair()
        self.fail = False

    def forward(self, x):
        x = self.act(self.conv(x))
        x = self.act(x - 1)
        if self.fail:
            raise KeyError("broken batch")
        return self.pair(x)["maps"][0].mean(dim=(2, 3))


class Pair(nn.Module):
    def forward(self, x):
        return {"maps": (2 * x, x), "size": x.shape[-1]}


X = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_features_are_what_the_layers_gave(make_net):
    model = make_net()
    seen = []
    model.relu1.register_forward_hook(lambda m, a, o: seen.append(o.detach().clone()))
    with FeatureTap(model, ["relu1"]) as tap:
        features = tap.features(X)
    torch.testing.assert_close(features["relu1"], seen[0], rtol=0, atol=0)
    assert features["relu1"].requires_grad


def test_layer_that_runs_twice_is_read_at_its_first_run():
    model = Reuse()
    with FeatureTap(model, ["act"]) as tap:
        torch.testing.assert_close(tap.features(X)["act"], model.conv(X).relu())


@pytest.mark.parametrize("early_exit", [True, False])
def test_unused_layer_raises_and_records_nothing_afterwards(early_exit):
    model = Reuse()
    tap = FeatureTap(model, ["conv", "unused"])
    with pytest.raises(ValueError, match="did not reach 'unused'"):
        tap.features(X, early_exit=early_exit)
    model(X)
    assert not tap._recorder.features


def test_no_hook_records_after_an_exception():
    model = Reuse()
    tap = FeatureTap(model, ["conv", "pair"], select={"pair": lambda out: out["maps"][0]})
    model.fail = True
    for run in (lambda: tap.features(X), lambda: run_recorded(tap, model)):
        with pytest.raises(KeyError, match="broken batch"):
            run()
        assert not tap._recorder.armed
        assert not tap._recorder.features
    model.fail = False
    model(X)
    assert not tap._recorder.features
    assert set(tap.features(X)) == {"conv", "pair"}


def run_recorded(tap, model):
    with tap.record():
        model(X)


def test_outputs_that_are_no_tensors_need_select():
    model = Reuse()
    with pytest.raises(TypeError, match=r"'pair' returned a dict with keys .*select="):
        FeatureTap(model, ["pair"]).features(X)
    with pytest.raises(TypeError, match="tuple of"):
        FeatureTap(model, ["pair"], select="maps").features(X)
    by_function = FeatureTap(model, ["pair"], select=lambda out: out["maps"][1]).features(X)["pair"]
    by_mapping = FeatureTap(model, ["conv", "pair"], select={"pair": lambda out: out["maps"][1]}).features(X)["pair"]
    torch.testing.assert_close(by_function, by_mapping)


def test_early_exit_stops_after_the_last_tapped_layer(make_net):
    model = make_net()
    ran = []
    model.fc.register_forward_hook(lambda *a: ran.append("fc"))
    tap = FeatureTap(model, ["relu2", "conv1"])
    tap.features(X, early_exit=True)
    assert ran == []
    tap.features(X)
    assert ran == ["fc"]
    model(X)
    assert ran == ["fc", "fc"]


def test_overwritten_features_survive_and_backward_runs(make_net):
    model = make_net(inplace=True)
    plain = make_net(inplace=False)
    for _ in range(3):  # the first pass copies every layer, later ones only what is overwritten
        ours = FeatureTap(model, ["bn1", "conv2"])
        expected = FeatureTap(plain, ["bn1", "conv2"])
        tap_features, reference = ours.features(X), expected.features(X)
        again, reference_again = ours.features(X), expected.features(X)
        for a, b in ((tap_features, reference), (again, reference_again)):
            torch.testing.assert_close(a["bn1"], b["bn1"])
            assert a["bn1"].min() < 0
            sum(f.square().sum() for f in a.values()).backward()
    assert ours._recorder.clone == {False: [True, False]}


def test_hooks_cost_nothing_and_record_nothing_outside_a_pass(make_net):
    model = make_net()
    tap = FeatureTap(model, ["relu1"])
    model(X)
    assert not tap._recorder.features
    with pytest.raises(ValueError, match="none of 'relu1' ran"):
        tap.take()


def test_nested_recording_raises(make_net):
    tap = FeatureTap(make_net(), ["relu1"])
    with tap.record(), pytest.raises(RuntimeError, match="already"), tap.record():
        pass


def test_copies_and_pickles_of_the_model_are_inert(make_net):
    model = make_net()
    tap = FeatureTap(model, ["relu1"])
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    copies.append(torch.load(buffer, weights_only=False))
    for other in copies:
        with tap.record():
            output = other.eval()(X)
        assert not tap._recorder.features
        torch.testing.assert_close(output, model.eval()(X))


def test_pickled_model_loads_without_simreg(tmp_path):
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    FeatureTap(model, ["1"])
    tap = FeatureTap(model, ["0"])
    torch.save(model, tmp_path / "model.pt")
    code = (
        "import sys, torch; sys.modules['simreg'] = None\n"
        f"model = torch.load(r'{tmp_path / 'model.pt'}', weights_only=False)\n"
        "print(tuple(model(torch.zeros(4, 3)).shape))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(4, 2)"
    tap.close()


def test_hooks_vanish_with_a_tap_that_is_dropped(make_net):
    model = make_net()
    tap = FeatureTap(model, ["relu1"])
    assert model.relu1._forward_hooks
    del tap
    assert not model.relu1._forward_hooks


def test_closing_removes_hooks_and_repeats_are_fine(make_net):
    model = make_net()
    tap = FeatureTap(model, ["relu*"])
    tap.close()
    tap.close()
    assert not any(m._forward_hooks for m in model.modules())
    with pytest.raises(RuntimeError, match="closed"):
        tap.features(X)


def test_two_taps_on_one_model_do_not_meet(make_net):
    model = make_net()
    one, two = FeatureTap(model, ["relu1"]), FeatureTap(model, ["relu1", "relu2"])
    assert set(one.features(X, early_exit=True)) == {"relu1"}
    assert set(two.features(X)) == {"relu1", "relu2"}
    assert not one._recorder.features


def test_compiled_model_records_when_hooks_came_first(make_net):
    torch._dynamo.reset()
    model = make_net()
    tap = FeatureTap(model, ["relu1", "bn2"])
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    expected = tap.features(X)
    for _ in range(3):
        model.zero_grad()
        with tap.record():
            output = compiled(X)
        features = tap.take()
        for name in features:
            torch.testing.assert_close(features[name], expected[name])
        (output.sum() + features["relu1"].sum()).backward()
        assert model.conv1.weight.grad is not None
        compiled(X)
        assert not tap._recorder.features


def test_model_compiled_before_the_hooks_says_so(make_net):
    torch._dynamo.reset()
    model = torch.compile(make_net(), backend="aot_eager")
    model(X)
    tap = FeatureTap(model, ["relu1"])
    with tap.record():
        model(X)
    with pytest.raises(ValueError, match=r"compiled: hooks fire only if.*_dynamo.reset"):
        tap.take()


def test_regularizer_trains_a_compiled_model(make_net, images):
    torch._dynamo.reset()
    model = make_net()
    eager = make_net()
    compiled = torch.compile(model, backend="aot_eager")
    losses = []
    for m in (compiled, eager):
        reg = SimilarityRegularizer(m, ["relu1", "relu2"], target=PixelTarget(), pairing="all")
        loss = reg(images)
        with reg.observe():
            out = m(images)
        total = loss + out.sum() + reg.penalty(images)
        total.backward()
        losses.append(total.detach())
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(model.conv1.weight.grad, eager.conv1.weight.grad, rtol=1e-4, atol=1e-4)


class Checkpointed(nn.Module):
    def __init__(self, net, reentrant):
        super().__init__()
        self.net, self.reentrant = net, reentrant

    def forward(self, x):
        x = checkpoint(lambda v: self.net.relu1(self.net.conv1(v)), x, use_reentrant=self.reentrant)
        return self.net.fc(self.net.conv2(x).mean(dim=(2, 3)))


def test_activation_checkpointing_gives_the_same_gradient_or_says_why_not(make_net, images):
    plain = make_net()
    grads = []
    for model in (Checkpointed(plain, False), Checkpointed(make_net(), False)):
        names = ["net.relu1", "net.conv2"]
        reg = SimilarityRegularizer(model, names, target=PixelTarget(), early_exit=len(grads) == 0)
        reg(images).backward()
        grads.append(model.net.conv1.weight.grad)
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-3)  # of entries up to 50
    reentrant = SimilarityRegularizer(Checkpointed(make_net(), True), ["net.relu1"], target=PixelTarget())
    with pytest.raises(ValueError, match="use_reentrant=False"):
        reentrant(images.clone().requires_grad_())


def test_first_pass_of_a_tap_gives_bitwise_the_gradient_of_later_ones():
    torch.manual_seed(0)
    conv, heads = nn.Conv2d(1, 4, 3), nn.ModuleList(nn.Conv2d(4, 4, 3) for _ in range(3))
    model = nn.Sequential(conv, nn.ReLU())
    tap = FeatureTap(model, ["1"])
    grads = []
    for _ in range(3):
        with tap.record():
            out = model(X)
        feature = tap.take()["1"]
        loss = sum((head(out).sin() * (i + 0.3)).sum() for i, head in enumerate(heads)) + (feature * 1.7).cos().sum()
        grads.append(torch.autograd.grad(loss, conv.weight)[0])
    assert torch.equal(grads[0], grads[1])
    assert torch.equal(grads[1], grads[2])
