"""Weights from what trainers write, and what is said of those that do not fit."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from simreg.evaluation.checkpoints import misfit, read_weights


def weights(value=1.0):
    return {"weight": torch.full((2, 2), value), "bias": torch.zeros(2)}


def prefixed(prefix):
    return {f"{prefix}{name}": value for name, value in weights().items()}


def averaged():
    """The state dict of torch's moving average, with its counter and prefix."""
    model = nn.Linear(2, 2)
    model.load_state_dict(weights())
    return AveragedModel(model).state_dict()


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.module."])
def test_prefixes_of_wrappers_are_taken_off(tmp_path, prefix):
    torch.save({"model": prefixed(prefix)}, tmp_path / "a.pt")
    assert sorted(read_weights(tmp_path / "a.pt")) == ["bias", "weight"]


@pytest.mark.parametrize(
    "content",
    [
        {"epoch": 3, "arch": "net", "state_dict": prefixed("module."), "best_acc1": torch.tensor(71.0)},
        {"state_dict": weights(), "state_dict_ema": weights(2.0), "version": 2},
        {"model": weights(), "model_ema": weights(2.0), "scaler": {}},
        {"model_state_dict": weights(), "rng": torch.get_rng_state()},
        {"net": prefixed("module."), "acc": 91.5, "epoch": 7},
        {"weights": weights()},
        {"model_ema": averaged()},
        {"ema": weights()},
        averaged(),
    ],
)
def test_training_checkpoints_give_their_weights(tmp_path, content):
    optimizer = torch.optim.AdamW(nn.Linear(2, 2).parameters())
    if "n_averaged" not in content:
        content = {**content, "optimizer": optimizer.state_dict()}
    torch.save(content, tmp_path / "a.pt")
    found = read_weights(tmp_path / "a.pt")
    assert {name: value.tolist() for name, value in found.items()} == {
        name: value.tolist() for name, value in weights().items()
    }


@pytest.mark.skipif(not hasattr(torch.serialization, "safe_globals"), reason="torch before 2.5 allows no types")
def test_options_of_timm_are_no_obstacle(tmp_path):
    torch.save({"args": argparse.Namespace(lr=0.1), "state_dict": weights()}, tmp_path / "a.pt")
    assert sorted(read_weights(tmp_path / "a.pt")) == ["bias", "weight"]


@pytest.mark.skipif(not hasattr(torch.serialization, "safe_globals"), reason="torch before 2.5 reads no other types")
@pytest.mark.parametrize("best", [np.float64(0.9), np.float32(0.9), np.int64(3)])
def test_numpy_numbers_are_no_obstacle(tmp_path, best):
    torch.save({"state_dict": weights(), "best_acc": best, "args": argparse.Namespace(lr=best)}, tmp_path / "c.pth")
    assert read_weights(tmp_path / "c.pth").keys() == weights().keys()


def test_what_cannot_be_read_is_named(tmp_path):
    torch.save({"state_dict": weights(), "folder": Path("here")}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"without running code: it holds pathlib\.\S*Path"):
        read_weights(tmp_path / "a.pt")
    torch.save(nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"it holds torch\.nn\.modules\.linear\.Linear\. Save model\.state_dict"):
        read_weights(tmp_path / "model.pt")
    torch.save({"epoch": 3}, tmp_path / "none.pt")
    with pytest.raises(ValueError, match="holds no state dict"):
        read_weights(tmp_path / "none.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "a.pt").read_bytes()[:100])
    with pytest.raises(ValueError, match="it is damaged, or no file of"):
        read_weights(tmp_path / "cut.pt")


def shapes(**changes):
    """State dict of a small convolutional net, with other shapes for some tensors."""
    usual = {"conv.weight": (4, 3, 3, 3), "block.weight": (4, 4, 3, 3), "fc.weight": (10, 4), "fc.bias": (10,)}
    return {name: torch.zeros(shape) for name, shape in {**usual, **changes}.items()}


@pytest.mark.parametrize(
    ("changes", "count", "message"),
    [
        ({}, 0, ""),
        ({"fc.weight": (5, 4), "fc.bias": (5,)}, 2, "its last layer, fc, has 5 outputs, the data has 10 classes"),
        ({"conv.weight": (4, 1, 3, 3)}, 1, "takes images of 1 channel, these have 3: load them with --gray"),
        ({"conv.weight": (4, 12, 3, 3)}, 1, "its first layer, conv, takes images of 12 channels, these have 3"),
        ({"block.weight": (8, 4, 3, 3)}, 1, "the shapes of 1 of 4 tensors differ, such as block.weight: (8, 4, 3, 3)"),
        ({"extra": (1,)}, 1, "1 of 5 names of the state dict belong to no layer of net, such as extra. It is"),
    ],
)
def test_misfit_names_the_likely_cause(changes, count, message):
    wrong, reason = misfit(shapes(**changes), shapes(), "net", num_classes=10, channels=3)
    assert wrong == count
    assert message in reason
    assert bool(reason) == bool(count)


def test_misfit_names_missing_tensors_and_both_ends():
    without = {name: value for name, value in shapes().items() if name != "conv.weight"}
    wrong, reason = misfit(without, shapes(), "net", num_classes=10, channels=3)
    assert (wrong, reason.startswith("1 of the 4 tensors of net are missing, such as conv.weight")) == (1, True)
    backbone = {name: value for name, value in shapes().items() if not name.startswith("fc")}
    wrong, reason = misfit(backbone, shapes(), "net", num_classes=10, channels=3)
    assert (wrong, "a backbone without its head" in reason) == (2, True)
    both = shapes(**{"conv.weight": (4, 1, 3, 3), "fc.weight": (2, 4), "fc.bias": (2,)})
    wrong, reason = misfit(both, shapes(), "net", num_classes=10, channels=3)
    assert wrong == 3
    assert "first layer, conv" in reason
    assert "last layer, fc, has 2 outputs" in reason
