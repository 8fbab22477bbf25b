"""Similarities given from outside: of class labels, as a matrix, or of neural responses."""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from simreg._checks import as_float, check_similarities, check_tensor, describe, to_tensor
from simreg.functional import response_reliability, response_representation, unit_rows
from simreg.targets.base import Maybe, PoolTarget, Target


class LabelTarget(Target):
    """1 where the classes of two images agree, else 0 (the paper's categorical target).

    ``num_classes`` is by default one more than the highest label seen, by `fit` or else at hand.

    Example:
        >>> LabelTarget().paired(torch.tensor([[0, 1], [0, 2]]), labels=torch.tensor([3, 3, 5]))
        tensor([1., 0.])
    """

    def __init__(self, num_classes: int | None = None) -> None:
        self.num_classes = num_classes

    def fit(self, images: Tensor, labels: Tensor | None = None) -> "LabelTarget":
        """A copy that knows the number of classes in ``labels``, shape (N,)."""
        fitted = copy.copy(self)
        fitted.num_classes = self.num_classes or int(_require_labels(labels).max()) + 1
        return fitted

    def representation(self, images: Maybe = None, *, labels: Maybe = None, indices: Maybe = None) -> Tensor:
        """One-hot classes, shape (N, number of classes)."""
        labels = _require_labels(labels)
        classes = torch.arange(self.num_classes or int(labels.max()) + 1, device=labels.device)
        return (labels[:, None] == classes).float()


def _require_labels(labels: Tensor | None) -> Tensor:
    if labels is None:
        raise ValueError("labels: pass labels= (N,) to the pool, or on a batch reg.penalty((y[:, None] == y).float()).")
    return labels


class MatrixTarget(PoolTarget):
    """A similarity matrix of your own for the images of a pool.

    Args:
        matrix: Tensor or NumPy array, shape (N, N), symmetric, values in [-1, 1]; entry (i, j) belongs to images i
            and j of the pool. Anything else raises ``ValueError``.

    Example:
        >>> MatrixTarget(torch.eye(3)).paired(torch.tensor([[0, 1]]), indices=torch.tensor([2, 2]))
        tensor([1.])
    """

    def __init__(self, matrix: Tensor | np.ndarray) -> None:
        matrix = to_tensor("matrix", matrix)
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"matrix must be square, (N, N), got {describe(matrix)}.")
        self.rows = as_float(matrix)
        check_similarities("matrix", self.rows)
        if not torch.allclose(self.rows, self.rows.T, atol=1e-5):
            raise ValueError("matrix must be symmetric: similarity does not depend on the order of a pair.")

    @property
    def matrix(self) -> Tensor:
        """The matrix, (N, N)."""
        return self.rows

    def representation(self, images: Maybe = None, *, labels: Maybe = None, indices: Maybe = None) -> Tensor:
        """The pool row of each image, (N, 1): a matrix need not have vectors, so `inner` and `outer` look it up."""
        return self.located(indices).reshape(-1, 1)

    def inner(self, first: Tensor, second: Tensor) -> Tensor:
        """Entries of the matrix, shape (P,)."""
        return self.rows[first[:, 0], second[:, 0]]

    def outer(self, first: Tensor, second: Tensor) -> Tensor:
        """Block of the matrix, shape (M, N)."""
        return self.rows[first[:, 0]][:, second[:, 0]]


class NeuralTarget(PoolTarget):
    r"""Similarity of neural responses to the images of a pool.

    .. math:: S_{ij} = \cos(x_i, x_j), \quad x_{ia} = w_a (r_{ia} - \bar r_a)

    Build one with `from_responses`, or of unit vectors ``rows`` (N, R); `average` combines several scans.

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
    ) -> "NeuralTarget":
        r"""Target from recorded or predicted responses.

        Repeats are averaged, neurons weighted by `simreg.functional.response_reliability` (signal over noise),
        responses centred across images and each image's vector brought to unit length. Raises ``ValueError`` if the
        shape is wrong, an image has no valid repeat or all neurons weigh 0.

        Args:
            responses: Tensor or NumPy array, shape (T, N, A), T repeats of N images for A neurons, NaN where a
                repeat is missing; or (N, A). Row i belongs to image i of the pool.
            reliability: True weights neurons by their reliability over repeats, and asks for repeats; a tensor (A,)
                gives weights of your own, such as :math:`w_a v_a`; False weights none.

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
        if reliability is True and responses.ndim == 2:
            raise ValueError(
                "responses (N, A) have no repeats to tell reliability from: pass (T, N, A), weights as "
                "reliability=(A,), or reliability=False."
            )
        if isinstance(reliability, bool):
            weights = response_reliability(responses) if reliability else None
        else:
            weights = to_tensor("reliability", reliability)
        if weights is not None and not bool((weights != 0).any()):
            raise ValueError("reliability: every neuron weighs 0; check that the repeats differ and the images matter.")
        return cls(response_representation(mean, weights))

    @classmethod
    def average(cls, targets: Sequence["NeuralTarget"]) -> "NeuralTarget":
        """Target whose similarity is the mean of those of several scans of the same images; neurons may differ.

        It has as many units as all scans together. Raises ``ValueError`` if there is no scan, or they differ in images.

        Example:
            >>> one, two = NeuralTarget(torch.eye(2)), NeuralTarget(torch.ones(2, 1))
            >>> NeuralTarget.average([one, two]).paired(torch.tensor([[0, 1]]), indices=torch.arange(2))
            tensor([0.5000])
        """
        if not targets:
            raise ValueError("targets must hold at least one NeuralTarget.")
        sizes = {len(t.rows) for t in targets}
        if len(sizes) > 1:
            raise ValueError(f"targets must be of the same images, got scans of {sorted(sizes)} images.")
        combined = cls.__new__(cls)  # as is: a row that is zero in one scan stays shorter
        combined.rows = torch.cat([t.rows for t in targets], dim=1) / len(targets) ** 0.5
        return combined

    def __repr__(self) -> str:
        return f"NeuralTarget({self.rows.shape[0]} images, {self.rows.shape[1]} units)"

    def representation(self, images: Maybe = None, *, labels: Maybe = None, indices: Maybe = None) -> Tensor:
        """Response vectors of the images in rows ``indices`` of the pool, (N, R)."""
        indices = self.located(indices)
        return self.rows[indices]
