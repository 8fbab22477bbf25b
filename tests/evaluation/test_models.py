"""What `simreg evaluate MODEL` takes for a model, and what it says when that is none."""

import sys

import pytest
import torch
from torch import nn

from simreg.evaluation import resolve_model
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
    assert found.name == f"{own_module}:net"
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
    with pytest.raises(ValueError, match="needs weights: pass --checkpoint FILE, or --pretrained"):
        resolve_model("resnet18")
    with pytest.raises(ValueError, match="not both"):
        resolve_model("resnet18", pretrained=True, checkpoint="x.pt")


def test_unknown_name_lists_near_ones():
    with pytest.raises(ValueError, match=r"Did you mean .*resnet18"):
        resolve_model("resnet81", checkpoint="x.pt")


def test_gray_images_need_a_net_of_one_channel(tmp_path):
    torch.save(torchvision.models.resnet18(num_classes=4).state_dict(), tmp_path / "tv.pth")
    with pytest.raises(ValueError, match="takes images of 3 channels, these have 1: leave out --gray"):
        resolve_model("torchvision:resnet18", checkpoint=tmp_path / "tv.pth", num_classes=4, channels=1)


def test_net_that_misses_least_is_told_of(tmp_path):
    """torchvision cannot build a net of one channel; timm can, and its first layer is what does not fit."""
    torch.save(torchvision.models.resnet18(num_classes=4).state_dict(), tmp_path / "tv.pth")
    with pytest.raises(ValueError, match="of timm: its first layer, conv1, takes images of 3 channels, these have 1"):
        resolve_model("resnet18", checkpoint=tmp_path / "tv.pth", num_classes=4, channels=1)


@pytest.mark.parametrize(
    ("classes", "architecture", "message"),
    [
        (5, "resnet18", "its last layer, fc, has 5 outputs, the data has 10 classes: .*--num-classes 5 if these"),
        (10, "resnet34", "96 of 218 names of the state dict belong to no layer of resnet18, such as layer1.2.conv1"),
        (10, "squeezenet1_0", "of the 122 tensors of resnet18 are missing, such as conv1.weight.*other architecture"),
        (10, "wide_resnet50_2", "belong to no layer of resnet18"),
    ],
)
def test_other_heads_and_architectures_are_named(tmp_path, classes, architecture, message):
    model = torchvision.models.get_model(architecture, weights=None, num_classes=classes)
    torch.save(model.state_dict(), tmp_path / "net.pth")
    with pytest.raises(ValueError, match=message) as caught:
        resolve_model("resnet18", checkpoint=tmp_path / "net.pth", num_classes=10)
    assert "copying a param" not in str(caught.value)


@pytest.mark.parametrize(
    ("missing", "spec", "wanted", "unwanted"),
    [
        ("timm", "timm:resnet18", r"needs timm, not installed here: pip install \"simreg\[timm\]\"", "torchvision"),
        ("torchvision.models", "torchvision:resnet18", r"needs torchvision, .*\"simreg\[vision\]\"", "timm"),
        (
            "timm",
            "vit_tiny_patch16_224",
            r"no architecture of torchvision\..* timm, which may have it, is not",
            "vision]",
        ),
    ],
)
def test_missing_library_is_named_with_its_extra(monkeypatch, missing, spec, wanted, unwanted):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises((ImportError, ValueError), match=wanted) as caught:
        resolve_model(spec, pretrained=True)
    assert unwanted not in str(caught.value)


def test_folder_names_its_model_files(tmp_path):
    with pytest.raises(ValueError, match="is a folder without model files"):
        resolve_model(str(tmp_path))
    (tmp_path / "nets").mkdir()
    for name in ("nets/b.safetensors", "a.pt", "notes.txt"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"is a folder: name one of its model files, .*a\.pt, .*b\.safetensors\.$"):
        resolve_model(str(tmp_path))


def test_architecture_is_taken_beside_a_folder_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resnet18").mkdir()
    torch.save(torchvision.models.resnet18(num_classes=4).state_dict(), "net.pth")
    assert resolve_model("resnet18", checkpoint="net.pth", num_classes=4).name == "resnet18"
