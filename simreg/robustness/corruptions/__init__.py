"""Common corruptions: made for any images in the strengths of CIFAR-10-C, or read from its published arrays."""

from simreg.robustness.corruptions.apply import CORRUPTIONS, SEVERITIES, Corruption, corrupt
from simreg.robustness.corruptions.groups import FREQUENCY_GROUPS, FrequencyGroup, frequency_group, frequency_groups
from simreg.robustness.corruptions.published import PublishedCorruptions, load_published, published_sweep
from simreg.robustness.corruptions.result import CorruptionResult
from simreg.robustness.corruptions.sweep import corruption_sweep

__all__ = [
    "CORRUPTIONS",
    "FREQUENCY_GROUPS",
    "SEVERITIES",
    "Corruption",
    "CorruptionResult",
    "FrequencyGroup",
    "PublishedCorruptions",
    "corrupt",
    "corruption_sweep",
    "frequency_group",
    "frequency_groups",
    "load_published",
    "published_sweep",
]
