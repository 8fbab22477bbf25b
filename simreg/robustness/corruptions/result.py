"""``CorruptionResult``: accuracy by corruption and severity, and what follows from it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from simreg.robustness._joining import check_parts, check_same, join_settings, join_share
from simreg.robustness.corruptions.apply import CORRUPTIONS, SEVERITIES, Corruption
from simreg.robustness.corruptions.groups import FREQUENCY_GROUPS, FrequencyGroup, frequency_group
from simreg.robustness.results import require


@dataclass(frozen=True)
class CorruptionResult:
    """Accuracy of one model under common corruptions.

    Args:
        source: Where the corrupted images come from.
        is_published: Whether they are the published arrays.
        accuracies: Accuracy in [0, 1] by corruption, one per severity.
        n: Number of images; those misclassified without corruption stay in.
        severities: Severities that were run.
        clean: Accuracy without corruption; None if it was not measured.
        seed: Seed of the random draws; None for published arrays.
        not_run: Reason by corruption for those of the 15 that were not run.
        settings: Everything else that decided the numbers.

    Raises:
        ValueError: If nothing was run, ``n`` is below 1, or a corruption has not one accuracy for each severity.

    Example:
        >>> result = CorruptionResult("example", False, {"fog": (0.75, 0.25), "snow": (0.5, 0.0)}, 4, severities=(1, 5))
        >>> result.mean, result.group_accuracies, result.incomplete_groups["low"]
        (0.375, {'low': 0.375, 'medium': None, 'high': None}, ('frost', 'brightness', 'contrast'))
    """

    source: str
    is_published: bool
    accuracies: Mapping[str, tuple[float, ...]]
    n: int
    severities: tuple[int, ...] = SEVERITIES
    clean: float | None = None
    seed: int | None = None
    not_run: Mapping[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.accuracies or not self.severities or self.n < 1:
            raise ValueError(
                "accuracies, severities and n must say that something was run, "
                f"got {len(self.accuracies)} corruptions, {len(self.severities)} severities, n={self.n}."
            )
        wrong = [name for name, values in self.accuracies.items() if len(values) != len(self.severities)]
        unknown = [name for name in self.accuracies if name not in CORRUPTIONS]
        if wrong or unknown:
            raise ValueError(
                f"accuracies must have one value for each of severities {self.severities} by common corruption, "
                f"got {', '.join(wrong + unknown)}."
            )

    @property
    def mean(self) -> float:
        """Mean accuracy of all corruptions and severities that were run."""
        return statistics.fmean(self.by_corruption.values())

    @property
    def by_corruption(self) -> dict[str, float]:
        """Mean accuracy over severities of each corruption that was run."""
        return {name: statistics.fmean(values) for name, values in self.accuracies.items()}

    @property
    def groups(self) -> dict[str, FrequencyGroup]:
        """Frequency group of each corruption that was run."""
        return {name: frequency_group(cast("Corruption", name)) for name in self.accuracies}

    @property
    def group_accuracies(self) -> dict[FrequencyGroup, float | None]:
        """Mean accuracy of the corruptions of each group that were run; None if none was."""
        means, groups = self.by_corruption, self.groups
        members = {group: [means[c] for c in means if groups[c] == group] for group in FREQUENCY_GROUPS}
        return {group: statistics.fmean(values) if values else None for group, values in members.items()}

    @property
    def incomplete_groups(self) -> dict[FrequencyGroup, tuple[str, ...]]:
        """Corruptions of each group that were not run; groups without any are left out."""
        missing = [name for name in CORRUPTIONS if name not in self.accuracies]
        lists = {g: tuple(name for name in missing if frequency_group(name) == g) for g in FREQUENCY_GROUPS}
        return {group: names for group, names in lists.items() if names}

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        reasons = {name: self.not_run.get(name, "not asked for") for name in CORRUPTIONS if name not in self.accuracies}
        return {
            "name": "corruptions",
            "source": self.source,
            "is_published": self.is_published,
            "accuracies": {name: list(values) for name, values in self.accuracies.items()},
            "severities": list(self.severities),
            "n": self.n,
            "clean": self.clean,
            "mean": self.mean,
            "by_corruption": self.by_corruption,
            "groups": self.groups,
            "group_accuracies": self.group_accuracies,
            "incomplete_groups": {group: list(names) for group, names in self.incomplete_groups.items()},
            "not_run": reasons,
            "seed": self.seed,
            "settings": dict(self.settings),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CorruptionResult:
        """The result that ``to_dict`` described; raises ``ValueError`` naming what is missing."""
        source, is_published, accuracies, n = require(data, "source", "is_published", "accuracies", "n")
        return cls(
            source,
            bool(is_published),
            {name: tuple(map(float, values)) for name, values in accuracies.items()},
            int(n),
            severities=tuple(data.get("severities", SEVERITIES)),
            clean=data.get("clean"),
            seed=data.get("seed"),
            not_run=dict(data.get("not_run", {})),
            settings=dict(data.get("settings", {})),
        )

    @classmethod
    def join(cls, parts: Sequence[CorruptionResult]) -> CorruptionResult:
        """The result over all images from results over consecutive parts of them, as one run over all gives it.

        Args:
            parts: Results in the order of the images.

        Returns:
            The joined result.

        Raises:
            TypeError: If ``parts`` holds something other than such results.
            ValueError: If there is none, they are not consecutive, or disagree on what decides the numbers.

        Example:
            >>> first = CorruptionResult("example", False, {"fog": (0.5,)}, n=10, severities=(3,))
            >>> second = CorruptionResult("example", False, {"fog": (0.8,)}, n=20, severities=(3,))
            >>> CorruptionResult.join([first, second]).accuracies
            {'fog': (0.7,)}
        """
        check_parts(parts, CorruptionResult)
        first, sizes = parts[0], [part.n for part in parts]
        for name in ("source", "is_published", "severities", "seed", "not_run"):
            check_same(name, [getattr(part, name) for part in parts])
        check_same("their corruptions", [sorted(part.accuracies) for part in parts])
        accuracies = {
            name: tuple(join_share(column, sizes) for column in zip(*(p.accuracies[name] for p in parts), strict=True))
            for name in first.accuracies
        }
        measured = [part.clean for part in parts if part.clean is not None]
        return cls(
            first.source,
            first.is_published,
            accuracies,
            sum(sizes),
            severities=first.severities,
            clean=join_share(measured, sizes) if len(measured) == len(parts) else None,
            seed=first.seed,
            not_run=first.not_run,
            settings=join_settings([part.settings for part in parts], sizes, 1),
        )
