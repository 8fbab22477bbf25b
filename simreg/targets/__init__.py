"""Target similarities: what the features of two images are compared with."""

from simreg.targets.base import Target
from simreg.targets.given import LabelTarget, MatrixTarget, NeuralTarget
from simreg.targets.pixel import PixelTarget
from simreg.targets.threshold import ThresholdTarget

__all__ = ["LabelTarget", "MatrixTarget", "NeuralTarget", "PixelTarget", "Target", "ThresholdTarget"]
