"""Targeted FAB: walk to the decision boundary by projections, staying as near to the image as possible."""

from __future__ import annotations

import torch
from torch import Tensor

from simreg.robustness._attack_losses import gradient_of
from simreg.robustness._norms import Norm, per_row, row_norms
from simreg.robustness.classifier import Classifier

_BIAS_MAX = 0.1  # largest pull towards the image itself
_OVERSHOOT = 1.05
_BACKWARD = 0.9  # where a walk goes on after it has crossed: this share of the way from the image
_HALVINGS = 3  # of the way back from a crossing, at the end


def targeted_fab(
    classifier: Classifier,
    images: Tensor,
    labels: Tensor,
    targets: Tensor,
    *,
    epsilon: float,
    norm: Norm,
    steps: int,
) -> Tensor:
    r"""Fast Adaptive Boundary attack on the boundary between each image's label and one target class.

    .. math:: x_{t+1} = (1 - \alpha)(x_t + \eta\, \delta(x_t)) + \alpha (x + \eta\, \delta(x))

    where delta is the shortest way, within [0, 1], to the hyperplane on which the two logits, made linear at the
    iterate, are equal; eta = 1.05, and alpha, at most 0.1, grows as the image itself is nearer to that plane. A walk
    that has crossed goes back to nine tenths of its way. The loss has no scale and no budget that could hide its
    gradient.

    Args:
        classifier: Differentiable model on images in [0, 1].
        images: Shape (N, C, H, W), floating point, on the model's device, none of them misclassified.
        labels: Shape (N,), same device.
        targets: Shape (N,), the class to reach.
        epsilon: Radius within which a misclassified image counts; the walk of such an image ends.
        norm: "linf" or "l2".
        steps: Steps of the walk.

    Returns:
        The nearest misclassified image found if it lies within epsilon, else the image, (N, C, H, W).

    Source: Croce, Hein, 2020 (https://arxiv.org/abs/1907.02044), algorithm 1; targeted as in AutoAttack
    (https://arxiv.org/abs/2003.01690).
    """

    def ahead(_: Tensor, logits: Tensor, rows: Tensor) -> Tensor:
        target, label = (logits.gather(1, classes[rows][:, None])[:, 0] for classes in (targets, labels))
        return target - label

    nearest, distance = images.clone(), torch.full((len(images),), torch.inf, device=images.device, dtype=images.dtype)
    iterate, rows = images, torch.arange(len(images), device=images.device)
    for _ in range(steps):
        if not len(rows):
            break
        origin = images[rows]
        value, gradient, _logits = gradient_of(classifier, iterate, rows, ahead)
        iterate = _walk(origin, iterate, value, gradient, norm)
        crossed = _errs(classifier, iterate, labels[rows])
        _keep_nearer(nearest, distance, rows[crossed], iterate[crossed], images, norm)
        back = origin + _BACKWARD * (iterate - origin)
        iterate = torch.where(per_row(crossed, back), back, iterate)
        walking = distance[rows] > epsilon
        iterate, rows = iterate[walking], rows[walking]
    _halve(classifier, images, labels, nearest, distance, epsilon, norm)
    return torch.where(per_row(distance <= epsilon, images), nearest, images)


def shortest_way(points: Tensor, normals: Tensor, values: Tensor, norm: Norm) -> Tensor:
    r"""Smallest change that brings points in [0, 1] onto hyperplanes without leaving [0, 1].

    .. math:: \arg\min_\delta \|\delta\| \quad \text{with} \quad v + \langle w, \delta \rangle = 0, \;
              0 \le x + \delta \le 1

    Each coordinate moves by min(lambda a, room), with a = 1 ("linf") or the size of its weight ("l2"); sorting the
    lambda at which coordinates run out of room gives the right one exactly.

    Args:
        points: Shape (N, C, H, W), in [0, 1].
        normals: w, same shape.
        values: v at the points, (N,).
        norm: What to keep small.

    Returns:
        Shape (N, C, H, W); every coordinate moves as far as it can where the plane is out of reach.

    Example:
        >>> way = shortest_way(torch.tensor([[[[0.5, 0.9]]]]), torch.ones(1, 1, 1, 2), torch.tensor([-0.3]), "linf")
        >>> [round(v, 6) for v in way.flatten().tolist()]
        [0.2, 0.1]
    """
    x, w = points.flatten(1), normals.flatten(1)
    scale = w.abs().amax(dim=1).clamp_min(1e-38)  # squares of tiny weights vanish in float32
    w, values = w / scale[:, None], values / scale
    sign = -values.sign()[:, None] * w.sign()
    size = w.abs()
    room = torch.where(sign > 0, 1 - x, x)
    speed = torch.ones_like(size) if norm == "linf" else size
    full = torch.where(size > 0, room / speed.clamp_min(1e-30), torch.inf)  # lambda at which the room is used up
    full, order = full.sort(dim=1)
    size_sorted, speed_sorted, room_sorted = (part.gather(1, order) for part in (size, speed, room))
    gained = (size_sorted * room_sorted).cumsum(dim=1)  # by coordinates without room
    pace = (size_sorted * speed_sorted).flip(1).cumsum(dim=1).flip(1)  # of this coordinate and those after it
    before = torch.cat([torch.zeros_like(gained[:, :1]), gained[:, :-1]], dim=1)
    # the first coordinate that still has room when the plane is reached
    wanted = values.abs()[:, None]
    reaching = before + full.clamp_max(1e30) * pace >= wanted
    first = torch.where(reaching.any(dim=1), reaching.int().argmax(dim=1), reaching.shape[1] - 1)[:, None]
    stretch = (wanted - before.gather(1, first)) / pace.gather(1, first).clamp_min(1e-30)
    stretch = torch.where(reaching.any(dim=1, keepdim=True), stretch, 1e30)
    return (sign * torch.minimum(stretch * speed, room)).view_as(points)


def _walk(origin: Tensor, iterate: Tensor, value: Tensor, gradient: Tensor, norm: Norm) -> Tensor:
    """One step towards the boundary, biased towards the image itself."""
    here = shortest_way(iterate, gradient, value, norm)
    value_at_origin = value + (gradient * (origin - iterate)).flatten(1).sum(dim=1)
    there = shortest_way(origin, gradient, value_at_origin, norm)
    near, far = row_norms(here, norm), row_norms(there, norm)
    bias = per_row((near / (near + far).clamp_min(1e-12)).clamp(max=_BIAS_MAX), origin)
    return ((1 - bias) * (iterate + _OVERSHOOT * here) + bias * (origin + _OVERSHOOT * there)).clamp(0, 1)


def _keep_nearer(nearest: Tensor, distance: Tensor, rows: Tensor, found: Tensor, images: Tensor, norm: Norm) -> None:
    """Note misclassified points (n, C, H, W) of these rows where they are nearer than those known."""
    length = row_norms(found - images[rows], norm)
    nearer = length < distance[rows]
    nearest[rows[nearer]], distance[rows[nearer]] = found[nearer], length[nearer]


def _halve(
    classifier: Classifier,
    images: Tensor,
    labels: Tensor,
    nearest: Tensor,
    distance: Tensor,
    epsilon: float,
    norm: Norm,
) -> None:
    """Look for nearer crossings on the line from the image to the one found outside the budget."""
    rows = (distance.isfinite() & (distance > epsilon)).nonzero()[:, 0]
    inside, outside = images[rows], nearest[rows]
    for _ in range(_HALVINGS if len(rows) else 0):
        middle = (inside + outside) / 2
        wrong = _errs(classifier, middle, labels[rows])
        _keep_nearer(nearest, distance, rows[wrong], middle[wrong], images, norm)
        inside = torch.where(per_row(wrong, middle), inside, middle)
        outside = torch.where(per_row(wrong, middle), middle, outside)


def _errs(classifier: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    return classifier.predict(images) != labels
