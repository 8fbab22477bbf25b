"""What a step minimises: cross entropy alone, with a similarity or Jacobian penalty, or the loss of TRADES."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import simreg
from simreg._checks import check_positive
from simreg.comparison.adversarial import trades_examples, trades_loss
from simreg.comparison.recipe import Batch, normalise
from simreg.robustness.classifier import check_count, evaluation_mode

Mode = Literal["same-batch", "separate", "joint"]
MODES: tuple[Mode, ...] = ("same-batch", "separate", "joint")


class Objective:
    """Cross entropy, and what all objectives have.

    Args:
        model: The network that is trained; it takes normalised images.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def loss(self, images: Tensor, batch: Batch) -> Tensor:
        """Loss of one step, a scalar.

        Args:
            images: What the network sees, (N, C, H, W) in [0, 1]: noisy, mixed or attacked.
            batch: The step's images before that, its labels and random numbers.
        """
        return F.cross_entropy(self.model(normalise(images)), batch.labels)

    @property
    def layers(self) -> list[str]:
        """Layers whose features it looks at."""
        return []

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters of its own, as optimizer groups."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """What changes from step to step, for checkpoints."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""

    def log(self, history: dict[str, Any]) -> None:
        """Append what it knows of the last step to the history of the training."""

    def close(self) -> None:
        """Leave the model as it was."""


class SimilarityObjective(Objective):
    """Cross entropy and the similarity penalty.

    Args:
        model: The network that is trained.
        regularizer: Of this model.
        mode: Whose images are compared: those of the task batch, or pairs of a pool in a pass of their own, or in one
            pass with the task images.
        pool: Of the modes "separate" and "joint".
        pairs: Of the pool, per step.
        by_label: In same-batch mode: targets from the labels instead of the images.
        of_seen: In same-batch mode: targets from what the network sees, instead of the images before noise, AugMix or
            attack.

    Raises:
        ValueError: If the pool is missing in a mode that needs one.
    """

    def __init__(
        self,
        model: nn.Module,
        regularizer: simreg.SimilarityRegularizer,
        mode: Mode,
        *,
        pool: simreg.RegularizationPool | None = None,
        pairs: int = 16,
        by_label: bool = False,
        of_seen: bool = False,
    ) -> None:
        super().__init__(model)
        if (pool is None) != (mode == "same-batch"):
            raise ValueError(f"mode={mode!r} {'needs a pool' if pool is None else 'takes no pool'}.")
        self.regularizer, self.mode, self.pool = regularizer, mode, pool
        self.by_label, self.of_seen = by_label, of_seen
        self.batches = None if pool is None else pool.batches(pairs)

    def loss(self, images: Tensor, batch: Batch) -> Tensor:
        """As for `Objective`."""
        reg = self.regularizer
        if self.batches is None:  # the task images are the regularization images: no extra forward
            with reg.observe():
                logits = self.model(normalise(images))
            targets = same_class(batch.labels) if self.by_label else images if self.of_seen else batch.images
            penalty = reg.penalty(targets)
        elif self.mode == "separate":
            logits, penalty = self.model(normalise(images)), reg(next(self.batches))
        else:
            logits, penalty = reg.joint(normalise(images), next(self.batches))
        return F.cross_entropy(logits, batch.labels) + penalty

    @property
    def layers(self) -> list[str]:
        """The regularized layers."""
        return self.regularizer.layers

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The layer logits."""
        return [self.regularizer.parameter_group()]

    def state_dict(self) -> dict[str, Any]:
        """Layer logits, running means, and where the stream of pairs stands."""
        pool = None if self.pool is None else self.pool.state_dict()
        return {"regularizer": self.regularizer.state_dict(), "pool": pool}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.regularizer.load_state_dict(state["regularizer"])
        if self.pool is not None:
            self.pool.load_state_dict(state["pool"])

    def log(self, history: dict[str, Any]) -> None:
        """Layer weights, correlation of similarities and targets, and share of targets of 1 and -1."""
        stats = self.regularizer.stats  # empty while alpha is 0
        for name in ("correlation", "target_share"):
            history.setdefault(name, []).append(stats.get(name, float("nan")))
        for layer, weight in self.regularizer.layer_weights.items():
            history.setdefault("layer_weights", {}).setdefault(layer, []).append(weight)

    def close(self) -> None:
        """Remove the hooks."""
        self.regularizer.close()


class JacobianObjective(Objective):
    r"""Cross entropy and the squared Frobenius norm of the input-output Jacobian, by random projections.

    .. math:: \mathrm{CE} + \frac{\lambda}{2} \frac{1}{N} \sum_i \|J(x_i)\|_F^2

    J is that of the logits by the network's input, which is normalised, as in the authors' code.

    Args:
        model: The network that is trained.
        strength: Lambda.
        projections: Random directions per image and step.

    Raises:
        ValueError: If a number is out of range.

    Source: Hoffman, Roberts, Yaida, 2019 (https://arxiv.org/abs/1908.02729).
    """

    def __init__(self, model: nn.Module, strength: float, projections: int) -> None:
        super().__init__(model)
        check_positive("strength", strength, zero=True)
        check_count("projections", projections)
        self.strength, self.projections = strength, projections

    def loss(self, images: Tensor, batch: Batch) -> Tensor:
        """As for `Objective`."""
        inputs = normalise(images).requires_grad_()
        logits = self.model(inputs)
        penalties = [
            jacobian_norm(logits, inputs, batch.draws.normal(f"projection {i}", logits.detach()))
            for i in range(self.projections)
        ]
        penalty = torch.stack(penalties).mean()
        return F.cross_entropy(logits, batch.labels) + 0.5 * self.strength * penalty


def jacobian_norm(logits: Tensor, inputs: Tensor, directions: Tensor) -> Tensor:
    r"""Estimate of the mean squared Frobenius norm of the Jacobian, by one direction per image.

    .. math:: \frac{K}{N} \sum_i \|\hat v_i^\top J(x_i)\|^2, \qquad \hat v_i = v_i / \|v_i\|

    Its expectation over directions uniform on the sphere is the norm itself.

    Args:
        logits: Shape (N, K), of ``inputs``.
        inputs: Shape (N, ...), requiring gradient.
        directions: Shape (N, K), of any length but 0.

    Returns:
        A scalar, differentiable in the parameters.

    Example:
        >>> inputs = torch.ones(1, 2, requires_grad=True)
        >>> float(jacobian_norm(2 * inputs, inputs, torch.tensor([[3.0, 0.0]])))  # the norm of 2 I is 8
        8.0
    """
    unit = directions / directions.norm(dim=1, keepdim=True)
    (projected,) = torch.autograd.grad(logits, inputs, unit, create_graph=True)
    return logits.shape[1] * projected.flatten(1).square().sum(dim=1).mean()


class TradesObjective(Objective):
    """The loss of TRADES; see `trades_loss` and `trades_examples`.

    Args:
        model: The network that is trained.
        epsilon: L-inf radius in pixel units.
        steps: Gradient steps of the attack.
        beta: Weight of the divergence.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(self, model: nn.Module, epsilon: float, steps: int, beta: float) -> None:
        super().__init__(model)
        check_positive("epsilon", epsilon)
        check_count("steps", steps)
        check_positive("beta", beta, zero=True)
        self.epsilon, self.steps, self.beta = epsilon, steps, beta

    def loss(self, images: Tensor, batch: Batch) -> Tensor:
        """As for `Objective`; clean and attacked images take one pass each in training mode."""
        with evaluation_mode(self.model):
            attacked = trades_examples(
                self._predict, images, self.epsilon, steps=self.steps, noise=batch.draws.normal("start", images)
            )
        return trades_loss(self._predict(images), self._predict(attacked), batch.labels, self.beta)

    def _predict(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(normalise(images))
        return logits


def same_class(labels: Tensor) -> Tensor:
    """Targets (P,) of all pairs i < j of a batch: 1 where the classes agree, else 0.

    Example:
        >>> same_class(torch.tensor([3, 5, 3]))
        tensor([0., 1., 0.])
    """
    i, j = torch.triu_indices(len(labels), len(labels), offset=1, device=labels.device)
    return (labels[i] == labels[j]).float()
