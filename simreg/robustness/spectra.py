"""Spectra of perturbations: which spatial frequencies a model's nearest adversarial images change."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from simreg._checks import check_images
from simreg.robustness._joining import check_parts, check_same, join_settings
from simreg.robustness.classifier import Model, batches, unit_float
from simreg.robustness.decision import boundary_attack
from simreg.robustness.frequency import check_perturbations, mean_radial_frequency, power_spectrum, radial_profile
from simreg.robustness.results import require

_BATCH = 512  # images transformed at a time


@dataclass(frozen=True)
class SpectrumResult:
    r"""Fourier power of perturbations, summed over images so that parts can be joined.

    Two powers answer two questions. ``power`` is the mean over images of each perturbation's power: what frequencies
    perturbations have. ``power_of_mean`` is the power of the mean perturbation, the figure of the paper: what is common
    to them; the rest averages out as 1 / n. Both are (H, W), zero frequency in the centre, normalised per value: the
    sum of ``power`` is the mean squared perturbation per value (see ``power_spectrum``).

    Args:
        distances: Squared perturbation per value of each image; inf where there is none.
        power_sum: Sum of the power over the images that have one, (H, W), float64.
        perturbation_sum: Sum of their perturbations, (C, H, W), float64.
        steps: Steps of the attack that found them; None if they were given.
        seed: Seed of that attack; None if they were given.
        settings: Everything else that decided the numbers.

    Example:
        >>> wave = 0.1 * torch.cos(torch.arange(8) * torch.pi / 2).expand(2, 1, 8, 8)  # 2 cycles per image
        >>> result = perturbation_spectrum(torch.zeros(2, 1, 8, 8), wave)
        >>> result.n, round(result.median, 4), round(result.mean_frequency, 4)
        (2, 0.005, 2.0)
    """

    distances: tuple[float, ...]
    power_sum: Tensor = field(repr=False, compare=False)
    perturbation_sum: Tensor = field(repr=False, compare=False)
    steps: int | None = None
    seed: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.distances:
            raise ValueError("distances is empty: a spectrum needs at least one image.")
        if self.power_sum.ndim != 2 or self.power_sum.shape != self.perturbation_sum.shape[-2:]:
            raise ValueError(
                "power_sum must be (H, W) and perturbation_sum (C, H, W), "
                f"got {tuple(self.power_sum.shape)} and {tuple(self.perturbation_sum.shape)}."
            )

    @property
    def n(self) -> int:
        """Number of images, failures included."""
        return len(self.distances)

    @property
    def failures(self) -> int:
        """Images without an adversarial one; they are in no mean."""
        return sum(math.isinf(distance) for distance in self.distances)

    @property
    def median(self) -> float:
        """Median squared perturbation per value over all images, failures as inf."""
        return float(statistics.median(self.distances))

    @property
    def power(self) -> Tensor:
        """Mean over images of the power of each perturbation, (H, W); NaN if all images failed."""
        return self.power_sum / (self._successes or math.nan)

    @property
    def mean_perturbation(self) -> Tensor:
        """Mean perturbation, (C, H, W); NaN if all images failed."""
        return self.perturbation_sum / (self._successes or math.nan)

    @property
    def power_of_mean(self) -> Tensor:
        """Power of the mean perturbation, (H, W); NaN if all images failed."""
        return power_spectrum(self.mean_perturbation.unsqueeze(0))[0]

    @property
    def radial(self) -> Tensor:
        """Mean of ``power`` over rings of ``frequencies``, (R,)."""
        return radial_profile(self.power)

    @property
    def radial_of_mean(self) -> Tensor:
        """Mean of ``power_of_mean`` over rings of ``frequencies``, (R,)."""
        return radial_profile(self.power_of_mean)

    @property
    def frequencies(self) -> tuple[int, ...]:
        """Radii of the rings in cycles per image: 0, 1, 2, ..."""
        return tuple(range(len(radial_profile(self.power_sum))))

    @property
    def mean_frequency(self) -> float:
        """Mean radial frequency weighted by ``power``, in cycles per image; NaN without power."""
        return mean_radial_frequency(self.power_sum)

    @property
    def _successes(self) -> int:
        return self.n - self.failures

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        tensors = {
            "power": self.power,
            "radial": self.radial,
            "power_of_mean": self.power_of_mean,
            "radial_of_mean": self.radial_of_mean,
            "mean_perturbation": self.mean_perturbation,
        }
        return {
            "name": "spectrum",
            "n": self.n,
            "failures": self.failures,
            "median": self.median,
            "mean_frequency": self.mean_frequency,
            "frequencies": list(self.frequencies),
            **{name: tensor.tolist() for name, tensor in tensors.items()},
            "distances": list(self.distances),
            "steps": self.steps,
            "seed": self.seed,
            "settings": dict(self.settings),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SpectrumResult:
        """The result that ``to_dict`` described; raises ``ValueError`` naming what is missing."""
        power, perturbation, distances = require(data, "power", "mean_perturbation", "distances")
        lengths = tuple(math.inf if value is None else float(value) for value in distances)
        successes = sum(map(math.isfinite, lengths))
        power_sum, perturbation_sum = (_from_lists(v).nan_to_num(0) * successes for v in (power, perturbation))
        return cls(
            lengths,
            power_sum,
            perturbation_sum,
            data.get("steps"),
            data.get("seed"),
            dict(data.get("settings", {})),
        )

    @classmethod
    def join(cls, parts: Sequence[SpectrumResult]) -> SpectrumResult:
        """The result over all images from results over consecutive parts of them.

        Medians are exact; sums of power agree with one run over all up to the rounding of float64.

        Args:
            parts: Results in the order of the images.

        Returns:
            The joined result.

        Raises:
            TypeError: If ``parts`` holds something other than such results.
            ValueError: If there is none, they are not consecutive, or disagree on what decides the numbers.

        Example:
            >>> images = torch.zeros(3, 1, 4, 4)
            >>> found = images + torch.tensor([0.1, 0.2, 0.2]).view(3, 1, 1, 1)
            >>> joined = SpectrumResult.join([perturbation_spectrum(images[p], found[p]) for p in ([0], [1, 2])])
            >>> joined.n, round(joined.median, 4), round(joined.power.sum().item(), 4)
            (3, 0.04, 0.03)
        """
        check_parts(parts, SpectrumResult)
        for name in ("steps", "seed"):
            check_same(name, [getattr(part, name) for part in parts])
        check_same("the shape of the images", [tuple(part.perturbation_sum.shape) for part in parts])
        return cls(
            tuple(distance for part in parts for distance in part.distances),
            torch.stack([part.power_sum for part in parts]).sum(dim=0),
            torch.stack([part.perturbation_sum for part in parts]).sum(dim=0),
            parts[0].steps,
            parts[0].seed,
            join_settings([part.settings for part in parts], [part.n for part in parts], 1),
        )


@torch.no_grad()
def perturbation_spectrum(
    originals: Tensor, adversarials: Tensor, *, settings: Mapping[str, Any] | None = None
) -> SpectrumResult:
    """Spectrum of the perturbations between two sets of images.

    Args:
        originals: Shape (N, C, H, W), uint8 or floating point in [0, 1].
        adversarials: Same shape; NaN anywhere in an image says that there is none: it counts as a failure and is in no
            mean.
        settings: Kept with the result.

    Returns:
        Sums of power, distances and the number of failures; see ``SpectrumResult``.

    Raises:
        TypeError: If an argument is no image tensor.
        ValueError: If the shapes differ or there is no image.

    Example:
        >>> images = torch.zeros(2, 1, 4, 4)
        >>> found = torch.stack([images[0] + 0.1, images[1] + torch.nan])
        >>> result = perturbation_spectrum(images, found)
        >>> result.n, result.failures, round(result.power[2, 2].item(), 4)
        (2, 1, 0.01)
    """
    clean = check_images("originals", originals)
    found = unit_float(check_images("adversarials", adversarials))
    if clean.shape != found.shape:
        raise ValueError(
            f"originals and adversarials must have the same shape, got {tuple(clean.shape)} and {tuple(found.shape)}."
        )
    check_perturbations("adversarials", found)
    power_sum = torch.zeros(clean.shape[2:], dtype=torch.float64)
    perturbation_sum = torch.zeros(clean.shape[1:], dtype=torch.float64)
    distances: list[float] = []
    for part in batches(len(clean), _BATCH):
        pixels = unit_float(clean[part]).to("cpu", torch.float64)
        perturbations = found[part].to("cpu", torch.float64) - pixels
        squared = perturbations.square().mean(dim=(1, 2, 3))
        missing = squared.isnan()
        distances += squared.masked_fill(missing, math.inf).tolist()
        if not bool(missing.all()):
            power_sum += power_spectrum(perturbations[~missing]).sum(dim=0)
            perturbation_sum += perturbations[~missing].sum(dim=0)
    return SpectrumResult(tuple(distances), power_sum, perturbation_sum, settings=dict(settings or {}))


def minimal_perturbation_spectrum(
    model: Model,
    images: Tensor,
    *,
    start_images: Tensor | None = None,
    steps: int = 10_000,
    batch_size: int = 128,
    seed: int = 0,
    first_index: int = 0,
    progress: bool = False,
) -> SpectrumResult:
    """Spectrum of the smallest perturbations that a long Boundary Attack finds.

    A short attack leaves the noise that it started from in the perturbations: the spectrum is then white. The paper
    takes 10,000 steps.

    Args:
        model: ``Classifier``, module or callable: images in [0, 1] to logits (N, K).
        images: Shape (N, C, H, W), uint8 or floating point in [0, 1].
        start_images: Images to start from where noise fails; None takes ``images``. See ``boundary_attack``.
        steps: Steps of the attack.
        batch_size: Images per call of the model.
        seed: Seed of starts and steps.
        first_index: Index of the first image, for parts of a larger set; see ``SpectrumResult.join``.
        progress: Show progress on standard error.

    Returns:
        Spectrum, median distance (squared L2 per pixel) and failures; see ``SpectrumResult``.

    Raises:
        ImportError: If foolbox is missing.
        TypeError: If an argument is not of the right kind.
        ValueError: If images leave [0, 1], shapes differ, or an option is out of range.

    Source: Attias, Pehlevan, Obeid, 2024 (https://arxiv.org/abs/2410.03952).

    Example:
        >>> brightness = lambda x: torch.stack([0.5 - x.mean(dim=(1, 2, 3)), x.mean(dim=(1, 2, 3)) - 0.5], dim=1)
        >>> spectrum = minimal_perturbation_spectrum(brightness, torch.full((2, 1, 8, 8), 0.45), steps=20)
        >>> spectrum.n, spectrum.failures
        (2, 0)
    """
    attack = boundary_attack(
        model,
        images,
        start_images=start_images,
        steps=steps,
        batch_size=batch_size,
        seed=seed,
        first_index=first_index,
        progress=progress,
    )
    assert attack.adversarials is not None  # boundary_attack always returns them
    own = ("start_images", "start_image_queries") if start_images is None else ()  # differ from part to part
    settings = {name: value for name, value in attack.settings.items() if name not in own}
    spectrum = perturbation_spectrum(images, attack.adversarials)
    return SpectrumResult(
        spectrum.distances,
        spectrum.power_sum,
        spectrum.perturbation_sum,
        steps,
        seed,
        {"attack": "boundary", **settings},
    )


def _from_lists(values: Sequence[Any]) -> Tensor:
    """Nested lists as a float64 tensor; None, which JSON has for NaN, becomes NaN."""

    def plain(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [plain(entry) for entry in value]
        return math.nan if value is None else float(value)

    return torch.tensor(plain(values), dtype=torch.float64)
