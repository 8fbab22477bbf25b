"""Model files: a network and what is needed to use it, without running code from the file."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from simreg.model_files import load_model, model_record, save_model
from simreg.nets import ResNet18

save_file = pytest.importorskip("safetensors.torch").save_file
ARGUMENTS = {"num_classes": 3, "channels": 1, "width": 8, "stem_stride": 2}


def saved(path, **changes):
    options = {"builder": "simreg.nets:ResNet18", "arguments": ARGUMENTS, "mean": 0.5, "std": [0.2], "classes": "abc"}
    model = ResNet18(**ARGUMENTS, seed=3)
    save_model(path, model, **{**options, **changes})
    return model


def test_loaded_model_answers_as_the_saved_one(tmp_path):
    model = saved(tmp_path / "net.safetensors", info={"epochs": 3}).eval()
    found = load_model(tmp_path / "net.safetensors")
    x = torch.rand(2, 1, 16, 16)
    assert torch.equal(found.model(x), model(x))
    assert (found.mean, found.std, found.classes, found.info) == ((0.5,), (0.2,), ("a", "b", "c"), {"epochs": 3})
    assert not found.model.training


@pytest.mark.parametrize("name", ["torchvision.models:resnet18", "timm:create_model"])
def test_other_libraries_build_the_network(tmp_path, name):
    library, _, function = name.partition(":")
    module = pytest.importorskip(library)
    arguments = {"weights": None} if library != "timm" else {"model_name": "resnet10t.c3_in1k", "pretrained": False}
    arguments |= {"num_classes": 3}
    model = getattr(module, function)(**arguments)
    save_model(tmp_path / "net.safetensors", model, builder=name, arguments=arguments)
    found = load_model(tmp_path / "net.safetensors")
    assert all(
        torch.equal(a, b) for a, b in zip(found.model.state_dict().values(), model.state_dict().values(), strict=True)
    )


def write_by_hand(path, builder, arguments):
    record = {"format": 1, "builder": builder, "arguments": arguments}
    record |= {"mean": [0], "std": [1], "classes": [], "info": {}}
    save_file({"a": torch.zeros(1)}, path, metadata={"simreg_model": json.dumps(record)})


@pytest.mark.parametrize(
    "builder",
    [
        "os:system",
        "ResNet18",
        "simreg.nets:",
        "simreg.nets:conv_bn",
        "timm:models.load_checkpoint",
        "torchvision.models:get_model",
        3,
    ],
)
def test_a_file_cannot_make_other_code_run(tmp_path, builder):
    with pytest.raises(ValueError, match="builder must be"):
        saved(tmp_path / "net.safetensors", builder=builder)
    assert not list(tmp_path.iterdir())
    write_by_hand(tmp_path / "net.safetensors", builder, {"command": "true"})
    with pytest.raises(ValueError, match="builder must be"):
        load_model(tmp_path / "net.safetensors")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pretrained", True),
        ("checkpoint_path", "weights.pth"),
        ("checkpoint_path", 0),
        ("pretrained_cfg", {"file": "weights.pth"}),
        ("cache_dir", "/tmp"),
        ("weights", "DEFAULT"),
        ("weights_backbone", True),
        ("model_name", "hf-hub:x/y"),
        ("model_name", "local-dir:/tmp/x"),
        ("model_name", "https://example.invalid/x"),
        ("anything", [1, "text"]),
    ],
)
@pytest.mark.parametrize("builder", ["timm:create_model", "torchvision.models:resnet18"])
def test_a_file_cannot_make_a_builder_read_files_or_the_network(tmp_path, monkeypatch, builder, name, value):
    library, _, function = builder.partition(":")
    monkeypatch.setattr(pytest.importorskip(library), function, lambda **arguments: pytest.fail("was built"))
    with pytest.raises(ValueError, match=f"arguments: {name}=.*is refused"):
        saved(tmp_path / "net.safetensors", builder=builder, arguments={name: value})
    write_by_hand(tmp_path / "net.safetensors", builder, {name: value})
    with pytest.raises(ValueError, match=f"arguments: {name}=.*is refused"):
        load_model(tmp_path / "net.safetensors")


def test_failed_write_leaves_the_old_file_alone(tmp_path, monkeypatch):
    saved(tmp_path / "net.safetensors")
    before = (tmp_path / "net.safetensors").read_bytes()
    monkeypatch.setattr(Path, "replace", lambda *args: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        saved(tmp_path / "net.safetensors", mean=0.1)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


def test_misspelt_builder_lists_near_names(tmp_path):
    with pytest.raises(ValueError, match="ResNet18"):
        saved(tmp_path / "net.safetensors", builder="simreg.nets:Resnet18")


def test_weights_that_do_not_fit_are_named(tmp_path):
    saved(tmp_path / "net.safetensors", arguments={**ARGUMENTS, "width": 16})
    with pytest.raises(ValueError, match=r"do not fit simreg\.nets:ResNet18"):
        load_model(tmp_path / "net.safetensors")


def test_plain_weights_are_no_model_file(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "plain.safetensors")
    assert model_record(tmp_path / "plain.safetensors") is None
    with pytest.raises(ValueError, match="not what builds the network"):
        load_model(tmp_path / "plain.safetensors")


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 64, (5).to_bytes(8, "little") + b"[1,2]"])
def test_damaged_files_say_so(tmp_path, content):
    (tmp_path / "net.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="no readable safetensors file"):
        load_model(tmp_path / "net.safetensors")


def test_truncated_weights_say_so(tmp_path):
    saved(path := tmp_path / "net.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="no readable safetensors file"):
        load_model(path)


def test_arguments_must_be_plain_data(tmp_path):
    with pytest.raises(TypeError, match="JSON"):
        saved(tmp_path / "net.safetensors", info={"layer": nn.ReLU()})


def test_tied_weights_survive(tmp_path):
    model = ResNet18(**ARGUMENTS)
    model.layer1[1].first[0].weight = model.layer1[0].first[0].weight
    save_model(tmp_path / "net.safetensors", model, builder="simreg.nets:ResNet18", arguments=ARGUMENTS)
    found = load_model(tmp_path / "net.safetensors").model
    assert torch.equal(found.layer1[1].first[0].weight, model.layer1[0].first[0].weight)
