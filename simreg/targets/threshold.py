"""Base similarities thresholded to +1, 0 and -1."""

import copy
from typing import Literal

import torch
from torch import Tensor

from simreg._checks import check_choice, check_positive, describe
from simreg.targets.base import Maybe, Target
from simreg.targets.pixel import PixelTarget

Selection = Literal["all", "low", "high", "positive", "negative", "high_positive", "double"]

# What takes part, by selection: + above the threshold, - below its negative, 0 low magnitudes.
_PARTS = {"low": "0", "high": "+-", "positive": "+0", "negative": "-0", "high_positive": "+", "double": "+-0"}


class ThresholdTarget(Target):
    r"""Base similarity thresholded to +1, 0 and -1.

    .. math:: S^\text{Th} = 1 \text{ if } s > Th, \quad -1 \text{ if } s < -Th, \quad 0 \text{ otherwise}

    With ``select`` other than ``"all"`` only some pairs take part (the paper's ablations): ``"low"`` those with
    \|s\| < Th, ``"high"`` \|s\| > Th, ``"positive"`` s > Th or \|s\| < Th, ``"negative"`` s < -Th or \|s\| < Th,
    ``"high_positive"`` s > Th, ``"double"`` \|s\| > Th or \|s\| < ``low``.

    Args:
        threshold: Th, in (0, 1).
        of: Target whose base similarity is thresholded; by default `PixelTarget`.
        select: Which pairs take part.
        low: Second, lower threshold of ``"double"``, in (0, Th); ``ValueError`` without it, and with it elsewhere.

    Source: the paper, S^Th and its ablations.

    Example:
        >>> ThresholdTarget(0.8).shape(torch.tensor([0.9, 0.1, -0.9]))
        tensor([ 1.,  0., -1.])
    """

    def __init__(
        self, threshold: float = 0.8, *, of: Target | None = None, select: Selection = "all", low: float | None = None
    ) -> None:
        check_choice("select", select, ("all", *_PARTS))
        check_positive("threshold", threshold)
        if threshold >= 1:
            raise ValueError(f"threshold must be in (0, 1), got {threshold!r}.")
        if (low is not None) != (select == "double"):
            raise ValueError(f'low={low!r}, select={select!r}: the lower threshold belongs to select="double" only.')
        if low is not None and not 0 < low < threshold:
            raise ValueError(f"low must be in (0, {threshold}), below the threshold, got {low!r}.")
        if of is not None and not isinstance(of, Target):
            raise TypeError(f"of must be a target such as PixelTarget(), got {describe(of)}.")
        self.threshold = threshold
        self.of: Target = PixelTarget() if of is None else of
        self.select = select
        self.low = low

    def fit(self, images: Tensor, labels: Tensor | None = None) -> "ThresholdTarget":
        """A copy whose base target is fitted on ``images``."""
        fitted = copy.copy(self)
        fitted.of = self.of.fit(images, labels)
        return fitted

    def check_size(self, n: int) -> None:
        """As for the base target."""
        self.of.check_size(n)

    def representation(self, images: Maybe = None, *, labels: Maybe = None, indices: Maybe = None) -> Tensor:
        """As for the base target."""
        return self.of.representation(images, labels=labels, indices=indices)

    def inner(self, first: Tensor, second: Tensor) -> Tensor:
        """As for the base target."""
        return self.of.inner(first, second)

    def outer(self, first: Tensor, second: Tensor) -> Tensor:
        """As for the base target."""
        return self.of.outer(first, second)

    def shape(self, similarity: Tensor) -> Tensor:
        """+1, 0 or -1 for each base similarity."""
        s = self.of.shape(similarity)
        return (s > self.threshold).to(s.dtype) - (s < -self.threshold).to(s.dtype)

    def selected(self, similarity: Tensor) -> Tensor | None:
        """Which pairs ``select`` keeps, a bool tensor; None where all take part."""
        if self.select == "all":
            return None
        s = self.of.shape(similarity)
        parts = {"+": s > self.threshold, "-": s < -self.threshold, "0": s.abs() < (self.low or self.threshold)}
        return torch.stack([parts[part] for part in _PARTS[self.select]]).any(dim=0)
