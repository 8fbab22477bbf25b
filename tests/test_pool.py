import gc
import itertools
import resource
import time
import warnings

import pytest
import torch

from simreg import LabelTarget, PairBatch, PixelTarget, RegularizationPool, SimilarityRegularizer, ThresholdTarget
from simreg import functional as F
from simreg.pool import _distinct


def random_pool(n, target=None, *, size=8, seed=0, structured=False, **kwargs):
    g = torch.Generator().manual_seed(seed)
    images = torch.rand(n, 1, size, size, generator=g)
    if structured:  # a few patterns of either sign, so that similarities reach ±1
        patterns = torch.rand(3, 1, size, size, generator=g) - 0.5
        signs = torch.randint(2, (n, 1, 1, 1), generator=g) * 2 - 1
        images = 0.5 + 0.4 * signs * patterns[torch.randint(3, (n,), generator=g)] + 0.1 * (images - 0.5)
    return RegularizationPool(images, target or PixelTarget(), **kwargs)


def take(batches, n):
    return list(itertools.islice(batches, n))


def test_batches_hold_images_targets_and_rows_that_belong_together():
    pool = random_pool(50)
    batch = next(pool.batches(7))
    assert batch.images.shape == (14, 1, 8, 8)
    assert torch.equal(batch.images, pool.images[batch.indices])
    expected = pool.target.paired(torch.stack([torch.arange(7), torch.arange(7) + 7], 1), batch.images)
    torch.testing.assert_close(batch.targets, expected)
    pairs = torch.stack([batch.indices[:7], batch.indices[7:]], 1)
    assert (pairs[:, 0] < pairs[:, 1]).all()


def test_uniform_sampling_draws_every_pair_equally_often():
    pool = random_pool(30)
    counts = torch.zeros(30, 30)
    draws = 2000 * 16
    for batch in take(pool.batches(16), 2000):
        counts.index_put_((batch.indices[:16], batch.indices[16:]), torch.ones(16), accumulate=True)
    observed = counts[torch.ones(30, 30, dtype=torch.bool).triu(1)]
    assert counts.sum() == observed.sum() == draws
    expected = draws / 435
    chi_square = float(((observed - expected) ** 2 / expected).sum())
    # Chi-square of 434 degrees of freedom: mean 434, standard deviation 29.5. Distinct pairs within a step lower it a little.
    assert 434 - 5 * 29.5 < chi_square < 434 + 5 * 29.5


@pytest.mark.parametrize(("k", "n"), [(1, 2), (3, 3), (16, 40), (6, 4)])
def test_pairs_of_a_step_are_distinct(k, n):
    for batch in take(random_pool(n).batches(k), 20):
        pairs = {tuple(p) for p in torch.stack([batch.indices[:k], batch.indices[k:]], 1).tolist()}
        assert len(pairs) == k


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 1.0])
def test_stratified_sampling_gives_the_share_that_was_asked_for(share):
    pool = random_pool(300, ThresholdTarget(0.8), structured=True)
    batches = take(pool.batches(16, sampling="stratified", share=share), 300)
    nonzero = torch.stack([(b.targets != 0).sum() for b in batches])
    wanted = share * 16
    assert nonzero.min() >= int(wanted)
    assert nonzero.max() <= int(wanted) + 1
    assert float(nonzero.double().mean()) == pytest.approx(wanted, abs=4 * 0.5 / 300**0.5 + 1e-9)


def test_stratified_pairs_are_uniform_within_their_stratum():
    pool = random_pool(24, ThresholdTarget(0.8), structured=True)
    i, j = F.all_pairs(24).T
    nonzero = pool.target.shape(pool.target.paired(F.all_pairs(24), pool.images)) != 0
    counts = torch.zeros(24, 24)
    for batch in take(pool.batches(4, sampling="stratified", share=1.0), 4000):
        counts.index_put_((batch.indices[:4], batch.indices[4:]), torch.ones(4), accumulate=True)
    counts = counts[i, j]
    assert counts[~nonzero].sum() == 0
    expected = 16000 / int(nonzero.sum())
    freedom = int(nonzero.sum()) - 1
    chi_square = float(((counts[nonzero] - expected) ** 2 / expected).sum())
    assert chi_square < freedom + 6 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("select", ["low", "high", "positive", "negative", "high_positive", "double"])
def test_selections_restrict_the_stream(select):
    low = 0.1 if select == "double" else None
    target = ThresholdTarget(0.8, select=select, low=low)
    pool = random_pool(200, target, structured=True)
    for batch in take(pool.batches(8), 20):
        rows = torch.stack([torch.arange(8), torch.arange(8) + 8], 1)
        base = pool.target.paired(rows, pool.images[batch.indices])
        assert pool.target.selected(base).all()


def test_rare_pairs_are_found_and_missing_ones_are_reported():
    images = torch.rand(3000, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="no pair with a target other than 0 was found"):
        random_pool(100, ThresholdTarget(0.999)).batches(4, sampling="stratified").__next__()
    target = ThresholdTarget(0.5, select="high")
    pool = RegularizationPool(images, target)
    indices = next(pool.batches(4)).indices
    base = pool.target.paired(torch.stack([indices[:4], indices[4:]], 1), images)
    assert (base.abs() > 0.5).all()


def test_strata_with_too_few_pairs_end_in_an_error():
    images = torch.rand(60, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    images[1] = images[0]
    for target, options in (
        (ThresholdTarget(0.8), {"sampling": "stratified", "share": 0.5}),
        (ThresholdTarget(0.8, select="high"), {}),
    ):
        with pytest.raises(ValueError, match="only 1 distinct pairs"):
            next(RegularizationPool(images, target).batches(4, **options))
        assert next(RegularizationPool(images, target).batches(2 if options else 1, **options)) is not None


def test_all_pairs_skip_draws_without_selected_pairs():
    images = torch.rand(60, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    images[:30] = images[30:]
    pool = RegularizationPool(images, ThresholdTarget(0.9, select="high"))
    batch = next(pool.batches(28, pairing="all"))
    assert len(batch) >= 1
    images = torch.rand(60, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    none = RegularizationPool(images, ThresholdTarget(0.99, select="high"))
    with pytest.raises(ValueError, match="all pairs of 8 images"):
        next(none.batches(28, pairing="all"))
    with pytest.warns(UserWarning, match="selects no pair"):
        none.health()


def test_all_pairs_of_few_images():
    pool = random_pool(40)
    batch = next(pool.batches(28, pairing="all"))
    assert batch.images.shape[0] == 8
    assert len(set(batch.indices.tolist())) == 8
    assert torch.equal(batch.pairs, F.all_pairs(8))
    torch.testing.assert_close(batch.targets, pool.target.paired(batch.pairs, batch.images))
    with pytest.raises(ValueError, match=r"28 \(8 images\) or 36 \(9 images\)"):
        pool.batches(30, pairing="all")


def test_default_stream_is_unchanged():
    """Rows drawn by the first release: whoever resumes a run of it gets the pairs it would have got."""
    pool = random_pool(40, ThresholdTarget(0.8), structured=True, seed=5)
    assert [b.indices.tolist() for b in take(pool.batches(3), 2)] == [[3, 25, 13, 4, 39, 31], [27, 23, 11, 31, 39, 17]]
    assert [b.indices.tolist() for b in take(pool.batches(3, sampling="stratified"), 2)] == [
        [27, 30, 14, 39, 39, 34],
        [0, 3, 23, 15, 9, 34],
    ]


def test_stream_depends_on_the_seed_and_resumes_from_its_state():
    images = random_pool(200, structured=True).images
    pool = RegularizationPool(images, ThresholdTarget(0.8), seed=3)
    stream = pool.batches(8, sampling="stratified")
    take(stream, 5)
    state = pool.state_dict()
    expected = [b.indices for b in take(stream, 10)]
    other = RegularizationPool(images, ThresholdTarget(0.8), seed=99)
    first = [b.indices for b in take(other.batches(8), 1)]
    other.load_state_dict(state)
    resumed = [b.indices for b in take(other.batches(8, sampling="stratified"), 10)]
    assert all(torch.equal(a, b) for a, b in zip(expected, resumed, strict=True))
    assert not torch.equal(first[0], take(RegularizationPool(images, PixelTarget(), seed=3).batches(8), 1)[0].indices)
    with pytest.raises(ValueError, match="state must be"):
        pool.load_state_dict({"seed": 1})


@pytest.mark.parametrize("select", ["all", "high", "low"])
def test_health_matches_a_brute_force_count(select):
    pool = random_pool(150, ThresholdTarget(0.8, select=select), structured=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        health = pool.health(pairs_per_batch=16)
    counts, pairs = {1: 0, -1: 0, 0: 0}, 0
    for i in range(150):
        for j in range(i + 1, 150):
            s = float(pool.target.paired(torch.tensor([[i, j]]), pool.images))
            if (select == "high" and abs(s) <= 0.8) or (select == "low" and abs(s) >= 0.8):
                continue
            pairs += 1
            counts[int(s > 0.8) - int(s < -0.8)] += 1
    assert health.exact
    assert health.pairs == 150 * 149 // 2
    assert health.selected == pytest.approx(pairs / health.pairs)
    for share, value in ((health.positive, 1), (health.negative, -1), (health.zero, 0)):
        assert share == pytest.approx(counts[value] / pairs)
    assert health.expected_per_step == pytest.approx(16 * (counts[1] + counts[-1]) / pairs)
    assert int(health.counts.sum()) == health.pairs
    assert "targets of all 11,175 pairs" in str(health)


def test_health_warns_when_almost_all_targets_are_zero():
    with pytest.warns(UserWarning, match="stratified"):
        random_pool(60, ThresholdTarget(0.9)).health()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        random_pool(60, ThresholdTarget(0.8), structured=True).health()
        random_pool(60).health()
        labels = torch.arange(60) % 10
        assert random_pool(60, LabelTarget(), labels=labels).health().positive == pytest.approx(10 * 15 / 1770)


def test_health_of_large_pools_samples_images(monkeypatch):
    monkeypatch.setattr("simreg.health._MAX_IMAGES", 100)
    pool = random_pool(400, ThresholdTarget(0.8), structured=True)
    health = pool.health()
    assert not health.exact
    assert health.pairs == 4950
    monkeypatch.undo()
    assert health.positive == pytest.approx(pool.health().positive, abs=0.05)


def test_transform_is_for_the_model_and_not_for_the_target():
    plain = random_pool(30, seed=1)
    scaled = RegularizationPool(plain.images, PixelTarget(), transform=lambda x: 5 * (x - 0.5))
    one, two = next(plain.batches(4)), next(scaled.batches(4))
    torch.testing.assert_close(one.targets, two.targets)
    torch.testing.assert_close(two.images, 5 * (one.images - 0.5))


def test_regularizer_takes_batches_of_the_pool(make_net):
    model = make_net()
    pool = random_pool(40)
    for pairing, k in (("pairs", 6), ("all", 28)):
        reg = SimilarityRegularizer(model, ["relu1"], pairing=pairing)
        assert torch.isfinite(reg(next(pool.batches(k, pairing=pairing))))
    with pytest.raises(ValueError, match='pairing="all"'):
        SimilarityRegularizer(model, ["relu1"], pairing="all")(next(pool.batches(6)))


def test_5000_images_are_set_up_within_a_second_and_200_mb():
    images = torch.randint(256, (5000, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    pool = RegularizationPool(images, ThresholdTarget(0.8))
    next(pool.batches(16))
    seconds = time.perf_counter() - start
    megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert seconds < 1.0
    assert megabytes < 200


def test_distinct_keeps_first_appearances_in_order():
    pairs = torch.tensor([[3, 4], [1, 2], [3, 4], [0, 9], [1, 2]])
    assert _distinct(pairs).tolist() == [[3, 4], [1, 2], [0, 9]]


IMAGES = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def changed(row, value):
    images = IMAGES.clone()
    images[row] = value
    return images


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: RegularizationPool(IMAGES[:1], PixelTarget()), ValueError, "at least 2 images"),
        (lambda: RegularizationPool(IMAGES[0], PixelTarget()), ValueError, r"\(N, C, H, W\)"),
        (lambda: RegularizationPool(IMAGES * 255, PixelTarget()), ValueError, r"\[0, 1\]"),
        (lambda: RegularizationPool(changed(2, float("nan")), PixelTarget()), ValueError, "nan"),
        (lambda: RegularizationPool(changed(2, 0.5), PixelTarget()), ValueError, r"blank.*rows 2"),
        (lambda: RegularizationPool(IMAGES.long(), PixelTarget()), TypeError, "uint8 or floating point"),
        (lambda: RegularizationPool(IMAGES, "pixel"), TypeError, "PixelTarget"),
        (lambda: RegularizationPool(IMAGES, LabelTarget()), ValueError, "labels"),
        (
            lambda: RegularizationPool(IMAGES, LabelTarget(), labels=torch.zeros(3)),
            ValueError,
            r"labels must have shape \(4,\)",
        ),
        (lambda: RegularizationPool(IMAGES, LabelTarget(), labels=torch.tensor([0, 1, 2, -1])), ValueError, ">= 0"),
        (lambda: RegularizationPool(IMAGES, LabelTarget(), labels=[0, 1, 2, 3]), TypeError, "labels"),
        (lambda: RegularizationPool(IMAGES, PixelTarget()).batches(0), ValueError, "pairs_per_batch"),
        (lambda: RegularizationPool(IMAGES, PixelTarget()).batches(7), ValueError, "only 6 pairs"),
        (lambda: RegularizationPool(IMAGES, PixelTarget()).batches(2, sampling="strat"), ValueError, "stratified"),
        (lambda: RegularizationPool(IMAGES, PixelTarget()).batches(2, share=2.0), ValueError, "share"),
        (lambda: PairBatch(IMAGES[:3], torch.zeros(1)), ValueError, "cannot be split"),
        (lambda: PairBatch(IMAGES[:0], torch.zeros(0)), ValueError, "at least 2"),
        (lambda: PairBatch(IMAGES, torch.zeros(4)), ValueError, r"shape \(2,\)"),
        (lambda: PairBatch(IMAGES, torch.full((2,), -2.0)), ValueError, r"\[-1, 1\]"),
        (lambda: PairBatch(IMAGES, torch.zeros(1), pairs=torch.tensor([[0, 4]])), ValueError, "0 to 3"),
        (lambda: PairBatch(IMAGES, torch.zeros(1), pairs=torch.tensor([[0.0, 1.0]])), ValueError, "integers"),
    ],
)
def test_mistakes_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
