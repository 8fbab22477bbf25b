"""The candidates of one similarity case, for CPU and GPU: L_sim of given features and its gradient."""

from functools import partial
from typing import NamedTuple

import baselines
import torch
from harness import peak_memory

from simreg import functional as F

BASES = ("naive", "paper", "corrcoef", "memory floor", "two matmuls")
# Most error of a similarity, and of the features' gradient over its largest entry: of loops, of plain formulas.
_OURS = {"float32": (5e-6, 1e-5), "bfloat16": (5e-6, 1e-2)}
_THEIRS = {"float32": (1e-3, 1e-2), "bfloat16": (1e-3, 3e-2)}


class Case(NamedTuple):
    """What similarities are measured on."""

    layers: str  # of baselines.LAYER_SETS
    images: int
    pairing: str  # "pairs", image i with N / 2 + i, or "all"
    centering: str
    dtype: str = "float32"

    def __str__(self):
        return "-".join(map(str, self))


def simreg_way(features, means, case, backend):
    """As the regularizer takes them, layer by layer."""
    pairs = None if case.pairing == "pairs" else F.all_pairs(case.images, features[0].device)
    layers = []
    for x, mean in zip(features, means, strict=True):
        mean = mean if case.centering == "channel" else None
        layers.append(F.similarity(x, pairs, centering=case.centering, running_mean=mean, backend=backend))
    return torch.stack(layers)


def contest(case, backends, device="cpu"):
    """Candidates by name, simreg's first, whose numbers are right; and their errors and memory."""
    features = baselines.draw_features(case.layers, case.images, device, getattr(torch, case.dtype))
    means = [0.9 * x.detach().float().mean((0, 2, 3)) for x in features]
    paired = case.pairing == "pairs"
    pairs = case.images // 2 if paired else case.images * (case.images - 1) // 2
    targets = (1.8 * torch.rand(pairs, generator=torch.Generator().manual_seed(1)) - 0.9).to(device)
    naive = partial(baselines.naive, centering=case.centering, paired=paired)
    penalty = lambda found, logits, targets: F.similarity_loss(F.mix_similarities(found, logits), targets)  # noqa: E731
    ways = {b: (partial(simreg_way, case=case, backend=b), penalty, features) for b in backends}
    ways["naive"] = naive, baselines.penalty, features
    if paired and case.centering == "channel":
        halves = [half.detach().clone().requires_grad_() for x in features for half in x.chunk(2)]
        ways["paper"] = lambda f, m: baselines.paper([*f[::2], *f[1::2]], m), baselines.penalty, halves
    if not paired and case.centering == "image" and case.dtype == "float32":
        ways["corrcoef"] = baselines.corrcoef, baselines.penalty, features
    found = {name: _run(*way, means, targets) for name, way in ways.items()}
    exact = [x.detach().double().requires_grad_() for x in features]
    wanted = _run(naive, baselines.penalty, exact, [m.double() for m in means], targets.double())()
    noted = {"case": case._asdict(), "errors": {}, "memory": {}}
    size = sum(x.numel() * x.element_size() for x in features)
    for name, run in found.items():
        noted["errors"][name] = errors = _errors(run(), wanted)
        most = (_OURS if name in ("torch", "triton") else _THEIRS)[case.dtype]
        assert all(error <= limit for error, limit in zip(errors, most, strict=True)), (name, errors, most)
        if name in (backends[0], "naive"):
            noted["memory"][name] = round(peak_memory(run, device) / size, 3)
    plain = [x.detach() for x in features]  # read, then read again and as much written; X X' and one back of its size
    found["memory floor"] = lambda: ([x.sum() for x in plain], [x * 2 for x in plain])
    if not paired:
        found["two matmuls"] = lambda: [x @ x.T @ x for x in (x.flatten(1) for x in plain)]
    return found, noted


def _run(way, penalty, features, means, targets):
    """Similarities, and the gradient of the penalty with respect to features and layer logits."""
    means = [mean.clone() for mean in means]  # it moves them
    logits = torch.linspace(-0.5, 0.5, len(means), device=targets.device, dtype=targets.dtype).requires_grad_()

    def run():
        similarities = way(features, means)
        return similarities, *torch.autograd.grad(penalty(similarities, logits, targets), [*features, logits])

    return run


def _errors(found, wanted):
    """Largest error of similarities, and of the features' gradients over their largest entry."""
    ours, exact = (torch.cat([gradient.flatten() for gradient in run[1:-1]]) for run in (found, wanted))
    return float((found[0] - wanted[0]).detach().abs().max()), float((ours - exact).abs().max() / exact.abs().max())
