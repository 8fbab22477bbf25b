"""Robustness of any image classifier: noise, corruptions, white-box, transferred, score- and decision-based attacks.

Everything takes images in [0, 1] (or uint8) and a callable that returns logits; ``Classifier`` owns the normalisation.
Nothing here depends on how the model was trained. `simreg.evaluation` runs it all as a suite.
"""

from simreg.robustness._layer_features import layer_features
from simreg.robustness.adaptive import ADAPTIVE_WEIGHTS, adaptive_accuracy, adaptive_pgd
from simreg.robustness.auto_attack import auto_attack, auto_attack_accuracy
from simreg.robustness.classifier import Classifier, Model, accuracy
from simreg.robustness.corruptions import (
    CORRUPTIONS,
    FREQUENCY_GROUPS,
    SEVERITIES,
    CorruptionResult,
    corrupt,
    corruption_sweep,
    frequency_group,
    load_published,
    published_sweep,
)
from simreg.robustness.decision import boundary_attack
from simreg.robustness.expectation import (
    ExpectedClassifier,
    LogOfProbabilities,
    depends_on_batch,
    is_random,
    returns_probabilities,
)
from simreg.robustness.frequency import mean_frequency
from simreg.robustness.gradient_sign import FGSM_EPSILONS, FGSM_L2_EPSILONS, fgsm, fgsm_sweep
from simreg.robustness.hop_skip_jump import hop_skip_jump
from simreg.robustness.intervals import difference_interval, mean_interval, median_interval, ratio_interval, wilson
from simreg.robustness.masking import loss_along_gradient, masking_panel
from simreg.robustness.noise import NOISE_EPSILONS, NOISES, add_noise, noise_sweep
from simreg.robustness.plots import plot_boundary, plot_history, plot_sweeps
from simreg.robustness.projected_gradient import pgd, pgd_accuracy
from simreg.robustness.report import summary_row, table
from simreg.robustness.results import BoundaryResult, Sweep
from simreg.robustness.selection import (
    Choice,
    GridPoint,
    TradeOff,
    choose,
    is_acceptable,
    pareto_front,
    ratio_of_runs,
    tradeoff,
)
from simreg.robustness.spectra import SpectrumResult, minimal_perturbation_spectrum, perturbation_spectrum
from simreg.robustness.square import square, square_sweep
from simreg.robustness.storage import SCHEMA_VERSION, read_results, versions, write_results
from simreg.robustness.transfer import Surrogate, transfer_pgd_sweep, transfer_sweep
from simreg.robustness.verdicts import verdicts

__all__ = [
    "ADAPTIVE_WEIGHTS",
    "CORRUPTIONS",
    "FGSM_EPSILONS",
    "FGSM_L2_EPSILONS",
    "FREQUENCY_GROUPS",
    "NOISES",
    "NOISE_EPSILONS",
    "SCHEMA_VERSION",
    "SEVERITIES",
    "BoundaryResult",
    "Choice",
    "Classifier",
    "CorruptionResult",
    "ExpectedClassifier",
    "GridPoint",
    "LogOfProbabilities",
    "Model",
    "SpectrumResult",
    "Surrogate",
    "Sweep",
    "TradeOff",
    "accuracy",
    "adaptive_accuracy",
    "adaptive_pgd",
    "add_noise",
    "auto_attack",
    "auto_attack_accuracy",
    "boundary_attack",
    "choose",
    "corrupt",
    "corruption_sweep",
    "depends_on_batch",
    "difference_interval",
    "fgsm",
    "fgsm_sweep",
    "frequency_group",
    "hop_skip_jump",
    "is_acceptable",
    "is_random",
    "layer_features",
    "load_published",
    "loss_along_gradient",
    "masking_panel",
    "mean_frequency",
    "mean_interval",
    "median_interval",
    "minimal_perturbation_spectrum",
    "noise_sweep",
    "pareto_front",
    "perturbation_spectrum",
    "pgd",
    "pgd_accuracy",
    "plot_boundary",
    "plot_history",
    "plot_sweeps",
    "published_sweep",
    "ratio_interval",
    "ratio_of_runs",
    "read_results",
    "returns_probabilities",
    "square",
    "square_sweep",
    "summary_row",
    "table",
    "tradeoff",
    "transfer_pgd_sweep",
    "transfer_sweep",
    "verdicts",
    "versions",
    "wilson",
    "write_results",
]
