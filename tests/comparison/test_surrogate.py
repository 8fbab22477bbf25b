"""The managed surrogate: trained once for the training images, whatever the model and wherever they lie."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from simreg.comparison import surrogate as module
from simreg.comparison.surrogate import managed_surrogate
from simreg.evaluation import load_evaluation_data
from simreg.model_files import load_model


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "IMAGES_SHOWN", 24)
    draw = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            where = tmp_path / "set" / part / name
            where.mkdir(parents=True)
            for i in range(6):
                Image.fromarray(draw.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(where / f"{i}.png")
    return tmp_path / "set"


def kept(cache):
    return sorted(path.name for path in cache.glob("*.safetensors"))


def test_one_surrogate_for_the_same_training_images(folder, tmp_path):
    cache = tmp_path / "cache"
    first, reason = managed_surrogate(load_evaluation_data(str(folder)), folder=cache)
    assert reason == ""
    assert load_model(next(cache.glob("*.safetensors"))).classes == ("cat", "dog")
    fewer, _ = managed_surrogate(load_evaluation_data(str(folder), limit=3), folder=cache)
    shutil.copytree(folder, tmp_path / "elsewhere" / "set")
    copied, _ = managed_surrogate(load_evaluation_data(str(tmp_path / "elsewhere" / "set")), folder=cache)
    assert first.fingerprint == fewer.fingerprint == copied.fingerprint
    assert len(kept(cache)) == 1


@pytest.mark.parametrize("change", ["content", "name", "color", "flip"])
def test_other_training_images_have_a_surrogate_of_their_own(folder, tmp_path, change):
    cache = tmp_path / "cache"
    managed_surrogate(load_evaluation_data(str(folder)), folder=cache)
    image = folder / "train" / "cat" / "0.png"
    if change == "content":
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(image)
    elif change == "name":
        image.rename(folder / "train" / "dog" / "6.png")
    data = load_evaluation_data(str(folder), color=change != "color")
    managed_surrogate(replace(data, dataset="mnist" if change == "flip" else ""), folder=cache)
    assert len(kept(cache)) == 2


def test_without_training_images_the_reason_is_named(folder, tmp_path):
    found, reason = managed_surrogate(load_evaluation_data(str(folder / "test")), folder=tmp_path / "cache")
    assert found is None
    assert "no training images" in reason
    assert "--surrogate FILE" in reason
