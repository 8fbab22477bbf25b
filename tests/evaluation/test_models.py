"""What `simreg evaluate MODEL` takes for a model, and what it says when that is none."""

import sys

import pytest
import torch
from torch import nn

from simreg.evaluation import resolve_model
from simreg.evaluation.models import read_weights
from simreg.model_files import save_model
from simreg.nets import ResNet18
from simreg.robustness import Classifier

torchvision = pytest.importorskip("torchvision")
timm = pytest.importorskip("timm")
pytest.importorskip("safetensors")


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "my_nets.py").write_text(
        "import torch\n"
        "from simreg.robustness import Classifier\n"
        "def net():\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))\n"
        "def wrapped():\n    return Classifier(net(), mean=0.5, std=0.25)\n"
        "def number():\n    return 7\n"
        "def broken():\n    import no_such_package\n"
    )
    monkeypatch.chdir(tmp_path)
    yield "my_nets"
    sys.modules.pop("my_nets", None)
    sys.path[:] = [p for p in sys.path if p != str(tmp_path)]


def test_function_gives_a_module_or_a_classifier(own_module):
    found = resolve_model(f"{own_module}:net")
    assert found.name == "net"
    assert found.classifier(torch.rand(2, 3, 4, 4)).shape == (2, 3)
    assert resolve_model(f"{own_module}:wrapped").classifier.mean == (0.5,)
    assert resolve_model(f"{own_module}:wrapped", std=0.5).classifier.std == (0.5,)
    assert resolve_model(f"{own_module}:wrapped", std=0.5).classifier.mean == (0.5,)


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        ("number", TypeError, "must return a module or another callable"),
        ("nett", ValueError, "Did you mean net"),
        ("broken", ModuleNotFoundError, "no_such_package"),
    ],
)
def test_functions_that_are_none(own_module, function, error, message):
    with pytest.raises(error, match=message):
        resolve_model(f"{own_module}:{function}")


def test_functions_bring_their_weights_and_normalisation(own_module):
    with pytest.raises(ValueError, match="returns a model with its weights"):
        resolve_model(f"{own_module}:net", checkpoint="none.pt")


def test_means_of_255_gray_levels_are_refused(own_module):
    with pytest.raises(ValueError, match="divide mean and std"):
        resolve_model(f"{own_module}:net", mean=(123.7, 116.3, 103.5))


def test_missing_module_is_named():
    with pytest.raises(ValueError, match="no module 'no_such_nets'"):
        resolve_model("no_such_nets:build")


def test_file_of_ours(tmp_path):
    arguments = {"num_classes": 3, "channels": 1, "width": 8}
    path = save_model(
        tmp_path / "plain net.safetensors",
        ResNet18(**arguments),
        builder="simreg.nets:ResNet18",
        arguments=arguments,
        mean=0.5,
        std=0.2,
        classes="abc",
    )
    found = resolve_model(str(path))
    assert (found.name, found.channels, found.classes) == ("plain net", 1, ("a", "b", "c"))
    assert (found.classifier.mean, found.classifier.std) == ((0.5,), (0.2,))
    with pytest.raises(ValueError, match="weights of its own"):
        resolve_model(str(path), checkpoint="other.pt")


def test_file_without_architecture_says_what_to_type(tmp_path):
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="--checkpoint"):
        resolve_model(str(tmp_path / "weights.pt"))


def test_missing_file():
    with pytest.raises(FileNotFoundError, match=r"nets/none\.pt"):
        resolve_model("nets/none.pt")


def test_bare_name_takes_the_library_whose_net_fits(tmp_path):
    ours = timm.create_model("resnet18d", num_classes=4, in_chans=3)
    torch.save({"state_dict": {f"module.{k}": v for k, v in ours.state_dict().items()}}, tmp_path / "timm.pth")
    found = resolve_model("resnet18d", checkpoint=tmp_path / "timm.pth", num_classes=4)
    assert all(
        torch.equal(a, b)
        for a, b in zip(found.classifier.model.state_dict().values(), ours.state_dict().values(), strict=True)
    )
    assert found.classifier.mean == (0.0,)
    theirs = torchvision.models.resnet18(num_classes=4)
    torch.save(theirs.state_dict(), tmp_path / "tv.pth")
    assert isinstance(
        resolve_model("torchvision:resnet18", checkpoint=tmp_path / "tv.pth", num_classes=4).classifier, Classifier
    )
    with pytest.raises(ValueError, match="do not fit resnet18"):
        resolve_model("resnet18", checkpoint=tmp_path / "timm.pth", num_classes=4)


def test_named_architecture_needs_weights():
    with pytest.raises(ValueError, match="needs weights"):
        resolve_model("resnet18")
    with pytest.raises(ValueError, match="not both"):
        resolve_model("resnet18", pretrained=True, checkpoint="x.pt")


def test_unknown_name_lists_near_ones():
    with pytest.raises(ValueError, match=r"Did you mean .*resnet18"):
        resolve_model("resnet81", checkpoint="x.pt")


def test_gray_images_need_a_net_of_one_channel(tmp_path):
    torch.save(torchvision.models.resnet18(num_classes=4).state_dict(), tmp_path / "tv.pth")
    with pytest.raises(ValueError, match="take 3 channels, the images have 1"):
        resolve_model("torchvision:resnet18", checkpoint=tmp_path / "tv.pth", num_classes=4, channels=1)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.module."])
def test_prefixes_of_wrappers_are_taken_off(tmp_path, prefix):
    torch.save({"model": {f"{prefix}weight": torch.ones(1), f"{prefix}bias": torch.zeros(1)}}, tmp_path / "a.pt")
    assert sorted(read_weights(tmp_path / "a.pt")) == ["bias", "weight"]


def test_pickled_models_are_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(ValueError, match="cannot be read as a state dict"):
        read_weights(tmp_path / "model.pt")
    torch.save({"epoch": 3}, tmp_path / "none.pt")
    with pytest.raises(ValueError, match="holds no state dict"):
        read_weights(tmp_path / "none.pt")
