import pytest
import torch
from torch import nn

from simreg.nets import ResNet18


def weights_in_order(width, classes, channels, stride):
    """Parameters of the layers as they are made, one after the other, from one seed."""

    def conv(a, b, kernel, step):
        made.append(nn.Conv2d(a, b, kernel, step, padding=kernel // 2, bias=False))

    made = []
    conv(channels, width, 7, stride)
    for section, step in enumerate((1, 2, 2, 2)):
        inputs, outputs = width * 2 ** max(section - 1, 0), width * 2**section
        for block in range(2):
            first = block == 0
            conv(inputs if first else outputs, outputs, 3, step if first else 1)
            conv(outputs, outputs, 3, 1)
            if first and step == 2:
                conv(inputs, outputs, 1, step)
    made.append(nn.Linear(8 * width, classes))
    return [p for module in made for p in module.parameters()]


@pytest.mark.parametrize("stride", [1, 2])
def test_resnet_has_the_weights_of_its_seed_bit_by_bit(stride):
    torch.manual_seed(3)
    wanted = weights_in_order(8, 10, 1, stride)
    model = ResNet18(10, channels=1, width=8, stem_stride=stride, seed=3)
    found = [p for name, p in model.named_parameters() if p.ndim > 1 or name.startswith("fc")]
    assert len(found) == len(wanted)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_resnet_leaves_the_global_generator_alone_and_differs_by_seed():
    state = torch.get_rng_state()
    one, two = (ResNet18(10, channels=1, width=8, seed=seed) for seed in (0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(one.fc.weight, two.fc.weight)


def test_resnet_has_the_stages_that_layer_names_use():
    model = ResNet18(5, channels=3, width=8)
    assert [name for name, _ in model.named_children()] == [
        "stem", "layer1", "layer2", "layer3", "layer4", "pool", "fc",
    ]  # fmt: skip
    assert model(torch.rand(2, 3, 20, 24)).shape == (2, 5)


@pytest.mark.parametrize("change", [{"width": 0}, {"channels": 1.5}, {"stem_stride": -1}, {"num_classes": True}])
def test_resnet_names_the_wrong_number(change):
    options = {"num_classes": 10, "channels": 1, "width": 8} | change
    with pytest.raises(ValueError, match=f"{next(iter(change))} must be a whole number from 1"):
        ResNet18(**options)
