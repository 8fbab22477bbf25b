"""What the targets of a pool look like: shares of +1, 0 and -1, and the histogram behind them."""

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

    ``positive``, ``negative`` and ``zero`` are the shares with target +1 (above 0.999), -1 and exactly 0 of the pairs
    that take part, and ``selected`` is the share of those. ``pairs`` were examined: if ``exact`` all of the pool, else
    those of a random subset of its images. Their base similarity has the histogram ``counts``, shape (bins,), between
    ``edges``, shape (bins + 1,), and the moments ``mean`` and ``std``. ``expected_per_step`` is the expected number of
    ±1 targets in a uniformly drawn step.
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
        return (
            f"targets of {'all' if self.exact else 'a sample of'} {self.pairs:,} pairs: {self.positive:.3%} +1, "
            f"{self.negative:.3%} -1, {self.zero:.1%} 0; base similarity {self.mean:+.3f} ± {self.std:.3f}; "
            f"{self.expected_per_step:.2f} targets of ±1 a step"
        )


def measure_health(
    target: Target, represent: Callable[[Tensor], Tensor], n: int, *, pairs_per_batch: int, bins: int
) -> TargetHealth:
    """Tally a fitted target over a pool of ``n`` images, whose rows (M,) ``represent`` turns into vectors (M, R)."""
    count = min(n, _MAX_IMAGES, max(2, _MAX_VALUES // represent(torch.arange(1)).shape[1]))
    order = torch.arange(n) if count == n else torch.randperm(n, generator=torch.Generator().manual_seed(0))[:count]
    rows = torch.cat([represent(chunk) for chunk in torch.split(order, _CHUNK)])
    counts = torch.zeros(bins, dtype=torch.float64)
    totals = torch.zeros(6, dtype=torch.float64)
    for start in range(0, count, _CHUNK):
        base = target.outer(rows[start : start + _CHUNK], rows[start:])
        base = base[torch.ones_like(base, dtype=torch.bool).triu(1)]
        counts += torch.histc(base, bins, -1.0, 1.0).double().cpu()
        selected, s = target.selected(base), base.double()
        t = target.shape(base if selected is None else base[selected])
        tally = (t.numel(), (t >= 0.999).sum(), (t <= -0.999).sum(), (t == 0).sum(), s.sum(), s.square().sum())
        totals += torch.tensor([float(value) for value in tally], dtype=torch.float64)
    pairs = math.comb(count, 2)
    taking_part, positive, negative, zero, total, squares = totals.tolist()
    mean, some = total / pairs, max(taking_part, 1.0)
    return TargetHealth(
        positive=positive / some,
        negative=negative / some,
        zero=zero / some,
        selected=taking_part / pairs,
        pairs=pairs,
        exact=count == n,
        counts=counts.long(),
        edges=torch.linspace(-1, 1, bins + 1),
        mean=mean,
        std=max(squares / pairs - mean * mean, 0.0) ** 0.5,
        expected_per_step=pairs_per_batch * (positive + negative) / some,
    )
