"""The whole training step in each mode, over the plain step; and its growth with the number of pairs."""

import pytest
import steps
import torch
from harness import compare
from steps import MODES, PLAIN, StepCase

import simreg

_NARROW_ONLY = ("joint", "separate, stem+layer1", "same batch, naive", "same batch, all pairs")
_WIDE = tuple(mode for mode in MODES if mode not in _NARROW_ONLY)
_ROUNDS = {8: 2, 16: 9, 64: 3}
_SUBJECT = "same batch"


@pytest.mark.sizes(
    smoke=[StepCase(8, tuple(MODES), batch=8)],
    default=[StepCase(16, tuple(MODES)), StepCase(64, _WIDE)],
    full=[StepCase(16, tuple(MODES)), StepCase(64, tuple(MODES))],
)
@pytest.mark.benchmark(group="step")
def test_step(benchmark, case, rounds):
    check_gradients(case.width, case.batch)
    modes = sorted(case.modes, key=lambda mode: mode != _SUBJECT)
    _measure(benchmark, {m: MODES[m] for m in modes}, case, rounds(_ROUNDS[case.width]))


@pytest.mark.sizes(
    smoke=[StepCase(8, (), batch=8)],
    default=[StepCase(16, ())],
    full=[StepCase(16, ()), StepCase(64, ())],
)
@pytest.mark.benchmark(group="step by pairs")
def test_step_by_pairs(benchmark, case, rounds):
    kinds = {
        "separate": lambda model, k: steps.separate(model, steps.LAYERS, k),
        "stem+layer1, early exit": lambda model, k: steps.separate(model, steps.EARLY, k, early_exit=True),
        "paper scheme": steps.paper_scheme,
    }
    makers = {
        f"{kind}, k={k}": lambda model, make=make, k=k: make(model, k)
        for kind, make in kinds.items()
        for k in (4, 8, 16, 32)
    }
    _measure(benchmark, {**makers, PLAIN: MODES[PLAIN]}, case, rounds(_ROUNDS[case.width]))


def _measure(benchmark, makers, case, rounds):
    candidates = [steps.step(name, make, case.width, case.batch) for name, make in makers.items()]
    surveys = {c.name: steps.survey(c) for c in candidates}
    flops, memory = surveys[PLAIN]
    benchmark.extra_info.update(
        case={"width": case.width, "batch": case.batch},
        flop_ratio={name: round(found[0] / flops, 3) for name, found in surveys.items()},
        memory_ratio={name: round(found[1] / memory, 3) for name, found in surveys.items()},
        memory_over_features={
            name: round((found[1] - memory) / steps.feature_bytes(case.width, case.batch), 3)
            for name, found in surveys.items()
        },
    )
    compare(benchmark, candidates, bases=[PLAIN], rounds=rounds)


def check_gradients(width, batch):
    """simreg's steps have the gradient of the plain formulas."""
    same = lambda model: steps.same_batch(model, "pairs")  # noqa: E731
    agree(same, steps.same_batch_naive, width, batch)
    agree(official, lambda model: steps.paper_scheme(model, 4), width, batch)


def official(model):
    """simreg's rendering of the paper's scheme, on the images that ours draws."""
    reg = simreg.SimilarityRegularizer(model, steps.LAYERS, alpha=steps.ALPHA, batch_norm="official")
    batch = next(steps.pair_batches(4))
    inputs = simreg.PairBatch(steps.model_input(batch.images), batch.targets)
    return lambda model, x, y: steps.plain(model, x, y) + reg(inputs), []


def agree(first, second, width, batch):
    with_penalty, wanted, without = (
        torch.cat([g.flatten() for g in steps.gradients(make, width, batch)]) for make in (first, second, MODES[PLAIN])
    )
    error = (with_penalty - wanted).norm() / (wanted - without).norm()
    assert error < 0.02, float(error)
