from __future__ import annotations

import functools
import math
import sys

import pytest
import torch
from torch import nn

from simreg.robustness import Classifier, boundary_attack

foolbox = pytest.importorskip("foolbox")

D = 36


def linear_problem(n=12, seed=0):
    """A two-class linear model, images, and each image's exact squared L2 distance per pixel to the boundary."""
    g = torch.Generator().manual_seed(seed)
    images = 0.3 + 0.4 * torch.rand(n, 1, 6, 6, generator=g)
    w = torch.randn(D, generator=g)
    w /= w.norm()
    model = nn.Sequential(nn.Flatten(), nn.Linear(D, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.stack([torch.zeros(D), w]))
        model[1].bias.copy_(torch.tensor([0.0, -(images.flatten(1) @ w).mean().item()]))
    margin = images.flatten(1) @ w + model[1].bias[1].detach()
    return model, images, margin.square() / D


class Count:
    """A model that counts its rows."""

    def __init__(self, model):
        self.model, self.rows, self.calls = model, 0, 0

    def __call__(self, x):
        self.rows, self.calls = self.rows + len(x), self.calls + 1
        return self.model(x)


def test_long_attack_comes_within_two_percent_of_the_exact_distance():
    model, images, exact = linear_problem(n=24)
    result = boundary_attack(model, images, steps=5000)
    ratio = (torch.tensor(result.distances) / exact).sqrt()
    assert (ratio >= 1 - 1e-4).all()  # never below the true distance
    assert ratio.median() < 1.02
    assert ratio.quantile(0.95) < 1.05
    assert result.statuses == ("ok",) * 24


def test_distances_are_those_of_the_returned_images_and_all_are_adversarial():
    model, images, _ = linear_problem()
    result = boundary_attack(model, images, steps=30)
    adversarials = result.adversarials
    assert ((adversarials >= 0) & (adversarials <= 1)).all()
    classifier = Classifier(model)
    assert (classifier.predict(adversarials) != classifier.predict(images)).all()
    measured = (adversarials - images).square().sum(dim=(1, 2, 3)) / D
    torch.testing.assert_close(torch.tensor(result.distances), measured)
    assert result.median == pytest.approx(measured.sort().values[5:7].mean().item(), rel=1e-5)


def test_all_channels_are_measured():
    def last_channel(x):
        m = x[:, 2].mean(dim=(1, 2))
        return torch.stack([0.4 - m, m - 0.4], dim=1)

    images = 0.3 + 0.4 * torch.rand(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    result = boundary_attack(last_channel, images, steps=20)
    assert result.failures == 0
    measured = (result.adversarials - images).square().sum(dim=(1, 2, 3)) / 27
    assert (measured > (result.adversarials - images)[:, 0].square().sum(dim=(1, 2)) / 9).any()
    torch.testing.assert_close(torch.tensor(result.distances), measured)


def test_batches_give_what_single_images_give():
    model, images, _ = linear_problem()
    together = boundary_attack(model, images, steps=60, repeats=2)
    alone = boundary_attack(model, images, steps=60, repeats=2, batch_size=1)
    uneven = boundary_attack(model, images, steps=60, repeats=2, batch_size=5)
    torch.testing.assert_close(torch.tensor(together.distances), torch.tensor(alone.distances), rtol=1e-3, atol=0)
    torch.testing.assert_close(torch.tensor(together.distances), torch.tensor(uneven.distances), rtol=1e-3, atol=0)
    assert together.queries == alone.queries


def test_foolbox_is_called_once_per_batch():
    model, images, _ = linear_problem()
    counted = Count(model)
    boundary_attack(counted, images, steps=50, blend_steps=1, directions=1)
    # prediction, noise, start, 50 steps, 5 second looks, final check
    assert counted.calls <= 1 + 1 + 1 + 50 + 5 + 1 + 2


def test_queries_are_counted_by_image():
    model, images, _ = linear_problem()
    counted = Count(model)
    result = boundary_attack(counted, images, steps=40, repeats=2)
    assert sum(result.queries) + result.settings["start_image_queries"] == counted.rows
    assert result.mean_queries == pytest.approx(sum(result.queries) / 12)


def test_curve_falls_from_the_start_to_the_result():
    model, images, _ = linear_problem()
    result = boundary_attack(model, images, steps=45, convergence_every=20)
    assert result.curve_steps == (0, 20, 40, 45)
    assert list(result.curve_medians) == sorted(result.curve_medians, reverse=True)
    assert result.curve_medians[0] == result.start_median > result.curve_medians[-1]
    assert result.curve_medians[-1] == pytest.approx(result.median)
    short = boundary_attack(model, images, steps=20)
    assert short.median == pytest.approx(result.curve_medians[1])  # a longer run goes through the shorter one


def test_curve_counts_the_queries_of_starts_and_of_every_repeat():
    model, images, _ = linear_problem()
    counted = Count(model)
    result = boundary_attack(counted, images, steps=25, repeats=2, convergence_every=10)
    assert result.curve_steps == (0, 10, 20, 25)
    start, tenth, twentieth, last = result.curve_queries
    # foolbox asks once in each step, and once more after each tenth step
    assert tenth - start == 2 * 10
    assert twentieth - tenth == 2 * (10 + 1)
    assert last == result.mean_queries == (counted.rows - result.settings["start_image_queries"]) / 12
    assert len(result.curves) == len(result.repeat_distances) == 12
    assert [row[-1] for row in result.curves] == list(result.distances)
    assert [min(row) for row in result.repeat_distances] == list(result.distances)


def test_failed_images_count_in_the_curve_with_what_they_took():
    images = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    result = boundary_attack(lambda x: torch.tensor([[1.0, 0.0]]).expand(len(x), 2), images, steps=5, directions=3)
    assert set(result.curve_queries) == {4.0}
    assert set(result.curve_medians) == {math.inf}


def test_images_start_by_their_index_in_the_whole_set():
    model, images, _ = linear_problem()
    same = images[:1].expand(6, 1, 6, 6).contiguous()
    whole = boundary_attack(model, same, steps=1)
    part = boundary_attack(model, same[:3], steps=1, first_index=3)
    starts = [row[0] for row in whole.curves]
    assert len(set(starts)) > 1
    assert [row[0] for row in part.curves] == starts[3:]
    assert part.settings["first_index"] == 3


def test_foolbox_does_not_stop_early_when_a_whole_batch_has_converged(monkeypatch):
    """That would make an image's result and queries depend on its batch."""
    attack = functools.partial(foolbox.attacks.BoundaryAttack, source_step=1e-9)  # converged from the start
    monkeypatch.setattr(foolbox.attacks, "BoundaryAttack", attack)
    model, images, _ = linear_problem()
    result = boundary_attack(model, images, steps=20, convergence_every=10)
    taken = result.curve_queries[2] - result.curve_queries[0]
    assert taken == pytest.approx(20 + 2 + 1)  # two second looks and the final check


def test_an_answer_that_rounding_took_back_costs_a_little_length():
    class Rounding:
        """At the final check it puts the boundary a little farther away."""

        def __init__(self, last=math.inf):
            self.calls, self.last = 0, last

        def __call__(self, x):
            self.calls += 1
            m = x.mean(dim=(1, 2, 3)) - (0.5 if self.calls < self.last else 0.5003)
            return torch.stack([-m, m], dim=1)

    images = torch.full((2, 1, 4, 4), 0.45)
    honest = Rounding()
    before = boundary_attack(honest, images, steps=1500)
    after = boundary_attack(Rounding(last=honest.calls), images, steps=1500)
    assert after.statuses == ("ok", "ok")
    assert all(1 < a / b < 1.021 for a, b in zip(after.distances, before.distances, strict=True))
    assert [row[-1] for row in after.curves] == list(after.distances)
    assert all(a > b for a, b in zip(after.queries, before.queries, strict=True))


def test_repeats_keep_the_closest():
    model, images, _ = linear_problem()
    once = boundary_attack(model, images, steps=20)
    thrice = boundary_attack(model, images, steps=20, repeats=3)
    assert all(a <= b for a, b in zip(thrice.distances, once.distances, strict=True))
    assert thrice.median < once.median
    assert len(thrice.repeat_medians) == 3
    assert thrice.repeat_medians[0] == pytest.approx(once.median)
    assert thrice.median <= min(thrice.repeat_medians)


def test_constant_classifier_fails_everywhere_and_stays_counted():
    images = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    result = boundary_attack(lambda x: torch.tensor([[1.0, 0.0]]).expand(len(x), 2), images, steps=5, directions=3)
    assert result.statuses == ("no_start",) * 5
    assert (result.n, result.failed_starts, result.failures, result.median) == (5, 5, 5, math.inf)
    assert result.starts == ("none",) * 5
    assert result.adversarials.isnan().all()
    assert set(result.queries) == {4}  # one prediction and three directions
    assert result.settings["start_image_queries"] == 5


def brightness(x):
    """Class 1 above a mean of 0.9, which uniform noise never reaches."""
    m = x.mean(dim=(1, 2, 3))
    return torch.stack([0.9 - m, m - 0.9], dim=1)


def test_other_classes_images_serve_where_noise_finds_no_start():
    dark = torch.full((3, 1, 8, 8), 0.2)
    bright = torch.stack([torch.full((1, 8, 8), 0.95), torch.full((1, 8, 8), 1.0)])
    without = boundary_attack(brightness, dark, steps=10, directions=5)
    assert without.failed_starts == 3
    result = boundary_attack(brightness, dark, start_images=torch.cat([dark, bright]), steps=10, directions=5)
    assert result.statuses == ("ok",) * 3
    assert result.starts == ("image",) * 3
    # the start lies on the line to the nearest bright image, at most one blend step behind the boundary
    grid = 0.75 / 50
    assert 0.7**2 <= result.start_median <= (0.7 + grid + 1e-4) ** 2


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_nearest_start_image_is_taken(order):
    def corner(x):
        m = x[:, :, :2, :2].mean(dim=(1, 2, 3))
        return torch.stack([0.97 - m, m - 0.97], dim=1)

    dark = torch.full((1, 1, 8, 8), 0.2)
    near = dark.clone()
    near[..., :2, :2] = 1.0
    pool = torch.cat([torch.ones(1, 1, 8, 8), near])[list(order)]
    result = boundary_attack(corner, dark, start_images=pool, steps=1, directions=3)
    assert result.starts == ("image",)
    assert result.start_median <= 0.8**2 * 4 / 64 + 1e-6


def test_failures_count_in_the_median_of_a_mixed_batch():
    def model(x):  # images with a white corner are put in class 0 whatever happens to the rest
        m = x[:, :, 1:].mean(dim=(1, 2, 3))
        return torch.stack([m.new_zeros(len(x)), m - 0.5], dim=1)

    images = torch.full((4, 1, 6, 6), 0.3)
    images[:3] = 0.45
    result = boundary_attack(model, images, steps=20)
    assert result.failures == 0
    stubborn = boundary_attack(Stubborn(), images, steps=20, directions=5)
    assert stubborn.statuses == ("no_start", "no_start", "ok", "no_start")
    assert stubborn.median == math.inf
    assert stubborn.distances[2] < math.inf


class Stubborn:
    """Answers by brightness for the third image of the first call, and class 0 for anything else."""

    def __init__(self):
        self.first = True

    def __call__(self, x):
        logits = torch.stack([torch.ones(len(x)), torch.zeros(len(x))], dim=1)
        if len(x) == 4:
            logits[2] = torch.tensor([0.0, 1.0]) if self.first else torch.tensor([1.0, 0.0])
            self.first = False
        return logits


def test_start_images_come_from_the_attacked_images_by_default():
    images = torch.cat([torch.full((2, 1, 8, 8), 0.2), torch.full((1, 1, 8, 8), 0.97)])
    result = boundary_attack(brightness, images, steps=5, directions=3)
    assert result.failures == 0
    assert result.starts == ("image", "image", "noise")


def test_images_that_lose_their_answer_are_reported():
    class Fickle:
        """Says class 1 only during the attack, class 0 when asked again at the end."""

        def __init__(self):
            self.calls = 0

        def __call__(self, x):
            self.calls += 1
            second = 1.0 if 1 < self.calls <= 9 else -1.0
            return torch.tensor([[0.0, second]]).expand(len(x), 2)

    images = torch.full((2, 1, 4, 4), 0.4)
    # calls: prediction, noise, one blend step, start, five steps, final check
    result = boundary_attack(Fickle(), images, steps=5, blend_steps=2)
    assert result.statuses == ("not_adversarial",) * 2
    assert (result.failures, result.failed_starts, result.median) == (2, 0, math.inf)


def test_seed_decides_and_global_generator_is_left_alone():
    model, images, _ = linear_problem()
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    first = boundary_attack(model, images, steps=20)
    assert torch.equal(torch.rand(2), wanted)
    assert boundary_attack(model, images, steps=20) == first
    assert boundary_attack(model, images, steps=20, seed=1).distances != first.distances


def test_modes_and_gradients_are_left_alone():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 3)
    ).train()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    boundary_attack(model, linear_problem()[1], steps=5)
    assert all(m.training for m in model.modules())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_raw_uint8_images_are_attacked_as_floats():
    model, images, _ = linear_problem()
    raw = (images * 255).round().to(torch.uint8)
    assert boundary_attack(model, raw, steps=5) == boundary_attack(model, raw.float() / 255, steps=5)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"steps": 0}, ValueError, "steps must be at least 1"),
        ({"repeats": 1.5}, TypeError, "repeats must be an integer"),
        ({"convergence_every": 0}, ValueError, "convergence_every"),
        ({"directions": 0}, ValueError, "directions"),
        ({"seed": "0"}, TypeError, "seed must be an integer"),
        ({"start_images": torch.rand(2, 3, 6, 6)}, ValueError, "start_images must have the shape of the images"),
        ({"start_images": 2 * torch.ones(2, 1, 6, 6)}, ValueError, r"start_images must lie in \[0, 1\]"),
    ],
)
def test_bad_boundary_options_are_named(options, error, words):
    model, images, _ = linear_problem()
    with pytest.raises(error, match=words):
        boundary_attack(model, images, **options)
    with pytest.raises(ValueError, match=r"images must lie in \[0, 1\]"):
        boundary_attack(model, images - 0.5)


def test_missing_foolbox_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "foolbox", None)
    model, images, _ = linear_problem()
    with pytest.raises(ImportError, match=r"simreg\[attacks\]"):
        boundary_attack(model, images)
