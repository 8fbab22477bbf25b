"""Robustness of any image classifier: noise, gradient and transfer attacks, the Boundary Attack, and their report.

Everything takes images in [0, 1] (or uint8) and a callable that returns logits; ``Classifier`` owns the normalisation.
Nothing here depends on how the model was trained.
"""

from simreg.robustness.classifier import Classifier, Model, accuracy
from simreg.robustness.decision import boundary_attack
from simreg.robustness.gradient_sign import FGSM_EPSILONS, fgsm, fgsm_sweep
from simreg.robustness.noise import NOISE_EPSILONS, NOISES, add_noise, noise_sweep
from simreg.robustness.plots import plot_boundary, plot_history, plot_sweeps
from simreg.robustness.projected_gradient import pgd, pgd_accuracy
from simreg.robustness.report import summary_row, table
from simreg.robustness.results import BoundaryResult, Sweep
from simreg.robustness.selection import TradeOff, tradeoff
from simreg.robustness.storage import SCHEMA_VERSION, read_results, versions, write_results
from simreg.robustness.transfer import Surrogate, transfer_sweep

__all__ = [
    "FGSM_EPSILONS",
    "NOISES",
    "NOISE_EPSILONS",
    "SCHEMA_VERSION",
    "BoundaryResult",
    "Classifier",
    "Model",
    "Surrogate",
    "Sweep",
    "TradeOff",
    "accuracy",
    "add_noise",
    "boundary_attack",
    "fgsm",
    "fgsm_sweep",
    "noise_sweep",
    "pgd",
    "pgd_accuracy",
    "plot_boundary",
    "plot_history",
    "plot_sweeps",
    "read_results",
    "summary_row",
    "table",
    "tradeoff",
    "transfer_sweep",
    "versions",
    "write_results",
]
