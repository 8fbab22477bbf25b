"""Networks for small images: the ResNet18 of the paper, 7x7 stem, no max-pool, four sections of two blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simreg._checks import describe


def conv_bn(channels_in: int, channels_out: int, *, kernel: int, stride: int) -> nn.Sequential:
    """Convolution without bias and batch norm; ``kernel // 2`` pixels of zero padding."""
    convolution = nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.first = conv_bn(channels_in, channels_out, kernel=3, stride=stride)
        self.second = conv_bn(channels_out, channels_out, kernel=3, stride=1)
        same_shape = stride == 1 and channels_in == channels_out
        self.shortcut = nn.Identity() if same_shape else conv_bn(channels_in, channels_out, kernel=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H / stride, W / stride)."""
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet18 with named stages ``stem``, ``layer1`` .. ``layer4``, ``fc``: the names that ``layers=`` takes.

    Args:
        num_classes: Outputs.
        channels: Channels of the images.
        width: Channels of the first section, doubled in each further one; the paper's is 64.
        stem_stride: 1 in the paper; 2 makes a pass about 3.6 times faster on a CPU.
        seed: Seed of the initial weights; the caller's random state is left as it was.

    Raises:
        ValueError: If a number is below 1.

    Source: He et al., 2016 (https://arxiv.org/abs/1512.03385), as changed for 32x32 images by Attias, Pehlevan, Obeid,
    2024 (https://arxiv.org/abs/2410.03952).

    Example:
        >>> ResNet18(10, channels=1, width=8, stem_stride=2)(torch.zeros(2, 1, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self, num_classes: int, *, channels: int, width: int = 64, stem_stride: int = 1, seed: int = 0
    ) -> None:
        super().__init__()
        sizes = {"num_classes": num_classes, "channels": channels, "width": width, "stem_stride": stem_stride}
        for name, value in sizes.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number from 1, got {describe(value)}.")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.stem = nn.Sequential(*conv_bn(channels, width, kernel=7, stride=stem_stride), nn.ReLU())
            self.layer1 = self._section(width, width, stride=1)
            self.layer2 = self._section(width, 2 * width, stride=2)
            self.layer3 = self._section(2 * width, 4 * width, stride=2)
            self.layer4 = self._section(4 * width, 8 * width, stride=2)
            self.pool = nn.AdaptiveAvgPool2d(1)  # the paper's 4x4 average pool, for any image size and stem stride
            self.fc = nn.Linear(8 * width, num_classes)

    def _section(self, channels_in: int, channels_out: int, *, stride: int) -> nn.Sequential:
        return nn.Sequential(BasicBlock(channels_in, channels_out, stride), BasicBlock(channels_out, channels_out, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> logits (N, num_classes)."""
        x = self.layer2(self.layer1(self.stem(x)))
        x = self.layer4(self.layer3(x))
        logits: Tensor = self.fc(self.pool(x).flatten(1))
        return logits
