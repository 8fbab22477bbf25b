"""The standard attacks of AutoAttack as stages: Auto-PGD on two losses, targeted FAB, Square."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor

from simreg.robustness._attack_losses import Loss, cross_entropy, logit_ratio, ranked_rivals
from simreg.robustness._auto_pgd import auto_pgd, random_start
from simreg.robustness._boundary_projection import targeted_fab
from simreg.robustness._norms import Norm
from simreg.robustness._random import check_seed, derive_seed
from simreg.robustness._square import Square
from simreg.robustness._worst_case import Stage
from simreg.robustness.classifier import Classifier, check_count

STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")
RANDOM = ("apgd-ce", "apgd-dlr")
SQUARE_SHARE = 0.8  # of the pixels, in Square's first square


@dataclass(frozen=True)
class Budgets:
    """How much each attack may spend; the defaults are those of the standard version."""

    steps: int = 100
    restarts: int = 1
    targets: int = 9
    max_queries: int = 5000
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "restarts", "targets", "max_queries"):
            check_count(name, getattr(self, name))
        check_seed(self.seed)


class Lineup(NamedTuple):
    """What an implementation runs, its label, and which attacks of the version it lacks."""

    stages: list[Stage]
    label: str
    not_run: list[str]


def own_lineup(
    classifier: Classifier, names: Sequence[str], norm: Norm, budgets: Budgets, classes: int, shape: Sequence[int]
) -> Lineup:
    """Our attacks of these names."""
    stages: list[Stage] = []
    targets = min(budgets.targets, classes - 1)
    for name in names:
        if name in ("apgd-ce", "apgd-dlr"):
            loss: Literal["ce", "dlr"] = "ce" if name == "apgd-ce" else "dlr"
            stages += [apgd_stage(name, classifier, norm, budgets, loss, restart=r) for r in range(budgets.restarts)]
        elif name == "apgd-t":
            stages += [apgd_stage(name, classifier, norm, budgets, "dlr", rank=rank) for rank in range(targets)]
        elif name == "fab-t":
            stages += [_fab_stage(name, classifier, norm, budgets, rank) for rank in range(targets)]
        else:
            stages.append(_square_stage(name, classifier, norm, budgets))
    return Lineup(stages, f"simreg ({label_of(names, budgets)})", [])


def label_of(names: Sequence[str], budgets: Budgets) -> str:
    """Attacks by name; Square with its queries.

    Example:
        >>> label_of(STANDARD, Budgets())
        'APGD-CE, APGD-T, FAB-T, Square 5000'
    """
    return ", ".join(f"Square {budgets.max_queries}" if n == "square" else n.upper() for n in names)


def apgd_stage(
    name: str,
    classifier: Classifier,
    norm: Norm,
    budgets: Budgets,
    loss: Literal["ce", "dlr"],
    *,
    restart: int = 0,
    rank: int | None = None,
) -> Stage:
    """Auto-PGD from one random start; with ``rank`` towards the wrong class of that rank."""

    def attack(images: Tensor, labels: Tensor, indices: Sequence[int], epsilon: float) -> Tensor:
        targets = None if rank is None else rival_of_rank(classifier, images, labels, rank)
        seed = derive_seed("auto_attack", name, budgets.seed, restart, rank or 0, round(epsilon * 1e6))
        start = random_start(images, epsilon, norm, indices, seed)
        raised = logit_loss(loss, labels, targets)
        return auto_pgd(
            classifier, images, labels, raised, epsilon=epsilon, norm=norm, steps=budgets.steps, start=start
        )

    return Stage(name, attack)


def logit_loss(kind: Literal["ce", "dlr"], labels: Tensor, targets: Tensor | None = None) -> Loss:
    """Cross-entropy, or difference of logits ratio, of the rows of a batch."""

    def ce(_: Tensor, logits: Tensor, rows: Tensor) -> Tensor:
        return cross_entropy(logits, labels[rows])

    def dlr(_: Tensor, logits: Tensor, rows: Tensor) -> Tensor:
        return logit_ratio(logits, labels[rows], None if targets is None else targets[rows])

    return ce if kind == "ce" else dlr


@torch.no_grad()
def rival_of_rank(classifier: Classifier, images: Tensor, labels: Tensor, rank: int) -> Tensor:
    """For each image the wrong class of this rank, by its clean logits, (n,)."""
    return ranked_rivals(classifier(images).float(), labels)[:, rank]


def _fab_stage(name: str, classifier: Classifier, norm: Norm, budgets: Budgets, rank: int) -> Stage:
    def attack(images: Tensor, labels: Tensor, indices: Sequence[int], epsilon: float) -> Tensor:
        targets = rival_of_rank(classifier, images, labels, rank)
        return targeted_fab(classifier, images, labels, targets, epsilon=epsilon, norm=norm, steps=budgets.steps)

    return Stage(name, attack)


def _square_stage(name: str, classifier: Classifier, norm: Norm, budgets: Budgets) -> Stage:
    square = Square(classifier, norm, budgets.max_queries, SQUARE_SHARE, budgets.seed)

    @torch.no_grad()
    def attack(images: Tensor, labels: Tensor, indices: Sequence[int], epsilon: float) -> Tensor:
        return square(images, labels, epsilon, cast("range", indices))[0]

    return Stage(name, attack)
