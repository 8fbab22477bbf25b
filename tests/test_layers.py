import pytest
import torch
import torchvision
from torch import nn

from simreg import FeatureTap
from simreg.layers import auto_layers, channel_dim, early_layers, layer_modules, resolve_layers

TORCHVISION = {
    "resnet18": 64,
    "wide_resnet50_2": 64,
    "convnext_tiny": 64,
    "efficientnet_b0": 64,
    "densenet121": 64,
    "mobilenet_v2": 64,
    "mobilenet_v3_small": 64,
    "vgg11": 64,
    "vit_b_32": 224,
    "swin_t": 64,
    "googlenet": 64,
    "regnet_y_400mf": 64,
}
TIMM = {
    "resnet18": 64,
    "wide_resnet50_2": 64,
    "convnext_atto": 64,
    "efficientnet_b0": 64,
    "densenet121": 64,
    "mobilenetv3_small_100": 64,
    "vgg11": 64,
    "vit_tiny_patch16_224": 224,
    "swin_tiny_patch4_window7_224": 224,
    "mixer_s32_224": 224,
    "mobilevit_xxs": 64,
    "regnety_004": 64,
}


def check_auto_layers(model, size):
    names = auto_layers(model)
    assert len(names) == 5
    assert len(set(names)) == 5
    order = list(layer_modules(model))
    assert [order.index(n) for n in names] == sorted(order.index(n) for n in names)
    with FeatureTap(model, "auto") as tap:
        features = tap.features(torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)))
    for name, feature in features.items():
        assert feature.shape[0] == 2, name
        assert feature.requires_grad, name
    assert early_layers(model)[0] == names[0]
    assert len(early_layers(model)) == 2


@pytest.mark.parametrize("name", TORCHVISION)
def test_auto_layers_of_torchvision_models(name):
    extra = {"init_weights": False} if name == "googlenet" else {}
    check_auto_layers(torchvision.models.get_model(name, weights=None, **extra), TORCHVISION[name])


@pytest.mark.parametrize("name", TIMM)
def test_auto_layers_of_timm_models(name):
    timm = pytest.importorskip("timm", reason="needs simreg[timm]")
    check_auto_layers(timm.create_model(name, pretrained=False), TIMM[name])


def test_auto_layers_of_resnet18_are_those_of_the_paper():
    model = torchvision.models.resnet18(weights=None)
    assert auto_layers(model) == ["relu", "layer1.1", "layer2.1", "layer3.1", "layer4.1"]
    assert early_layers(model) == ["relu", "layer1.1"]


def test_auto_layers_of_small_models_take_what_there_is(make_net):
    assert auto_layers(make_net()) == ["relu1", "relu2"]
    mlp = nn.Sequential(nn.Flatten(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    assert auto_layers(mlp) == ["2", "4"]
    with pytest.raises(ValueError, match="no layer with weights"):
        auto_layers(nn.Sequential(nn.Flatten()))


def test_auto_layers_look_into_pipelines_and_attributes(make_net):
    class Normalise(nn.Module):
        def forward(self, x):
            return (x - 0.5) / 0.2

    class Owner(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.net = model

    for name in ("vgg11", "resnet18"):
        model = torchvision.models.get_model(name, weights=None)
        for wrapped, prefix in ((nn.Sequential(Normalise(), model), "1."), (Owner(model), "net.")):
            assert auto_layers(wrapped) == [prefix + n for n in auto_layers(model)]


@pytest.mark.parametrize("name", ["pit_ti_224", "xcit_nano_12_p16_224"])
def test_presets_read_the_first_tensor_of_blocks_that_return_several(name):
    timm = pytest.importorskip("timm", reason="needs simreg[timm]")
    check_auto_layers(timm.create_model(name, pretrained=False), 224)


class NamedMlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.fc3(self.fc2(self.fc1(x)))


def test_auto_layers_of_an_mlp_leave_out_its_last_layer_only():
    assert auto_layers(NamedMlp()) == ["fc1", "fc2"]


class Ddp(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)


def test_names_resolve_through_wrappers(make_net):
    plain = make_net()
    compiled = torch.compile(plain, backend="aot_eager")
    for wrapped in (plain, compiled, Ddp(plain), Ddp(compiled), nn.Sequential(Ddp(plain))[0]):
        assert layer_modules(wrapped)["conv2"] is plain.conv2
        assert auto_layers(wrapped) == ["relu1", "relu2"]
        assert resolve_layers(wrapped, ["module.conv1", "_orig_mod.relu2"]) == ["conv1", "relu2"]


def test_of_a_wrapper_and_what_it_wraps_the_wrapper_is_tapped(make_net):
    model = make_net()
    model.conv2 = Ddp(model.conv2)
    assert layer_modules(model)["conv2"] is model.conv2
    assert "conv2.module" not in layer_modules(model)


def test_a_child_called_module_among_others_is_no_wrapper():
    model = nn.Module()
    model.module, model.other = nn.Linear(2, 2), nn.Linear(2, 2)
    assert resolve_layers(model, ["module", "other"]) == ["module", "other"]


def test_patterns_stay_within_a_segment():
    model = torchvision.models.resnet18(weights=None)
    assert resolve_layers(model, ["layer?"]) == ["layer1", "layer2", "layer3", "layer4"]
    assert resolve_layers(model, ["layer1.*"]) == ["layer1.0", "layer1.1"]
    assert resolve_layers(model, ["layer*.1", "layer1.1"]) == ["layer1.1", "layer2.1", "layer3.1", "layer4.1"]


def test_unknown_layer_error_lists_close_names():
    with pytest.raises(ValueError, match=r"'layer5' matches no layer of ResNet\. Near: .*layer4"):
        resolve_layers(torchvision.models.resnet18(weights=None), ["layer5"])


@pytest.mark.parametrize(
    ("module", "shape", "dim"),
    [
        (nn.Conv2d(3, 8, 1), (2, 8, 8, 4), 1),
        (nn.LayerNorm(16), (2, 7, 7, 16), 3),
        (nn.LayerNorm(16), (2, 5, 16), 2),
        (nn.BatchNorm1d(16), (2, 16, 5), 1),
        (nn.ReLU(), (2, 5, 16), 2),
        (nn.ReLU(), (2, 5, 16, 16), 1),
        (nn.Linear(4, 9), (2, 9), 1),
        (nn.Sequential(nn.LayerNorm(96), nn.Linear(96, 96)), (2, 96, 64, 96), 3),
        (nn.Conv2d(3, 192, 16), (2, 196, 192), 2),
    ],
)
def test_channel_dim_follows_the_weights(module, shape, dim):
    assert channel_dim(module, shape) == dim


def test_channels_of_swin_are_last():
    model = torchvision.models.swin_t(weights=None)
    with FeatureTap(model, ["features.1.1"]) as tap:
        feature = tap.features(torch.zeros(1, 3, 64, 64))["features.1.1"]
    assert feature.shape == (1, 16, 16, 96)
    assert channel_dim(model.features[1][1], feature.shape) == 3
