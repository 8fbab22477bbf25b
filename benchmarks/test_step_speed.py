"""The whole training step over the plain one: in each mode, by the number of pairs, inside ``torch.compile``."""

import pytest
import torch
from steps import LAYERS, MODES, PLAIN, check_gradients, resnet, separate, step, task_batch
from torch._dynamo.utils import counters

_OWN_PASS = {
    "separate, stem+layer1, early exit": "<= 1.22",
    "8 images, all pairs": "<= 1.20",
    "8 images, all pairs, early exit": "<= 1.08",
}
_GOALS = {  # by width
    16: {"same batch": "<= 1.04", "same batch, all pairs": "<= 1.08", **_OWN_PASS},
    64: {"same batch": "<= 1.02", **_OWN_PASS},
}
_ROUNDS = {8: 2, 16: 9, 64: 3}


def race_of_steps(compare, makers, case, goals):
    width, batch = case
    runs = {name: step(resnet(width=width), make, *task_batch(batch)) for name, make in makers.items()}
    compare(runs, [PLAIN], _ROUNDS[width], case={"width": width, "batch": batch}, goals=goals)


@pytest.mark.sizes(default=[(16, 64), (64, 64)], smoke=[(8, 8)])  # width, batch
@pytest.mark.benchmark(group="training step")
def test_step(compare, case):
    check_gradients()
    race_of_steps(compare, MODES, case, _GOALS.get(case[0], {}))


@pytest.mark.sizes(default=[(16, 64)], smoke=[(8, 8)])
@pytest.mark.benchmark(group="training step by the number of pairs, separate")
def test_step_by_pairs(compare, case):
    pairs = {f"k = {k}": k for k in (4, 8, 16, 32)}
    makers = {name: lambda model, k=k: separate(model, LAYERS, k) for name, k in pairs.items()}
    claims = {name: f"1 + 2k/B = {1 + 2 * k / case[1]:.3g}" for name, k in pairs.items()}
    race_of_steps(compare, {**makers, PLAIN: MODES[PLAIN]}, case, claims)


@pytest.mark.sizes(default=[(16, 64, "inductor")], smoke=[(8, 8, "eager")])
@pytest.mark.benchmark(group="training step in torch.compile")
def test_compiled_step(compare, case):
    width, batch, compiler = case
    runs, (x, y) = {}, task_batch(batch)
    for name in ("same batch", "same batch, naive", PLAIN):
        runs[name] = step(resnet(width=width), MODES[name], x, y, compiler=compiler)
        eager = step(resnet(width=width), MODES[name], x, y)
        counters.clear()
        torch.testing.assert_close(runs[name](), eager(), rtol=1e-4, atol=1e-5)
        for _ in range(3):
            runs[name]()
        assert not counters["graph_break"]
        assert counters["stats"]["unique_graphs"] == 1  # else it compiles anew in later steps
    compare(runs, [PLAIN], 11, case={"width": width, "batch": batch}, goals={"same batch": "<= 1.05"})
