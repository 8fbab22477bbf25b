"""The Triton kernels against float64: on a GPU, or on CPU in Triton's interpreter (see test_triton.py)."""

import os

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("needs a CUDA device, or TRITON_INTERPRET=1 from the start", allow_module_level=True)
pytest.importorskip("triton")

from simreg import kernels  # noqa: E402
from simreg.kernels import triton_backend as backend  # noqa: E402

if not INTERPRETED:
    pytestmark = pytest.mark.gpu

DEVICE = "cpu" if INTERPRETED else "cuda"
CENTERINGS = ("none", "image", "channel", "batch")
EPS = 1e-8
# Products relative to the norms of their rows; gradients relative to their greatest entry. Half precision is exact in
# the products and rounded once in the gradient.
PRODUCTS = {torch.float32: 1e-6, torch.float16: 1e-6, torch.bfloat16: 1e-6}
GRADIENTS = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def make_rows(n, shapes, dtype=torch.float32, *, pad=0, offset=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for o, i in shapes:
        values = torch.randn(n, pad + o * i, generator=generator) + offset
        rows.append(values.to(dtype).to(DEVICE)[:, pad:].unflatten(1, (o, i)))
    return rows


def make_means(rows, axes, centering, seed=1):
    generator = torch.Generator().manual_seed(seed)
    if centering != "channel":
        return []
    return [torch.randn(x.shape[a], generator=generator).to(DEVICE) for x, a in zip(rows, axes, strict=True)]


def centred(rows, means, axes, centering, momentum):
    flat, centers = [], []
    for index, (x, axis) in enumerate(zip(rows, axes, strict=True)):
        x = x.double()
        if centering == "channel":
            old = means[index].double()
            center = old + momentum * (x.mean(dim=(0, 3 - axis)) - old)
            x = x - (center[:, None] if axis == 1 else center)
        elif centering == "image":
            center = x.mean(dim=(1, 2))
            x = x - center[:, None, None]
        else:
            center = x.new_zeros(0)
            x = x - x.mean(dim=0) if centering == "batch" else x
        flat.append(x.flatten(1))
        centers.append(center)
    return flat, centers


def true_products(flat, paired):
    if not paired:
        return torch.stack([x @ x.T for x in flat])
    halves = [x.chunk(2) for x in flat]
    return torch.stack([torch.stack([(a * b).sum(1), (a * a).sum(1), (b * b).sum(1)]) for a, b in halves])


def true_penalty(products, logits, targets, paired, convention, transform, clamp):
    """Loss, similarities and derivatives by autograd, the clamp to [-1, 1] having slope 1."""
    products, logits = products.clone().requires_grad_(), logits.double().requires_grad_()
    if paired:
        dot, first, second = products.unbind(1)
    else:
        i, j = torch.triu_indices(products.shape[1], products.shape[1], 1)
        squares = products.diagonal(dim1=1, dim2=2)
        dot, first, second = products[:, i, j], squares[:, i], squares[:, j]
    raw = dot / (first.clamp_min(EPS**2) * second.clamp_min(EPS**2)).sqrt()
    near = torch.where(raw.abs() > 1 - 4.8e-7, raw.sign(), raw)
    similarities = raw + (near - raw).detach()
    mixed = torch.softmax(logits, 0) @ similarities
    factor = 1.0 if convention == "official" else 0.5

    def z(s):
        return factor * (torch.log(1 + s + 1e-5) - torch.log(1 - s + 1e-5)) if transform == "arctanh" else s

    squared = (z(mixed) - z(targets.double().clamp(-clamp, clamp))) ** 2
    loss = 2 * squared.sum() if convention == "paper" else squared.mean()
    by_products, by_logits = torch.autograd.grad(loss, (products, logits))
    if paired:  # each squared norm counts its row twice
        coefficients = by_products * torch.tensor([1.0, 2.0, 2.0], device=products.device)[:, None]
    else:
        coefficients = by_products + by_products.mT
    return loss.detach(), mixed.detach(), similarities.detach(), coefficients, by_logits


def true_gradients(flat, rows, coefficients, scale, centering, paired, add):
    found = []
    for index, x in enumerate(flat):
        a = scale.double() * coefficients[index].double()
        if paired:
            cross, first, second = (v[:, None] for v in a)
            one, two = x.chunk(2)
            gradient = torch.cat([first * one + cross * two, second * two + cross * one])
        else:
            gradient = a @ x
        if centering == "batch":
            gradient = gradient - gradient.mean(dim=0)
        gradient = gradient.view(rows[index].shape)
        found.append(gradient if add is None or add[index] is None else gradient + add[index].double())
    return found


def error(got, true):
    got, true = got.double(), true.double()
    assert got.shape == true.shape
    assert torch.isfinite(got).all()
    return float((got - true).abs().max() / true.abs().max().clamp_min(1e-30)) if true.numel() else 0.0


def products_error(got, true, paired):
    squares = true[:, 1:] if paired else true.diagonal(dim1=1, dim2=2)
    norms = (squares[:, 0] * squares[:, 1]).sqrt()[:, None] if paired else squares.sqrt()
    return float(((got - true) / (norms if paired else norms[:, :, None] * norms[:, None])).abs().max())


def check_all(
    rows, axes, centering, paired, momentum=0.1, loss=("official", "arctanh", 1.0), with_add=True, tolerance=None
):
    n, layers, dtype = rows[0].shape[0], len(rows), rows[0].dtype
    tolerance = tolerance or PRODUCTS[dtype]
    means = make_means(rows, axes, centering)
    flat, true_centers = centred(rows, means, axes, centering, momentum)
    products = true_products(flat, paired)

    generator = torch.Generator().manual_seed(2)
    count = n // 2 if paired else n * (n - 1) // 2
    targets = (2 * torch.rand(count, generator=generator) - 1).to(DEVICE)
    logits = torch.randn(layers, generator=generator).to(DEVICE)
    scale = torch.rand((), generator=generator).to(DEVICE) + 0.5
    convention, transform, clamp = loss
    *got, centers = backend.penalty(
        rows, means, axes, logits, targets, None, centering, paired, momentum, EPS, convention, transform, clamp
    )
    true = true_penalty(products, logits, targets, paired, convention, transform, clamp)
    similarity = (got[2].double() - true[2]).abs().max()
    assert similarity < tolerance
    assert (got[1] - true[1]).abs().max() < tolerance
    # What the transform makes of an error in a similarity near ±1 is its own affair.
    steep = max(1.0, float(1 / (1 - true[1].abs().max() + 1e-5))) if transform == "arctanh" else 1.0
    assert error(got[0], true[0]) < 10 * tolerance * steep
    assert error(got[3], true[3]) < 10 * tolerance * steep
    assert (got[4] - true[4]).abs().max() < 10 * tolerance * steep * true[0].clamp_min(1)
    for center, expected in zip(centers, true_centers, strict=True):
        assert center.shape == expected.shape
        assert center.dtype == torch.float32
        assert torch.allclose(center.double(), expected, rtol=1e-6, atol=1e-6)

    add = None
    if with_add:
        add = [
            make_rows(n, [x.shape[1:]], x.dtype, pad=2, seed=3)[0] if index != 1 else None
            for index, x in enumerate(rows)
        ]
    coefficients = torch.randn(true[3].shape, generator=generator).to(DEVICE)
    coefficients = coefficients if paired else coefficients + coefficients.mT
    found = backend.gradients(rows, coefficients, scale, centers, axes, centering, paired, add)
    expected = true_gradients(flat, rows, coefficients, scale, centering, paired, add)
    for got_one, true_one, x in zip(found, expected, rows, strict=True):
        assert got_one.dtype == x.dtype
        assert got_one.is_contiguous()
        assert error(got_one, true_one) < max(GRADIENTS[x.dtype], tolerance)
    return products, means


@pytest.mark.parametrize("centering", CENTERINGS)
@pytest.mark.parametrize(("paired", "n"), [(True, 2), (True, 6), (False, 2), (False, 7)])
def test_forward_and_gradient_match_float64(centering, paired, n):
    rows = make_rows(n, [(3, 5), (5, 8), (1, 7)], pad=3)
    products, means = check_all(rows, [1, 2, 2], centering, paired)
    got, _ = backend.products(rows, means, [1, 2, 2], centering, paired, 0.1)
    assert products_error(got, products, paired) < PRODUCTS[torch.float32]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("centering", CENTERINGS)
@pytest.mark.parametrize(("paired", "n"), [(True, 4), (False, 5)])
def test_half_precision_matches_float64(dtype, centering, paired, n):
    check_all(make_rows(n, [(4, 8), (3, 5)], dtype), [2, 1], centering, paired)


@pytest.mark.parametrize("centering", CENTERINGS)
def test_matrix_of_several_tiles(centering):
    check_all(make_rows(33, [(3, 9)]), [1], centering, False, loss=("paper", "arctanh", 0.9))


@pytest.mark.parametrize(("centering", "n"), [("image", 66), ("channel", 66), ("batch", 130)])
def test_matrix_of_several_blocks(centering, n):
    check_all(make_rows(n, [(2, 10)]), [2], centering, False, with_add=False)


def test_many_pairs_centred_by_the_batch():
    check_all(make_rows(260, [(1, 9)]), [2], "batch", True)


@pytest.mark.parametrize(("axis", "shape"), [(1, (3, 1100)), (2, (1100, 3)), (2, (2, 1500))])
@pytest.mark.parametrize("centering", CENTERINGS)
def test_pairs_of_several_chunks(centering, axis, shape):
    check_all(make_rows(2, [shape]), [axis], centering, True)


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("centering", ["channel", "image"])
def test_matrix_of_several_chunks(centering, axis):
    check_all(make_rows(3, [(5, 130)] if axis == 1 else [(130, 3)]), [axis], centering, False)


@pytest.mark.parametrize("paired", [True, False])
def test_means_rest_without_momentum(paired):
    check_all(make_rows(4, [(3, 5), (4, 6)]), [1, 2], "channel", paired, momentum=0.0)
    check_all(make_rows(4, [(3, 5), (4, 6)], torch.float16), [1, 2], "channel", paired, momentum=0.0)


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("loss", [("paper", "arctanh", 0.9), ("mean", "arctanh", 1.0), ("mean", "none", 0.5)])
def test_loss_conventions(paired, loss):
    check_all(make_rows(6, [(1, 30), (1, 20)]), [2, 2], "image", paired, loss=loss)


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("centering", ["image", "batch"])
def test_offset_costs_no_precision(paired, centering):
    rows = make_rows(6, [(4, 80)], offset=100.0)
    flat, _ = centred(rows, [], [1], centering, 0.0)
    got, _ = backend.products(rows, [], [1], centering, paired, 0.0)
    assert products_error(got, true_products(flat, paired), paired) < 1e-6


@pytest.mark.parametrize("paired", [True, False])
def test_layers_of_several_dtypes(paired):
    rows = [*make_rows(4, [(2, 6), (2, 8)]), *make_rows(4, [(3, 5)], torch.float16), *make_rows(4, [(2, 8)])]
    check_all(rows, [1, 2, 1, 2], "channel", paired, tolerance=2e-6)


@pytest.mark.parametrize("paired", [True, False])
def test_zero_and_equal_rows(paired):
    rows = make_rows(4, [(3, 15)])
    rows[0][0] = 0
    rows[0][3] = rows[0][1]
    zero = torch.zeros((), device=DEVICE)
    targets = torch.full((2 if paired else 6,), 0.5, device=DEVICE)
    _, mixed, _, coefficients, _, _ = backend.penalty(
        rows, [], [1], zero[None], targets, None, "none", paired, 0.0, EPS, "official", "none", 1.0
    )
    assert mixed[1 if paired else 4] == 1  # (1, 3)
    assert (mixed[:1] if paired else mixed[:3]).eq(0).all()
    assert torch.isfinite(coefficients).all()
    dead = coefficients[0, :, 0] if paired else coefficients[0, 0]
    assert dead.eq(0).all()  # a zero row has no direction to change in
    assert coefficients.abs().sum() > 0


@pytest.mark.parametrize("centering", CENTERINGS)
@pytest.mark.parametrize("paired", [True, False])
def test_nan_stays(paired, centering):
    rows = make_rows(4, [(3, 15)])
    rows[0][0, 1, 2] = float("nan")
    targets = torch.zeros(2 if paired else 6, device=DEVICE)
    loss, mixed, _, coefficients, _, centers = backend.penalty(
        rows,
        make_means(rows, [1], centering),
        [1],
        targets[:1],
        targets,
        None,
        centering,
        paired,
        0.1,
        EPS,
        "official",
        "arctanh",
        1.0,
    )
    assert loss.isnan()
    assert mixed[0].isnan()
    gradients = backend.gradients(rows, coefficients, None, centers, [1], centering, paired)
    assert gradients[0][0].isnan().any()


@pytest.mark.parametrize("centering", CENTERINGS)
@pytest.mark.parametrize("paired", [True, False])
def test_repeats_bit_by_bit(paired, centering):
    rows = make_rows(6, [(3, 50), (4, 8)])
    means = make_means(rows, [1, 2], centering)
    targets = torch.zeros(3 if paired else 15, device=DEVICE)

    def run():
        *parts, centers = backend.penalty(
            rows, means, [1, 2], targets[:2], targets, None, centering, paired, 0.1, EPS, "official", "arctanh", 1.0
        )
        return *parts, *centers, *backend.gradients(rows, parts[3], None, centers, [1, 2], centering, paired)

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


def test_chosen_pairs_of_a_matrix():
    rows = make_rows(4, [(3, 5)])
    pairs = torch.tensor([[0, 2], [3, 1]], device=DEVICE)
    targets = torch.tensor([0.1, -0.2], device=DEVICE)
    loss, mixed, *_ = backend.penalty(
        rows, [], [1], targets[:1], targets, pairs, "image", False, 0.0, EPS, "mean", "none", 1.0
    )
    x = centred(rows, [], [1], "image", 0.0)[0][0]
    expected = torch.nn.functional.cosine_similarity(x[pairs[:, 0]], x[pairs[:, 1]])
    assert torch.allclose(mixed.double(), expected, atol=1e-6)
    assert torch.allclose(loss.double(), ((expected - targets) ** 2).mean(), atol=1e-6)


def test_supports_says_why_not():
    rows = make_rows(4, [(3, 5)])
    assert backend.supports(rows, True) is None
    assert "float16" in backend.supports([rows[0].double()], True)
    assert "even" in backend.supports([rows[0][:3]], True)
    assert "256" in backend.supports([rows[0].new_zeros(300, 1, 2)], False)
    assert "layers" in backend.supports(rows * 100, True)


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("layout", ["expanded", "channels last"])
def test_attached_gradients_of_any_layout(paired, layout):
    features = torch.randn(4, 3, 4, 5, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    upstream = torch.ones((), device=DEVICE).expand(4, 3, 4, 5)
    if layout == "channels last":
        upstream = torch.randn_like(features).contiguous(memory_format=torch.channels_last)
    found = []
    for name in ("torch", "triton"):
        leaf = features.clone().requires_grad_()
        handed, products, _ = kernels.attach(
            leaf, 1, None, paired=paired, centering="image", momentum=0.0, backend=name, copy=False
        )
        found.append(torch.autograd.grad([handed, products], leaf, [upstream, torch.ones_like(products)])[0])
    torch.testing.assert_close(found[1], found[0])
