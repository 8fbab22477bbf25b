"""Similarity of neural responses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from simreg._checks import as_float, check_tensor, describe, to_tensor
from simreg.functional import response_reliability, response_representation, unit_rows
from simreg.targets.base import Target, check_rows, require_indices


class NeuralTarget(Target):
    r"""Similarity of neural responses to the images of a pool.

    .. math:: S_{ij} = \cos(x_i, x_j), \quad x_{ia} = w_a (r_{ia} - \bar r_a)

    Build one with `from_responses`; `average` combines several scans.

    Args:
        rows: Shape (N, R): unit vectors, one for each image of the pool.

    Source: Li et al. 2019.
    """

    def __init__(self, rows: Tensor) -> None:
        if check_tensor("rows", rows).ndim != 2 or rows.shape[0] < 2:
            raise ValueError(f"rows must have shape (N, R) with N >= 2 images, got {describe(rows)}.")
        if not bool(torch.isfinite(rows).all()):
            raise ValueError("rows must be finite.")
        self.rows = unit_rows(as_float(rows), 1e-12)

    @classmethod
    def from_responses(
        cls, responses: Tensor | np.ndarray, *, reliability: bool | Tensor | np.ndarray = True
    ) -> NeuralTarget:
        r"""Target from recorded or predicted responses.

        Repeats are averaged, neurons weighted by `simreg.functional.response_reliability` (signal over noise),
        responses centred across images and each image's vector brought to unit length.

        Args:
            responses: Tensor or NumPy array, shape (T, N, A), T repeats of N images for A neurons, NaN where a
                repeat is missing; or (N, A). Row i belongs to image i of the pool.
            reliability: True weights neurons by their reliability over repeats, and asks for repeats; a tensor (A,)
                gives weights of your own, such as :math:`w_a v_a`; False weights none.

        Returns:
            The target.

        Raises:
            ValueError: If the shape is wrong, an image has no valid repeat, all neurons weigh 0, or
                ``reliability=True`` meets responses without repeats.

        Example:
            >>> responses = torch.randn(4, 10, 30, generator=torch.Generator().manual_seed(0))
            >>> target = NeuralTarget.from_responses(responses)
            >>> target.representation(indices=torch.arange(10)).shape
            torch.Size([10, 30])
        """
        responses = to_tensor("responses", responses)
        if responses.ndim not in (2, 3):
            raise ValueError(f"responses must have shape (T, N, A) or (N, A), got {describe(responses)}.")
        mean = as_float(responses).nanmean(dim=0) if responses.ndim == 3 else as_float(responses)
        if not bool(torch.isfinite(mean).all()):
            raise ValueError("responses: some image has no finite response of some neuron; drop that image or neuron.")
        weights = None if isinstance(reliability, bool) else to_tensor("reliability", reliability)
        if reliability is True:
            if responses.ndim == 2:
                raise ValueError(
                    "responses (N, A) have no repeats to tell reliability from: pass (T, N, A), weights as "
                    "reliability=(A,), or reliability=False."
                )
            weights = response_reliability(responses)
        if weights is not None and not bool((weights != 0).any()):
            raise ValueError("reliability: every neuron weighs 0; check that the repeats differ and the images matter.")
        return cls(response_representation(mean, weights))

    @classmethod
    def average(cls, targets: Sequence[NeuralTarget]) -> NeuralTarget:
        """Target whose similarity is the mean of the similarities of several scans of the same images.

        Args:
            targets: One target for each scan; neurons may differ, images may not.

        Returns:
            The target, with as many units as all scans together.

        Raises:
            ValueError: If there is none, or they differ in images.

        Example:
            >>> one, two = NeuralTarget(torch.eye(2)), NeuralTarget(torch.ones(2, 1))
            >>> NeuralTarget.average([one, two]).paired(torch.tensor([[0, 1]]), indices=torch.arange(2))
            tensor([0.5000])
        """
        if not targets:
            raise ValueError("targets must hold at least one NeuralTarget.")
        sizes = {t.rows.shape[0] for t in targets}
        if len(sizes) > 1:
            raise ValueError(f"targets must be of the same images, got scans of {sorted(sizes)} images.")
        combined = cls.__new__(cls)
        combined.rows = torch.cat([t.rows for t in targets], dim=1) / len(targets) ** 0.5
        return combined

    def __repr__(self) -> str:
        return f"NeuralTarget({self.rows.shape[0]} images, {self.rows.shape[1]} units)"

    def check_size(self, n: int) -> None:
        """Raise ``ValueError`` unless the responses are to ``n`` images."""
        check_rows("responses", self.rows.shape[0], n)

    def representation(
        self, images: Tensor | None = None, *, labels: Tensor | None = None, indices: Tensor | None = None
    ) -> Tensor:
        """Response vectors of the images in rows ``indices`` of the pool, (N, R)."""
        indices = require_indices(indices)
        if self.rows.device != indices.device:
            self.rows = self.rows.to(indices.device)
        return self.rows[indices]
