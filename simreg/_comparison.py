"""From the features of the layers to L_sim, by the backend that fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from simreg import functional as F
from simreg import kernels
from simreg._inputs import pairs_of
from simreg.centering import ChannelMeans
from simreg.functional import Centering, Convention, Transform
from simreg.kernels import Backend
from simreg.layers import channel_dim
from simreg.pool import Pairing

_NORM_FLOOR = 1e-8


class Comparison(NamedTuple):
    """How features are compared: the regularizer's options of these names."""

    pairing: Pairing
    centering: Centering
    convention: Convention
    transform: Transform
    target_clamp: float | None
    backend: Backend


def compare(
    how: Comparison,
    features: Sequence[Tensor],
    modules: Sequence[nn.Module],
    means: ChannelMeans,
    logits: Tensor,
    targets: Tensor,
    pairs: Tensor | None,
) -> kernels.Penalty:
    """L_sim of the features; updates the running means.

    Args:
        how: Options.
        features: Shape (N, ...) for each layer.
        modules: The layers, which know where their channels are.
        means: Running means of the layers' channels.
        logits: Shape (L,).
        targets: Shape (P,).
        pairs: Shape (P, 2), or None for those of ``how.pairing``.
    """
    paired = how.pairing == "pairs" and pairs is None
    name = kernels.choose(how.backend, features, paired, None if pairs is None else pairs.shape[0])
    if name == "reference":
        return _reference(how, features, modules, means, logits, targets, pairs)
    dims = [channel_dim(m, f.shape) for m, f in zip(modules, features, strict=True)]
    centred = how.centering == "channel"
    found = kernels.similarity_penalty(
        features,
        dims,
        [means.mean(i, f, d) for i, (f, d) in enumerate(zip(features, dims, strict=True))] if centred else [],
        logits,
        targets,
        pairs,
        paired=paired,
        centering=how.centering,
        momentum=means.momentum,
        convention=how.convention,
        transform=how.transform,
        target_clamp=how.target_clamp,
        eps=_NORM_FLOOR,
        backend=name,
    )
    for index, mean in enumerate(found.means):
        means.store(index, mean)
    return found


def attach(
    how: Comparison, index: int, features: Tensor, module: nn.Module, means: ChannelMeans, *, copy: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Features of layer ``index`` to hand on, their products for `compare_attached`, and their new channel mean.

    Args:
        how: Options.
        index: Of the layer.
        features: Shape (N, ...).
        module: The layer.
        means: Running means of the layers' channels.
        copy: Whether what comes after overwrites the features.
    """
    dim = channel_dim(module, features.shape)
    paired = how.pairing == "pairs"
    return kernels.attach(
        features,
        dim,
        means.mean(index, features, dim) if how.centering == "channel" else None,
        paired=paired,
        centering=how.centering,
        momentum=means.momentum,
        backend=kernels.choose(how.backend, [features], paired),
        copy=copy,
    )


def compare_attached(
    how: Comparison,
    attached: Sequence[tuple[Tensor, Tensor]],
    features: Tensor,
    means: ChannelMeans,
    logits: Tensor,
    targets: Tensor,
    pairs: Tensor | None,
) -> kernels.Penalty:
    """As `compare`, of the products and channel mean that `attach` gave for each layer.

    Args:
        how: Options.
        attached: Products and channel mean of each layer.
        features: Of one of the layers, for their number of images and dtype.
        means: As for `compare`.
        logits: As for `compare`.
        targets: As for `compare`.
        pairs: As for `compare`.

    Raises:
        ValueError: If the products are not those of ``pairs``.
    """
    if how.pairing == "pairs" and pairs is not None:
        raise ValueError(
            'pairs: attach=True compares the pairs of pairing="pairs" during the pass, so it takes neither pairs= '
            'nor a target with select=; use pairing="all", or attach=False.'
        )
    if how.pairing == "all":
        pairs = pairs_of(features.shape[0], pairs, how.pairing, logits.device)
    found = kernels.penalty_of_products(
        torch.cat([products for products, _ in attached]),
        logits,
        targets,
        pairs,
        dtype=features.dtype,
        convention=how.convention,
        transform=how.transform,
        target_clamp=how.target_clamp,
        eps=_NORM_FLOOR,
    )
    if how.centering == "channel":
        for index, (_, mean) in enumerate(attached):
            means.store(index, mean)
    return found


def _reference(
    how: Comparison,
    features: Sequence[Tensor],
    modules: Sequence[nn.Module],
    means: ChannelMeans,
    logits: Tensor,
    targets: Tensor,
    pairs: Tensor | None,
) -> kernels.Penalty:
    """As `compare`, by the functions of `simreg.functional`."""
    dense = pairs is None and how.pairing == "all"
    pairs = pairs_of(features[0].shape[0], pairs, how.pairing, logits.device)
    layers = []
    for index, (feature, module) in enumerate(zip(features, modules, strict=True)):
        rows = _centred(how.centering, index, feature, module, means)  # (N, D)
        if dense:
            matrix = F.pairwise_cosine(rows, centering="none", eps=_NORM_FLOOR, backend="reference")
            layers.append(matrix[pairs[:, 0], pairs[:, 1]])
        else:
            layers.append(F.paired_cosine(rows, pairs, centering="none", eps=_NORM_FLOOR, backend="reference"))
    similarities = torch.stack(layers)
    with torch.autocast(similarities.device.type, enabled=False):
        mixed = F.mix_similarities(similarities, logits)
        loss = F.similarity_loss(
            mixed, targets, convention=how.convention, transform=how.transform, target_clamp=how.target_clamp
        )
    return kernels.Penalty(loss, mixed, similarities, [])


def _centred(centering: Centering, index: int, features: Tensor, module: nn.Module, means: ChannelMeans) -> Tensor:
    if centering != "channel":
        return F.center_features(features, centering)
    rows: Tensor = means(index, features, channel_dim(module, features.shape))
    return rows
