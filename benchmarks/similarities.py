"""The candidates of a similarity race: simreg's backends and what they are compared with; their errors and memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import baselines
import torch
from harness import Candidate, peak_memory
from layer_sets import Case, Inputs
from torch import Tensor

from simreg import functional as F
from simreg import kernels

Penalty = Callable[[Inputs], tuple[Tensor, Tensor]]  # L_sim, and the similarities of all layers (L, P)
Ways = dict[str, tuple[Penalty, Inputs]]  # each with the inputs that it takes

FUSED = ("compile", "triton", "torch")  # the fastest first
BASES = ("naive", "paper scheme", "corrcoef", "torch.compile(naive)", "memory floor", "two matmuls")
_COMPILED_IMAGES = 32  # compiling takes long: at one size only
# Errors that no candidate may exceed; the goals for simreg are tighter and judged in the tables.
_MOST_SIMILARITY_ERROR = {"float32": 1e-3, "bfloat16": 1e-3}
_MOST_GRADIENT_ERROR = {"float32": 1e-2, "bfloat16": 3e-2}


def reference(inputs: Inputs, centering: str, paired: bool) -> tuple[Tensor, Tensor]:
    """simreg's backend "reference", as the regularizer puts it together."""
    layers = []
    for x, old in zip(inputs.features, inputs.means, strict=True):
        mean = 0.9 * old + 0.1 * F.channel_mean(x.detach()) if centering == "channel" else None
        rows = F.center_features(x, centering, mean=mean)
        if paired:
            layers.append(F.paired_cosine(rows, centering="none", backend="reference"))
        else:
            layers.append(F.pairwise_cosine(rows, centering="none", backend="reference")[tuple(inputs.pairs)])
    similarities = torch.stack(layers)
    return F.similarity_loss(F.mix_similarities(similarities, inputs.logits), inputs.targets), similarities


def fused(inputs: Inputs, centering: str, paired: bool, backend: str) -> tuple[Tensor, Tensor]:
    """simreg's kernels."""
    found = kernels.similarity_penalty(
        inputs.features,
        [1] * len(inputs.features),
        inputs.means,
        inputs.logits,
        inputs.targets,
        paired=paired,
        centering=centering,
        momentum=0.1,
        convention="official",
        transform="arctanh",
        target_clamp=None,
        eps=1e-8,
        backend=backend,
    )
    return found.loss, found.layers


def penalties(case: Case, inputs: Inputs) -> tuple[Ways, dict[str, str]]:
    """Every way to the penalty that can run, the one that "auto" takes first; and why others cannot."""
    found: dict[str, Penalty] = {}
    missing: dict[str, str] = {}
    automatic = kernels.choose("auto", inputs.features, case.paired)
    for name in (automatic, *(other for other in FUSED if other != automatic)):
        try:
            kernels.choose(name, inputs.features, case.paired)
        except RuntimeError as error:
            missing[name] = str(error)
        else:
            found[name] = lambda i, n=name: fused(i, case.centering, case.paired, n)
    found["reference"] = lambda i: reference(i, case.centering, case.paired)
    found["naive"] = lambda i: baselines.naive(i, case.centering, case.paired)
    if not case.paired and case.centering == "image":
        found["corrcoef"] = baselines.corrcoef
    ways = {name: (penalty, inputs) for name, penalty in found.items()}
    if case.paired and case.centering == "channel":
        ways["paper scheme"] = (baselines.paper_scheme, inputs.halves())
    return ways, missing


def compiled_naive(case: Case, inputs: Inputs) -> Ways:
    """The plain formula compiled, at one N: compiling takes long."""
    if case.images != _COMPILED_IMAGES:
        return {}
    compiled = torch.compile(baselines.naive, dynamic=False)
    return {"torch.compile(naive)": (lambda i: compiled(i, case.centering, case.paired), inputs)}


def prepared(case: Case, inputs: Inputs, device: str) -> tuple[list[Candidate], dict[str, Any]]:
    """The candidates without the bounds, after a check of their numbers; and what is to be noted of them."""
    ways, missing = penalties(case, inputs)
    ways |= compiled_naive(case, inputs)
    found = errors(case, inputs, ways)
    check(case, found)
    racers = [candidate(name, *way) for name, way in ways.items()]
    memory = {c.name: round(peak_memory(c.run, device) / inputs.num_bytes, 3) for c in racers}
    return racers, {"case": vars(case), "errors": found, "missing": missing, "memory": memory}


def candidate(name: str, penalty: Penalty, inputs: Inputs) -> Candidate:
    """The penalty and its gradient with respect to features and layer logits."""
    return Candidate(
        name,
        {
            "forward": lambda _: penalty(inputs)[0],
            "backward": lambda loss: torch.autograd.grad(loss, inputs.leaves),
        },
    )


def floors(case: Case, inputs: Inputs) -> list[Candidate]:
    """Times that nothing can beat: passing over the features, and for all pairs the matrix products."""
    found = [
        Candidate(
            "memory floor",
            {"forward": lambda _: baselines.read_all(inputs), "backward": lambda _: baselines.write_all(inputs)},
        )
    ]
    if not case.paired:
        found.append(
            Candidate(
                "two matmuls",
                {
                    "forward": lambda _: baselines.gram_matrices(inputs),
                    "backward": lambda matrices: baselines.gram_gradients(inputs, matrices),
                },
            )
        )
    return found


def errors(case: Case, inputs: Inputs, ways: Ways) -> dict[str, dict[str, float]]:
    """Largest error of similarities, and of the gradient relative to its largest entry, against float64."""
    exact = inputs.double()
    loss, wanted = baselines.naive(exact, case.centering, case.paired)
    gradient = torch.autograd.grad(loss, exact.features)
    found = {}
    for name, (penalty, own) in ways.items():
        loss, layers = penalty(own)
        features = torch.autograd.grad(loss, own.features)
        if len(features) > len(gradient):  # halves
            features = [torch.cat(list(pair)) for pair in zip(features[::2], features[1::2], strict=True)]
        found[name] = {
            "similarity": float((layers - wanted).detach().abs().max()),
            "gradient": max(_relative_error(f, g) for f, g in zip(features, gradient, strict=True)),
        }
    return found


def _relative_error(values: Tensor, wanted: Tensor) -> float:
    return float((values - wanted).abs().max() / wanted.abs().max())


def check(case: Case, found: dict[str, dict[str, float]]) -> None:
    """No use in timing what is wrong."""
    for name, error in found.items():
        assert error["similarity"] <= _MOST_SIMILARITY_ERROR[case.dtype], (name, error)
        assert error["gradient"] <= _MOST_GRADIENT_ERROR[case.dtype], (name, error)
