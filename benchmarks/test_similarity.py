"""L_sim of given features, forward and backward: simreg's backends, plain formulas, the paper's, lower bounds."""

import pytest
from harness import compare
from layer_sets import Case, make_inputs
from similarities import BASES, floors, prepared

_PAIRS = [(n, c) for n in (8, 16, 32, 64, 128) for c in ("image", "channel")]
_ALL = [(8, "image"), (16, "image"), *((n, c) for n in (32, 64, 128) for c in ("image", "batch", "channel"))]
DEFAULT = [
    *(Case("CIFAR", n, "pairs", c) for n, c in _PAIRS),
    *(Case("ImageNet", n, "pairs", c) for n, c in ((32, "image"), (32, "channel"), (128, "channel"))),
    *(Case("CIFAR", n, "all", c) for n, c in _ALL),
    *(Case("ImageNet", n, "all", c) for n, c in ((32, "image"), (32, "batch"), (128, "image"))),
]
FULL = [
    Case(layers, n, pairing, centering)
    for layers in ("CIFAR", "ImageNet")
    for pairing in ("pairs", "all")
    for n in (8, 16, 32, 64, 128)
    for centering in ("none", "image", "batch", "channel")
]
SMOKE = [Case("tiny", 8, pairing, "channel") for pairing in ("pairs", "all")]
_ROUNDS = {8: 21, 16: 21, 32: 21, 64: 13, 128: 9}


@pytest.mark.sizes(smoke=SMOKE, default=DEFAULT, full=FULL)
@pytest.mark.benchmark(group="similarity")
def test_similarity(benchmark, case, rounds):
    inputs = make_inputs(case)
    racers, noted = prepared(case, inputs, "cpu")
    benchmark.extra_info.update(noted)
    compare(benchmark, [*racers, *floors(case, inputs)], bases=BASES, rounds=rounds(_ROUNDS[case.images]))
