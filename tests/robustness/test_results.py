from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

import simreg.robustness as robustness
from simreg.robustness import (
    SCHEMA_VERSION,
    BoundaryResult,
    Sweep,
    TradeOff,
    read_results,
    summary_row,
    table,
    tradeoff,
    write_results,
)


def sweep(name="gaussian", accuracies=(0.7, 0.5, 0.36), **options):
    return Sweep(name, (0.0, 0.05, 0.1), accuracies, 2000, 0, {"max_perturbation": [0.0, 0.2, 0.4], **options})


def boundary():
    return BoundaryResult(
        (0.002, math.inf, 0.004, 0.009),
        ("ok", "no_start", "ok", "ok"),
        (60, 101, 60, 60),
        ("noise", "none", "image", "noise"),
        50,
        1,
        7,
        (0, 50),
        (math.nan, 0.0065),
        (0.0065,),
        {"directions": 100},
        adversarials=torch.zeros(4, 1, 2, 2),
    )


def test_sweep_at_finds_floats_of_either_precision_and_lists_the_rest():
    assert sweep().at(float(torch.tensor(0.1))) == 0.36
    with pytest.raises(ValueError, match=r"epsilon=0.2 is not in the gaussian sweep. It has: 0, 0.05, 0.1"):
        sweep().at(0.2)
    assert sweep().clean == 0.7
    assert Sweep("pgd", (0.1,), (0.5,), 10).clean is None


def test_sweep_checks_its_lengths():
    with pytest.raises(ValueError, match="2 epsilons but 1 accuracies"):
        Sweep("pgd", (0.1, 0.2), (0.5,), 10)


def test_boundary_median_counts_failures():
    assert (boundary().median, boundary().n, boundary().failures) == (pytest.approx(0.0065), 4, 1)
    most = BoundaryResult(
        (0.1, math.inf, math.inf), ("ok", "no_start", "no_start"), (1, 1, 1), ("noise", "none", "none"), 1, 1, 0
    )
    assert most.median == math.inf
    half = BoundaryResult((0.1, math.inf), ("ok", "no_start"), (1, 1), ("noise", "none"), 1, 1, 0)
    assert half.median == math.inf


def test_results_survive_json_with_inf_and_nan(tmp_path):
    path = tmp_path / "new" / "results.json"
    results = {
        "sweeps": {"plain": sweep()},
        "boundary": boundary(),
        "tradeoff": TradeOff("gaussian", 0.1, 0.93, math.inf, True, 0.9),
        "values": [math.inf, -math.inf, math.nan, np.float32(0.5), np.int64(3), torch.tensor([1, 2]), None, True],
        "path": path,
    }
    assert write_results(path, results) == path
    back = read_results(path)
    assert back["values"] == [math.inf, -math.inf, None, 0.5, 3, [1, 2], None, True]
    assert back["path"] == str(path)
    assert back["tradeoff"]["robust_ratio"] == math.inf
    assert Sweep.from_dict(back["sweeps"]["plain"]) == sweep()
    again = BoundaryResult.from_dict(back["boundary"])
    assert math.isnan(again.curve_medians[0])
    assert again.to_dict() | {"curve_medians": 0} == boundary().to_dict() | {"curve_medians": 0}
    assert again.adversarials is None
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def attacked(**changes):
    """Distances with everything that a decision attack records."""
    fields = {
        "distances": (0.002, math.inf, 0.004),
        "statuses": ("ok", "no_start", "ok"),
        "queries": (60, 101, 61),
        "starts": ("noise", "none", "image"),
        "steps": 50,
        "repeats": 2,
        "seed": 7,
        "curve_steps": (0, 50),
        "curve_medians": (0.1, 0.004),
        "repeat_medians": (0.004, 0.005),
        "settings": {"norm": "linf"},
        "name": "hopskipjump",
        "curve_queries": (30.5, 74.0),
        "curves": ((0.1, 0.002), (math.inf, math.inf), (0.1, 0.004)),
        "repeat_distances": ((0.002, 0.003), (math.inf, math.inf), (0.004, 0.005)),
    }
    return BoundaryResult(**{**fields, **changes})


def test_curves_by_image_survive_json_and_can_be_left_out(tmp_path):
    path = write_results(tmp_path / "r.json", {"all": attacked(), "short": attacked().to_dict(curves=False)})
    back = read_results(path)
    assert BoundaryResult.from_dict(back["all"]) == attacked()
    assert back["all"]["name"] == "hopskipjump"
    assert set(back["all"]) - set(back["short"]) == {"curves", "repeat_distances"}
    assert BoundaryResult.from_dict(back["short"]) == attacked(curves=(), repeat_distances=())
    old = {k: v for k, v in back["short"].items() if k not in ("name", "curve_queries")}  # written by version 0.1
    assert BoundaryResult.from_dict(old) == attacked(curves=(), repeat_distances=(), curve_queries=(), name="boundary")


def test_joined_medians_are_taken_over_images_not_over_parts():
    parts = [
        attacked(
            distances=(d,),
            statuses=("ok",),
            queries=(q,),
            starts=("noise",),
            curves=((1.0, d),),
            repeat_distances=((d, 1.0),),
            curve_queries=(1.0, float(q)),
        )
        for d, q in ((0.1, 10), (0.2, 20), (0.9, 60))
    ]
    joined = BoundaryResult.join([BoundaryResult.join(parts[:2]), parts[2]])
    assert (joined.median, joined.curve_medians, joined.repeat_medians) == (0.2, (1.0, 0.2), (0.2, 1.0))
    assert joined.curve_queries == (1.0, 30.0)
    assert joined.queries == (10, 20, 60)
    assert (joined.name, joined.settings) == ("hopskipjump", {"norm": "linf"})
    for wrong in ({"name": "boundary"}, {"steps": 51}, {"curve_steps": (0, 49)}, {"settings": {"norm": "l2"}}):
        with pytest.raises(ValueError, match=f"disagree on .*{next(iter(wrong))}"):
            BoundaryResult.join([attacked(), attacked(**wrong)])


def test_joined_images_are_kept_where_every_part_has_them():
    with_images = attacked(adversarials=torch.rand(3, 1, 2, 2))
    joined = BoundaryResult.join([with_images, with_images])
    assert torch.equal(joined.adversarials, torch.cat([with_images.adversarials] * 2))
    assert BoundaryResult.join([with_images, attacked()]).adversarials is None


def test_results_carry_schema_versions_and_time(tmp_path):
    back = read_results(write_results(tmp_path / "r.json", {"seed": 0}))
    assert back["schema_version"] == SCHEMA_VERSION
    assert {"python", "torch", "torchvision", "timm", "numpy", "foolbox", "simreg"} <= set(back["versions"])
    assert back["versions"]["numpy"] == np.__version__
    assert back["created"].endswith("+00:00")


def test_failed_write_keeps_the_old_file_and_leaves_nothing_behind(tmp_path, monkeypatch):
    path = write_results(tmp_path / "r.json", {"seed": 0})
    old = path.read_bytes()
    with pytest.raises(TypeError, match=r"results\['model'\]\['net'\] is function, which JSON cannot hold"):
        write_results(path, {"model": {"net": lambda: None}})

    def fail(handle):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_results(path, {"seed": 1})
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"schema_version": 1, "clean": 0.', "no readable JSON"),
        ('{"clean": 0.5}', "has no schema_version"),
        ("[1, 2]", "has no schema_version"),
        ('{"schema_version": 99}', "schema version 99.*update simreg"),
    ],
)
def test_damaged_or_foreign_results_are_named(tmp_path, text, words):
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        read_results(path)


def test_incomplete_entries_say_what_is_missing():
    with pytest.raises(ValueError, match="lacks accuracies, n"):
        Sweep.from_dict({"name": "pgd", "epsilons": []})
    with pytest.raises(ValueError, match="lacks starts"):
        BoundaryResult.from_dict({"distances": [], "statuses": [], "queries": []})


@pytest.mark.parametrize(
    ("clean", "robust", "acceptable"),
    [(0.63, 0.45, True), (0.62, 0.45, False), (0.69, 0.36, False), (0.69, 0.361, True), (0.75, 0.2, False)],
)
def test_tradeoff_needs_both_ratios(clean, robust, acceptable):
    result = tradeoff(sweep(accuracies=(clean, 0.5, robust)), sweep())
    assert result.clean_ratio == pytest.approx(clean / 0.7)
    assert result.robust_ratio == pytest.approx(robust / 0.36)
    assert result.acceptable is acceptable
    assert result.distortion == 0.1


def test_tradeoff_takes_given_accuracies_distortion_and_bound():
    result = tradeoff(
        sweep(accuracies=(0.6, 0.55, 0.3)),
        sweep(),
        clean_regularized=0.64,
        clean_unregularized=0.8,
        distortion=0.05,
        minimum_clean_ratio=0.75,
    )
    assert (result.clean_ratio, result.robust_ratio) == (pytest.approx(0.8), pytest.approx(1.1))
    assert result.acceptable


def test_tradeoff_of_zero_accuracy_is_infinite_or_undefined():
    nothing = sweep(accuracies=(0.7, 0.1, 0.0))
    assert tradeoff(sweep(), nothing).robust_ratio == math.inf
    undefined = tradeoff(nothing, nothing)
    assert math.isnan(undefined.robust_ratio)
    assert not undefined.acceptable


def test_tradeoff_refuses_what_cannot_be_compared():
    with pytest.raises(ValueError, match="gaussian sweep cannot be weighed against a uniform"):
        tradeoff(sweep(), sweep("uniform"))
    with pytest.raises(ValueError, match=r"epsilon=0\.3 is not in the gaussian sweep"):
        tradeoff(sweep(), sweep(), distortion=0.3)
    without_clean = Sweep("pgd", (0.01,), (0.5,), 10)
    with pytest.raises(ValueError, match="clean_regularized is not given"):
        tradeoff(without_clean, without_clean)
    with pytest.raises(ValueError, match="clean_unregularized must be an accuracy"):
        tradeoff(sweep(), sweep(), clean_unregularized=0.0)


def test_table_aligns_plain_text_and_markdown():
    rows = [{"model": "plain", "clean": 0.5, "n": 100}, {"model": "regularized net", "clean": math.nan}]
    assert table(rows) == "\n".join(
        ["model            clean    n", "plain              0.5  100", "regularized net      -    -"]
    )
    lines = table(rows, ["model", "n"], style="markdown").splitlines()
    assert lines == [
        "| model           |   n |",
        "| --------------- | --: |",
        "| plain           | 100 |",
        "| regularized net |   - |",
    ]
    with pytest.raises(ValueError, match="columns \\['clear'\\] are in no row"):
        table(rows, ["clear"])
    with pytest.raises(ValueError, match="style='html'"):
        table(rows, style="html")


def test_summary_row_shows_ratio_and_failed_starts():
    row = summary_row(
        "net", clean=0.63, n=10000, sweeps=[sweep(), sweep("pgd")], boundary=boundary(), reference_clean=0.7
    )
    assert row == {
        "model": "net",
        "clean": "63.0",
        "n": "10000",
        "R0/U0": "0.90",
        "gaussian@0.1": "36.0",
        "pgd@0.1": "36.0",
        "boundary x1e-3": "6.50 (n 4, failed 1)",
    }


def test_import_needs_torch_and_numpy_only():
    blocked = ("foolbox", "matplotlib", "safetensors", "tqdm", "torchvision", "timm", "sklearn", "PIL", "scipy")
    code = f"import sys; [sys.modules.__setitem__(name, None) for name in {blocked}]; import simreg.robustness"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_public_names_exist_and_have_examples():
    for name in robustness.__all__:
        value = getattr(robustness, name)
        if name not in ("Model", "read_results") and not isinstance(value, (int, tuple)):
            assert "Example:" in value.__doc__, name
