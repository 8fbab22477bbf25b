"""Products of centred rows and their gradient against float64; the Triton cases run on a GPU or in its interpreter."""

import importlib
import os

import pytest
import torch
from torch.autograd import gradcheck

from simreg import functional as F
from simreg import kernels
from simreg.kernels import torch_loops

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
CENTERINGS = ("channel", "batch", "image", "none")
no_triton = pytest.mark.skipif(
    DEVICE == "cpu" and not INTERPRETED, reason="needs a GPU; test_triton.py runs these cases in Triton's interpreter"
)
LOOPS = ["reference", "torch_loops", pytest.param("triton_loops", marks=no_triton)]
# Of the products relative to the norms of their rows, and of the gradient relative to its greatest entry.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 2e-6, torch.bfloat16: 2e-6}
ROUNDED = {torch.float64: 1e-12, torch.float32: 3e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def run(loops, features, centering, paired, mean=None, momentum=0.1, channel_dim=1):
    """As `kernels.products` with these loops, Triton on CPU tensors included."""
    if loops == "reference":
        options = {"running_mean": mean, "momentum": momentum, "channel_dim": channel_dim, "backend": "reference"}
        return kernels.products(features, centering=centering, paired=paired, **options)
    rows, axis = kernels.as_rows(features, channel_dim)
    module = importlib.import_module(f"simreg.kernels.{loops}")
    return kernels._Products.apply(rows, module, axis, centering, mean, momentum, paired)


def formula(features, centering, paired, mean=None, momentum=0.1, channel_dim=1):
    """In float64, differentiable; and the new channel mean."""
    x = features.double().movedim(channel_dim, 1)
    new = None
    if centering == "channel":
        batch = x.detach().transpose(0, 1).flatten(1).mean(1)
        new = mean.double() + momentum * (batch - mean.double())
        x = x - new.view(1, -1, *[1] * (x.ndim - 2))
    rows = x.flatten(1)
    if centering == "batch":
        rows = rows - rows.mean(0)
    if centering == "image":
        rows = rows - rows.mean(1, keepdim=True)
    if not paired:
        return rows @ rows.T, new
    a, b = rows.chunk(2)
    return torch.stack([(a * b).sum(1), (a * a).sum(1), (b * b).sum(1)]), new


def draw(*shape, dtype=torch.float32, offset=0.3, seed=0):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).relu() + offset
    return values.to(dtype).to(DEVICE)


def check(loops, x, centering, paired, channel_dim=1, tolerance=None):
    """Products, gradient for a random slope, and running mean against the formula."""
    dtype, leaf = x.dtype, x.detach().requires_grad_()
    means = [torch.linspace(0, 1, x.shape[channel_dim], dtype=torch.promote_types(dtype, torch.float32), device=DEVICE)]
    means.append(means[0].clone())
    options = [{"mean": m if centering == "channel" else None, "channel_dim": channel_dim} for m in means]
    ours = run(loops, leaf, centering, paired, **options[0])
    exact, new = formula(leaf, centering, paired, **options[1])
    assert ours.dtype == torch.float64
    norms = exact.detach()[1:].sqrt().prod(0) if paired else exact.detach().diagonal().clamp_min(1e-30).sqrt()
    scale = norms if paired else norms[:, None] * norms
    tolerance = tolerance or TOLERANCE[dtype]
    eps = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    rounding = 2 * eps * x[0].numel() ** 0.5  # of a long sum in whatever order the BLAS at hand takes it
    assert ((ours - exact).abs() <= max(tolerance, rounding) * scale).all()
    if centering == "channel":
        torch.testing.assert_close(means[0].double(), new, rtol=1e-6, atol=1e-6)
    slope = draw(*exact.shape, dtype=torch.float64, seed=1)
    (gradient,), (expected,) = (torch.autograd.grad(v, leaf, slope) for v in (ours, exact))
    assert gradient.dtype == dtype
    worst = (gradient.double() - expected.double()).abs().max()
    assert worst <= max(ROUNDED[dtype], 3 * tolerance) * expected.double().abs().max()


@pytest.mark.parametrize("loops", LOOPS)
@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("centering", CENTERINGS)
@pytest.mark.parametrize("shape", [(2, 5, 7), (6, 3, 31, 35), (34, 40), (18, 2, 3, 2, 2)])
def test_products_gradient_and_mean_match_float64(loops, paired, centering, shape):
    check(loops, draw(*shape), centering, paired)


@pytest.mark.parametrize("loops", LOOPS)
@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_every_dtype_is_computed_in_float32_at_least(loops, paired, dtype):
    if loops == "triton_loops" and (dtype == torch.float64 or (INTERPRETED and dtype == torch.bfloat16)):
        pytest.skip("Triton takes float32 and half; its interpreter lacks bfloat16")
    for centering in CENTERINGS:
        check(loops, draw(6, 3, 5, 5, dtype=dtype), centering, paired)


def layouts(x):
    """``x`` (N, C, H, W) as other tensors of equal values."""
    n = len(x)
    yield x.to(memory_format=torch.channels_last)
    yield torch.cat([x, x])[n:]
    yield x.transpose(2, 3).contiguous().transpose(2, 3)
    yield torch.cat([x.flatten(1), x.flatten(1)], dim=1)[:, : x[0].numel()].view(x.shape)  # gaps between rows


@pytest.mark.parametrize("loops", LOOPS)
@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("centering", CENTERINGS)
def test_memory_layout_does_not_matter(loops, paired, centering):
    x = draw(4, 3, 4, 5)
    for layout in layouts(x):
        check(loops, layout, centering, paired)
    check(loops, draw(4, 7, 6), centering, paired, channel_dim=2)  # tokens
    check(loops, draw(4, 5, 4, 3), centering, paired, channel_dim=3)


@pytest.mark.parametrize("loops", LOOPS)
@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("centering", ["channel", "batch", "image"])
@pytest.mark.parametrize("offset", [10.0, 1000.0])
def test_offsets_cost_no_precision_of_the_similarity(loops, paired, centering, offset):
    x = draw(16, 8, 512, offset=offset)
    mean = x.double().mean((0, 2)).float()  # as after some steps
    ours, exact = (
        f(*args, x, centering, paired, mean=mean.clone() if centering == "channel" else None)
        for f, args in ((run, (loops,)), (lambda *a, **k: formula(*a, **k)[0], ()))
    )
    cosines = [p[0] / (p[1] * p[2]).sqrt() if paired else p / p.diagonal().sqrt().outer(p.diagonal().sqrt())
               for p in (ours, exact)]  # fmt: skip
    assert (cosines[0] - cosines[1]).abs().max() < 3e-5


@pytest.mark.parametrize("size", [24, 100])
@pytest.mark.parametrize("paired", [True, False])
def test_chunks_of_any_size_give_the_same(size, paired, monkeypatch):
    monkeypatch.setattr(torch_loops, "_CACHE", size)
    for centering in CENTERINGS:
        check("torch_loops", draw(6, 5, 3, 3), centering, paired)
        check("torch_loops", draw(6, 5, 3, 3).to(memory_format=torch.channels_last), centering, paired)


@pytest.mark.parametrize("loops", LOOPS)
@pytest.mark.parametrize("axis_last", [False, True])
def test_without_momentum_the_mean_rests_and_is_subtracted(loops, axis_last):
    x, mean = draw(4, 3, 6), torch.ones(3, device=DEVICE)
    x = x.mT.contiguous().mT if axis_last else x
    ours = run(loops, x, "channel", False, mean=mean, momentum=0.0)
    assert torch.equal(mean, torch.ones_like(mean))
    rows = (x.double() - 1).flatten(1)
    torch.testing.assert_close(ours, rows @ rows.T, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loops", LOOPS[1:])
def test_a_later_update_of_the_mean_does_not_reach_the_gradient(loops):
    for x in (draw(4, 3, 6), draw(4, 6, 3).mT):
        x.requires_grad_()
        gradients = []
        for move in (0.0, 5.0):
            mean = torch.zeros(3, device=DEVICE)
            found = run(loops, x, "channel", True, mean=mean)
            mean += move
            gradients.append(torch.autograd.grad(found.sum(), x)[0])
        assert torch.equal(*gradients)


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("centering", CENTERINGS)
def test_gradcheck(paired, backend, centering):
    x = draw(4, 3, 5, dtype=torch.float64).cpu().requires_grad_()
    assert gradcheck(lambda v: kernels.products(v, centering=centering, paired=paired, backend=backend), x)


def test_as_rows_are_views_where_possible():
    x = torch.zeros(4, 3, 4, 5)
    for layout in (x, x.to(memory_format=torch.channels_last), torch.cat([x, x])[4:], torch.zeros(4, 7, 3)[:, 0]):
        rows, _ = kernels.as_rows(layout)
        assert rows.untyped_storage().data_ptr() == layout.untyped_storage().data_ptr()
    tokens, axis = kernels.as_rows(torch.zeros(2, 7, 6), 2)
    assert (tuple(tokens.shape), axis, tokens.is_contiguous()) == ((2, 7, 6), 2, True)


def test_nothing_of_the_pass_is_kept_but_the_features():
    for centering in CENTERINGS:
        x, saved = draw(8, 16, 9, 9).requires_grad_(), []
        mean = torch.zeros(16, device=DEVICE) if centering == "channel" else None
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):  # noqa: B023
            run("torch_loops", x, centering, True, mean=mean)
        extra = [t for t in saved if t.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()]
        assert sum(t.numel() for t in extra) <= 16


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_autocast_does_not_reach_the_products(backend):
    x = draw(6, 3, 50).requires_grad_()
    plain, mixed = [], []
    for found, enabled in ((plain, False), (mixed, True)):
        with torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=enabled):
            products = kernels.products(x, centering="batch", paired=False, backend=backend)
        found += [products, torch.autograd.grad(products.square().sum(), x)[0]]
    assert all(torch.equal(a, b) for a, b in zip(plain, mixed, strict=True))


def test_double_backward_is_refused_but_by_the_reference():
    x = draw(4, 5).requires_grad_()
    (first,) = torch.autograd.grad(F.pairwise_cosine(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="twice"):
        first.sum().backward()
    (first,) = torch.autograd.grad(F.pairwise_cosine(x, backend="reference").square().sum(), x, create_graph=True)
    first.sum().backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.skipif(DEVICE == "cuda", reason="the refusals of a machine without GPU")
def test_a_named_backend_that_cannot_run_raises():
    with pytest.raises(RuntimeError, match=r'needs CUDA.*backend="auto"'):
        kernels.products(torch.zeros(4, 3), centering="none", paired=True, backend="triton")
    with pytest.raises(ValueError, match="'torch'"):
        kernels.products(torch.zeros(4, 3), centering="none", paired=True, backend="troch")
    assert kernels._loops("auto", torch.zeros(4, 3), True) is torch_loops
    assert kernels._loops("reference", torch.zeros(4, 3), True) is None


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("centering", CENTERINGS)
def test_a_compiler_sees_the_reference_in_one_graph(paired, centering):
    torch._dynamo.reset()
    x = draw(6, 3, 4, 5).cpu().requires_grad_()
    means = [torch.zeros(3), torch.zeros(3)]

    def step(v, mean):
        mean = mean if centering == "channel" else None
        return kernels.products(v, centering=centering, running_mean=mean, momentum=0.1, paired=paired)

    eager = step(x, means[0])
    graphed = torch.compile(step, fullgraph=True, backend="aot_eager")(x, means[1])
    torch.testing.assert_close(graphed, eager, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(means[1], means[0])
    gradients = [torch.autograd.grad(p.sum(), x)[0] for p in (graphed, eager)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)
