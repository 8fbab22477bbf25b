"""What the targets of a pool look like: shares of +1, 0 and -1, and the histogram behind them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from simreg.targets import Target

_CHUNK = 1024  # images compared with all others at a time
_MAX_IMAGES = 8192
_MAX_VALUES = 2**26  # floats of representation held at once, 256 MiB


@dataclass(frozen=True)
class TargetHealth:
    """What the targets of a pool look like.

    Attributes:
        positive: Share of the pairs that take part with target +1 (above 0.999).
        negative: Share with target -1.
        zero: Share with target exactly 0.
        selected: Share of all pairs that take part.
        pairs: Number of pairs examined.
        exact: Whether these are all pairs of the pool; otherwise those of a random subset of its images.
        counts: Histogram of the base similarity over all examined pairs, shape (bins,).
        edges: Edges of its bins, shape (bins + 1,).
        mean: Mean base similarity.
        std: Standard deviation of the base similarity.
        expected_per_step: Expected number of ±1 targets in a uniformly drawn step.
    """

    positive: float
    negative: float
    zero: float
    selected: float
    pairs: int
    exact: bool
    counts: Tensor
    edges: Tensor
    mean: float
    std: float
    expected_per_step: float

    def __str__(self) -> str:
        kind = "all" if self.exact else "a sample of"
        return (
            f"targets of {kind} {self.pairs:,} pairs: {self.positive:.3%} +1, {self.negative:.3%} -1, "
            f"{self.zero:.1%} 0; "
            f"base similarity {self.mean:+.3f} ± {self.std:.3f}; {self.expected_per_step:.2f} targets of ±1 a step"
        )


def measure_health(
    target: Target, represent: Callable[[Tensor], Tensor], n: int, *, pairs_per_batch: int, bins: int
) -> TargetHealth:
    """Tally the targets of all pairs of ``n`` images, or of those of a random subset.

    Args:
        target: The fitted target.
        represent: From pool rows (n,) to their representation (n, R).
        n: Images of the pool.
        pairs_per_batch: For ``expected_per_step``.
        bins: Of the histogram.
    """
    units = represent(torch.arange(1)).shape[1]
    count = min(n, _MAX_IMAGES, max(2, _MAX_VALUES // units))
    order = torch.arange(n) if count == n else torch.randperm(n, generator=torch.Generator().manual_seed(0))[:count]
    rows = torch.cat([represent(chunk) for chunk in torch.split(order, _CHUNK)])
    counts = torch.zeros(bins, dtype=torch.float64)
    totals = torch.zeros(6, dtype=torch.float64)  # selected, +1, -1, 0, sum s, sum s^2
    for start in range(0, count, _CHUNK):
        base = target.outer(rows[start : start + _CHUNK], rows[start:])
        base = base[torch.ones_like(base, dtype=torch.bool).triu(1)]
        counts += torch.histc(base, bins, -1.0, 1.0).double().cpu()
        totals += _tally(target, base)
    pairs = math.comb(count, 2)
    selected, positive, negative, zero, total, squares = totals.tolist()
    mean, taking_part = total / pairs, max(selected, 1.0)
    return TargetHealth(
        positive=positive / taking_part,
        negative=negative / taking_part,
        zero=zero / taking_part,
        selected=selected / pairs,
        pairs=pairs,
        exact=count == n,
        counts=counts.long(),
        edges=torch.linspace(-1, 1, bins + 1),
        mean=mean,
        std=max(squares / pairs - mean * mean, 0.0) ** 0.5,
        expected_per_step=pairs_per_batch * (positive + negative) / taking_part,
    )


def _tally(target: Target, base: Tensor) -> Tensor:
    selected = target.selected(base)
    shaped = target.shape(base if selected is None else base[selected])
    values = (
        torch.tensor(float(shaped.numel())),
        (shaped >= 0.999).sum(),
        (shaped <= -0.999).sum(),
        (shaped == 0).sum(),
        base.double().sum(),
        base.double().square().sum(),
    )
    return torch.stack([v.double().cpu() for v in values])
