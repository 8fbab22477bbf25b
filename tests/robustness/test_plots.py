from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from simreg.robustness import BoundaryResult, Sweep, plot_boundary, plot_history, plot_sweeps

image = pytest.importorskip("matplotlib.image")

EPSILONS = tuple(i / 100 for i in range(11))
SWEEP = Sweep("gaussian", EPSILONS, tuple(0.7 - 3 * e for e in EPSILONS), 2000, 0)
BOUNDARY = BoundaryResult(
    (0.002, 0.004, math.inf),
    ("ok", "ok", "no_start"),
    (60, 60, 101),
    ("noise", "image", "none"),
    50,
    1,
    0,
    (0, 50),
    (0.006, 0.004),
)
HISTORY = {
    "step": [0, 100, 200],
    "layer_weights": {"stem": [0.5, 0.4, 0.3], "layer1": [0.5, 0.6, 0.7]},
    "target_share": [0.0, 0.1, None],
    "loss": [2.0, 1.5, 1.0],
    "correlation": [0.2, 0.5, float("nan")],
}


def colours(path):
    """Opaque RGB values of a PNG, as a set of strings such as "#0072b2"."""
    pixels = (image.imread(path)[..., :3] * 255).round().astype(int).reshape(-1, 3)
    return {"#{:02x}{:02x}{:02x}".format(*p) for p in np.unique(pixels, axis=0)}


BLUE, ORANGE, GREEN = "#0072b2", "#d55e00", "#009e73"


def test_plot_sweeps_draws_one_curve_per_label(tmp_path):
    one = plot_sweeps({"plain": SWEEP}, tmp_path / "one.png")
    two = plot_sweeps({"plain": SWEEP, "regularized": SWEEP}, tmp_path / "new" / "two.png", title="Noise")
    assert BLUE in colours(one)
    assert ORANGE not in colours(one)
    assert ORANGE in colours(two)


def test_plot_boundary_draws_failures_too(tmp_path):
    assert {BLUE, ORANGE} <= colours(plot_boundary({"a": BOUNDARY, "b": BOUNDARY}, tmp_path / "b.png"))
    nothing = BoundaryResult((math.inf,), ("no_start",), (101,), ("none",), 50, 1, 0, (0, 50), (math.inf, math.inf))
    assert plot_boundary({"constant": nothing}, tmp_path / "nothing.png").stat().st_size > 1000


def test_plot_history_draws_what_there_is(tmp_path):
    whole = plot_history(HISTORY, tmp_path / "whole.png")
    part = plot_history({"step": [0, 1], "loss": [2.0, 1.0]}, tmp_path / "part.png")
    wide, narrow = image.imread(whole).shape, image.imread(part).shape
    assert (wide[0], wide[1]) == (2 * narrow[0], 2 * narrow[1])  # four panels and one
    assert ORANGE in colours(whole)
    both = plot_history({"a": HISTORY, "b": HISTORY}, tmp_path / "both.png", title="Training")
    assert GREEN in colours(both)


def test_plots_write_vector_formats(tmp_path):
    assert plot_sweeps({"plain": SWEEP}, tmp_path / "one.svg").read_text().lstrip().startswith("<?xml")


def test_bad_plot_data_is_named(tmp_path):
    with pytest.raises(ValueError, match="sweeps is empty"):
        plot_sweeps({}, tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"history\['loss'\] has 1 values for 2 steps"):
        plot_history({"step": [0, 1], "loss": [1.0]}, tmp_path / "x.png")
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_history({"step": [0, 1]}, tmp_path / "x.png")
    with pytest.raises(ValueError, match="history 'a' has no 'step'"):
        plot_history({"a": {"loss": [1.0]}}, tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


def test_missing_matplotlib_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"simreg\[plots\]"):
        plot_sweeps({"plain": SWEEP}, tmp_path / "x.png")


def test_plots_leave_pyplot_alone(tmp_path):
    plot_sweeps({"plain": SWEEP}, tmp_path / "one.png")
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()
