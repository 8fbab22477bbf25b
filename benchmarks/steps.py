"""Training steps. A maker takes a model and gives the loss, of images and labels, and what else it learns."""

from functools import partial

import baselines
import torch
from torch import nn
from torch.nn import functional as F

from simreg import PixelTarget, RegularizationPool, SimilarityRegularizer
from simreg.nets import ResNet18

PLAIN = "plain"
LAYERS = ("stem", "layer1", "layer2", "layer3", "layer4")
EARLY = ("stem", "layer1")
resnet = partial(ResNet18, 10, channels=3)


def task_batch(n, size=32):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, 3, size, size, generator=generator), torch.randint(10, (n,), generator=generator)


def pair_batches(pairs, pairing="pairs"):
    return RegularizationPool(task_batch(256)[0], PixelTarget()).batches(pairs, pairing=pairing)


def plain(model):
    return lambda x, y: F.cross_entropy(model(x), y), []


def separate(model, layers, k, early_exit=False, **options):
    """A forward pass of its own, for 2k images or for all images whose pairs are k."""
    reg = SimilarityRegularizer(model, layers, alpha=1.0, early_exit=early_exit, **options)
    batches = pair_batches(k, reg.pairing)
    return lambda x, y: F.cross_entropy(model(x), y) + reg(next(batches)), [reg.layer_logits]


def joint(model):
    """One forward pass for task and regularization images."""
    reg, batches = SimilarityRegularizer(model, LAYERS, alpha=1.0), pair_batches(16)

    def loss(x, y):
        logits, penalty = reg.joint(x, next(batches))
        return F.cross_entropy(logits, y) + penalty

    return loss, [reg.layer_logits]


def same_batch(model, layers=LAYERS, pairing="pairs"):
    """Similarities of the task batch itself: no further forward pass."""
    reg = SimilarityRegularizer(model, layers, alpha=1.0, target=PixelTarget(), pairing=pairing)

    def loss(x, y):
        with reg.observe():
            logits = model(x)
        return F.cross_entropy(logits, y) + reg.penalty(x)

    return loss, [reg.layer_logits]


def same_batch_naive(model):
    """The same pairs of the task batch by the plain formula."""
    outputs, logits = _hooked(model)

    def loss(x, y):
        outputs.clear()
        task = F.cross_entropy(model(x), y)
        rows = x.mean(dim=1).flatten(1)
        targets = F.cosine_similarity(*(rows - rows.mean(dim=0)).chunk(2))
        means = [x.new_zeros(f.shape[1]) for f in outputs]
        return task + baselines.penalty(baselines.naive(outputs, means, "channel", True), logits.to(x), targets)

    return loss, [logits]


def paper_scheme(model, k=16):
    """The paper's step: two forward passes of k images each, plain formulas; pairs and targets are given."""
    (outputs, logits), batch = _hooked(model), next(pair_batches(k))

    def loss(x, y):
        task = F.cross_entropy(model(x), y)
        outputs.clear()
        for half in batch.images.to(x).chunk(2):
            model(half)
        means = [x.new_zeros(f.shape[1]) for f in outputs[: len(LAYERS)]]
        return task + baselines.penalty(baselines.paper(outputs, means), logits.to(x), batch.targets.to(x))

    return loss, [logits]


def _hooked(model):
    """A list that collects the outputs of `LAYERS`, and layer logits."""
    outputs = []
    for name in LAYERS:
        model.get_submodule(name).register_forward_hook(lambda module, args, out: outputs.append(out))
    return outputs, nn.Parameter(torch.zeros(len(LAYERS)))


MODES = {
    "same batch": same_batch,
    "same batch, all pairs": partial(same_batch, pairing="all"),
    "same batch, naive": same_batch_naive,
    "separate": partial(separate, layers=LAYERS, k=16),
    "separate, stem+layer1": partial(separate, layers=EARLY, k=16),
    "separate, stem+layer1, early exit": partial(separate, layers=EARLY, k=16, early_exit=True),
    "joint": joint,
    "8 images, all pairs": partial(separate, layers=LAYERS, k=28, pairing="all"),
    "8 images, all pairs, early exit": partial(separate, layers=EARLY, k=28, pairing="all", early_exit=True),
    "paper scheme": paper_scheme,
    PLAIN: plain,
}


def step(model, make, x, y, *, compiler=None, autocast=False):
    """Loss, backward and SGD; ``compiler``, a backend of torch.compile, gets the loss as one graph, or raises."""
    loss, learned = make(model)
    optimizer = torch.optim.SGD([*model.parameters(), *learned], lr=1e-6, momentum=0.9)  # rounds do the same work
    loss(x, y)  # running means get their size, which in a compiler else is a graph of its own
    if compiler:
        loss = torch.compile(loss, fullgraph=True, backend=compiler)

    def run():
        optimizer.zero_grad()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=autocast):
            value = loss(x, y)
        value.backward()
        optimizer.step()
        return value.detach()

    return run


def check_gradients():
    """Penalties of simreg have the gradient of the plain formulas, in float64."""

    def gradient(make):
        model, (x, y) = resnet(width=8).double(), task_batch(8)
        return torch.cat([g.flatten() for g in torch.autograd.grad(make(model)[0](x.double(), y), model.parameters())])

    official = partial(separate, layers=LAYERS, k=4, batch_norm="official")
    for ours, theirs in ((same_batch, same_batch_naive), (official, partial(paper_scheme, k=4))):
        found, wanted, task = (gradient(make) for make in (ours, theirs, plain))
        assert (found - wanted).norm() <= 1e-5 * (wanted - task).norm(), ours
