import pytest
import torch
from torch import nn


@pytest.fixture(autouse=True)
def _one_thread():  # the models are tiny: threads only wait for each other
    torch.set_num_threads(1)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


class ConvNet(nn.Module):
    """Three layers: convolution with batch norm, convolution, classifier."""

    def __init__(self, channels: int = 1, inplace: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 6, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(6)
        self.relu1 = nn.ReLU(inplace=inplace)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(6, 8, 3, stride=2)
        self.bn2 = nn.BatchNorm2d(8)
        self.relu2 = nn.ReLU(inplace=inplace)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.dropout(self.relu1(self.bn1(self.conv1(x))))
        x = self.relu2(self.bn2(self.conv2(x)))
        return self.fc(x.mean(dim=(2, 3)))


@pytest.fixture
def make_net():
    def make(seed: int = 0, **kwargs) -> ConvNet:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return ConvNet(**kwargs)

    return make


@pytest.fixture
def images(generator):
    return torch.rand(8, 1, 8, 8, generator=generator)
