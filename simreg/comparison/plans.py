"""What a comparison and a selection train and measure, beside their methods, grids and seeds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from simreg._checks import check_positive
from simreg.comparison.recipe import Recipe

Budget = Literal["equal_epochs", "equal_time"]


@dataclass(frozen=True)
class Plan:
    """What a comparison trains and measures, beside its methods and seeds.

    Attributes:
        recipe: Of every net.
        epochs: Of every net in the budget "equal_epochs"; 0 leaves that budget out.
        budget_seconds: Of training time in the budget "equal_time", whose schedule is stretched to the steps that fit;
            None leaves that budget out.
        width: Channels of the first section of the ResNet18.
        stem_stride: Of its first convolution.
        suite: Of `simreg.evaluation`: "quick", "standard" or "full".
        device: That trains and measures.

    Raises:
        ValueError: If a number is out of range, or both budgets are left out.
    """

    recipe: Recipe = field(default_factory=Recipe)
    epochs: float = 3
    budget_seconds: float | None = None
    width: int = 16
    stem_stride: int = 2
    suite: str = "quick"
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_positive("epochs", self.epochs, zero=True)
        if self.budget_seconds is not None:
            check_positive("budget_seconds", self.budget_seconds)
        if not self.budgets:
            raise ValueError("epochs=0 without budget_seconds leaves nothing to train.")

    @property
    def budgets(self) -> list[Budget]:
        """The budgets that are asked for."""
        return [
            *(["equal_epochs"] if self.epochs else []),  # type: ignore[list-item]
            *(["equal_time"] if self.budget_seconds else []),  # type: ignore[list-item]
        ]


@dataclass(frozen=True)
class SelectionPlan:
    """What a selection trains and measures, beside its grid and seeds.

    Attributes:
        recipe: Of every net.
        epochs: Of every net.
        width: Channels of the first section of the ResNet18.
        stem_stride: Of its first convolution.
        validation: Images held out of the training images and measured on; None takes a tenth, at most 2000.
        epsilon: Standard deviation D of the Gaussian noise at which RD and UD are read.
        minimum_clean_ratio: Smallest acceptable R0/U0.
        device: That trains and measures.

    Raises:
        ValueError: If a number is out of range.
    """

    recipe: Recipe = field(default_factory=Recipe)
    epochs: float = 3
    width: int = 16
    stem_stride: int = 2
    validation: int | None = None
    epsilon: float = 0.1
    minimum_clean_ratio: float = 0.9
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_positive("epochs", self.epochs)
        check_positive("epsilon", self.epsilon)
        check_positive("minimum_clean_ratio", self.minimum_clean_ratio)
