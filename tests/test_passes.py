import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from simreg import FeatureTap, PixelTarget, SimilarityRegularizer
from simreg.passes import batch_norm_policy, separate_features

LAYERS = ["bn1", "bn2"]


def buffers(model):
    return {k: v.clone() for k, v in model.named_buffers()}


def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


def regularize(model, images, policy, **kwargs):
    reg = SimilarityRegularizer(model, LAYERS, target=PixelTarget(), batch_norm=policy, **kwargs)
    return reg, reg(images)


def test_update_counts_one_pass_and_official_two(make_net, images):
    for policy, passes in (("update", 1), ("official", 2)):
        model = make_net()
        regularize(model, images, policy)
        assert int(model.bn1.num_batches_tracked) == passes


def test_official_policy_normalises_each_half_by_its_own_statistics(make_net, images):
    model = make_net()
    expected = copy.deepcopy(model)
    _, penalty = regularize(model, images, "official")
    halves = [expected.bn1(expected.conv1(half)) for half in images.chunk(2)]
    tap = FeatureTap(make_net(), LAYERS)
    again = separate_features(tap, images, True, "official", None)
    torch.testing.assert_close(again["bn1"], torch.cat(halves))
    assert torch.isfinite(penalty)
    torch.testing.assert_close(model.bn1.running_mean, expected.bn1.running_mean)
    torch.testing.assert_close(model.bn1.running_var, expected.bn1.running_var)


@pytest.mark.parametrize("policy", ["freeze", "eval", "separate"])
def test_other_policies_leave_the_model_bitwise_as_it_was(make_net, images, policy):
    model = make_net()
    before = buffers(model)
    identities = {k: id(v) for k, v in model.named_buffers()}
    _, penalty = regularize(model, images, policy)
    penalty.backward()
    assert same(buffers(model), before)
    assert {k: id(v) for k, v in model.named_buffers()} == identities
    assert model.bn1.track_running_stats
    assert model.bn1.training


def test_freeze_normalises_by_batch_statistics(make_net, images):
    losses = [float(regularize(make_net(), images, p)[1].detach()) for p in ("update", "freeze", "separate")]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)
    assert float(regularize(make_net(), images, "eval")[1].detach()) != pytest.approx(losses[0], rel=1e-2)


def test_eval_gradient_ignores_a_later_training_pass(make_net, images):
    grads = []
    for disturb in (False, True):
        model = make_net()
        _, penalty = regularize(model, images, "eval")
        if disturb:
            model(images * 3)
        penalty.backward()
        grads.append(model.conv1.weight.grad)
    assert torch.equal(*grads)


def test_separate_statistics_belong_to_the_regularizer(make_net, images):
    model = make_net()
    reg, _ = regularize(model, images, "separate")
    reference = make_net()
    reference(images)
    state = reg.state_dict()
    torch.testing.assert_close(state["_auxiliary.running_mean_0"], reference.bn1.running_mean)
    assert int(state["_auxiliary.num_batches_tracked_1"]) == 1


def test_policies_are_undone_after_an_exception(make_net):
    model = make_net()
    before = buffers(model)
    for policy in ("freeze", "eval"):
        with pytest.raises(RuntimeError, match="expected input"), batch_norm_policy(model, policy):
            model(torch.rand(2, 3, 8, 8))
        assert model.bn1.training
        assert model.bn1.track_running_stats
    assert same(buffers(model), before)


def test_batch_norm_without_statistics_is_left_alone(images):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False), nn.Flatten())
    for policy in ("update", "freeze", "eval", "separate", "official"):
        reg = SimilarityRegularizer(model, ["1"], target=PixelTarget(), batch_norm=policy)
        assert torch.isfinite(reg(images))


class Checkpointed(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return checkpoint(self.net, x, use_reentrant=False)


@pytest.mark.parametrize("policy", ["freeze", "eval", "separate"])
def test_policies_refuse_activation_checkpointing(make_net, images, policy):
    model = Checkpointed(make_net())
    reg = SimilarityRegularizer(model, ["net.relu2"], target=PixelTarget(), batch_norm=policy, early_exit=False)
    before = buffers(model)
    with pytest.raises(RuntimeError, match="activation checkpointing"):
        reg(images).backward()
    assert same(buffers(model), before)
    reg.close()
    model(images).sum().backward()
    assert not any(m._forward_pre_hooks for m in model.modules())
    copy.deepcopy(model)(images).sum().backward()


def test_a_checkpointed_model_trains_its_own_pass_beside_a_policy_that_no_pass_has_used(images):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), nn.Conv2d(4, 2, 3)

        def forward(self, x):
            return self.head(torch.utils.checkpoint.checkpoint(self.body, x, use_reentrant=False))

    model = Net()
    reg = SimilarityRegularizer(model, ["head"], target=PixelTarget(), batch_norm="freeze")
    with reg.observe():
        output = model(images)
    (output.sum() + reg.penalty(images)).backward()
    with pytest.raises(RuntimeError, match="activation checkpointing"):
        reg(images).backward()
