"""The similarity taken in passing: the same penalty and gradients, no memory of its own."""

import pytest
import torch
import torch._dynamo
from torch import nn

import simreg
from simreg import PixelTarget, SimilarityRegularizer

LAYERS = ["relu1", "relu2"]


def step(net, reg, x, y, targets=None):
    """Loss and gradients of one same-batch step."""
    with reg.observe():
        logits = net(x)
    loss = nn.functional.cross_entropy(logits, y) + reg.penalty(x if targets is None else targets)
    parameters = [*net.parameters(), reg.layer_logits]
    for p in parameters:
        p.grad = None
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in parameters]


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("pairing", ["pairs", "all"])
@pytest.mark.parametrize("centering", ["channel", "batch", "image", "none"])
def test_attached_steps_equal_ordinary_ones(make_net, images, inplace, pairing, centering):
    y = torch.arange(8)
    layers = ["bn1", "conv2"] if inplace else LAYERS  # bn1 is overwritten by the ReLU after it
    results = []
    for attach in (False, True):
        net = make_net(inplace=inplace).double()
        reg = SimilarityRegularizer(
            net, layers, target=PixelTarget(), pairing=pairing, centering=centering, attach=attach
        ).double()
        results.append(
            [step(net, reg, images.double(), y) for _ in range(3)] + [reg.channel_means.state_dict(), reg.stats]
        )
    for (loss, grads), (expected, wanted) in zip(results[1][:3], results[0][:3], strict=True):
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(grads, wanted)
    torch.testing.assert_close(results[1][3], results[0][3])
    assert results[1][4]["loss"] == pytest.approx(results[0][4]["loss"])


def test_the_first_step_is_computed_as_the_later_ones(make_net, images):
    """Copies of the first pass change no bit: a resumed run repeats an uninterrupted one."""
    net = make_net(inplace=True)
    reg = SimilarityRegularizer(
        net, ["bn1", "conv2"], target=PixelTarget(), pairing="all", attach=True, centering="image"
    )
    net.eval()
    first, second = (step(net, reg, images, torch.arange(8)) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert all(map(torch.equal, first[1], second[1]))


def test_a_pass_without_penalty_trains_as_without_regularizer(make_net, images):
    grads = []
    for attach in (False, True):
        net = make_net()
        reg = SimilarityRegularizer(net, LAYERS, target=PixelTarget(), pairing="all", attach=attach)
        with reg.observe():
            logits = net(images)
        nn.functional.cross_entropy(logits, torch.arange(8)).backward()
        grads.append([p.grad for p in net.parameters()])
    assert all(map(torch.equal, *grads))


def test_outputs_that_are_no_tensors_are_compared_without_being_replaced(images):
    class Twin(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3)

        def forward(self, x):
            return self.conv(x), x

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.twin = Twin()

        def forward(self, x):
            return self.twin(x)[0].mean(dim=(2, 3))

    results = []
    for attach in (False, True):
        torch.manual_seed(0)
        net = Net()
        reg = SimilarityRegularizer(net, ["twin"], target=PixelTarget(), pairing="all", select=0, attach=attach)
        results.append(step(net, reg, images, torch.zeros(8, dtype=torch.int64)))
    torch.testing.assert_close(results[1], results[0])


def test_a_part_that_is_overwritten_later_is_copied(images):
    class Twin(nn.Module):
        def forward(self, x):
            return {"x": x * 2.0}

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3)
            self.twin = Twin()

        def forward(self, x):
            return self.twin(self.conv(x))["x"].relu_().mean(dim=(2, 3))

    results = []
    for attach in (False, True):
        torch.manual_seed(0)
        net = Net()
        reg = SimilarityRegularizer(net, ["twin"], target=PixelTarget(), pairing="all", select="x", attach=attach)
        results.append([step(net, reg, images, torch.zeros(8, dtype=torch.int64)) for _ in range(3)])
    torch.testing.assert_close(results[1], results[0])


def test_compiled_models_are_observed_as_without_attach(make_net, images):
    torch._dynamo.reset()
    results = []
    for attach in (False, True):
        net = make_net()
        reg = SimilarityRegularizer(net, LAYERS, target=PixelTarget(), pairing="all", attach=attach)
        compiled = torch.compile(net, backend="eager")
        results.append([step(compiled, reg, images, torch.arange(8)) for _ in range(3)])
    torch._dynamo.reset()
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.parametrize("layout", ["expanded", "channels_last"])
def test_any_layout_of_the_networks_gradient_is_added(layout, generator):
    x, grads = torch.rand(4, 3, 5, 5, generator=generator), []
    weight = torch.rand(4, 4, 3, 3, generator=generator).to(memory_format=torch.channels_last)
    for attach in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3))
        reg = SimilarityRegularizer(model, ["0"], attach=attach)
        with reg.observe():
            out = model(x)
        task = out.sum() if layout == "expanded" else (out * weight).sum()
        grads.append(torch.autograd.grad(task + reg.penalty(torch.zeros(2)), model[0].weight)[0])
    torch.testing.assert_close(*grads)


def test_selected_pairs_work_in_passing(make_net, images):
    target = simreg.ThresholdTarget(0.1, select="high")
    results = []
    for attach in (False, True):
        net = make_net()
        reg = SimilarityRegularizer(net, LAYERS, target=target, pairing="all", attach=attach, target_clamp=0.9)
        results.append(step(net, reg, images, torch.arange(8)))
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-6)


def test_mistakes_are_named(make_net, images):
    with pytest.raises(ValueError, match="fused kernels"):
        SimilarityRegularizer(make_net(), LAYERS, attach=True, backend="reference")
    net = make_net()
    reg = SimilarityRegularizer(net, LAYERS, attach=True)
    with reg.observe():
        net(images)
    with pytest.raises(ValueError, match="attach=False"):
        reg.penalty(torch.zeros(1), pairs=torch.tensor([[0, 1]]))
    with reg.observe():
        net(images[:3])
    with pytest.raises(ValueError, match="even number of rows"):
        reg.penalty(torch.zeros(1))


def test_no_gradient_of_the_features_is_kept(make_net, images):
    """What lives between forward and backward: the features, which the model keeps anyway, and small coefficients."""
    net = make_net()
    reg = SimilarityRegularizer(net, LAYERS, target=PixelTarget(), pairing="all", attach=True)
    for _ in range(2):
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=saved: s.append(t) or t, lambda t: t):
            with reg.observe():
                logits = net(images)
            loss = logits.sum() + reg.penalty(images)
        loss.backward()
    plain = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: plain.append(t) or t, lambda t: t):
        net(images)

    def size(tensors):
        return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())

    features = 4 * 8 * (6 * 64 + 8 * 9)
    assert size(saved) - size(plain) < 0.7 * features  # small images: mostly the (8, 8) matrices in float64
