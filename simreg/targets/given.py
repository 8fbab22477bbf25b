"""Similarities given from outside: of class labels, or as a matrix."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from simreg._checks import as_float, check_similarities, describe, to_tensor
from simreg.targets.base import Target, check_rows, require_indices


class LabelTarget(Target):
    """1 where the classes of two images agree, else 0 (the paper's categorical target).

    Args:
        num_classes: Number of classes; by default one more than the highest label seen, by `fit` or else at hand.

    Example:
        >>> LabelTarget().paired(torch.tensor([[0, 1], [0, 2]]), labels=torch.tensor([3, 3, 5]))
        tensor([1., 0.])
    """

    def __init__(self, num_classes: int | None = None) -> None:
        self.num_classes = num_classes

    def fit(self, images: Tensor, labels: Tensor | None = None) -> LabelTarget:
        """A copy that knows the number of classes in ``labels``, shape (N,)."""
        fitted = copy.copy(self)
        fitted.num_classes = self.num_classes or int(_require_labels(labels).max()) + 1
        return fitted

    def representation(
        self, images: Tensor | None = None, *, labels: Tensor | None = None, indices: Tensor | None = None
    ) -> Tensor:
        """One-hot classes, shape (N, number of classes)."""
        labels = _require_labels(labels)
        classes = torch.arange(self.num_classes or int(labels.max()) + 1, device=labels.device)
        return (labels[:, None] == classes).float()


class MatrixTarget(Target):
    """A similarity matrix of your own for the images of a pool.

    Args:
        matrix: Tensor or NumPy array, shape (N, N), symmetric, values in [-1, 1]; entry (i, j) belongs to images i
            and j of the pool.

    Raises:
        ValueError: If the matrix is not square and symmetric with values in [-1, 1].

    Example:
        >>> MatrixTarget(torch.eye(3)).paired(torch.tensor([[0, 1]]), indices=torch.tensor([2, 2]))
        tensor([1.])
    """

    def __init__(self, matrix: Tensor | np.ndarray) -> None:
        matrix = to_tensor("matrix", matrix)
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"matrix must be square, (N, N), got {describe(matrix)}.")
        values = as_float(matrix)
        check_similarities("matrix", values)
        if not torch.allclose(values, values.T, atol=1e-5):
            raise ValueError("matrix must be symmetric: similarity does not depend on the order of a pair.")
        self.matrix = values

    def check_size(self, n: int) -> None:
        """Raise ``ValueError`` unless the matrix is for ``n`` images."""
        check_rows("matrix", self.matrix.shape[0], n)

    def representation(
        self, images: Tensor | None = None, *, labels: Tensor | None = None, indices: Tensor | None = None
    ) -> Tensor:
        """The pool row of each image, (N, 1): a matrix need not have vectors, so `inner` and `outer` look it up."""
        return require_indices(indices).reshape(-1, 1)

    def inner(self, first: Tensor, second: Tensor) -> Tensor:
        """Entries of the matrix, shape (P,)."""
        return self._matrix(first)[first[:, 0], second[:, 0]]

    def outer(self, first: Tensor, second: Tensor) -> Tensor:
        """Block of the matrix, shape (M, N)."""
        return self._matrix(first)[first[:, 0]][:, second[:, 0]]

    def _matrix(self, like: Tensor) -> Tensor:
        if self.matrix.device != like.device:
            self.matrix = self.matrix.to(like.device)
        return self.matrix


def _require_labels(labels: Tensor | None) -> Tensor:
    if labels is None:
        raise ValueError(
            "labels: a label target needs the class of each image; pass labels= (N,) to the pool, or in same-batch "
            "mode reg.penalty((y[:, None] == y).float())."
        )
    return labels
