"""Similarity regularization for PyTorch image models."""

from importlib.metadata import version

from simreg import functional
from simreg.batch import PairBatch
from simreg.cost import CostEstimate
from simreg.features import FeatureTap
from simreg.functional import convert_alpha
from simreg.health import TargetHealth
from simreg.pool import RegularizationPool
from simreg.regularizer import SimilarityRegularizer
from simreg.targets import LabelTarget, MatrixTarget, NeuralTarget, PixelTarget, Target, ThresholdTarget

__version__ = version("simreg")
__all__ = [
    "CostEstimate",
    "FeatureTap",
    "LabelTarget",
    "MatrixTarget",
    "NeuralTarget",
    "PairBatch",
    "PixelTarget",
    "RegularizationPool",
    "SimilarityRegularizer",
    "Target",
    "TargetHealth",
    "ThresholdTarget",
    "convert_alpha",
    "functional",
]
