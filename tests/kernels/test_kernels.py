"""The fused kernels against an independent float64 rendering: similarity, loss, gradients, running means."""

import math

import pytest
import torch
import torch._dynamo
from torch.autograd import gradcheck
from torch.utils.flop_counter import FlopCounterMode

from simreg import functional as F
from simreg import kernels
from simreg.kernels import as_rows, closed_form, compiled, functions, ops

CENTERINGS = ("channel", "batch", "image", "none")
needs_compiler = pytest.mark.skipif(
    compiled.unavailable() is not None, reason=f"torch.compile cannot run here: {compiled.unavailable()}"
)
SHAPES = [(5, 3, 7), (3, 40), (11, 4, 2, 2)]  # (C, ...) of an image, a sequence and a volume


def features_of(n, dtype=torch.float64, shapes=SHAPES, seed=0, offset=0.3):
    g = torch.Generator().manual_seed(seed)
    return [(torch.randn(n, *s, generator=g, dtype=torch.float64).relu() + offset).to(dtype) for s in shapes]


def rendered(features, means, logits, targets, pairs, centering, convention="official", transform="arctanh", clamp=1.0):
    """L_sim in float64 from the formulas, differentiable; and the new channel means."""
    similarities, new = [], []
    for x, old in zip(features, means, strict=True):
        x = x.double()
        if centering == "channel":
            batch = x.detach().transpose(0, 1).flatten(1).mean(dim=1)
            new.append(0.9 * old.double() + 0.1 * batch)
            x = x - new[-1].view(1, -1, *[1] * (x.ndim - 2))
        rows = x.flatten(1)
        if centering == "batch":
            rows = rows - rows.mean(dim=0)
        if centering == "image":
            rows = rows - rows.mean(dim=1, keepdim=True)
        similarities.append(
            torch.stack(
                [(rows[i] @ rows[j]) / (rows[i] @ rows[i]).sqrt() / (rows[j] @ rows[j]).sqrt() for i, j in pairs]
            )
        )
    mixed = torch.softmax(logits.double(), 0) @ torch.stack(similarities)
    targets = targets.double().clamp(-clamp, clamp)
    factor = 1.0 if convention == "official" else 0.5
    z = (
        (lambda s: factor * (torch.log(1 + s + 1e-5) - torch.log(1 - s + 1e-5)))
        if transform == "arctanh"
        else (lambda s: s)
    )
    squares = (z(mixed) - z(targets)) ** 2
    return (2 * squares.sum() if convention == "paper" else squares.mean()), new


def fused(features, means, logits, targets, pairs, centering, backend, paired, **options):
    settings = {"convention": "official", "transform": "arctanh", "target_clamp": None, "momentum": 0.1, **options}
    dims = [1] * len(features)
    return kernels.similarity_penalty(
        features,
        dims,
        means,
        logits,
        targets,
        pairs,
        paired=paired,
        centering=centering,
        eps=1e-8,
        backend=backend,
        **settings,
    )


def pair_list(n, paired):
    return [(i, n // 2 + i) for i in range(n // 2)] if paired else [(i, j) for i in range(n) for j in range(i + 1, n)]


def case(n, paired, dtype=torch.float64, seed=0, **kwargs):
    g = torch.Generator().manual_seed(seed + 1)
    features = [f.requires_grad_() for f in features_of(n, dtype, seed=seed, **kwargs)]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    means = [torch.rand(f.shape[1], generator=g, dtype=torch.float64).to(wide) for f in features]
    logits = torch.randn(len(features), generator=g, dtype=torch.float64).to(wide).requires_grad_()
    targets = torch.rand(len(pair_list(n, paired)), generator=g) * 2 - 1
    return features, means, logits, targets


BACKENDS = [
    pytest.param("torch", True, id="torch-pairs"),
    pytest.param("torch", False, id="torch-all"),
    pytest.param("compile", True, id="compile-pairs", marks=needs_compiler),
]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 4e-3, torch.float16: 1e-3}


@pytest.mark.parametrize("centering", CENTERINGS)
@pytest.mark.parametrize(
    ("backend", "paired", "n", "dtype"),
    [
        *[("torch", paired, n, d) for paired in (True, False) for n in (4, 34) for d in (torch.float64, torch.float32)],
        pytest.param("compile", True, 34, torch.float32, marks=needs_compiler),
    ],
)
def test_penalty_and_gradients_match_the_formulas(backend, paired, n, dtype, centering):
    features, means, logits, targets = case(n, paired, dtype)
    found = fused(features, means, logits, targets, None, centering, backend, paired)
    expected, new = rendered(features, means, logits, targets, pair_list(n, paired), centering)
    assert found.loss.dtype == dtype
    torch.testing.assert_close(found.loss.double(), expected, rtol=TOLERANCE[dtype], atol=0)
    ours = torch.autograd.grad(3.0 * found.loss, [*features, logits])
    theirs = torch.autograd.grad(3.0 * expected, [*features, logits])
    for a, b in zip(ours[:-1], theirs[:-1], strict=True):
        assert a.dtype == dtype
        assert (a - b).abs().max() <= 5 * TOLERANCE[dtype] * b.abs().max()
    assert (ours[-1] - theirs[-1]).abs().max() <= 50 * TOLERANCE[dtype] * theirs[-1].abs().max()
    for a, b in zip(found.means, new, strict=centering == "channel"):
        torch.testing.assert_close(a.double(), b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(paired, dtype):
    features, means, logits, targets = case(6, paired, dtype)
    found = fused(features, means, logits, targets, None, "channel", "torch", paired)
    exact, _ = rendered(features, means, logits, targets, pair_list(6, paired), "channel")
    assert found.loss.dtype == torch.float32
    torch.testing.assert_close(found.loss.double(), exact, rtol=2e-6, atol=0)  # as good as the input is
    ours, theirs = torch.autograd.grad(found.loss, features), torch.autograd.grad(exact, features)
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == dtype
        assert (a.double() - b.double()).abs().max() <= TOLERANCE[dtype] * b.double().abs().max()


@pytest.mark.parametrize("convention", ["official", "paper", "mean"])
@pytest.mark.parametrize("transform", ["arctanh", "none"])
@pytest.mark.parametrize("clamp", [1.0, 0.5])
def test_conventions_match_the_formulas(convention, transform, clamp):
    features, means, logits, targets = case(6, False)
    options = {"convention": convention, "transform": transform, "target_clamp": clamp}
    found = fused(features, means, logits, targets, None, "channel", "torch", False, **options)
    expected, _ = rendered(
        features, means, logits, targets, pair_list(6, False), "channel", convention, transform, clamp
    )
    torch.testing.assert_close(found.loss, expected)
    ours, theirs = (torch.autograd.grad(loss, [*features, logits]) for loss in (found.loss, expected))
    torch.testing.assert_close(ours, theirs)


def test_explicit_pairs_may_repeat_and_meet_themselves():
    features, means, logits, _ = case(5, False)
    pairs = torch.tensor([[0, 3], [3, 0], [1, 1], [2, 4], [0, 3]])
    targets = torch.linspace(-0.5, 0.5, 5)
    found = fused(features, means, logits, targets, pairs, "channel", "torch", False)
    expected, _ = rendered(features, means, logits, targets, pairs.tolist(), "channel")
    torch.testing.assert_close(found.loss, expected, rtol=1e-9, atol=0)
    for a, b in zip(*(torch.autograd.grad(v, features) for v in (found.loss, expected)), strict=True):
        # a pair of one image with itself has similarity 1, where the formulas' gradient is rounding times 1e5
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("backend", "paired"), BACKENDS)
def test_chunks_of_any_size_give_the_same(backend, paired, monkeypatch):
    features, means, logits, targets = case(6, paired)
    whole = fused(features, means, logits, targets, None, "channel", backend, paired)
    grads = torch.autograd.grad(whole.loss, features)
    monkeypatch.setattr(kernels.ops.chunked, "_CACHE", 24)  # 4 values of each row: less than a channel
    parts = fused(features, means, logits, targets, None, "channel", backend, paired)
    torch.testing.assert_close(parts.loss, whole.loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.autograd.grad(parts.loss, features), grads, rtol=1e-9, atol=1e-12)


def layouts(x):
    """``x`` (N, C, H, W) as other tensors of equal values."""
    n = x.shape[0]
    yield x.to(memory_format=torch.channels_last)
    yield torch.cat([x, x])[n:]
    yield x.expand_as(x).transpose(2, 3).contiguous().transpose(2, 3)  # neither layout: copied
    padded = torch.zeros(n, 3 * x[0].numel(), dtype=x.dtype)
    padded[:, : x[0].numel()] = x.flatten(1)
    yield padded[:, : x[0].numel()].view(n, *x.shape[1:])  # gaps between rows


@pytest.mark.parametrize(
    ("backend", "paired", "centering"),
    [
        *[("torch", paired, centering) for paired in (True, False) for centering in CENTERINGS],
        pytest.param("compile", True, "channel", marks=needs_compiler),
    ],
)
def test_memory_layout_does_not_matter(backend, paired, centering):
    x = features_of(4, shapes=[(3, 4, 5)])[0]
    logits, means = torch.zeros(1, dtype=torch.float64), [torch.zeros(3, dtype=torch.float64)]
    targets = torch.zeros(len(pair_list(4, paired)))
    results = []
    for layout in (x, *layouts(x)):
        leaf = layout.detach().requires_grad_()
        found = fused([leaf], means, logits, targets, None, centering, backend, paired)
        results.append((found.loss, torch.autograd.grad(found.loss, leaf)[0]))
    for loss, grad in results[1:]:
        torch.testing.assert_close(loss, results[0][0])
        torch.testing.assert_close(grad, results[0][1])


def test_views_are_taken_where_possible():
    x = torch.zeros(4, 3, 4, 5)
    for layout in (x, x.to(memory_format=torch.channels_last), torch.cat([x, x])[4:], torch.zeros(4, 7, 3)[:, 0]):
        rows, _ = as_rows(layout, 1)
        assert rows.untyped_storage().data_ptr() == layout.untyped_storage().data_ptr()
    tokens, axis = as_rows(torch.zeros(2, 7, 6), 2)
    assert (tuple(tokens.shape), axis) == ((2, 7, 6), 2)


@pytest.mark.parametrize(("backend", "paired"), BACKENDS)
@pytest.mark.parametrize("centering", ["channel", "batch", "image"])
@pytest.mark.parametrize("offset", [0.0, 10.0, 1000.0])
def test_offsets_cost_no_precision(backend, paired, centering, offset):
    g = torch.Generator().manual_seed(0)
    x = (torch.randn(16, 8, 512, generator=g).relu() + offset).requires_grad_()
    old = x.detach().double().mean(dim=(0, 2)).float()  # as after some steps
    targets = torch.zeros(len(pair_list(16, paired)))
    found = fused([x], [old], torch.zeros(1), targets, None, centering, backend, paired)
    expected, _ = rendered([x], [old], torch.zeros(1), targets, pair_list(16, paired), centering)
    # The gradient of a sum of similarities: that of the loss would hide errors in them behind errors of each other.
    with torch.no_grad():
        exact = similarities_of(x, old, pair_list(16, paired), centering)
    assert (found.layers[0] - exact).abs().max() <= (1e-6 if offset == 0 else 3e-5)
    ours, theirs = torch.autograd.grad(found.loss, x)[0], torch.autograd.grad(expected, x)[0]
    assert (ours - theirs).abs().max() <= (1e-5 if offset < 1000 else 1e-3) * theirs.abs().max()


def similarities_of(x, old, pairs, centering):
    rows = x.double().flatten(1)
    if centering == "channel":
        new = 0.9 * old.double() + 0.1 * x.double().mean(dim=(0, 2))
        rows = (x.double() - new.view(1, -1, 1)).flatten(1)
    elif centering == "batch":
        rows = rows - rows.mean(dim=0)
    else:
        rows = rows - rows.mean(dim=1, keepdim=True)
    unit = rows / rows.norm(dim=1, keepdim=True)
    return torch.stack([unit[i] @ unit[j] for i, j in pairs])


@pytest.mark.parametrize(("backend", "paired"), BACKENDS)
def test_zero_rows_duplicates_and_nan(backend, paired):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(6, 3, 50, generator=g)
    x[0] = 0.0  # with 3
    x[4] = x[1]  # pairs (1, 4)
    x[5] = -x[2]  # pairs (2, 5)
    x.requires_grad_()
    targets = torch.full((len(pair_list(6, paired)),), 0.5)
    found = fused([x], [], torch.zeros(1), targets, None, "none", backend, paired)
    s = dict(zip(pair_list(6, paired), found.layers[0].tolist(), strict=True))
    assert s[0, 3] == 0.0
    assert s[1, 4] == 1.0
    assert s[2, 5] == -1.0
    found.loss.backward()
    assert torch.isfinite(x.grad).all()
    assert (x.grad[0] == 0).all()
    poisoned = x.detach().clone()
    poisoned[2, 0, 0] = math.nan
    poisoned.requires_grad_()
    found = fused([poisoned], [], torch.zeros(1), targets, None, "none", backend, paired)
    assert torch.isnan(found.loss)
    found.loss.backward()
    assert torch.isnan(poisoned.grad[2]).any()


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("centering", ["batch", "image", "none"])
def test_gradcheck(paired, centering):
    features, means, logits, targets = case(4, paired, shapes=[(3, 5), (2, 4, 2)])
    if centering == "batch" and paired:  # two centred images of a pair are opposite only when they are alone
        assert len(targets) == 2

    def loss(*inputs):
        return fused(list(inputs[:-1]), means, inputs[-1], targets, None, centering, "torch", paired).loss

    assert gradcheck(loss, (*features, logits))


def test_random_upstream_gradients_of_the_matrix(generator):
    x = torch.randn(7, 33, generator=generator, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(7, 7, generator=generator, dtype=torch.float64)
    for centering in ("channel", "batch", "image", "none"):
        ours, theirs = (
            torch.autograd.grad(F.pairwise_cosine(x, centering=centering, backend=b), x, upstream)[0]
            for b in ("torch", "reference")
        )
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_a_row_without_norm_gives_its_partner_no_gradient(backend):
    x = torch.tensor([[1e-9, 0.0], [3.0, 4.0], [1.0, 2.0], [2.0, 0.0]], requires_grad=True)
    (found,) = torch.autograd.grad(F.pairwise_cosine(x, centering="none", backend=backend)[0].sum(), x)
    assert found.eq(0).all()


@pytest.mark.parametrize("paired", [True, False])
def test_operators_give_outputs_of_their_own(paired):
    x = torch.randn(4, 3, 5, dtype=torch.float64)
    _, centers = ops.products([x, x.clone()], [], [1, 1], "image", paired, 0.0, "torch")
    assert centers[0].untyped_storage().data_ptr() != centers[1].untyped_storage().data_ptr()


def test_double_backward_says_what_to_do(generator):
    x = torch.randn(4, 5, generator=generator, requires_grad=True)
    (first,) = torch.autograd.grad(F.pairwise_cosine(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match='backend="reference"'):
        first.sum().backward()
    (first,) = torch.autograd.grad(F.pairwise_cosine(x, backend="reference").square().sum(), x, create_graph=True)
    first.sum().backward()
    assert torch.isfinite(x.grad).all()


def attached_loss(features, logits, targets, paired):
    """As the regularizer takes it with attach=True."""
    found = [
        kernels.attach(f, 1, None, paired=paired, centering="none", momentum=0.0, backend="torch", copy=False)
        for f in features
    ]
    pairs = None if paired else torch.tensor(pair_list(features[0].shape[0], False))
    options = {"convention": "official", "transform": "arctanh", "target_clamp": None, "eps": 1e-8}
    products = torch.cat([products for _, products, _ in found])
    return kernels.penalty_of_products(products, logits, targets, pairs, dtype=torch.float64, **options).loss


def operator_loss(features, logits, targets, paired):
    options = (1e-8, closed_form.rounding(torch.float64), "official", "arctanh", 1.0)
    dims = [1] * len(features)
    return ops.penalty(features, [], dims, logits, targets, None, "none", paired, 0.0, *options, "torch")[0]


def eager_loss(features, logits, targets, paired):
    return fused(features, [None] * len(features), logits, targets, None, "none", "torch", paired).loss


def compiled_loss(features, logits, targets, paired):
    torch._dynamo.reset()
    return torch.compile(eager_loss, fullgraph=True, backend="eager")(features, logits, targets, paired)


LOSSES = [
    *[(loss, paired) for loss in (eager_loss, operator_loss, attached_loss) for paired in (True, False)],
    (compiled_loss, False),  # compiled pairs are plain operations, which have second derivatives
]


@pytest.mark.parametrize(("loss", "paired"), LOSSES)
@pytest.mark.parametrize("power", [1, 2])  # squared, the gradients also hang on the loss by their scale
def test_second_derivatives_are_refused_wherever_they_lead(loss, paired, power):
    features, _, logits, targets = case(4, paired)
    found = loss(features, logits, targets, paired) ** power
    gradients = torch.autograd.grad(found, [logits, *features], create_graph=True)
    for first in gradients:
        weights = torch.linspace(1, 2, first.numel(), dtype=first.dtype).view_as(first)
        for second in (logits, features[0], features[-1]):
            with pytest.raises(RuntimeError, match='backend="reference"'):
                torch.autograd.grad((weights * first).sum(), second, retain_graph=True)
        with pytest.raises(RuntimeError, match='backend="reference"'):
            (weights * first).sum().backward(retain_graph=True)
    assert logits.grad is None


@pytest.mark.parametrize(("loss", "paired"), LOSSES)
def test_gradients_are_linear_in_the_scale_of_the_loss(loss, paired):
    """A second derivative to the loss's scale alone, as of a learned weight, is the gradient itself."""
    features, _, logits, targets = case(4, paired)
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    plain = torch.autograd.grad(loss(features, logits, targets, paired), [logits, *features])
    found = loss(features, logits, targets, paired)
    for factor in (3.0, scale):  # a constant as GradScaler's, or one with a derivative
        scaled = torch.autograd.grad(factor * found, [logits, *features], create_graph=True)
        torch.testing.assert_close([g.detach() / 3 for g in scaled], list(plain))
    exact = [logits] if loss is attached_loss else [logits, *features]  # the pass of attach=True scales in passing
    for got, expected in zip(scaled[: len(exact)], plain, strict=False):
        weights = torch.linspace(1, 2, got.numel(), dtype=got.dtype).view_as(got)
        (slope,) = torch.autograd.grad((weights * got).sum(), scale, retain_graph=True)
        torch.testing.assert_close(slope, (weights * expected).sum())
    if loss is attached_loss:
        with pytest.raises(RuntimeError, match='backend="reference"'):
            torch.autograd.grad(scaled[1].sum(), scale)


@pytest.mark.parametrize("paired", [True, False])
def test_attached_layers_keep_second_derivatives_of_the_rest_to_its_scale(paired):
    features, _, _, _ = case(4, paired)
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    handed, products, _ = kernels.attach(
        features[0], 1, None, paired=paired, centering="none", momentum=0.0, backend="torch", copy=False
    )
    loss = scale * handed.square().sum() + products.sum()
    (first,) = torch.autograd.grad(loss, features[0], create_graph=True)
    (slope,) = torch.autograd.grad(first.sum(), scale, retain_graph=True)
    torch.testing.assert_close(slope, 2 * features[0].detach().sum())
    with pytest.raises(RuntimeError, match='backend="reference"'):
        torch.autograd.grad(first.sum(), features[0])


@pytest.mark.parametrize("loss", [eager_loss, operator_loss])
def test_an_optimizer_may_step_over_the_logits_before_backward(loss):
    features, _, logits, targets = case(4, True)
    expected = torch.autograd.grad(loss(features, logits, targets, True), [logits, *features])
    found = loss(features, logits, targets, True)
    with torch.no_grad():
        logits += 1.0
    torch.testing.assert_close(torch.autograd.grad(found, [logits, *features]), expected)


@pytest.mark.parametrize("paired", [True, False])
def test_operators_keep_the_rules_of_torch_library(paired):
    features, means, logits, targets = case(4, paired, torch.float32, shapes=[(3, 5), (2, 4, 2)])
    plain = [f.detach() for f in features]
    live = [f.clone().requires_grad_() for f in plain]
    live[1] = live[1].detach().to(memory_format=torch.channels_last).requires_grad_()
    settings = ("channel", paired, 0.1)
    torch.library.opcheck(ops.products, (live, means, [1, 1], *settings, "torch"))
    options = (1e-8, 5e-7, "official", "arctanh", 1.0)
    torch.library.opcheck(
        ops.penalty,
        (live, means, [1, 1], logits.detach().requires_grad_(), targets, None, *settings, *options, "torch"),
    )
    products, centers = ops.products(plain, means, [1, 1], *settings, "torch")
    for add in ([], [torch.ones_like(f) for f in plain]):
        args = (plain, torch.rand_like(products), torch.tensor(2.0), centers, [1, 1], "channel", paired, add, "torch")
        torch.library.opcheck(ops.gradients, args)


@pytest.mark.parametrize("paired", [True, False])
def test_operators_and_functions_agree(paired):
    features, means, logits, targets = case(6, paired)
    eager = fused(features, means, logits, targets, None, "channel", "torch", paired).loss
    options = (1e-8, closed_form.rounding(torch.float64), "official", "arctanh", 1.0)
    dims = [1] * len(features)
    whole = ops.penalty(features, means, dims, logits, targets, None, "channel", paired, 0.1, *options, "torch")[0]
    products, _ = ops.products(features, means, dims, "channel", paired, 0.1, "torch")
    pairs = None if paired else torch.tensor(pair_list(6, False))
    parts = functions.Loss.apply(options, products, logits, targets, pairs)[0]
    gradients = torch.autograd.grad(eager, [*features, logits])
    for loss in (whole, parts):
        torch.testing.assert_close(loss, eager)
        torch.testing.assert_close(torch.autograd.grad(loss, [*features, logits]), gradients)


def test_nothing_of_the_pass_is_kept_but_the_features():
    features, means, logits, targets = case(6, True, torch.float32)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        fused(features, means, logits, targets, None, "channel", "torch", True)
    own = {f.untyped_storage().data_ptr() for f in features}
    extra = [t for t in saved if t.untyped_storage().data_ptr() not in own]
    assert sum(t.numel() for t in extra) < 200  # coefficients and means


def test_dispatch_follows_device_size_and_pairs():
    small, large = torch.zeros(4, 10), torch.empty(8, 2**19)
    assert kernels.choose("auto", [small], True) == "torch"
    assert kernels.choose("auto", [large], False) == "torch"
    assert kernels.choose("auto", [large], True) == ("compile" if compiled.unavailable() is None else "torch")
    assert kernels.choose("auto", [torch.empty(400, 2)], False, num_pairs=10) == "reference"
    with pytest.raises(RuntimeError, match="all or given pairs"):
        kernels.choose("compile", [small], False)
    with pytest.raises(RuntimeError, match=r"triton.*backend=\"auto\""):
        kernels.choose("triton", [small], True)


def test_without_a_compiler_the_plain_path_runs(monkeypatch):
    monkeypatch.setattr(compiled, "unavailable", lambda: "no compiler in this test")
    large = torch.empty(8, 2**19)
    assert kernels.choose("auto", [large], True) == "torch"
    with pytest.raises(RuntimeError, match="no compiler in this test"):
        kernels.choose("compile", [large], True)


@pytest.mark.parametrize(
    ("paired", "centering"), [*[(True, centering) for centering in CENTERINGS], (False, "channel")]
)
def test_traces_without_graph_breaks(paired, centering):
    features, means, logits, targets = case(6, paired, torch.float32)
    features[0] = features[0].detach().to(memory_format=torch.channels_last).requires_grad_()
    torch._dynamo.reset()

    def penalty(*rows):
        return fused(list(rows), means, logits, targets, None, centering, "torch", paired)

    eager = penalty(*features)
    graphed = torch.compile(penalty, fullgraph=True, backend="aot_eager")(*features)
    for name in ("loss", "similarity", "layers", "means"):
        torch.testing.assert_close(getattr(graphed, name), getattr(eager, name))
    gradients = [torch.autograd.grad(found.loss, [*features, logits]) for found in (graphed, eager)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)


@needs_compiler
def test_compiled_backend_steps_aside_for_dispatch_modes():
    features, means, logits, targets = case(6, True, torch.float32)
    expected = fused(features, means, logits, targets, None, "channel", "compile", True).loss
    with FlopCounterMode(display=False):
        found = fused(features, means, logits, targets, None, "channel", "compile", True).loss
        found.backward()
    torch.testing.assert_close(found, expected)


def test_integer_and_empty_features_are_refused():
    with pytest.raises(TypeError, match=r"features\.float\(\)"):
        F.pairwise_cosine(torch.zeros(3, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="at least one image and one unit"):
        F.pairwise_cosine(torch.zeros(0, 4))
    with pytest.raises(ValueError, match="rows of the 4 images"):
        F.paired_cosine(torch.zeros(4, 2), torch.tensor([[0, 4]]))
