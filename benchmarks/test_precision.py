"""Errors of similarities and gradients against float64, on features with large means among others."""

import pytest
from layer_sets import Case, make_inputs
from similarities import errors, penalties

_OFFSETS = (0.0, 10.0, 100.0, 1000.0)  # in standard deviations; 0: rectified features as they are
_CASES = [Case("CIFAR", 32, pairing, centering) for pairing in ("pairs", "all") for centering in ("image", "channel")]


@pytest.mark.parametrize("offset", _OFFSETS)
@pytest.mark.sizes(smoke=[Case("tiny", 8, "pairs", "image")], default=_CASES, full=_CASES)
@pytest.mark.benchmark(group="precision")
def test_precision(benchmark, case, offset):
    inputs = make_inputs(case, offset=offset)
    ways, missing = penalties(case, inputs)
    found = benchmark.pedantic(errors, args=(case, inputs, ways))
    benchmark.extra_info.update(case={**vars(case), "offset": offset}, errors=found, missing=missing)
