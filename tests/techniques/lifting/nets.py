"""One small network around a function; shared by the tests of lifting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from techniques import lift, network_checks
from techniques.network import Network
from tests.techniques.small_networks import seeded

SHAPE = (3, 8, 8)


class Net(nn.Module):
    """A function of the network and the image, with the layers and parameters that it uses."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def conv(inputs: int, outputs: int, kernel: int = 3, **more: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **more)


def between(function: Callable[[Tensor], Tensor], channels: int = 8) -> Net:
    """The function between a convolution with batch norm and a classifier."""
    return Net(
        lambda s, x: s.head(function(s.norm(s.a(x))).mean((2, 3))),
        a=conv(3, 8),
        norm=nn.BatchNorm2d(8),
        head=nn.Linear(channels, 4),
    )


def lifted(module: nn.Module) -> Network:
    return lift.from_module(seeded(module), SHAPE)


def exported(module: nn.Module, training: bool) -> torch.export.ExportedProgram:
    images = torch.randn(4, *SHAPE)
    return torch.export.export(module.train(training), (images,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=False)


def error(network: Network, module: nn.Module, batch: int = 5) -> float:
    """Of the network against the module in evaluation mode, relative."""
    images = torch.randn(batch, *network.input_shape)
    with torch.no_grad():
        return network_checks.relative_error(network(images.clone()), module.eval()(images.clone()))
