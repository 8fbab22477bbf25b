"""The training step inside ``torch.compile``: the same batch's similarities as part of the compiled loss."""

import pytest
import steps
import torch
from harness import compare
from steps import PLAIN, StepCase
from torch._dynamo.utils import counters

_SUBJECT = "same batch"


@pytest.mark.sizes(
    smoke=[StepCase(8, (), batch=8)], default=[StepCase(16, ())], full=[StepCase(16, ()), StepCase(64, ())]
)
@pytest.mark.benchmark(group="compiled step")
def test_compiled_step(benchmark, case, rounds):
    targets = 1.8 * torch.rand(case.batch // 2, generator=torch.Generator().manual_seed(0)) - 0.9
    makers = {
        _SUBJECT: lambda model: steps.same_batch(model, "pairs", targets),
        "same batch, naive": lambda model: steps.same_batch_naive(model, targets),
        PLAIN: steps.MODES[PLAIN],
    }
    candidates, graphs, missing = [], {}, {}
    for name, make in makers.items():
        candidate = steps.step(name, make, case.width, case.batch, compiled=True)
        try:
            graphs[name] = _graphs(candidate)
        except Exception as error:  # what a compiler may raise is open
            missing[name] = f"not available: {type(error).__name__}: {str(error).strip().splitlines()[0]}"
        else:
            candidates.append(candidate)
    benchmark.extra_info.update(case={"width": case.width, "batch": case.batch}, graphs=graphs, missing=missing)
    compare(benchmark, candidates, bases=[PLAIN], rounds=rounds(15))


def _graphs(candidate):
    """Compiled graphs and graph breaks of three steps."""
    before = _counted()
    for _ in range(3):
        candidate.run()
    return {name: number - before[name] for name, number in _counted().items()}


def _counted():
    return {"graphs": counters["stats"]["unique_graphs"], "breaks": sum(counters["graph_break"].values())}
