"""The penalty of pairs as plain operations that a compiler of the whole step can fuse with the network's own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from simreg.kernels import closed_form, compiled
from simreg.kernels.closed_form import wide
from simreg.kernels.layout import as_rows
from simreg.kernels.one_pass import matched, pilot, spread, work_dtype


def penalty(
    features: Sequence[Tensor],
    means: Sequence[Tensor],
    dims: Sequence[int],
    logits: Tensor,
    targets: Tensor,
    centering: str,
    momentum: float,
    eps: float,
    slack: float,
    convention: str,
    transform: str,
    target_clamp: float,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Loss, mixed and layer similarities, and new channel means, as `ops.compute_penalty`; differentiable."""
    views = [as_rows(f, d) for f, d in zip(features, dims, strict=True)]
    found = [
        _layer_products(rows, axis, means[index] if centering == "channel" else None, centering, momentum)
        for index, (rows, axis) in enumerate(views)
    ]
    total = torch.stack([products for products, _ in found])  # (L, k, 2, 2)
    products = torch.stack([total[:, :, 0, 1], total[:, :, 0, 0], total[:, :, 1, 1]], dim=1)
    similarities = closed_form.cosines(products, None, eps, slack)
    mixed = torch.softmax(logits.to(products.dtype), dim=0) @ similarities
    targets = targets.to(products.dtype).clamp(-target_clamp, target_clamp)
    loss, _ = closed_form.loss_and_slope(mixed, targets, convention, transform)
    return loss, mixed, similarities, [mean for _, mean in found if mean is not None]


def _layer_products(
    rows: Tensor, axis: int, old: Tensor | None, centering: str, momentum: float
) -> tuple[Tensor, Tensor | None]:
    """Products (k, 2, 2) of centred rows and the new channel mean; see `one_pass` for the corrections."""
    exact, positions = wide(rows), rows.shape[3 - axis]
    if old is not None:
        shift = spread(old, rows, axis, centering)
        total, (sums,) = compiled.layer_sums([rows], [shift], False, [(3 - axis,)])
        sums = sums.to(exact)  # (N, C)
        new = (old.to(exact) + momentum * sums.mean(dim=0) / positions).to(work_dtype(rows)).detach()
        step = new.to(exact) - old.to(exact)
        total = total[0].to(exact) - matched((sums @ step).unsqueeze(0), torch.add, total)[0]
        return total + positions * (step @ step), new
    if centering == "image":
        total, (sums,) = compiled.layer_sums([rows], [pilot(rows.detach()).view(-1, 1, 1)], False, [(1, 2)])
        units = rows.shape[1] * rows.shape[2]
        return total[0].to(exact) - matched(sums.to(exact).unsqueeze(0), torch.mul, total)[0] / units, None
    total, _ = compiled.layer_sums([rows], [None], centering == "batch", [()])
    return total[0].to(exact), None
