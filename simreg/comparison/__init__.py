"""Many defences with one recipe, and the choice of the regularizer's strength.

`compare` trains every method with the same network, images, order, schedule and seeds, on one clock, and measures each
net; `select` trains a grid of regularizers and chooses on validation images. Both can be stopped at any time.
"""

from simreg.comparison.collapse import CollapseWatch
from simreg.comparison.comparing import compare
from simreg.comparison.grid import Grid
from simreg.comparison.methods import METHODS, Method, parse_method, parse_methods
from simreg.comparison.parts import EPSILON, PARTS
from simreg.comparison.plans import Plan, SelectionPlan
from simreg.comparison.recipe import Network, Recipe, Split
from simreg.comparison.selecting import select
from simreg.comparison.tables import comparison_text, selection_text
from simreg.comparison.training import TrainingDiverged, TrainingRecord, train
from simreg.comparison.weighing import weigh

__all__ = [
    "EPSILON",
    "METHODS",
    "PARTS",
    "CollapseWatch",
    "Grid",
    "Method",
    "Network",
    "Plan",
    "Recipe",
    "SelectionPlan",
    "Split",
    "TrainingDiverged",
    "TrainingRecord",
    "compare",
    "comparison_text",
    "parse_method",
    "parse_methods",
    "select",
    "selection_text",
    "train",
    "weigh",
]
