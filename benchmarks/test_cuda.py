"""On NVIDIA GPUs: the similarity race, eager and as CUDA graphs, and ResNet50's training step at 224 x 224."""

import pytest
import torch
from cuda_graphs import launches, recorded
from harness import compare, peak_memory
from large_step import large_steps
from layer_sets import Case, make_inputs
from similarities import BASES, floors, prepared

pytestmark = pytest.mark.gpu
_CASES = [
    Case(layers, n, pairing, centering, dtype)
    for layers in ("CIFAR", "ImageNet")
    for n in (8, 32, 64, 128)
    for pairing, centering in (("pairs", "channel"), ("pairs", "image"), ("all", "image"))
    for dtype in ("float32", "bfloat16")
]
_DEFAULT = [c for c in _CASES if c.centering == ("channel" if c.paired else "image")]
_SMOKE = [Case("tiny", 8, pairing, "image", dtype) for pairing in ("pairs", "all") for dtype in ("float32", "bfloat16")]
_NOT_RECORDED = "torch.compile(naive)"  # the compiler may keep state that a graph cannot hold


@pytest.mark.sizes(smoke=_SMOKE, default=_DEFAULT, full=_CASES)
@pytest.mark.benchmark(group="similarity")
def test_similarity(benchmark, case, rounds, cuda):
    inputs = make_inputs(case, cuda)
    racers, noted = prepared(case, inputs, cuda)
    benchmark.extra_info.update(
        noted, launches={c.name: launches(c.run) for c in racers}, same_bits={c.name: same_bits(c) for c in racers}
    )
    everything = [*racers, *floors(case, inputs)]
    graphs = [recorded(c) for c in everything if c.name != _NOT_RECORDED]
    bases = [*BASES, *(f"{base}, graph" for base in BASES)]
    compare(benchmark, [*everything, *graphs], bases=bases, rounds=rounds(31), device=cuda, calls=20)


def same_bits(racer):
    """Whether five runs give the same gradients to the last bit."""
    first, *others = ([g.clone() for g in racer.run()] for _ in range(5))
    return all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


@pytest.mark.benchmark(group="large step")
def test_large_step(benchmark, rounds, cuda, request):
    batch = 8 if request.config.getoption("--sizes") == "smoke" else 256
    candidates = large_steps(batch)
    for racer in candidates:
        racer.run()
    memory = {c.name: peak_memory(c.run, cuda) for c in candidates}
    benchmark.extra_info.update(
        case={"model": "torchvision ResNet50, bfloat16, channels_last", "size": 224, "batch": batch},
        memory_ratio={name: round(value / memory["plain"], 3) for name, value in memory.items()},
    )
    compare(benchmark, candidates, bases=["plain"], rounds=rounds(9), device=cuda, calls=3)
