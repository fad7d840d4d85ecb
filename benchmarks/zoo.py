"""The networks of our benchmarks: exact layers, fixed here once. Small images in, ten classes out.

=============  ==========  ==========  =====================================  ==================  =============
name           parameters  MACs        what it is                             minimum accuracy    s per epoch
=============  ==========  ==========  =====================================  ==================  =============
lenet_300_100  266,610     266,200     LeCun 1998, fully connected            0.885               not timed yet
lenet_5        431,080     2,293,000   LeCun 1998 in Caffe's form (Han 2015)  0.900               not timed yet
resnet_8       77,754      9,345,920     He 2016, 6n+2 with n = 1               0.912               36
resnet_20      272,186     31,021,952   He 2016, 6n+2 with n = 3               0.930               108
vgg_s          584,618     29,424,640  VGG with a fully connected head        0.925               not timed yet
mobilenet_s    99,674      8,846,368   inverted residuals (Sandler 2018)      0.915               not timed yet
=============  ==========  ==========  =====================================  ==================  =============

Minimum accuracies are on Fashion-MNIST's test file after training on images 0-49,999; seconds on two cores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from examples.resnet import ResNet

INPUT_SHAPE = (1, 28, 28)


@dataclass(frozen=True)
class ZooNet:
    """A network by name, with what it must reach when trained."""

    name: str
    build: Callable[[], nn.Module]
    min_accuracy: float


def lenet_300_100() -> nn.Module:
    """784-300-100-10."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))


def lenet_5() -> nn.Module:
    """20 and 50 channels of 5x5, then 500 units."""
    return nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10),
    )  # fmt: skip


def vgg_s() -> nn.Module:
    """Six 3x3 convolutions in three stages, then a fully connected head with dropout."""
    layers: list[nn.Module] = []
    channels = 1
    for width in (32, 64, 128):
        for _ in range(2):
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 9, 256), nn.ReLU(), nn.Dropout(0.5), nn.Linear(256, 10))


class InvertedResidual(nn.Module):
    """Expand, filter depthwise, project; with a shortcut where the shape allows."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6(),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6(),
            nn.Conv2d(hidden, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels),
        )  # fmt: skip
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Shapes ``(batch, in_channels, h, w)`` to ``(batch, out_channels, h / stride, w / stride)``."""
        y: Tensor = self.layers(x)
        return x + y if self.has_shortcut else y


def mobilenet_s() -> nn.Module:
    """A stem, seven inverted residuals, a 1x1 convolution and a linear head."""
    blocks: list[nn.Module] = [nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU6()]
    channels = 16
    for width, stride in ((16, 1), (24, 2), (24, 1), (40, 2), (40, 1), (64, 1), (64, 1)):
        blocks.append(InvertedResidual(channels, width, stride, expansion=4))
        channels = width
    head = [nn.Conv2d(64, 128, 1, bias=False), nn.BatchNorm2d(128), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*blocks, *head, nn.Linear(128, 10))


ZOO = {
    net.name: net
    for net in (
        ZooNet("lenet_300_100", lenet_300_100, 0.885),
        ZooNet("lenet_5", lenet_5, 0.900),
        ZooNet("resnet_8", lambda: ResNet(8), 0.912),
        ZooNet("resnet_20", lambda: ResNet(20), 0.930),
        ZooNet("vgg_s", vgg_s, 0.925),
        ZooNet("mobilenet_s", mobilenet_s, 0.915),
    )
}
