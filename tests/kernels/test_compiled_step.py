"""The whole same-batch step inside one compiled graph."""

import pytest
import torch
import torch._dynamo
from torch import nn

from simreg import SimilarityRegularizer


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6),
    reason="older compilers cannot trace `with reg.observe():`",
)
@pytest.mark.parametrize("pairing", ["pairs", "all"])
@pytest.mark.parametrize("attach", [False, True])
def test_a_compiled_step_has_no_graph_break_and_equals_eager(make_net, images, pairing, attach):
    targets = torch.linspace(-0.5, 0.5, 4 if pairing == "pairs" else 28)
    results, graphs = [], []

    def count(module, inputs):
        graphs.append(module)
        return module.forward

    for compiled in (False, True):
        torch._dynamo.reset()
        net = make_net()
        reg = SimilarityRegularizer(net, ["relu1", "relu2"], pairing=pairing, attach=attach)

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
    assert len(graphs) <= 2  # the first step also makes the running means
    torch.testing.assert_close(results[1], results[0])


def test_a_compiled_model_gives_its_features_to_an_eager_penalty(make_net, images):
    net = make_net()
    reg = SimilarityRegularizer(net, ["relu1", "relu2"], pairing="all")
    compiled = torch.compile(net, backend="eager")
    with reg.observe():
        logits = compiled(images)
    (logits.sum() + reg.penalty(torch.zeros(28))).backward()
    assert net.conv1.weight.grad.abs().sum() > 0
