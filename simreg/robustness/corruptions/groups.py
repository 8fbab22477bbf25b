"""Low, medium and high spatial frequency: which corruption changes what."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, get_args

from simreg._checks import check_choice
from simreg.robustness.corruptions.apply import CORRUPTIONS, Corruption

FrequencyGroup = Literal["low", "medium", "high"]
FREQUENCY_GROUPS: tuple[FrequencyGroup, ...] = get_args(FrequencyGroup)
"""The groups, from coarse to fine changes."""

# Behind each name: mean frequency of corrupted minus clean in cycles per image (``simreg.robustness.mean_frequency``,
# mean of the five severities) on 500 CIFAR-10 test images, in colour. White noise has 12.24, the images 2.96.
_GROUPS: dict[str, FrequencyGroup] = {
    "brightness": "low",  # 0.3
    "frost": "low",  # 0.4
    "fog": "low",  # 1.7
    "snow": "low",  # 1.7
    "contrast": "low",  # 3.0
    "motion_blur": "medium",  # 5.8
    "zoom_blur": "medium",  # 5.9
    "elastic_transform": "medium",  # 6.0
    "glass_blur": "medium",  # 8.7
    "jpeg_compression": "medium",  # 9.3
    "defocus_blur": "medium",  # 10.0
    "pixelate": "medium",  # 11.9
    "shot_noise": "high",  # 12.1
    "gaussian_noise": "high",  # 12.2
    "impulse_noise": "high",  # 12.2
}


def frequency_group(corruption: Corruption) -> FrequencyGroup:
    """Group of a corruption by the spatial frequencies that it changes.

    "low" (brightness, frost, fog, snow, contrast) changes less than 4 cycles per image on average, no more than the
    images themselves hold; "high" are the three noises, whose change is white; "medium" (the blurs, elastic_transform,
    JPEG, pixelate) is what lies between. The order comes from measured spectra of corrupted minus clean images. The
    lower border is a wide gap (3.0 to 5.8 cycles per image); the upper one is not (pixelate 11.9, shot noise 12.1) and
    rests on the shape: noise is as strong at low frequencies as at high ones. Regroup with
    ``simreg.robustness.mean_frequency`` where that matters.

    Args:
        corruption: One of ``CORRUPTIONS``.

    Returns:
        "low", "medium" or "high".

    Raises:
        ValueError: If the corruption is unknown.

    Example:
        >>> frequency_group("fog"), frequency_group("glass_blur"), frequency_group("shot_noise")
        ('low', 'medium', 'high')
    """
    check_choice("corruption", corruption, CORRUPTIONS)
    return _GROUPS[corruption]


def frequency_groups() -> Mapping[str, FrequencyGroup]:
    """The group of every corruption, read-only, in the order of mean frequency."""
    return MappingProxyType(_GROUPS)
