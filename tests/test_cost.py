import copy
import math

import pytest
import torch
from torch import nn

from simreg import CostEstimate, SimilarityRegularizer

LAYERS = ["relu1", "relu2"]
EXAMPLE = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
CONV1, CONV2, FC = 2 * 64 * 6 * 9, 2 * 9 * 8 * 6 * 9, 2 * 8 * 10  # FLOPs of an image in the layers of ConvNet
UNITS = 6 * 64 + 8 * 9


def similarity_of_pairs(k, units=UNITS):
    return units * (14 * k + 2 * 2 * k)


def test_flops_are_those_counted_by_hand(make_net):
    reg = SimilarityRegularizer(make_net(), LAYERS)
    cost = reg.cost(10, 4, example=EXAMPLE)
    assert isinstance(cost, CostEstimate)
    assert cost.plain_flops == 3 * 10 * (CONV1 + CONV2 + FC)
    assert cost.similarity_flops == similarity_of_pairs(4)
    assert cost.regularized_flops == cost.plain_flops + 3 * 8 * (CONV1 + CONV2) + cost.similarity_flops
    assert cost.ratio == cost.regularized_flops / cost.plain_flops
    assert cost.images == 8
    assert cost.early_exit


def test_flops_of_the_similarity_are_those_of_its_products(make_net):
    """What FlopCounterMode sees of the matrix of all pairs, forward and backward."""
    from torch.utils.flop_counter import FlopCounterMode

    features = [torch.rand(6, d, requires_grad=True) for d in (384, 72)]
    with FlopCounterMode(display=False) as counter:
        sum((f @ f.T).sum() for f in features).backward()
    cost = SimilarityRegularizer(make_net(), LAYERS, pairing="all").cost(10, 15, example=EXAMPLE)
    plain = counter.get_total_flops()  # autograd makes two products of the gradient, which is one of a symmetric matrix
    assert cost.similarity_flops - 2 * 6 * UNITS == plain * 2 // 3


@pytest.mark.parametrize(("early_exit", "extra"), [(True, CONV1), (False, CONV1 + CONV2 + FC), ("auto", CONV1)])
def test_early_exit_saves_what_comes_after_the_last_layer(make_net, early_exit, extra):
    cost = SimilarityRegularizer(make_net(), ["relu1"], early_exit=early_exit).cost(10, 4, example=EXAMPLE)
    assert cost.regularized_flops - cost.plain_flops - cost.similarity_flops == 3 * 8 * extra
    assert cost.early_exit is bool(early_exit)


def test_modes_differ_in_what_is_forwarded(make_net):
    reg = SimilarityRegularizer(make_net(), ["relu1"])
    separate, observe, joint = (
        reg.cost(10, k, example=EXAMPLE, mode=m) for k, m in ((5, "separate"), (None, "observe"), (5, "joint"))
    )
    whole = CONV1 + CONV2 + FC
    assert joint.regularized_flops == 3 * (10 + 10) * whole + joint.similarity_flops
    assert observe.regularized_flops == observe.plain_flops + observe.similarity_flops
    assert (observe.images, observe.pairs) == (0, 5)
    assert (
        separate.similarity_flops == observe.similarity_flops == joint.similarity_flops == similarity_of_pairs(5, 384)
    )
    assert not joint.early_exit


@pytest.mark.parametrize(("pairs", "images"), [(1, 2), (2, 3), (3, 3), (4, 4), (28, 8), (29, 9), (10**12, 1414215)])
def test_all_pairs_take_the_fewest_images_that_have_them(make_net, pairs, images):
    reg = SimilarityRegularizer(make_net(), LAYERS, pairing="all")
    assert reg.cost(10, pairs, example=EXAMPLE).images == images
    assert math.comb(images, 2) >= pairs > math.comb(images - 1, 2)
    assert SimilarityRegularizer(make_net(), LAYERS).cost(10, pairs, example=EXAMPLE).images == 2 * pairs


def test_observed_pairs_are_by_default_those_of_the_batch(make_net):
    everything = SimilarityRegularizer(make_net(), LAYERS, pairing="all").cost(10, example=EXAMPLE, mode="observe")
    assert everything.pairs == 45
    assert everything.similarity_flops == UNITS * (4 * 100 + 2 * 10)
    reg = SimilarityRegularizer(make_net(), LAYERS)
    assert reg.cost(11, example=EXAMPLE, mode="observe").pairs == 5
    given = reg.cost(100, 3, example=EXAMPLE, mode="observe")  # few of many rows: by the pair
    assert given.similarity_flops == UNITS * (14 * 3 + 2 * 100)


def test_nothing_of_the_model_changes(make_net):
    model = make_net(dropout=0.5)
    model.bn1.eval()
    model.register_buffer("shared", model.bn1.running_mean)
    reg = SimilarityRegularizer(model, LAYERS, batch_norm="separate")
    reg(EXAMPLE.expand(4, -1, -1, -1) * torch.rand(4, 1, 1, 1), targets=torch.zeros(2)).backward()
    before = copy.deepcopy([model.state_dict(), reg.state_dict()])
    buffers = {n: (id(b), b._version) for n, b in model.named_buffers(remove_duplicate=False)}
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    modes, hooks = [m.training for m in model.modules()], [list(m._forward_hooks) for m in model.modules()]
    last, calls, clone = reg._last, reg._watch.calls, copy.deepcopy(reg._tap._recorder.clone)
    state = torch.get_rng_state()
    for mode in ("separate", "observe", "joint"):
        reg.cost(8, 4, example=EXAMPLE, mode=mode)
    assert torch.equal(state, torch.get_rng_state())
    for a, b in zip(before, [model.state_dict(), reg.state_dict()], strict=True):
        assert list(a) == list(b)
        assert all(torch.equal(a[k], b[k]) for k in a)
    assert {n: (id(b), b._version) for n, b in model.named_buffers(remove_duplicate=False)} == buffers
    assert all(torch.equal(p.grad, grads[n]) for n, p in model.named_parameters() if n in grads)
    assert [m.training for m in model.modules()] == modes
    assert [list(m._forward_hooks) for m in model.modules()] == hooks
    assert (reg._last, reg._watch.calls, reg._tap._recorder.clone) == (last, calls, clone)


def test_a_pass_that_fails_leaves_the_model_as_it_was(make_net):
    model = make_net()
    buffers = {n: id(b) for n, b in model.named_buffers()}
    with pytest.raises(RuntimeError, match="channels"):
        SimilarityRegularizer(model, LAYERS).cost(8, 4, example=torch.rand(1, 3, 8, 8))
    assert {n: id(b) for n, b in model.named_buffers()} == buffers


def test_a_pending_pass_is_left_alone(make_net, images):
    model, other = make_net(), make_net()
    losses = []
    for net in (model, other):
        reg = SimilarityRegularizer(net, LAYERS)
        with reg.observe():
            logits = net(images)
        if net is model:
            reg.cost(8, 4, example=EXAMPLE)
        loss = logits.sum() + reg.penalty(torch.zeros(4))
        loss.backward()
        losses.append(loss)
    assert torch.equal(*losses)
    assert torch.equal(model.conv1.weight.grad, other.conv1.weight.grad)


def test_images_with_one_position_and_bytes_will_do(make_net):
    model = nn.Sequential(nn.Conv2d(1, 4, 8), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2)).double()
    cost = SimilarityRegularizer(model, ["1"]).cost(8, 4, example=(EXAMPLE * 255).to(torch.uint8))
    assert SimilarityRegularizer(model, ["1"]).cost(8, 4, example=EXAMPLE.expand(5, -1, -1, -1)) == cost


@pytest.mark.filterwarnings("error")
def test_compiled_models_count_as_plain_ones(make_net, images):
    plain = SimilarityRegularizer(make_net(), LAYERS, early_exit=False).cost(8, 4, example=EXAMPLE)
    for late in (True, False):
        model = torch.compile(make_net(), backend="eager")
        reg = SimilarityRegularizer(model, LAYERS)
        if late:
            reg(images, targets=torch.zeros(4))
        assert reg.cost(8, 4, example=EXAMPLE) == plain
        assert torch.isfinite(reg(images, targets=torch.zeros(4)))
    torch._dynamo.reset()


def test_distributed_models_count_as_plain_ones(make_net):
    import torch.distributed as dist

    plain = SimilarityRegularizer(make_net(), LAYERS, early_exit=False).cost(8, 4, example=EXAMPLE)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(make_net())
        reg = SimilarityRegularizer(model, LAYERS)
        assert reg.cost(8, 4, example=EXAMPLE) == plain
        for _ in range(2):
            model(EXAMPLE.expand(2, -1, -1, -1)).sum().backward()
    finally:
        dist.destroy_process_group()

    class Sharded(nn.Sequential):
        def no_sync(self):
            raise NotImplementedError

    with pytest.raises(ValueError, match="wrapped for distributed training"):
        SimilarityRegularizer(Sharded(make_net()), ["0.relu1"]).cost(8, 4, example=EXAMPLE)


def test_frozen_and_evaluated_models_can_be_estimated(make_net):
    model = make_net().eval().requires_grad_(False)
    cost = SimilarityRegularizer(model, LAYERS).cost(8, 4, example=EXAMPLE)
    assert cost.ratio > 1
    with torch.no_grad():
        assert SimilarityRegularizer(model, LAYERS).cost(8, 4, example=EXAMPLE) == cost


def test_selected_outputs_are_measured(make_net):
    whole, part = (
        SimilarityRegularizer(make_net(), ["relu1"], select=select).cost(8, 4, example=EXAMPLE)
        for select in (None, lambda f: f[:, :2])
    )
    assert 3 * part.similarity_flops == whole.similarity_flops


def test_summary_has_two_lines(make_net):
    reg = SimilarityRegularizer(make_net(), LAYERS)
    lines = str(reg.cost(64, 16, example=EXAMPLE)).split("\n")
    assert len(lines) == 2
    assert lines[0] == "separate: 64 images and 16 pairs a step, 32 more images up to the last tapped layer"
    assert "no more images" in str(reg.cost(64, example=EXAMPLE, mode="observe"))
    with pytest.raises(AttributeError):
        reg.cost(64, 16, example=EXAMPLE).images = 3


@pytest.mark.parametrize(
    ("args", "kwargs", "error", "message"),
    [
        ((0, 4), {}, ValueError, "batch_size"),
        ((True, 4), {}, TypeError, "batch_size"),
        ((8.0, 4), {}, TypeError, "batch_size"),
        ((8, 0), {}, ValueError, "pairs"),
        ((8, "4"), {}, TypeError, "pairs"),
        ((8,), {}, ValueError, "pairs"),
        ((8, 29), {"mode": "observe"}, ValueError, "pairs must be at most 28"),
        ((1,), {"mode": "observe"}, ValueError, "pairs"),
        ((8, 4), {"mode": "seperate"}, ValueError, "separate"),
        ((8, 4), {"example": EXAMPLE[0]}, ValueError, "example"),
        ((8, 4), {"example": EXAMPLE[:0]}, ValueError, "example"),
        ((8, 4), {"example": [1, 8, 8]}, TypeError, "example"),
    ],
)
def test_mistakes_are_named(make_net, args, kwargs, error, message):
    with pytest.raises(error, match=message):
        SimilarityRegularizer(make_net(), LAYERS).cost(*args, **{"example": EXAMPLE, **kwargs})


def test_what_cannot_be_estimated_says_so(make_net):
    reg = SimilarityRegularizer(make_net(), LAYERS)
    with pytest.raises(TypeError, match="example"):
        reg.cost(8, 4)
    model = reg._tap.model
    with reg.observe():
        with pytest.raises(RuntimeError, match="being recorded"):
            reg.cost(8, 4, example=EXAMPLE)
        model(EXAMPLE.expand(2, -1, -1, -1))
    reg.close()
    with pytest.raises(RuntimeError, match="closed"):
        reg.cost(8, 4, example=EXAMPLE)
    lazy = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.LazyLinear(2))
    with pytest.raises(ValueError, match="lazy"):
        SimilarityRegularizer(lazy, ["0"]).cost(8, 4, example=EXAMPLE)
