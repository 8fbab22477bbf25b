from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from simreg.robustness import Classifier, Surrogate, tradeoff, transfer_sweep

safetensors = pytest.importorskip("safetensors.torch")


class Factory:
    """Builds and "trains" a linear model, and counts both."""

    def __init__(self, units: int = 4, mean: float = 0.0, value: float = 1.0) -> None:
        self.units, self.mean, self.value, self.trained = units, mean, value, 0

    def build(self):
        model = nn.Sequential(nn.Flatten(), nn.Linear(self.units, 3), nn.BatchNorm1d(3))
        return Classifier(model, mean=self.mean)

    def train(self, classifier):
        self.trained += 1
        with torch.no_grad():
            classifier.model[1].weight.fill_(self.value)
            classifier.model[1].bias.fill_(0.5)
            classifier.model[2].running_mean.fill_(0.25)

    def cached(self, path, name="linear", **info):
        return Surrogate.cached(path, self.build, self.train, name=name, info={"epochs": 3, "data": ["a"], **info})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new folder" / "surrogate.safetensors"


def test_cached_surrogate_is_trained_once_and_comes_back_equal(path):
    factory = Factory()
    first, second = factory.cached(path), factory.cached(path)
    assert factory.trained == 1
    assert second.fingerprint == first.fingerprint
    x = torch.rand(4, 1, 2, 2)
    assert torch.equal(first.classifier(x), second.classifier(x))
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no temporary files


def test_fingerprint_follows_weights_buffers_and_normalisation():
    factory = Factory()
    first, second = (Surrogate(factory.build(), name="a") for _ in range(2))
    for surrogate in (first, second):
        factory.train(surrogate.classifier)
    assert first.fingerprint == second.fingerprint
    with torch.no_grad():
        second.module[2].running_var[0] += 1e-6
    assert first.fingerprint != second.fingerprint
    assert Surrogate(Classifier(first.module, mean=0.1), name="a").fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("other", "arguments", "words"),
    [
        (Factory(), {"name": "another"}, "has name 'linear' instead of 'another'"),
        (Factory(), {"epochs": 4}, "has info"),
        (Factory(units=5), {}, "belongs to another architecture"),
        (Factory(mean=0.5), {}, "does not match its fingerprint"),
    ],
)
def test_mismatching_cache_is_trained_again_with_a_warning(path, other, arguments, words):
    Factory().cached(path)
    with pytest.warns(UserWarning, match=words):
        other.cached(path, **arguments)
    assert other.trained == 1
    again = other.cached(path, **arguments)  # the new one is kept now
    assert other.trained == 1
    assert again.fingerprint


def test_truncated_cache_is_kept_aside_and_trained_again(path):
    factory = Factory()
    first = factory.cached(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 7])
    with pytest.warns(UserWarning, match="is damaged"):
        second = factory.cached(path)
    assert factory.trained == 2
    assert second.fingerprint == first.fingerprint
    assert path.with_name(path.name + ".damaged").read_bytes() == content[:-7]


def test_changed_weights_are_noticed(path):
    factory = Factory()
    factory.cached(path)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1  # one bit of one weight
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="does not match its fingerprint"):
        factory.cached(path)
    assert factory.trained == 2


def test_file_of_something_else_is_not_replaced(path):
    path.parent.mkdir()
    safetensors.save_file({"weight": torch.zeros(2)}, path)
    content = path.read_bytes()
    with pytest.raises(ValueError, match="not a surrogate saved by simreg"):
        Factory().cached(path)
    assert path.read_bytes() == content


def test_failed_training_leaves_no_file(path):
    def fail(model):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        Surrogate.cached(path, Factory().build, fail, name="linear")
    assert not path.exists()


def test_bad_surrogates_are_named():
    with pytest.raises(TypeError, match=r"must be an nn\.Module"):
        Surrogate(lambda x: x, name="a")
    with pytest.raises(TypeError, match="info must be"):
        Surrogate(nn.Flatten(), name="a", info={"model": nn.Flatten()})
    with pytest.raises(TypeError, match=r"Use Surrogate\(model"):
        transfer_sweep(nn.Flatten(), nn.Flatten(), torch.rand(2, 1, 2, 2), torch.tensor([0, 1]))


def sweep_from(model, surrogate):
    x = torch.rand(6, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    return transfer_sweep(model, surrogate, x, torch.tensor([0, 1, 2, 0, 1, 2]))


def test_transfer_records_its_surrogate():
    factory = Factory()
    model, source = factory.build(), Surrogate(factory.build(), name="source", info={"seed": 100})
    sweep = sweep_from(model, source)
    assert sweep.settings["surrogate"] == "source"
    assert sweep.settings["surrogate_info"] == {"seed": 100}
    assert sweep.settings["surrogate_fingerprint"] == source.fingerprint
    assert 0 <= sweep.settings["surrogate_accuracy"] <= 1
    assert all(m <= e + 1e-6 for e, m in zip(sweep.epsilons, sweep.settings["max_perturbation"], strict=True))
    json.dumps(sweep.to_dict())


def test_attack_of_a_model_on_itself_is_called_white_box():
    classifier = Factory().build()
    with pytest.warns(UserWarning, match="white-box"):
        sweep_from(classifier, Surrogate(classifier, name="itself"))


def test_sweeps_from_different_surrogates_are_not_weighed():
    model = Factory().build()
    one, two = (sweep_from(model, Surrogate(Factory().build(), name="s")) for _ in range(2))
    with pytest.raises(ValueError, match="different surrogates"):
        tradeoff(one, two)
