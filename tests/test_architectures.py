"""Both layer presets in every mode on the architectures that people use: the penalty's gradient reaches the weights."""

import pytest
import torch

from simreg import PairBatch, PixelTarget, SimilarityRegularizer

timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")

TIMM = """resnet18 resnet50 wide_resnet50_2 convnext_tiny efficientnet_b0 densenet121 mobilenetv3_small_100
vit_tiny_patch16_224 swin_tiny_patch4_window7_224 mixer_s32_224 deit_tiny_distilled_patch16_224 cait_xxs24_224
beit_base_patch16_224 maxvit_tiny_tf_224 coatnet_nano_rw_224 regnety_002 ghostnet_100 res2net50_26w_4s dm_nfnet_f0
nf_resnet50 levit_128s poolformer_s12 efficientformer_l1 efficientformerv2_s0 edgenext_xx_small mobilevit_xxs
mobilevitv2_050 xcit_nano_12_p16_224 volo_d1_224 twins_svt_small twins_pcpvt_small pvt_v2_b0 fastvit_t8
tnt_s_patch16_224 crossvit_9_240 convmixer_768_32 repvgg_a0 hrnet_w18_small dla34 selecsls42b inception_v3
hiera_tiny_224 eva02_tiny_patch14_224 nextvit_small convit_tiny mambaout_femto tiny_vit_5m_224
vit_small_patch16_dinov3 mobilenetv4_conv_small resnetv2_50""".split()  # noqa: SIM905
TORCHVISION = "vgg11_bn inception_v3 googlenet squeezenet1_1 shufflenet_v2_x0_5 swin_t vit_b_16 maxvit_t".split()  # noqa: SIM905
SIZES = {"inception_v3": 299, "crossvit_9_240": 240, "efficientformer_l1": 224, "vit_b_16": 224, "maxvit_t": 224}
# The first tensor of its blocks has a row for each patch of an image, which is said; select= reads the other one.
REFUSED = {"timm:tnt_s_patch16_224": "one floating-point row for each image"}


def build(name):
    library, _, name = name.partition(":")
    size = SIZES.get(name, 64)
    torch.manual_seed(0)
    if library == "torchvision":
        return torchvision.models.get_model(name, num_classes=10), size
    for options in ({"img_size": size}, {}):  # convolutional nets take no size
        try:
            return timm.create_model(name, num_classes=10, **options), size
        except TypeError:
            pass
    raise AssertionError(name)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("preset", ["auto", "early"])
@pytest.mark.parametrize("name", [f"timm:{n}" for n in TIMM] + [f"torchvision:{n}" for n in TORCHVISION])
def test_gradient_reaches_the_first_weight_in_every_mode(name, preset):
    model, size = build(name)
    x = torch.rand(4, 3, size, size, generator=torch.Generator().manual_seed(0))
    batch = PairBatch(x, torch.zeros(2))
    reg = SimilarityRegularizer(model, preset, target=PixelTarget())

    def observed():
        with reg.observe():
            model(x)
        return reg.penalty(x)

    for step in (lambda: reg(batch), observed, lambda: reg.joint(x, batch)[1]):
        if name in REFUSED:
            with pytest.raises(ValueError, match=REFUSED[name]):
                step()
            continue
        model.zero_grad()
        penalty = step()
        assert torch.isfinite(penalty)
        penalty.backward()
        assert next(p.grad for p in model.parameters() if p.grad is not None).abs().max() > 0
