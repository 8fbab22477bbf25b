"""Networks for small images: the ResNet18 of the paper, 7x7 stem, no max-pool, four sections of two blocks."""

import torch
from torch import Tensor, nn


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    """Convolution without bias and batch norm; ``kernel // 2`` pixels of zero padding."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = conv_bn(inputs, outputs, 3, stride), conv_bn(outputs, outputs, 3, 1)
        self.shortcut = nn.Identity() if stride == 1 and inputs == outputs else conv_bn(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H / stride, W / stride)."""
        return torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet18 with named stages ``stem``, ``layer1`` .. ``layer4``, ``fc``: the names that ``layers=`` takes.

    From images of ``channels`` channels to ``num_classes`` logits. The first section has ``width`` channels (the
    paper's 64), each further one twice as many; ``stem_stride=2`` instead of the paper's 1 makes a pass about 3.6 times
    faster on a CPU. Weights come from ``seed``, the caller's random state stays. A number below 1 raises ValueError.

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
                raise ValueError(f"{name} must be a whole number from 1, got {value!r}.")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.stem = nn.Sequential(*conv_bn(channels, width, 7, stem_stride), nn.ReLU())
            self.layer1 = nn.Sequential(BasicBlock(width, width, 1), BasicBlock(width, width, 1))
            self.layer2 = nn.Sequential(BasicBlock(width, 2 * width, 2), BasicBlock(2 * width, 2 * width, 1))
            self.layer3 = nn.Sequential(BasicBlock(2 * width, 4 * width, 2), BasicBlock(4 * width, 4 * width, 1))
            self.layer4 = nn.Sequential(BasicBlock(4 * width, 8 * width, 2), BasicBlock(8 * width, 8 * width, 1))
            self.pool = nn.AdaptiveAvgPool2d(1)  # the paper's 4x4 average pool, for any image size and stem stride
            self.fc = nn.Linear(8 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> logits (N, num_classes)."""
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))
        logits: Tensor = self.fc(self.pool(x).flatten(1))
        return logits
