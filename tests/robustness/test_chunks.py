"""An evaluation in parts must be the evaluation of all images."""

from __future__ import annotations

import itertools
import json
from functools import cache

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from simreg.robustness import (
    BoundaryResult,
    Surrogate,
    Sweep,
    boundary_attack,
    fgsm_sweep,
    noise_sweep,
    pgd,
    pgd_accuracy,
)
from simreg.robustness.hop_skip_jump import hop_skip_jump
from simreg.robustness.square import square, square_sweep
from simreg.robustness.transfer import transfer_pgd_sweep, transfer_sweep

N = 7
examples = settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
cuts = st.sets(st.integers(1, N - 1), max_size=3).map(lambda found: [0, *sorted(found), N])


class Bands(nn.Module):
    """Three classes, curved boundaries; float64 inside, so that no batch size shows in the answers."""

    def __init__(self, seed=0):
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.register_buffer("w", torch.randn(3, 48, generator=g, dtype=torch.float64))

    def forward(self, x):
        flat = x.double().flatten(1) - 0.5
        linear = (flat[:, None] * self.w[None]).sum(dim=2)
        return linear + 0.5 * torch.sin(3 * linear.roll(1, dims=1))


class Plain(nn.Module):
    """``Bands`` without a parameter or buffer that would make the classifier cast the images."""

    def __init__(self):
        super().__init__()
        self.bands = [Bands()]

    def forward(self, x):
        return self.bands[0](x)


MODEL, SURROGATE = Plain(), Surrogate(Bands(1), name="bands")


@cache
def problem():
    g = torch.Generator().manual_seed(3)
    images = 0.2 + 0.6 * torch.rand(N, 3, 4, 4, generator=g)
    labels = MODEL(images).argmax(dim=1)
    labels[::4] = (labels[::4] + 1) % 3  # some are misclassified from the start
    return images, labels


SWEEPS = {
    "gaussian": lambda x, y, **o: noise_sweep(MODEL, x, y, "gaussian", [0.0, 0.1, 0.3], **o),
    "salt_and_pepper": lambda x, y, **o: noise_sweep(MODEL, x, y, "salt_and_pepper", [0.2], **o),
    "fgsm": lambda x, y, **o: fgsm_sweep(MODEL, x, y, [0.0, 0.05, 0.1], **o),
    "fgsm l2": lambda x, y, **o: fgsm_sweep(MODEL, x, y, [0.2], norm="l2", **o),
    "pgd": lambda x, y, **o: pgd_accuracy(MODEL, x, y, [0.02, 0.05], steps=3, restarts=2, **o),
    "pgd l2": lambda x, y, **o: pgd_accuracy(MODEL, x, y, [0.1, 0.2], steps=3, norm="l2", **o),
    "transferred fgsm": lambda x, y, **o: transfer_sweep(MODEL, SURROGATE, x, y, [0.05, 0.2], **o),
    "transferred pgd": lambda x, y, **o: transfer_pgd_sweep(MODEL, SURROGATE, x, y, [0.05, 0.2], steps=3, **o),
    "square": lambda x, y, **o: square_sweep(MODEL, x, y, [0.0, 0.04], max_queries=110, **o),
    "square l2": lambda x, y, **o: square_sweep(MODEL, x, y, [0.3], norm="l2", max_queries=110, **o),
}


@cache
def whole_sweep(name):
    return SWEEPS[name](*problem())


@pytest.mark.parametrize("name", SWEEPS)
@examples
@given(cuts=cuts, batch_size=st.sampled_from([1, 2, 5, 256]), through_json=st.booleans())
def test_joined_sweep_is_the_sweep_over_all_images(name, cuts, batch_size, through_json):
    images, labels = problem()
    parts = [
        SWEEPS[name](images[a:b], labels[a:b], batch_size=batch_size, first_index=a)
        for a, b in itertools.pairwise(cuts)
    ]
    if through_json:
        parts = [Sweep.from_dict(json.loads(json.dumps(part.to_dict()))) for part in parts]
    assert Sweep.join(parts) == whole_sweep(name)


@pytest.mark.parametrize(
    "attack",
    [
        lambda x, y, **o: pgd(MODEL, x, y, 0.001, steps=1, step_size=0.0002, **o),  # remembers its random start
        lambda x, y, **o: square(MODEL, x, y, 0.001, max_queries=2, **o),
    ],
)
def test_images_draw_by_their_index_in_the_whole_set(attack):
    images, _ = problem()
    labels = MODEL(images).argmax(dim=1)
    whole = attack(images, labels)
    assert torch.equal(attack(images[3:5], labels[3:5], first_index=3), whole[3:5])
    assert not torch.allclose(attack(images[3:5], labels[3:5]), whole[3:5], atol=1e-5, rtol=0)


DISTANCES = {
    "hopskipjump": lambda x, pool, **o: hop_skip_jump(MODEL, x, max_queries=200, start_images=pool, **o),
    "hopskipjump linf": lambda x, pool, **o: hop_skip_jump(
        MODEL, x, norm="linf", max_queries=120, repeats=2, start_images=pool, **o
    ),
}


@cache
def whole_distances(name):
    return DISTANCES[name](problem()[0], problem()[0])


@pytest.mark.parametrize("name", DISTANCES)
@examples
@given(cuts=cuts, batch_size=st.sampled_from([1, 4, 7, 128]), through_json=st.booleans())
def test_joined_distances_are_those_over_all_images(name, cuts, batch_size, through_json):
    images, _ = problem()
    parts = [
        DISTANCES[name](images[a:b], images, batch_size=batch_size, first_index=a) for a, b in itertools.pairwise(cuts)
    ]
    whole, joined = whole_distances(name), BoundaryResult.join(parts)
    assert torch.equal(joined.adversarials, whole.adversarials)
    if through_json:
        joined = BoundaryResult.join([BoundaryResult.from_dict(json.loads(json.dumps(p.to_dict()))) for p in parts])
        assert joined.adversarials is None
    searched = joined.settings.pop("start_image_queries"), whole.settings["start_image_queries"]
    assert searched[0] >= searched[1]  # each part asks about its start images once more
    joined.settings["start_image_queries"] = searched[1]
    assert joined == whole


def boundary(x, pool, **options):
    return boundary_attack(MODEL, x, start_images=pool, steps=21, repeats=2, **options)


@pytest.mark.parametrize("size", [1, 3])
def test_boundary_attack_in_parts_of_whole_batches_is_the_same_to_the_bit(size):
    pytest.importorskip("foolbox")
    images, _ = problem()
    whole = boundary(images, images, batch_size=size)
    parts = [boundary(images[i : i + size], images, batch_size=size, first_index=i) for i in range(0, N, size)]
    joined = BoundaryResult.join(parts)
    assert torch.equal(joined.adversarials, whole.adversarials)
    assert joined == whole


@examples
@given(cuts=cuts)
def test_boundary_attack_in_any_parts_starts_alike_and_ends_alike_but_for_rounding(cuts):
    pytest.importorskip("foolbox")
    images, _ = problem()
    whole = boundary(images, images)
    parts = [boundary(images[a:b], images, first_index=a) for a, b in itertools.pairwise(cuts)]
    joined = BoundaryResult.join(parts)
    assert [row[0] for row in joined.curves] == [row[0] for row in whole.curves]
    assert (joined.starts, joined.statuses, joined.queries) == (whole.starts, whole.statuses, whole.queries)
    assert joined.distances == pytest.approx(whole.distances, rel=1e-3)
    assert joined.curve_medians == pytest.approx(whole.curve_medians, rel=1e-3)
    assert joined.curve_queries == whole.curve_queries


@given(
    counts=st.lists(st.tuples(st.integers(1, 500), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=5),
    epsilons=st.integers(1, 3),
)
def test_joined_shares_are_those_of_all_images_to_the_bit(counts, epsilons):
    correct = [(n, round(p * n), round(q * n * epsilons)) for n, p, q in counts]
    names = tuple(range(epsilons))
    parts = [
        Sweep("pgd", names, (c / n,) * epsilons, n, 0, {"zero_gradient_share": z / (n * epsilons)})
        for n, c, z in correct
    ]
    joined, n = Sweep.join(parts), sum(n for n, _, _ in correct)
    assert joined.n == n
    assert set(joined.accuracies) == {sum(c for _, c, _ in correct) / n}
    assert joined.settings["zero_gradient_share"] == sum(z for _, _, z in correct) / (n * epsilons)


def part(**changes):
    fields = {"name": "pgd", "epsilons": (0.1,), "accuracies": (0.5,), "n": 4, "seed": 0}
    settings = {"steps": 10, "max_perturbation": [0.1], **changes.pop("settings", {})}
    return Sweep(**{**fields, **changes}, settings=settings)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"name": "fgsm"}, "disagree on name: 'pgd' in the first, 'fgsm' in part 2"),
        ({"seed": 1}, "disagree on seed"),
        ({"epsilons": (0.2,)}, "disagree on epsilons"),
        ({"settings": {"steps": 20}}, r"disagree on settings\['steps'\]: 10 in the first, 20 in part 2"),
        ({"settings": {"norm": "l2"}}, "disagree on the names of their settings"),
        ({"settings": {"first_index": 5}}, "not consecutive: part 1 ends at image 4, part 2 starts at 5"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(other, words):
    with pytest.raises(ValueError, match=words):
        Sweep.join([part(), part(**other)])


def test_parts_that_were_left_out_or_swapped_are_noticed():
    parts = [part(settings={"first_index": i}) for i in (0, 4, 8)]
    assert Sweep.join(parts).n == 12
    assert Sweep.join(parts[1:]).settings["first_index"] == 4
    for wrong in (parts[::2], parts[::-1], [parts[0], parts[1], parts[1]]):
        with pytest.raises(ValueError, match="not consecutive"):
            Sweep.join(wrong)


def test_join_takes_the_largest_perturbation_and_weighs_shares_by_images():
    settings = {"zero_gradient_share": 0.25, "by_loss_accuracy": {"ce": [0.5], "dlr": [0.25]}}
    first = part(settings=settings)
    second = part(
        n=12, accuracies=(0.75,), settings={**settings, "max_perturbation": [0.3], "zero_gradient_share": 0.5}
    )
    joined = Sweep.join([first, second])
    assert joined.accuracies == (11 / 16,)
    assert joined.settings["max_perturbation"] == [0.3]
    assert joined.settings["zero_gradient_share"] == 7 / 16
    assert joined.settings["by_loss_accuracy"] == {"ce": [0.5], "dlr": [0.25]}


@pytest.mark.parametrize("kind", [Sweep, BoundaryResult])
def test_join_wants_results_of_its_kind(kind):
    with pytest.raises(ValueError, match="parts is empty"):
        kind.join([])
    with pytest.raises(TypeError, match="parts must hold"):
        kind.join([3])
    one = part() if kind is Sweep else BoundaryResult((0.1,), ("ok",), (3,), ("noise",), 5, 1, 0)
    with pytest.raises(TypeError, match="parts must be a sequence"):
        kind.join(one)


def test_parts_without_what_join_needs_say_so():
    images, labels = problem()
    result = whole_distances("hopskipjump")
    with pytest.raises(ValueError, match=r"part 1 lacks curves.*to_dict\(curves=False\)"):
        BoundaryResult.join([BoundaryResult.from_dict(result.to_dict(curves=False))])
    sweep = square_sweep(MODEL, images, labels, 0.05, max_queries=5)
    assert "queries" not in sweep.to_dict(curves=False)["settings"]
    with pytest.raises(ValueError, match=r"lack the queries.*to_dict\(curves=False\)"):
        Sweep.join([Sweep.from_dict(sweep.to_dict(curves=False))])


@pytest.mark.parametrize("name", [*SWEEPS, *DISTANCES])
def test_bad_first_index_is_named(name):
    run = {**SWEEPS, **DISTANCES}[name]
    with pytest.raises(ValueError, match="first_index must be at least 0"):
        run(*problem() if name in SWEEPS else (problem()[0], problem()[0]), first_index=-1)
