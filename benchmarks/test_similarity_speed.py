"""L_sim of given features, forward and backward: simreg's backends, plain formulas, the paper's, lower bounds."""

import pytest
from similarities import BASES, Case, contest

_DEFAULT = [
    *(
        Case("CIFAR", n, pairing, centering)
        for pairing in ("pairs", "all")
        for n in (8, 32, 64, 128)
        for centering in ("channel", "batch", "image", "none")
    ),
    Case("ImageNet", 32, "pairs", "channel"),
    Case("ImageNet", 128, "pairs", "channel"),
    Case("ImageNet", 32, "all", "image"),
]
_ROUNDS = {8: 9, 32: 9, 64: 5, 128: 4}
_GOALS = {"pairs": {32: ">= 3", 64: ">= 3", 128: ">= 3"}, "all": {32: ">= 2.5", 128: ">= 2"}}  # over naive


@pytest.mark.sizes(default=_DEFAULT, smoke=[Case("tiny", 8, "pairs", "channel"), Case("tiny", 8, "all", "image")])
@pytest.mark.benchmark(group="similarity")
def test_similarity(compare, case):
    candidates, noted = contest(case, ("torch", "reference"))
    compare(candidates, BASES, _ROUNDS[case.images], goal=_GOALS[case.pairing].get(case.images), **noted)
