"""What simreg is compared with, written from the formulas: the similarity as one would write it, and lower bounds.

Each penalty takes `Inputs` and gives L_sim and the similarities of the pairs in every layer, (L, P).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from layer_sets import Inputs
from torch import Tensor
from torch.nn import functional as F

_MOMENTUM = 0.1
_MARGIN = 1e-5  # of the poles of arctanh


def naive(inputs: Inputs, centering: str, paired: bool) -> tuple[Tensor, Tensor]:
    """Centre, normalise, multiply: cosine similarity with the tools of torch."""
    means = _running_means(inputs.features, inputs.means) if centering == "channel" else inputs.means
    rows = [centre(x, centering, m) for x, m in zip(inputs.features, means, strict=True)]
    if paired:
        layers = torch.stack([F.cosine_similarity(*r.chunk(2), dim=1) for r in rows])
        return _loss(inputs, layers), layers
    unit = [F.normalize(r, dim=1) for r in rows]
    return _matrix_loss(inputs, [u @ u.T for u in unit])


def corrcoef(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """All pairs by ``torch.corrcoef``, which centres by image."""
    return _matrix_loss(inputs, [torch.corrcoef(x.float().flatten(1)) for x in inputs.features])


def paper_scheme(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The two images of the pairs in two tensors, from two forward passes, centred by running channel means.

    ``inputs.features`` are those of `Inputs.halves`.
    """
    first, second = inputs.features[::2], inputs.features[1::2]
    layers = []
    for a, b, old in zip(first, second, inputs.means, strict=True):
        with torch.no_grad():
            batch = 0.5 * (a.mean(dim=(0, 2, 3)) + b.mean(dim=(0, 2, 3)))
            mean = (1 - _MOMENTUM) * old + _MOMENTUM * batch
        layers.append(F.cosine_similarity(centre(a, "channel", mean), centre(b, "channel", mean), dim=1))
    similarities = torch.stack(layers)
    return _loss(inputs, similarities), similarities


def centre(features: Tensor, centering: str, mean: Tensor) -> Tensor:
    """Rows (N, D) minus a mean."""
    x = features if features.dtype == torch.float64 else features.float()
    if centering == "image":
        rows = x.flatten(1)
        return rows - rows.mean(dim=1, keepdim=True)
    if centering == "batch":
        return (x - x.mean(dim=0, keepdim=True)).flatten(1)
    return (x - mean.view(1, -1, 1, 1)).flatten(1) if centering == "channel" else x.flatten(1)


@torch.no_grad()
def _running_means(features: Sequence[Tensor], means: Sequence[Tensor]) -> list[Tensor]:
    new = [x.mean(dim=(0, 2, 3), dtype=m.dtype) for x, m in zip(features, means, strict=True)]
    return [(1 - _MOMENTUM) * m + _MOMENTUM * n for m, n in zip(means, new, strict=True)]


def _matrix_loss(inputs: Inputs, matrices: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    i, j = inputs.pairs
    layers = torch.stack([matrix[i, j] for matrix in matrices])
    return _loss(inputs, layers), layers


def _loss(inputs: Inputs, layers: Tensor) -> Tensor:
    mixed = torch.softmax(inputs.logits, dim=0) @ layers
    return (fisher(mixed) - fisher(inputs.targets)).square().mean()


def fisher(s: Tensor) -> Tensor:
    """Twice arctanh."""
    return torch.log(1 + s + _MARGIN) - torch.log(1 - s + _MARGIN)


def read_all(inputs: Inputs) -> None:
    """Lower bound of a forward pass: every feature is read once."""
    for x in inputs.features:
        x.detach().sum()


def write_all(inputs: Inputs) -> list[Tensor]:
    """Lower bound of a backward pass: every feature is read and its gradient written."""
    return [x.detach() * 2 for x in inputs.features]


def gram_matrices(inputs: Inputs) -> list[Tensor]:
    """Lower bound of all pairs without use of symmetry: one matrix product for each layer."""
    return [x.detach().flatten(1) @ x.detach().flatten(1).T for x in inputs.features]


def gram_gradients(inputs: Inputs, matrices: Sequence[Tensor]) -> list[Tensor]:
    """As above, backward."""
    return [m @ x.detach().flatten(1) for m, x in zip(matrices, inputs.features, strict=True)]
