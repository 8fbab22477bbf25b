"""The Square Attack on one batch: random search over squares, one random stream per image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.linalg import vector_norm

from simreg.robustness._norms import Norm, per_row, row_norms
from simreg.robustness._random import derive_seed, draw_per_image
from simreg.robustness.classifier import Classifier, check_labels_fit

_BLOCK = 100  # queries whose random numbers are drawn at a time: a constant, so that streams do not depend on batches
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries: where p becomes half as large
_PLACES = 5  # random numbers of a query besides a sign for each channel: corners of two squares, and an orientation
_TINY = 1e-12

Index = tuple[Tensor, Tensor, Tensor, Tensor]


class Square:
    """Options of ``square`` and the attack on one batch.

    Args:
        classifier: Model under attack.
        norm: "linf" or "l2".
        max_queries: Queries that each image may take.
        p_init: Share of the pixels in the first square.
        seed: Seed of all draws.
    """

    def __init__(self, classifier: Classifier, norm: Norm, max_queries: int, p_init: float, seed: int) -> None:
        self.classifier, self.norm, self.max_queries = classifier, norm, max_queries
        self.p_init, self.seed = p_init, seed

    def __call__(
        self, images: Tensor, labels: Tensor, epsilon: float, indices: Sequence[int]
    ) -> tuple[Tensor, list[int | None]]:
        """Attack a batch (N, C, H, W) whose images have these indices.

        Returns:
            Images with the smallest margin found, (N, C, H, W), and the queries that each took until the model was
            wrong: 0 where it was wrong without attack, None where it never was.
        """
        pixels = images if self.classifier.device is None else images.to(self.classifier.device)
        result, (margins, wrong) = pixels.clone(), self._ask(pixels, labels)
        queries: list[int | None] = [0 if lost else None for lost in wrong.tolist()]
        rows = (~wrong).nonzero().flatten().cpu()  # images under attack: x, best, margins and draws are theirs
        x, best, margins = pixels[rows], pixels[rows], torch.full_like(margins[~wrong], torch.inf)
        draws = torch.empty(0)
        for query in range(1, self.max_queries + 1 if epsilon > 0 else 1):
            if not len(rows):
                break
            numbers = [indices[row] for row in rows.tolist()]
            if query == 1:
                trial = self._start(x, numbers, epsilon)
            else:
                if (query - 2) % _BLOCK == 0:
                    draws = self._draw(x, numbers, epsilon, (query - 2) // _BLOCK)
                trial = self._propose(x, best, draws[:, (query - 2) % _BLOCK], epsilon, self.side(query, x.shape))
            margin, wrong = self._ask(trial, labels[rows.to(labels.device)])
            better = wrong | (margin < margins)
            best, margins = torch.where(per_row(better, x), trial, best), torch.where(better, margin, margins)
            if bool(wrong.any()):
                lost = wrong.cpu()
                result[rows[lost]] = best[wrong]
                for row in rows[lost].tolist():
                    queries[row] = query
                rows, x, best, margins = rows[~lost], x[~wrong], best[~wrong], margins[~wrong]
                draws = draws[~wrong] if len(draws) else draws
        result[rows] = best
        return result.to(images.device), queries

    def side(self, query: int, shape: torch.Size) -> int:
        """Side of the square at this query, in pixels, for images (..., H, W)."""
        halvings = sum((query - 1) * 10_000 > halving * self.max_queries for halving in _HALVINGS)
        side = round(math.sqrt(self.p_init / 2**halvings * shape[-2] * shape[-1]))
        side = max(side, 1) if self.norm == "linf" else max(side, 3) // 2 * 2 + 1  # an odd one for "l2"
        return min(side, shape[-2], shape[-1])

    def _start(self, x: Tensor, numbers: list[int], epsilon: float) -> Tensor:
        seed = derive_seed("square start", self.seed, self.norm, round(epsilon * 1e6))
        n, channels, height, width = x.shape
        if self.norm == "linf":
            stripes = draw_per_image(x[:, :, :1], numbers, seed, "uniform").to(x.dtype)  # (n, C, 1, W)
            return (x + epsilon * _signs(stripes)).clamp(0, 1)
        side = max(1, min(height, width) // 5)
        tiles = x.new_empty(n, channels + 1, height // side, width // side)
        draws = draw_per_image(tiles, numbers, seed, "uniform").to(x.dtype)
        pattern = squares(side).to(x)[(draws[:, 0] < 0.5).long()]  # (n, rows, columns, side, side)
        pattern = (_signs(draws[:, 1:])[..., None, None] * pattern.unsqueeze(1)).transpose(3, 4)
        block = pattern.reshape(n, channels, tiles.shape[2] * side, tiles.shape[3] * side)
        offset = torch.zeros_like(x)
        top, left = (height - block.shape[2]) // 2, (width - block.shape[3]) // 2
        offset[:, :, top : top + block.shape[2], left : left + block.shape[3]] = block
        return _to_sphere(x, offset, epsilon)

    def _draw(self, x: Tensor, numbers: list[int], epsilon: float, block: int) -> Tensor:
        """Uniform numbers (n, _BLOCK, _PLACES + C) of the next queries."""
        seed = derive_seed("square", self.seed, self.norm, round(epsilon * 1e6), block)
        return draw_per_image(x.new_empty(len(x), _BLOCK, _PLACES + x.shape[1]), numbers, seed, "uniform")

    def _propose(self, x: Tensor, best: Tensor, draws: Tensor, epsilon: float, side: int) -> Tensor:
        """The images with a square of this side changed, (n, C, H, W); ``draws`` (n, K) says where and how."""
        height, width = x.shape[2:]
        sides = torch.tensor([height, width, height, width], device=x.device) - side + 1
        corners = (draws[:, :4] * sides).long()  # (n, 4)
        signs = _signs(draws[:, _PLACES:]).to(x.dtype)[:, :, None, None]  # (n, C, 1, 1)
        window = _window(corners[:, 0], corners[:, 1], side, x.shape[1])
        if self.norm == "linf":
            return _propose_linf(x, best, window, epsilon * signs)
        other = _window(corners[:, 2], corners[:, 3], side, x.shape[1])
        pattern = squares(side).to(x)[(draws[:, 4] < 0.5).long()].unsqueeze(1)  # (n, 1, side, side)
        return _propose_l2(x, best, window, other, signs * pattern, epsilon)

    def _ask(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Margin of each image's label over the best other class, (n,), and where the model is wrong, (n,)."""
        logits = self.classifier(images)
        targets = check_labels_fit(labels, logits)
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        own = wide.gather(1, targets[:, None])
        others = wide.scatter(1, targets[:, None], -torch.inf).amax(dim=1)
        return (own[:, 0] - others).to(images.device), (wide.argmax(dim=1) != targets).to(images.device)


def _propose_linf(x: Tensor, best: Tensor, window: Index, step: Tensor) -> Tensor:
    """A square of +epsilon or -epsilon in each channel; ``step`` (n, C, 1, 1)."""
    clean, old = x[window], best[window]  # (n, C, side, side)
    new = (clean + step).clamp(0, 1)
    same = (new == old).flatten(1).all(dim=1)  # such a query would be wasted: the other signs
    new = torch.where(per_row(same, new), (clean - step).clamp(0, 1), new)
    trial = best.clone()
    trial[window] = new
    return trial


def _propose_l2(x: Tensor, best: Tensor, window: Index, other: Index, pattern: Tensor, epsilon: float) -> Tensor:
    """Mass moved from one square of the perturbation to another; ``pattern`` (n, C, side, side)."""
    offset = best - x
    touched = torch.zeros_like(x)
    touched[window] = touched[other] = 1.0
    mass = (offset * touched).square().sum(dim=(2, 3), keepdim=True)  # (n, C, 1, 1)
    unused = (epsilon**2 - offset.square().sum(dim=(1, 2, 3), keepdim=True)).clamp_min(0) / x.shape[1]
    new = pattern + _per_channel(offset[window])
    new = _per_channel(new) * (mass + unused).sqrt()
    offset[other] = 0.0
    offset[window] = new
    return _to_sphere(x, offset, epsilon)


def squares(side: int) -> Tensor:
    r"""The two patterns of a square, (2, side, side), with Euclidean norm 1: one, and the same turned by its diagonal.

    Each half of a pattern has one sign and falls from its centre outwards: at max-norm distance m from the centre
    :math:`\sum_{j=m+1}^{J} 1 / j^2`, where J is one more than half the longer side.

    Source: Andriushchenko et al., 2020, section 3.4.
    """
    upper = side // 2
    pattern = torch.cat([_bump(upper, side), -_bump(side - upper, side)])
    pattern = pattern / vector_norm(pattern)
    return torch.stack([pattern, pattern.T])


def _bump(height: int, width: int) -> Tensor:
    rows = (torch.arange(height) - height // 2).abs()[:, None]
    columns = (torch.arange(width) - width // 2).abs()[None, :]
    terms = torch.arange(1, max(height, width) // 2 + 2).square().reciprocal()
    sums = terms.flip(0).cumsum(0).flip(0)  # from each term to the last
    bump: Tensor = sums[torch.maximum(rows, columns)]
    length: Tensor = vector_norm(bump).clamp_min(_TINY)
    return bump / length


def _window(top: Tensor, left: Tensor, side: int, channels: int) -> Index:
    """Index of squares (n, C, side, side) with these corners (n,)."""
    along = torch.arange(side, device=top.device)
    return (
        torch.arange(len(top), device=top.device).view(-1, 1, 1, 1),
        torch.arange(channels, device=top.device).view(1, -1, 1, 1),
        (top[:, None] + along).view(-1, 1, side, 1),
        (left[:, None] + along).view(-1, 1, 1, side),
    )


def _per_channel(values: Tensor) -> Tensor:
    """Each channel of (n, C, side, side) divided by its Euclidean norm."""
    return values / (values.square().sum(dim=(2, 3), keepdim=True).sqrt() + _TINY)


def _to_sphere(x: Tensor, offset: Tensor, epsilon: float) -> Tensor:
    """Images x + offset, the offset scaled to norm epsilon, clamped to [0, 1]."""
    return (x + per_row(epsilon / row_norms(offset, "l2").clamp_min(_TINY), x) * offset).clamp(0, 1)


def _signs(uniform: Tensor) -> Tensor:
    """Uniform numbers on [0, 1) as -1 or 1."""
    return torch.where(uniform < 0.5, -torch.ones_like(uniform), torch.ones_like(uniform))
