import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from simreg import functional as F

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}


def loop_cosine(x):
    """(N, N) cosines of rows in float64, pair by pair."""
    n = len(x)
    norms = [math.sqrt(sum(v * v for v in row)) for row in x]
    return np.array(
        [
            [sum(a * b for a, b in zip(x[i], x[j], strict=True)) / norms[i] / norms[j] for j in range(n)]
            for i in range(n)
        ]
    )


def relu_features(n, d, dtype, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).relu().to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("centering", ["none", "batch", "image"])
@pytest.mark.parametrize(("n", "d"), [(2, 3), (5, 33), (9, 257)])
def test_pairwise_cosine_matches_float64_loop(dtype, centering, n, d):
    x = relu_features(n, d, dtype)
    centred = x.double().numpy()
    if centering == "batch":
        centred = centred - centred.mean(axis=0, keepdims=True)
    if centering == "image":
        centred = centred - centred.mean(axis=1, keepdims=True)
    ours = F.pairwise_cosine(x, centering=centering)
    assert ours.dtype == dtype
    np.testing.assert_allclose(ours.numpy(), loop_cosine(centred), atol=TOLERANCE[dtype])


def test_paired_cosine_is_the_pairwise_entry(generator):
    x = torch.rand(8, 3, 4, 4, generator=generator, dtype=torch.float64)
    pairs = torch.tensor([[0, 3], [5, 5], [7, 1]])
    matrix = F.pairwise_cosine(x)
    torch.testing.assert_close(F.paired_cosine(x, pairs), matrix[pairs[:, 0], pairs[:, 1]])
    torch.testing.assert_close(F.paired_cosine(x), matrix[range(4), range(4, 8)])


def test_channel_centering_subtracts_one_number_for_each_channel(generator):
    x = torch.rand(4, 3, 5, 5, generator=generator)
    mean = torch.tensor([1.0, 2.0, 3.0])
    expected = x - mean[None, :, None, None]
    torch.testing.assert_close(F.center_features(x, "channel", mean=mean).reshape_as(x), expected)
    last = x.permute(0, 2, 3, 1)
    torch.testing.assert_close(
        F.center_features(last, "channel", mean=mean, channel_dim=-1).reshape_as(last), expected.permute(0, 2, 3, 1)
    )
    with pytest.raises(ValueError, match=r"mean must have shape \(3,\)"):
        F.center_features(x, "channel", mean=torch.zeros(2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_zero_and_duplicate_rows_have_finite_values_and_gradients(dtype):
    x = torch.tensor([[0.0, 0, 0], [1, 2, 3], [1, 2, 3], [-1, -2, -3]], dtype=dtype, requires_grad=True)
    s = F.pairwise_cosine(x, centering="none")
    assert s.dtype == torch.float32
    assert s[0].eq(0).all()
    torch.testing.assert_close(s[1, 2:], torch.tensor([1.0, -1.0]), atol=1e-6, rtol=0)
    i, j = F.all_pairs(4).T
    loss = F.similarity_loss(s[i, j], torch.tensor([0.0, 0, 0, 1, -1, 0]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(x.grad).all()


def test_cosine_gradient_is_right_in_float64(generator):
    x = torch.randn(5, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    for centering in ("none", "batch", "image"):
        assert gradcheck(lambda v, c=centering: F.pairwise_cosine(v, centering=c), (x,))
    assert gradcheck(lambda v: F.paired_cosine(v[:4]), (x,))


def test_half_precision_autocast_does_not_reach_the_similarity(generator):
    x = torch.randn(6, 50, generator=generator)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = F.pairwise_cosine(x)
        mixed = F.mix_similarities(torch.stack([inside, inside]), torch.zeros(2))
    torch.testing.assert_close(inside, F.pairwise_cosine(x), atol=0, rtol=0)
    assert mixed.dtype == torch.float32


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 7), st.integers(1, 12), st.floats(0.01, 100), st.integers(0, 2**31))
def test_similarity_is_symmetric_bounded_and_invariant_to_scale(n, d, scale, seed):
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    s = F.pairwise_cosine(x, centering="none")
    torch.testing.assert_close(s, s.T, rtol=0, atol=1e-14)
    assert s.abs().max() <= 1
    torch.testing.assert_close(F.pairwise_cosine(x * scale, centering="none"), s)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 8), st.randoms(use_true_random=False))
def test_permuting_images_permutes_similarity_and_keeps_the_loss(n, random):
    order = random.sample(range(n), n)
    g = torch.Generator().manual_seed(n)
    x = torch.randn(n, 9, generator=g, dtype=torch.float64)
    target = F.pairwise_cosine(torch.randn(n, 4, generator=g, dtype=torch.float64))
    s = F.pairwise_cosine(x)
    permuted = F.pairwise_cosine(x[order])
    torch.testing.assert_close(permuted, s[order][:, order])
    torch.testing.assert_close(F.similarity_loss(permuted, target[order][:, order]), F.similarity_loss(s, target))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(-0.99, 0.99), st.floats(-0.99, 0.99)), min_size=1, max_size=9), st.randoms())
def test_loss_ignores_the_order_of_pairs_and_is_never_negative(values, random):
    shuffled = random.sample(values, len(values))
    losses = [
        F.similarity_loss(*torch.tensor(v, dtype=torch.float64).T.unbind(0), convention="paper")
        for v in (values, shuffled)
    ]
    torch.testing.assert_close(*losses)
    assert losses[0] >= 0


def test_fisher_z_matches_float64_logarithms_over_the_whole_range():
    s = torch.linspace(-1, 1, 401, dtype=torch.float64)
    expected = torch.log(1 + s + 1e-5) - torch.log(1 - s + 1e-5)
    torch.testing.assert_close(F.fisher_z(s), expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(F.fisher_z(s.float()).double(), F.fisher_z(s.float().double()), rtol=5e-7, atol=1e-9)
    torch.testing.assert_close(F.fisher_z(s[1:-1], convention="mean"), torch.atanh(s[1:-1]), rtol=2e-3, atol=1e-5)
    torch.testing.assert_close(
        F.fisher_z(s[100:301], convention="paper"), torch.atanh(s[100:301]), rtol=2e-5, atol=1e-7
    )


def test_fisher_z_is_odd_has_the_authors_poles_and_the_right_slope():
    s = torch.tensor([-1.5, -1.0, 0.0, 1.0, 1.5], dtype=torch.float64, requires_grad=True)
    z = F.fisher_z(s)
    torch.testing.assert_close(z[1], -z[3])
    torch.testing.assert_close(z[3], torch.tensor(math.log(2.00001) - math.log(1e-5), dtype=torch.float64))
    torch.testing.assert_close(z[4], z[3])
    inner = torch.linspace(-0.95, 0.95, 9, dtype=torch.float64, requires_grad=True)
    assert gradcheck(F.fisher_z, (inner,))
    (slope,) = torch.autograd.grad(F.fisher_z(s)[3], s)
    torch.testing.assert_close(slope[3], torch.tensor(1 / 1e-5 + 1 / 2.00001, dtype=torch.float64))


def test_similarity_loss_is_zero_at_target_and_ignores_the_diagonal(generator):
    s = F.pairwise_cosine(torch.randn(5, 6, generator=generator))
    assert F.similarity_loss(s, s) == 0
    changed = s.clone().fill_diagonal_(-1)
    torch.testing.assert_close(F.similarity_loss(changed, s), torch.tensor(0.0))


@pytest.mark.parametrize("transform", ["arctanh", "none"])
@pytest.mark.parametrize("source", ["official", "paper", "mean"])
@pytest.mark.parametrize("to", ["official", "paper", "mean"])
def test_convert_alpha_keeps_the_penalty(generator, transform, source, to):
    s, t = torch.rand(2, 10, generator=generator, dtype=torch.float64) * 1.8 - 0.9
    alpha = F.convert_alpha(3.0, source, to, pairs=10, transform=transform)
    one = 3.0 * F.similarity_loss(s, t, convention=source, transform=transform)
    other = alpha * F.similarity_loss(s, t, convention=to, transform=transform)
    torch.testing.assert_close(one, other)


def test_conventions_match_their_formulas(generator):
    s, t = torch.rand(2, 10, generator=generator, dtype=torch.float64) * 1.6 - 0.8
    plain = (torch.atanh(s) - torch.atanh(t)).square()
    torch.testing.assert_close(F.similarity_loss(s, t), 4 * plain.mean(), rtol=1e-4, atol=0)
    torch.testing.assert_close(F.similarity_loss(s, t, convention="mean"), plain.mean(), rtol=1e-4, atol=0)
    torch.testing.assert_close(F.similarity_loss(s, t, convention="paper"), 2 * plain.sum(), rtol=1e-4, atol=0)


def test_target_clamp_bounds_targets_only():
    s, t = torch.tensor([0.99]), torch.tensor([1.0])
    assert F.similarity_loss(s, t, transform="none", target_clamp=0.95) == pytest.approx(0.04**2, rel=1e-4)
    for bad in (0.0, 1.5, -0.5):
        with pytest.raises(ValueError, match="target_clamp"):
            F.similarity_loss(s, t, target_clamp=bad)


def test_no_gradient_reaches_the_target():
    s, t = torch.tensor([0.5], requires_grad=True), torch.tensor([0.1], requires_grad=True)
    F.similarity_loss(s, t).backward()
    assert t.grad is None
    assert s.grad is not None


def test_float64_targets_keep_their_precision_beside_float32_similarities():
    s, t = torch.tensor([0.1]), torch.tensor([0.9999999], dtype=torch.float64)
    expected = F.similarity_loss(s.double(), t)
    torch.testing.assert_close(F.similarity_loss(s, t), expected, rtol=1e-12, atol=0)


def test_mix_weights_layers_by_softmax(generator):
    s = torch.rand(3, 4, generator=generator, dtype=torch.float64)
    logits = torch.tensor([0.0, 1.0, -2.0])
    weights = torch.softmax(logits.double(), 0)
    torch.testing.assert_close(F.mix_similarities(s, logits), weights @ s)
    with pytest.raises(ValueError, match="one entry for each of the 3 layers"):
        F.mix_similarities(s, torch.zeros(2))


def test_response_reliability_matches_definition(generator):
    r = torch.randn(4, 6, 3, generator=generator, dtype=torch.float64)
    mean = r.mean(0)
    expected = (mean.var(dim=0, correction=0) / r.var(dim=0, correction=0).mean(0)).sqrt()
    torch.testing.assert_close(F.response_reliability(r), expected)
    missing = torch.cat([r, torch.full((1, 6, 3), float("nan"), dtype=torch.float64)])
    torch.testing.assert_close(F.response_reliability(missing), expected)
    constant = torch.rand(6, generator=generator).expand(5, 6)[..., None]  # the same in every repeat, in float32
    assert F.response_reliability(torch.cat([torch.randn(5, 6, 2, generator=generator), constant], dim=2))[-1] == 0
    awkward = torch.rand(6, generator=generator, dtype=torch.float64).expand(7, 6)[..., None]  # their mean is rounded
    assert F.response_reliability(awkward) == 0
    silent = torch.cat([r, torch.zeros(4, 6, 1, dtype=torch.float64)], dim=2)
    assert F.response_reliability(silent)[-1] == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: F.pairwise_cosine(torch.zeros(3)), "at least one image and one unit"),
        (lambda: F.pairwise_cosine(torch.zeros(3, 2), centering="batches"), "Did you mean 'batch'"),
        (lambda: F.pairwise_cosine(torch.zeros(3, 2), backend="cuda"), "backend='cuda'"),
        (lambda: F.paired_cosine(torch.zeros(3, 2)), "pass an even number"),
        (lambda: F.similarity_loss(torch.zeros(3), torch.zeros(4)), "one shape"),
        (lambda: F.similarity_loss(torch.zeros(0), torch.zeros(0)), "at least one pair"),
        (lambda: F.similarity_loss(torch.zeros(2, 3), torch.zeros(2, 3)), "square"),
        (lambda: F.convert_alpha(1.0, "official", "paper"), "pass how many a step has"),
        (lambda: F.response_reliability(torch.zeros(1, 3, 2)), "T >= 2"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("channel_dim", [1, 2])
@pytest.mark.parametrize("num_pairs", [None, 3, 300])  # rows i and k + i, few of many, and many
def test_similarity_moves_the_running_mean_and_gives_the_cosines_of_what_it_leaves(
    generator, backend, channel_dim, num_pairs
):
    n = 40
    x = torch.rand(n, 6, 5, generator=generator, dtype=torch.float64)
    pairs = None if num_pairs is None else torch.randint(n, (num_pairs, 2), generator=generator)
    old = torch.rand(x.shape[channel_dim], generator=generator, dtype=torch.float64)
    mean = old.clone()
    options = {"running_mean": mean, "momentum": 0.25, "channel_dim": channel_dim, "backend": backend}
    ours = F.similarity(x, pairs, **options)
    torch.testing.assert_close(mean, 0.75 * old + 0.25 * x.mean((0, 3 - channel_dim)))
    rows = (x - (mean[:, None] if channel_dim == 1 else mean)).flatten(1)
    i, j = torch.arange(n).chunk(2) if pairs is None else pairs.unbind(1)
    torch.testing.assert_close(ours, torch.nn.functional.cosine_similarity(rows[i], rows[j]))


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("dense", [False, True])
def test_equal_opposite_zero_and_poisoned_rows(generator, backend, dense):
    x = torch.randn(6, 3, 1001, generator=generator)
    x[0], x[4], x[5] = 0.0, x[1], -x[2]
    pairs = F.all_pairs(6) if dense else None  # else (0, 3), (1, 4), (2, 5)
    rows = [2, 7, 11] if dense else [0, 1, 2]
    leaf = x.clone().requires_grad_()
    found = F.similarity(leaf, pairs, centering="none", backend=backend)
    assert found[rows].tolist() == [0.0, 1.0, -1.0]  # equal rows to the bit, whatever their sums round to
    found.square().sum().backward()
    assert torch.isfinite(leaf.grad).all()
    assert leaf.grad[0].eq(0).all()  # a row without norm has no direction to change in
    x[2, 0, 0] = float("nan")
    assert F.similarity(x, pairs, centering="none", backend=backend)[rows[2]].isnan()


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_a_row_without_norm_gives_its_partner_no_gradient(backend):
    x = torch.tensor([[1e-9, 0.0], [3.0, 4.0], [1.0, 2.0], [2.0, 0.0]], requires_grad=True)
    (found,) = torch.autograd.grad(F.pairwise_cosine(x, centering="none", backend=backend)[0].sum(), x)
    assert found.eq(0).all()


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("dense", [False, True])
def test_equal_images_have_similarity_one_to_the_bit(generator, backend, dense):
    half = torch.randn(50, 3, 1001, generator=generator)
    found = F.similarity(
        torch.cat([half, half]), F.all_pairs(100) if dense else None, centering="none", backend=backend
    )
    i, j = F.all_pairs(100).T
    assert (found[j == i + 50] if dense else found).eq(1.0).all()


def test_products_of_equal_rows_may_differ_in_their_last_bits():
    one = torch.ones(1, dtype=torch.float64)  # a matrix product need not sum G_ij in the order of G_ii
    assert F._cosine(one - 4e-7, one, one, 1e-8, torch.float32) == 1.0
    assert F._cosine(one - 4e-7, one, one, 1e-8, torch.float64) < 1.0
