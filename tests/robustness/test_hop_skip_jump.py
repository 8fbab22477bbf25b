from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from simreg.robustness import BoundaryResult, Classifier
from simreg.robustness._boundary import LENGTHENED, confirm
from simreg.robustness.hop_skip_jump import hop_skip_jump

D = 36


def linear_problem(n=40, classes=2, seed=0):
    """A linear model, images away from the bounds of the range, and each image's margin to every other class."""
    g = torch.Generator().manual_seed(seed)
    images = 0.4 + 0.2 * torch.rand(n, 1, 6, 6, generator=g)
    w = torch.randn(classes, D, generator=g)
    model = nn.Sequential(nn.Flatten(), nn.Linear(D, classes))
    with torch.no_grad():
        model[1].weight.copy_(w)
        model[1].bias.copy_(-(images.flatten(1) @ w.T).mean(dim=0))
        logits = model(images)
    labels = logits.argmax(dim=1)
    margins = logits.gather(1, labels[:, None]) - logits  # (n, K), zero at the label
    normals = w[labels][:, None] - w[None]  # (n, K, D)
    return model, images, labels, margins, normals


class Count:
    """A model that counts its rows, and remembers the largest call."""

    def __init__(self, model):
        self.model, self.rows, self.largest = model, 0, 0

    def __call__(self, x):
        self.rows, self.largest = self.rows + len(x), max(self.largest, len(x))
        return self.model(x)


@pytest.mark.parametrize(("norm", "max_queries"), [("l2", 3000), ("linf", 7000)])
def test_distance_comes_within_two_percent_of_the_exact_margin(norm, max_queries):
    model, images, _, margins, normals = linear_problem()
    dual = normals.norm(dim=2) if norm == "l2" else normals.abs().sum(dim=2)
    exact = margins.sum(dim=1) / dual.amax(dim=1)  # one of the two entries is the label's own, and zero
    result = hop_skip_jump(model, images, norm=norm, max_queries=max_queries)
    distances = torch.tensor(result.distances)
    ratio = (distances * D).sqrt() / exact if norm == "l2" else distances / exact
    assert ratio.min() >= 1 - 1e-4  # never below the true distance
    assert ratio.median() < 1.02
    assert ratio.quantile(0.95) < 1.05
    assert result.statuses == ("ok",) * 40


def test_each_of_ten_classes_boundaries_is_measured_right():
    """The attack ends at some class's boundary, which need not be the nearest: its own distance is what can be exact."""
    model, images, labels, margins, normals = linear_problem(classes=10)
    result = hop_skip_jump(model, images, max_queries=3000)
    ends = Classifier(model).predict(result.adversarials)
    assert (ends != labels).all()
    rows = torch.arange(len(images))
    exact = margins[rows, ends] / normals.norm(dim=2)[rows, ends]
    ratio = (torch.tensor(result.distances) * D).sqrt() / exact
    assert ratio.min() >= 1 - 1e-4
    assert ratio.median() < 1.03
    nearest = (margins / normals.norm(dim=2).clamp_min(1e-9)).scatter(1, labels[:, None], math.inf).amin(dim=1)
    assert ((torch.tensor(result.distances) * D).sqrt() >= nearest * (1 - 1e-4)).all()


def test_logits_in_reduced_precision_do_not_lead_astray():
    """Directions far below the model's rounding get random answers: the paper's lengths would end 60 % too far away."""
    model, images, _, margins, normals = linear_problem(n=20)

    def rough(x):  # an error that depends on the bits of the image, as rounding does
        logits = model(x)
        error = 2**-10 * torch.sin(7e4 * x.flatten(1).sum(dim=1))
        return torch.stack([logits[:, 0] - logits[:, 1], logits[:, 1] - logits[:, 0] + error], dim=1)

    exact = margins.sum(dim=1) / normals.abs().sum(dim=2).amax(dim=1)
    ratio = torch.tensor(hop_skip_jump(rough, images, norm="linf", max_queries=2000).distances) / exact
    assert ratio.median() < 1.1
    assert ratio.max() < 1.25


@pytest.mark.slow
def test_longer_runs_come_as_near_with_more_values():
    g = torch.Generator().manual_seed(0)
    images = 0.4 + 0.2 * torch.rand(40, 3, 8, 8, generator=g)
    w = torch.randn(192, generator=g)
    w /= w.norm()
    margin = (images.flatten(1) - images.flatten(1).mean(dim=0)) @ w
    offset = images.flatten(1).mean(dim=0) @ w
    result = hop_skip_jump(
        lambda x: torch.stack([offset - x.flatten(1) @ w, x.flatten(1) @ w - offset], 1), images, max_queries=15_000
    )
    ratio = (torch.tensor(result.distances) * 192).sqrt() / margin.abs()
    assert ratio.median() < 1.02
    assert ratio.quantile(0.95) < 1.05


def test_is_as_near_as_an_independent_implementation():
    foolbox = pytest.importorskip("foolbox")
    model, images, labels, *_ = linear_problem(n=3)
    counted = Count(model.eval())
    counted.eval = model.eval  # for foolbox
    theirs = []
    for image, label in zip(images, labels, strict=True):
        attack = foolbox.attacks.HopSkipJumpAttack(steps=8)
        fmodel = foolbox.models.PyTorchModel(model.eval(), bounds=(0, 1), device="cpu")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            adversarial = attack.run(fmodel, image[None], foolbox.criteria.Misclassification(label[None]))
        theirs.append((adversarial - image[None]).square().mean().item())
    # eight of its steps ask for 100 + ... + 283 = 1630 directions, and searches besides
    ours = hop_skip_jump(model, images, max_queries=1850).distances
    assert sum(ours) < 1.1 * sum(theirs)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_distances_are_those_of_the_returned_images_and_all_are_adversarial(norm):
    model, images, labels, *_ = linear_problem(n=8)
    result = hop_skip_jump(model, images, norm=norm, max_queries=300)
    assert ((result.adversarials >= 0) & (result.adversarials <= 1)).all()
    assert (Classifier(model).predict(result.adversarials) != labels).all()
    difference = (result.adversarials - images).flatten(1)
    measured = difference.square().mean(dim=1) if norm == "l2" else difference.abs().amax(dim=1)
    torch.testing.assert_close(torch.tensor(result.distances), measured)
    assert result.settings["norm"] == {"l2": "squared L2 per pixel", "linf": "linf"}[norm]
    assert (result.name, result.steps, result.n) == ("hopskipjump", 300, 8)


@pytest.mark.parametrize("max_queries", [5, 40, 60, 131, 300])
def test_queries_are_counted_by_image_and_stay_within_the_budget(max_queries):
    model, images, *_ = linear_problem(n=8)
    counted = Count(model)
    result = hop_skip_jump(counted, images, max_queries=max_queries, repeats=2, batch_size=3)
    assert sum(result.queries) + result.settings["start_image_queries"] == counted.rows
    assert counted.largest <= 3
    assert result.failures == 0
    if max_queries >= 60:  # what start searches take here
        assert max(result.queries) <= 2 * max_queries
        assert min(result.queries) > 2 * (max_queries - 60)


def test_curve_falls_from_the_start_to_the_result():
    model, images, *_ = linear_problem(n=9)
    result = hop_skip_jump(model, images, max_queries=600, convergence_every=250)
    assert result.curve_steps == (0, 250, 500, 600)
    assert list(result.curve_medians) == sorted(result.curve_medians, reverse=True)
    assert result.start_median > 4 * result.curve_medians[1] > 4 * result.median
    assert result.curve_medians[-1] == result.median
    first, second, third, last = result.curve_queries
    assert first < second == pytest.approx(first + 250)
    assert third == pytest.approx(first + 500)
    assert last == pytest.approx(result.mean_queries)
    assert len(result.curves) == 9
    assert all(
        list(row) == sorted(row, reverse=True) and row[-1] == d
        for row, d in zip(result.curves, result.distances, strict=True)
    )


def test_curve_does_not_know_the_future():
    """What a curve says about few queries is what a run with few queries finds, but for its last estimate."""
    model, images, *_ = linear_problem(n=9)
    long = hop_skip_jump(model, images, max_queries=1000, convergence_every=100)
    short = hop_skip_jump(model, images, max_queries=400)
    assert long.curves[0][0] == short.curves[0][0]
    early = [row[3] for row in long.curves]  # at 300 queries
    assert all(s <= e for s, e in zip(short.distances, early, strict=True))


def test_repeats_keep_the_closest():
    model, images, *_ = linear_problem(n=9)
    once, thrice = (hop_skip_jump(model, images, max_queries=300, repeats=r) for r in (1, 3))
    assert all(a <= b for a, b in zip(thrice.distances, once.distances, strict=True))
    assert thrice.median < once.median
    assert thrice.repeat_medians[0] == once.median
    assert [min(row) for row in thrice.repeat_distances] == list(thrice.distances)


def test_constant_classifier_fails_everywhere_and_stays_counted():
    images = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    result = hop_skip_jump(lambda x: torch.tensor([[1.0, 0.0]]).expand(len(x), 2), images, directions=3)
    assert result.statuses == ("no_start",) * 5
    assert (result.n, result.failures, result.median, result.start_median) == (5, 5, math.inf, math.inf)
    assert result.adversarials.isnan().all()
    assert set(result.queries) == {4}  # one prediction and three directions
    assert set(result.curve_queries) == {4}


def test_failures_count_in_the_median_of_a_mixed_batch():
    def model(x):  # images with a white corner are put in class 0 whatever happens to the rest
        m = x[:, :, 1:].mean(dim=(1, 2, 3)) - 0.5
        return torch.stack([m.new_zeros(len(x)), torch.where(x[:, 0, 0, 0] > 0.999, -1.0, m)], dim=1)

    images = torch.full((4, 1, 6, 6), 0.45)
    images[:3, 0, 0, 0] = 1.0

    class Locked:  # the corner cannot be changed
        def __call__(self, x):
            return torch.tensor([[1.0, 0.0]]).expand(len(x), 2) if len(x) == 3 else model(x)

    result = hop_skip_jump(model, images, max_queries=200)
    assert result.failures == 0
    stubborn = BoundaryResult.join(
        [
            hop_skip_jump(Locked(), images[a:b], max_queries=200, directions=1, start_images=images[:3], first_index=a)
            for a, b in ((0, 3), (3, 4))
        ]
    )
    assert stubborn.statuses == ("no_start", "no_start", "no_start", "ok")
    assert stubborn.median == math.inf
    assert stubborn.distances[3] < math.inf


def test_other_classes_images_serve_where_noise_finds_no_start():
    def bright(x):  # class 1 above a mean of 0.9, which uniform noise never reaches
        m = x.mean(dim=(1, 2, 3))
        return torch.stack([0.9 - m, m - 0.9], dim=1)

    dark, white = torch.full((3, 1, 8, 8), 0.6), torch.ones(1, 1, 8, 8)
    assert hop_skip_jump(bright, dark, directions=5).failed_starts == 3
    result = hop_skip_jump(bright, dark, start_images=torch.cat([dark, white]), directions=5, max_queries=500)
    assert result.starts == ("image",) * 3
    assert result.settings["start_image_queries"] == 4
    assert 0.3**2 <= result.median <= 1.01 * 0.3**2  # every value by 0.3 is the shortest way


def threshold(at):
    def model(x):
        m = x.mean(dim=(1, 2, 3)) - at
        return torch.stack([-m, m], dim=1)

    return model


def test_images_too_close_to_the_boundary_are_moved_a_little_outwards():
    originals, labels = torch.full((3, 1, 4, 4), 0.4), torch.zeros(3, dtype=torch.long)
    found = originals + torch.tensor([0.1002, 0.100005, 0.09]).view(3, 1, 1, 1)
    confirmed = confirm(Classifier(threshold(0.5001)), originals, found, labels)
    assert confirmed.adversarial.tolist() == [True, True, False]
    assert confirmed.queries.tolist() == [1, 3, 1 + len(LENGTHENED)]
    assert torch.equal(confirmed.images[0], found[0])
    torch.testing.assert_close(confirmed.images[1] - originals[1], 1.001 * (found[1] - originals[1]))
    assert torch.equal(confirmed.images[2], found[2])


def test_images_that_lose_their_answer_are_reported():
    class Fickle:
        """Puts the boundary elsewhere from some call on."""

        def __init__(self, last=math.inf):
            self.calls, self.last = 0, last

        def __call__(self, x):
            self.calls += 1
            return threshold(0.5 if self.calls < self.last else 0.9)(x)

    images = torch.full((2, 1, 4, 4), 0.45)
    honest = Fickle()
    assert hop_skip_jump(honest, images, max_queries=150).failures == 0
    result = hop_skip_jump(Fickle(last=honest.calls), images, max_queries=150)  # at the final check
    assert result.statuses == ("not_adversarial",) * 2
    assert (result.failures, result.failed_starts, result.median) == (2, 0, math.inf)


def test_seed_decides_and_global_generator_is_left_alone():
    model, images, *_ = linear_problem(n=5)
    state = torch.random.get_rng_state()
    first = hop_skip_jump(model, images, max_queries=200)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert hop_skip_jump(model, images, max_queries=200) == first
    assert hop_skip_jump(model, images, max_queries=200, seed=1).distances != first.distances


def test_modes_and_gradients_are_left_alone_and_uint8_is_taken():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 3)
    ).train()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    raw = (linear_problem(n=3)[1] * 255).round().to(torch.uint8)
    first = hop_skip_jump(model, raw, max_queries=60)
    assert all(m.training for m in model.modules())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert first == hop_skip_jump(model, raw.float() / 255, max_queries=60)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"norm": "L2"}, ValueError, "norm='L2' is not one of"),
        ({"max_queries": 0}, ValueError, "max_queries must be at least 1"),
        ({"repeats": 1.5}, TypeError, "repeats must be an integer"),
        ({"gradient_queries": 0}, ValueError, "gradient_queries"),
        ({"convergence_every": 0}, ValueError, "convergence_every"),
        ({"seed": "0"}, TypeError, "seed must be an integer"),
        ({"start_images": torch.rand(2, 3, 6, 6)}, ValueError, "start_images must have the shape of the images"),
    ],
)
def test_bad_options_are_named(options, error, words):
    model, images, *_ = linear_problem(n=2)
    with pytest.raises(error, match=words):
        hop_skip_jump(model, images, **options)
