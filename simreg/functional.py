r"""The mathematics of similarity regularization as pure functions.

Shapes, here and everywhere in simreg: N images, P pairs of images, D units of a layer (its activation of one image,
flattened), C channels, H height, W width, L layers, T repeats of a stimulus, A neurons, R units of a representation.
Results are float32 for half-precision input, else of the input's dtype.

Sources: Li et al. 2019, "Learning from brains how to regularize machines" (https://arxiv.org/abs/1911.05072), and
Attias, Pehlevan and Obeid, "Pixel-Based Similarities as an Alternative to Neural Data for Improving Convolutional
Neural Network Adversarial Robustness" (https://arxiv.org/abs/2410.03952), called "the paper" below.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from simreg import kernels
from simreg._checks import as_float, check_choice, check_pairs, check_positive, check_tensor, describe
from simreg.kernels import Backend
from simreg.kernels.reference import centred, work_dtype

Centering = Literal["channel", "batch", "image", "none"]
Convention = Literal["official", "paper", "mean"]
Transform = Literal["arctanh", "none"]

CENTERINGS = ("channel", "batch", "image", "none")
CONVENTIONS = ("official", "paper", "mean")
TRANSFORMS = ("arctanh", "none")


def center_features(
    features: Tensor, centering: Centering = "batch", *, mean: Tensor | None = None, channel_dim: int = 1
) -> Tensor:
    r"""Subtract a mean from the features of N images and flatten them to rows (N, D).

    .. math:: x_{id} \leftarrow x_{id} - \mu_{id}, \qquad
        \mu_{id} = \tfrac{1}{N}\sum_j x_{jd} \text{ (batch)}, \quad
        \tfrac{1}{D}\sum_e x_{ie} \text{ (image)}, \quad m_{c(d)} \text{ (channel)}

    Args:
        features: Shape (N, ...), any floating dtype.
        centering: ``"batch"`` subtracts the mean over images of each unit, ``"image"`` the mean over units of each
            image (a cosine then is a Pearson correlation), ``"channel"`` one number per channel, ``"none"`` nothing.
        mean: Shape (C,), else ValueError: the per-channel mean for ``"channel"``; by default that of ``features`` over
            images and positions. Given a running mean, this is the authors' centring.
        channel_dim: Dimension of ``features`` that holds the channels.

    Example:
        >>> center_features(torch.tensor([[1.0, 3.0], [3.0, 7.0]]), "image")
        tensor([[-1.,  1.],
                [-2.,  2.]])
    """
    _check_features(features, centering)
    if mean is not None and mean.shape != (features.shape[channel_dim],):
        raise ValueError(f"mean must have shape ({features.shape[channel_dim]},), got {describe(mean)}.")
    moved = features.movedim(channel_dim, 1)  # (N, C, ...)
    rows = centred(moved.reshape(*moved.shape[:2], -1), 1, centering, mean, 0.0)
    return rows.view(moved.shape).movedim(1, channel_dim).flatten(1)


def _check_features(features: Tensor, centering: str) -> None:
    check_choice("centering", centering, CENTERINGS)
    if check_tensor("features", features).ndim < 2 or 0 in features.shape:
        raise ValueError(f"features must be (N, ...) with at least one image and one unit, got {describe(features)}.")
    if not features.is_floating_point():
        raise TypeError(f"features must be floating point, got {describe(features)}: call features.float().")


def pairwise_cosine(
    features: Tensor, *, centering: Centering = "batch", eps: float = 1e-8, backend: Backend = "auto"
) -> Tensor:
    r"""Cosine similarity of every pair of images, (N, N): the representational similarity matrix (RSM) of one layer.

    .. math:: S_{ij} = \frac{\langle x_i, x_j \rangle}{\max(\|x_i\|, \epsilon)\,\max(\|x_j\|, \epsilon)}

    Args:
        features: Shape (N, ...), any floating dtype; flattened to (N, D).
        centering: What is subtracted first, see `center_features`.
        eps: Floor on a row's norm, in units of ``features``; an all-zero row has similarity 0, not NaN.
        backend: ``"auto"``, ``"reference"``, ``"torch"`` or ``"triton"``, see `simreg.kernels.products`.

    Source: the paper, S^CNN-l.

    Example:
        >>> pairwise_cosine(torch.eye(2), centering="none")
        tensor([[1., 0.],
                [0., 1.]])
    """
    _check_features(features, centering)
    gram = kernels.products(features, centering=centering, paired=False, backend=backend)
    return _cosine(gram, *_squares(gram), eps, features.dtype).to(work_dtype(features))


def paired_cosine(
    features: Tensor,
    pairs: Tensor | None = None,
    *,
    centering: Centering = "batch",
    eps: float = 1e-8,
    backend: Backend = "auto",
) -> Tensor:
    """Cosine similarity of chosen pairs of images in one layer, (P,): entries of `pairwise_cosine`.

    Arguments are those of `pairwise_cosine`, means are over all N images, and ``pairs`` (P, 2), int64, by default
    those of image i with k + i of N = 2k.

    Example:
        >>> paired_cosine(torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [0.0, -1.0]]), centering="none")
        tensor([ 1., -1.])
    """
    _check_features(features, centering)
    n = features.shape[0]
    if pairs is not None:
        check_pairs(pairs, n)
    elif n % 2:
        raise ValueError(f"{n} rows cannot be split into pairs (i, k + i); pass an even number, or pairs=.")
    return similarity(features, pairs, centering=centering, eps=eps, backend=backend).to(work_dtype(features))


def similarity(
    features: Tensor,
    pairs: Tensor | None = None,
    *,
    centering: Centering = "channel",
    running_mean: Tensor | None = None,
    momentum: float = 0.1,
    channel_dim: int = 1,
    eps: float = 1e-8,
    backend: Backend = "auto",
) -> Tensor:
    r"""Cosine similarity of pairs of images in one layer, (P,), as `SimilarityRegularizer` calls it, unchecked.

    .. math:: S_p = \frac{\langle x_i - m,\, x_j - m \rangle}{\|x_i - m\|\,\|x_j - m\|}, \qquad
        m_c \leftarrow 0.9\, m_c + 0.1 \operatorname{mean}_{i, \text{positions}} x_{ic} \text{ before}

    Args:
        features: Shape (N, ...), any floating dtype.
        pairs: Shape (P, 2), int64. By default N = 2k and image i is paired with k + i.
        centering: What is subtracted, see `center_features`.
        running_mean: Shape (C,), for ``"channel"``: updated in place by ``momentum``, then subtracted, without a
            gradient. By default the mean of ``features``.
        momentum: Weight of these features in ``running_mean``; the authors' 0.1.
        channel_dim: Dimension of ``features`` that holds the channels.
        eps: Floor on a row's norm, in units of ``features``.
        backend: See `simreg.kernels.products`.

    Returns:
        Shape (P,), float64: near ±1 the Fisher transform needs the digits.

    Source: the paper, S^CNN-l, and the authors' code.

    Example:
        >>> mean = torch.zeros(1)
        >>> similarity(torch.tensor([[[3.0, 1.0]], [[1.0, 3.0]]]), running_mean=mean, momentum=1.0), mean
        (tensor([-1.], dtype=torch.float64), tensor([2.]))
    """
    how: dict[str, Any] = {"centering": centering, "running_mean": running_mean, "momentum": momentum}
    how["channel_dim"] = channel_dim
    if pairs is not None and not is_dense(features.shape[0], pairs):
        rows, axis = kernels.as_rows(features, channel_dim)
        features = centred(rows, axis, centering, running_mean, momentum)[pairs.T.flatten()]
        how, pairs = {"centering": "none"}, None
    found = kernels.products(features, paired=pairs is None, backend=backend, **how)
    if pairs is None:
        product, first, second = found.unbind(0)
        return _cosine(product, first, second, eps, features.dtype)
    return _cosine(found, *_squares(found), eps, features.dtype)[pairs[:, 0], pairs[:, 1]]


def _squares(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Squared norms of the first and second image of each entry of a Gram matrix."""
    squares = gram.diagonal()
    return squares.unsqueeze(1), squares.unsqueeze(0)


def _cosine(product: Tensor, first: Tensor, second: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Cosines of rows given in ``dtype``, from their products and squares; without a gradient at norms below eps."""
    floor = eps * eps
    alive = (first > floor) & (second > floor)
    cosine = product / (first.clamp_min(floor) * second.clamp_min(floor)).sqrt()
    slack = 1.5e-14 if dtype == torch.float64 else 4.8e-7  # of equal rows: they have similarity 1 to the bit
    return _bounded(torch.where(alive, cosine, cosine.detach()), slack)


def _bounded(similarity: Tensor, slack: float = 0.0) -> Tensor:
    """Similarities clamped to [-1, 1], those within ``slack`` of a bound on it, with slope 1 throughout.

    Only rounding takes a cosine out of bounds, and the slope of ``clamp`` at a bound depends on the version of torch.
    """
    with torch.no_grad():
        value = similarity.clamp(-1.0, 1.0)
        change = torch.where(value.abs() > 1.0 - slack, value.sign(), value) - similarity
    return similarity + change


def is_dense(n: int, pairs: Tensor) -> bool:
    """Whether a matrix of ``n`` images costs less than copies of both rows of ``pairs`` (P, 2)."""
    return n * n <= 64 * pairs.shape[0]


def unit_rows(rows: Tensor, eps: float) -> Tensor:
    """Rows (N, D) over their norm, at least ``eps``; a zero row stays zero.

    As the root of a sum of squares: `torch.linalg.vector_norm` is only good to 3e-5 on CPU in float32.
    """
    return rows / (rows * rows).sum(dim=1, keepdim=True).clamp_min(eps * eps).sqrt()


def all_pairs(n: int, device: torch.device | None = None) -> Tensor:
    """Every pair i < j of ``n`` images, ordered by i, then j: shape (n (n - 1) / 2, 2), int64.

    Example:
        >>> all_pairs(3).tolist()
        [[0, 1], [0, 2], [1, 2]]
    """
    return torch.triu_indices(n, n, offset=1, device=device).T


def mix_similarities(similarities: Tensor, layer_logits: Tensor) -> Tensor:
    r"""Weighted mean of layer similarities, of the shape of one layer's.

    .. math:: S = \sum_l \gamma_l S^{(l)}, \qquad \gamma = \operatorname{softmax}(\text{layer\_logits})

    Shapes: similarities (L, ...), a vector (P,) or matrix (N, N) per layer; layer_logits (L,), else ValueError.

    Source: the paper, S^CNN.

    Example:
        >>> mix_similarities(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.zeros(2))
        tensor([0.5000, 0.5000])
    """
    if layer_logits.shape != similarities.shape[:1]:
        layers = similarities.shape[0]
        raise ValueError(f"layer_logits: want one entry for each of the {layers} layers, got {describe(layer_logits)}.")
    with torch.autocast(similarities.device.type, enabled=False):
        weights = torch.softmax(layer_logits.to(similarities.dtype), dim=0)
        return (weights.reshape(-1, *[1] * (similarities.ndim - 1)) * similarities).sum(dim=0)


def fisher_z(similarity: Tensor, *, convention: Convention = "official", eps: float = 1e-5) -> Tensor:
    r"""Fisher z-transform of similarities of any shape, with its poles at ±1 moved out of reach.

    .. math:: z_\text{official}(s) = \ln(1 + s + \epsilon) - \ln(1 - s + \epsilon) \approx 2 \operatorname{arctanh}(s),
        \qquad z_\text{paper} = z_\text{mean} = \tfrac{1}{2} z_\text{official}

    Args:
        similarity: Any shape; clamped to [-1, 1] first.
        convention: ``"official"`` (the authors' code leaves out the ½ of arctanh), ``"paper"`` or ``"mean"``.
        eps: Margin of the poles: at s = ±1 the official value is ±12.2 and the slope 1e5 for the authors' 1e-5.

    Source: the paper, L_sim, and the authors' code.

    Example:
        >>> fisher_z(torch.tensor([0.0, 0.5, 1.0]))
        tensor([ 0.0000,  1.0986, 12.2061])
    """
    check_choice("convention", convention, CONVENTIONS)
    s = _bounded(as_float(similarity))
    # 1 - |s| is exact in floating point near the poles and log1p is exact near 0: no cancellation at either end.
    positive = torch.log1p(2.0 * s / ((1.0 - s) + eps))
    negative = -torch.log1p(-2.0 * s / ((1.0 + s) + eps))
    z = torch.where(s >= 0, positive, negative)
    return z if convention == "official" else 0.5 * z


def similarity_loss(
    similarity: Tensor,
    target: Tensor,
    *,
    convention: Convention = "official",
    transform: Transform = "arctanh",
    target_clamp: float | None = None,
) -> Tensor:
    r"""Squared difference of similarities and targets, after the Fisher transform; a scalar.

    .. math::
        L_\text{official} = \frac{1}{P} \sum_p \big(2\,\mathrm{arctanh}\,S_p - 2\,\mathrm{arctanh}\,T_p\big)^2, \quad
        L_\text{mean} = \frac{1}{P} \sum_p \big(\mathrm{arctanh}\,S_p - \mathrm{arctanh}\,T_p\big)^2, \quad
        L_\text{paper} = \sum_{i \ne j} \big(\mathrm{arctanh}\,S_{ij} - \mathrm{arctanh}\,T_{ij}\big)^2

    The paper's sum over i ≠ j counts each unordered pair twice, and so does ``"paper"`` here.

    Args:
        similarity: Shape (P,) with P >= 1, or (N, N): the diagonal of a matrix is left out.
        target: The same shape, else ValueError; no gradient flows into it.
        convention: ``"official"`` (the authors' code), ``"paper"`` (the paper's formula) or ``"mean"``.
        transform: ``"arctanh"``, or ``"none"`` for plain squared differences; without arctanh there is no factor 2,
            so ``"official"`` and ``"mean"`` agree.
        target_clamp: Bound on the targets' magnitude in (0, 1], such as 0.95; None leaves them.

    Source: the paper, L_sim.

    Example:
        >>> similarity_loss(torch.tensor([0.5, 0.0]), torch.tensor([0.0, 0.0]), transform="none")
        tensor(0.1250)
    """
    check_choice("transform", transform, TRANSFORMS)
    check_choice("convention", convention, CONVENTIONS)
    clamp = check_clamp(target_clamp)
    if similarity.shape != target.shape:
        both = f"{describe(similarity)} and {describe(target)}"
        raise ValueError(f"similarity and target must have one shape, got {both}.")
    if similarity.ndim == 2 and similarity.shape[0] == similarity.shape[1]:
        i, j = all_pairs(similarity.shape[0], similarity.device).unbind(1)  # the rest follows by symmetry
        similarity, target = similarity[i, j], target[i, j]
    if similarity.ndim != 1 or similarity.numel() == 0:
        raise ValueError(f"similarity must hold at least one pair, (P,) or square (N, N), got {describe(similarity)}.")
    # Both in one dtype: half-precision targets would otherwise shift the difference.
    dtype = torch.promote_types(torch.promote_types(similarity.dtype, target.dtype), torch.float32)
    similarity, target = similarity.to(dtype), target.detach().to(dtype)
    if clamp is not None:
        target = target.clamp(-clamp, clamp)
    if transform == "arctanh":
        similarity, target = (fisher_z(s, convention=convention) for s in (similarity, target))
    squares = (similarity - target).square()
    return 2.0 * squares.sum() if convention == "paper" else squares.mean()


def check_clamp(target_clamp: float | None) -> float | None:
    """Raise ``ValueError`` unless ``target_clamp`` is None or in (0, 1]; returns it."""
    if target_clamp is not None:
        check_positive("target_clamp", target_clamp)
        if target_clamp > 1:
            raise ValueError(f"target_clamp must be in (0, 1], such as 0.95, got {target_clamp!r}.")
    return target_clamp


def convert_alpha(
    alpha: float, source: Convention, to: Convention, pairs: int | None = None, *, transform: Transform = "arctanh"
) -> float:
    r"""The ``alpha`` that gives the same ``alpha * L_sim`` under the convention ``to`` instead of ``source``.

    .. math:: \alpha_\text{mean} = 4\,\alpha_\text{official} = 2 P\,\alpha_\text{paper}

    Args:
        alpha: Strength under the convention ``source``.
        source: Convention of ``alpha``.
        to: Convention of the result.
        pairs: P, the unordered pairs of a step; needed to or from ``"paper"``, whose sum grows with them.
        transform: Without arctanh the official factor of 4 is 1.

    Example:
        >>> convert_alpha(10.0, "official", "mean"), convert_alpha(10.0, "official", "paper", pairs=16)
        (40.0, 1.25)
    """
    check_choice("transform", transform, TRANSFORMS)
    factor = {"mean": 1.0, "official": 4.0 if transform == "arctanh" else 1.0}
    for name, convention in (("source", source), ("to", to)):
        check_choice(name, convention, CONVENTIONS)
        if convention == "paper":
            if pairs is None or pairs < 1:
                raise ValueError(f'pairs={pairs!r}: the convention "paper" sums over pairs; pass how many a step has.')
            factor["paper"] = 2.0 * pairs
    return alpha * factor[source] / factor[to]


def response_reliability(responses: Tensor) -> Tensor:
    r"""Reliability weight of every neuron, (A,), at least 0: how much of its response is driven by the image.

    .. math:: w_a = \sigma_a / \eta_a, \qquad
        \sigma_a^2 = \operatorname{Var}_i\big(\operatorname{mean}_t r_{tia}\big), \quad
        \eta_a^2 = \operatorname{mean}_i\big(\operatorname{Var}_t r_{tia}\big)

    Args:
        responses: Shape (T, N, A): T >= 2 repeats of N >= 2 images, A neurons. NaN marks a missing repeat. A neuron
            without any variance over trials is silent or was not recorded with repeats, and weighs 0.

    Source: Li et al. 2019, section on similarity of neural responses.

    Example:
        >>> response_reliability(torch.tensor([[[0.0], [2.0]], [[1.0], [3.0]]]))  # two repeats, two images, one neuron
        tensor([2.])
    """
    if responses.ndim != 3 or responses.shape[0] < 2 or responses.shape[1] < 2:
        raise ValueError(f"responses must be (T >= 2, N >= 2, A) to tell signal from noise, got {describe(responses)}.")
    values = responses.double()  # the variance over equal repeats must come out as nothing, not as rounding
    mean = values.nanmean(dim=0)  # (N, A)
    noise = (values - mean).square().nanmean(dim=0).nanmean(dim=0)  # (A,)
    signal = (mean - mean.nanmean(dim=0)).square().nanmean(dim=0)
    rounding = 1e-12 * values.square().nanmean(dim=0).nanmean(dim=0)
    ratio = torch.where(noise > rounding, signal / noise.clamp_min(1e-300), torch.zeros_like(noise))
    return ratio.sqrt().to(work_dtype(responses))


def response_representation(responses: Tensor, weights: Tensor | None = None) -> Tensor:
    r"""Unit vector of every image in the space of neurons, (N, A); inner products are the neural similarity.

    .. math:: x_{ia} = w_a (r_{ia} - \operatorname{mean}_j r_{ja}), \qquad \hat{x}_i = x_i / \|x_i\|

    Args:
        responses: Shape (N, A), recorded or predicted. An image whose centred response is all zero has a zero row.
        weights: Shape (A,), such as `response_reliability`; by default 1.

    Source: Li et al. 2019.

    Example:
        >>> response_representation(torch.tensor([[0.0, 1.0], [2.0, 1.0]]))
        tensor([[-1.,  0.],
                [ 1.,  0.]])
    """
    if responses.ndim != 2:
        raise ValueError(f"responses must have shape (N, A), got {describe(responses)}.")
    rows = as_float(responses)
    rows = rows - rows.mean(dim=0, keepdim=True)
    if weights is not None:
        if weights.shape != (rows.shape[1],):
            raise ValueError(f"weights: one entry for each of {rows.shape[1]} neurons wanted, got {describe(weights)}.")
        rows = rows * weights.to(rows)
    return unit_rows(rows, eps=1e-12)
