import numpy as np
import pytest
import torch

from simreg import LabelTarget, MatrixTarget, NeuralTarget, PixelTarget, RegularizationPool, ThresholdTarget
from simreg import functional as F

S = torch.tensor([-1.0, -0.9, -0.5, -0.1, 0.0, 0.1, 0.5, 0.9, 1.0])


@pytest.fixture
def colour(generator):
    return torch.rand(12, 3, 6, 6, generator=generator)


@pytest.mark.parametrize("color", ["gray", "rgb"])
@pytest.mark.parametrize("centering", ["dataset", "image", "none"])
def test_pixel_similarity_matches_a_float64_loop(colour, color, centering):
    x = colour.double().numpy()
    rows = (x.mean(axis=1) if color == "gray" else x).reshape(12, -1)
    if centering == "dataset":
        rows = rows - rows.mean(axis=0)
    if centering == "image":
        rows = rows - rows.mean(axis=1, keepdims=True)
    expected = [
        float(np.dot(rows[i], rows[j]) / np.sqrt(np.dot(rows[i], rows[i]) * np.dot(rows[j], rows[j])))
        for i in range(12)
        for j in range(i + 1, 12)
    ]
    target = PixelTarget(centering, color)
    for t in (target, target.fit(colour)):
        np.testing.assert_allclose(t.paired(F.all_pairs(12), colour).numpy(), expected, atol=2e-6)


def test_fitted_mean_image_is_that_of_the_pool(colour):
    fitted = PixelTarget().fit(colour)
    few = fitted.paired(torch.tensor([[0, 1]]), colour[:2])
    torch.testing.assert_close(few, fitted.paired(torch.tensor([[0, 1]]), colour))
    assert PixelTarget().paired(torch.tensor([[0, 1]]), colour[:2]) != few
    with pytest.raises(ValueError, match="resize them, or fit the target"):
        fitted.paired(torch.tensor([[0, 1]]), colour[..., :5])


def test_uint8_and_float_images_agree(generator):
    x = torch.randint(256, (5, 1, 4, 4), dtype=torch.uint8, generator=generator)
    pairs = F.all_pairs(5)
    torch.testing.assert_close(PixelTarget().paired(pairs, x), PixelTarget().paired(pairs, x / 255.0))


def test_threshold_shape_is_strict_at_the_threshold():
    target = ThresholdTarget(0.5)
    assert target.shape(S).tolist() == [-1, -1, 0, 0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("select", "low", "kept"),
    [
        ("all", None, None),
        ("low", None, [-0.1, 0.0, 0.1]),
        ("high", None, [-1.0, -0.9, 0.9, 1.0]),
        ("positive", None, [-0.1, 0.0, 0.1, 0.9, 1.0]),
        ("negative", None, [-1.0, -0.9, -0.1, 0.0, 0.1]),
        ("high_positive", None, [0.9, 1.0]),
        ("double", 0.05, [-1.0, -0.9, 0.0, 0.9, 1.0]),
    ],
)
def test_selections_keep_the_pairs_of_the_paper(select, low, kept):
    selected = ThresholdTarget(0.5, select=select, low=low).selected(S)
    if kept is None:
        assert selected is None
    else:
        torch.testing.assert_close(S[selected], torch.tensor(kept))


def test_threshold_works_over_any_representation(generator):
    responses = torch.randn(6, 20, generator=generator)
    neural = NeuralTarget.from_responses(responses, reliability=False)
    target = ThresholdTarget(0.2, of=neural)
    base = neural.paired(F.all_pairs(6), indices=torch.arange(6))
    shaped = target.shape(target.paired(F.all_pairs(6), indices=torch.arange(6)))
    torch.testing.assert_close(shaped, (base > 0.2).float() - (base < -0.2).float())
    assert shaped.abs().sum() > 0


def test_representations_are_unit_vectors_whose_products_are_the_similarity(colour, generator):
    labels = torch.randint(3, (12,), generator=generator)
    neural = NeuralTarget.from_responses(torch.randn(12, 9, generator=generator), reliability=False)
    rows = torch.arange(12)
    for target in (PixelTarget(), ThresholdTarget(0.3), LabelTarget(), neural, NeuralTarget.average([neural, neural])):
        r = target.representation(colour, labels=labels, indices=rows)
        torch.testing.assert_close(r.norm(dim=1), torch.ones(12))
        i, j = F.all_pairs(12).T
        paired = target.paired(F.all_pairs(12), colour, labels=labels, indices=rows)
        torch.testing.assert_close((r @ r.T)[i, j].clamp(-1, 1), paired)
        torch.testing.assert_close(target.outer(r[:3], r)[0, 1:], paired[:11])


def test_neural_target_matches_definition(generator):
    r = torch.randn(5, 7, 4, generator=generator, dtype=torch.float64)
    mean = r.mean(0)
    weights = (mean.var(0, correction=0) / r.var(0, correction=0).mean(0)).sqrt()
    x = (mean - mean.mean(0)) * weights
    x = x / x.norm(dim=1, keepdim=True)
    i, j = F.all_pairs(7).T
    ours = NeuralTarget.from_responses(r).paired(F.all_pairs(7), indices=torch.arange(7))
    torch.testing.assert_close(ours, (x @ x.T)[i, j])
    given = NeuralTarget.from_responses(mean, reliability=weights).paired(F.all_pairs(7), indices=torch.arange(7))
    torch.testing.assert_close(given, ours)


def test_numpy_recordings_are_taken_as_they_are(generator):
    r = torch.randn(5, 7, 4, generator=generator, dtype=torch.float64)
    rows, pairs = torch.arange(7), F.all_pairs(7)
    one, two = (NeuralTarget.from_responses(x).paired(pairs, indices=rows) for x in (r, r.numpy()))
    assert torch.equal(one, two)
    weights = F.response_reliability(r)
    given = NeuralTarget.from_responses(r.numpy(), reliability=weights.numpy()).paired(pairs, indices=rows)
    torch.testing.assert_close(given, one)
    assert torch.equal(MatrixTarget(np.eye(3)).matrix, torch.eye(3, dtype=torch.float64))
    with pytest.raises(TypeError, match="responses must be a tensor or NumPy array"):
        NeuralTarget.from_responses([[1.0]])


def test_average_is_the_mean_of_the_similarities(generator):
    scans = [
        NeuralTarget.from_responses(torch.randn(8, a, generator=generator), reliability=False) for a in (3, 11, 40)
    ]
    rows, pairs = torch.arange(8), F.all_pairs(8)
    mean = torch.stack([s.paired(pairs, indices=rows) for s in scans]).mean(0)
    torch.testing.assert_close(NeuralTarget.average(scans).paired(pairs, indices=rows), mean)


def test_label_and_matrix_targets_in_a_pool(colour, generator):
    labels = torch.randint(4, (12,), generator=generator)
    matrix = F.pairwise_cosine(torch.randn(12, 5, generator=generator))
    for target, expected in ((LabelTarget(), (labels[:, None] == labels).float()), (MatrixTarget(matrix), matrix)):
        batch = next(RegularizationPool(colour, target, labels=labels).batches(9))
        i, j = batch.indices[:9], batch.indices[9:]
        torch.testing.assert_close(batch.targets, expected[i, j])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ThresholdTarget(0.0), ValueError, "threshold"),
        (lambda: ThresholdTarget(1.0), ValueError, r"\(0, 1\)"),
        (lambda: ThresholdTarget(-0.5), ValueError, "threshold"),
        (lambda: ThresholdTarget(select="lo"), ValueError, "low"),
        (lambda: ThresholdTarget(select="double"), ValueError, "lower threshold"),
        (lambda: ThresholdTarget(0.5, low=0.2), ValueError, "lower threshold"),
        (lambda: ThresholdTarget(0.5, select="double", low=0.6), ValueError, "below the threshold"),
        (lambda: ThresholdTarget(of="pixels"), TypeError, "PixelTarget"),
        (lambda: PixelTarget("mean"), ValueError, "centering"),
        (lambda: PixelTarget().paired(F.all_pairs(2)), ValueError, "needs the images"),
        (lambda: LabelTarget().representation(torch.zeros(2, 1, 2, 2)), ValueError, "labels"),
        (lambda: MatrixTarget(torch.tensor([[1.0, 0.5], [0.2, 1.0]])), ValueError, "symmetric"),
        (lambda: MatrixTarget(2 * torch.eye(2)), ValueError, r"\[-1, 1\]"),
        (lambda: MatrixTarget(torch.zeros(2, 3)), ValueError, "square"),
        (lambda: MatrixTarget(torch.eye(2)).paired(F.all_pairs(2)), ValueError, "RegularizationPool"),
        (lambda: NeuralTarget.from_responses(torch.rand(4, 3)), ValueError, "no repeats"),
        (lambda: NeuralTarget.from_responses(torch.rand(4)), ValueError, r"\(T, N, A\)"),
        (lambda: NeuralTarget.from_responses(torch.ones(3, 4, 2)), ValueError, "weighs 0"),
        (lambda: NeuralTarget.from_responses(torch.full((3, 4, 2), float("nan"))), ValueError, "no finite response"),
        (lambda: NeuralTarget.average([]), ValueError, "at least one"),
        (
            lambda: NeuralTarget.average([NeuralTarget(torch.eye(2)), NeuralTarget(torch.eye(3))]),
            ValueError,
            "same images",
        ),
    ],
)
def test_mistakes_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_targets_tied_to_other_numbers_of_images_are_refused_by_the_pool(colour):
    for target in (
        MatrixTarget(torch.eye(5)),
        NeuralTarget(torch.eye(5)),
        ThresholdTarget(0.5, of=NeuralTarget(torch.eye(5))),
    ):
        with pytest.raises(ValueError, match="5 images are described, but the pool has 12"):
            RegularizationPool(colour, target)
