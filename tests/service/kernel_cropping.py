"""A toy technique as somebody else would bring it: one file, and one registration by an entry point. Not part of Paretopress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from techniques.base import Transform
from techniques.context import TechniqueContext
from techniques.errors import ConfigError
from techniques.network import Network
from techniques.option import Option
from techniques.recipe import Step


@dataclass(frozen=True)
class KernelCroppingConfig:
    """Layers by name."""

    layers: Sequence[str] = ()


class KernelCropping(Transform[KernelCroppingConfig]):
    """Of 3x3 kernels, keep the middle."""

    name = "kernel_cropping"
    config_type = KernelCroppingConfig
    axis = stage = "rank"
    cites = "nobody 2026, a toy"
    not_supported_on = "networks without 3x3 convolutions"
    reduces = frozenset({"parameters", "macs"})

    def options(self, network: Network, context: TechniqueContext) -> Sequence[Option]:
        """Each 3x3 convolution in scope."""
        found = [name for name, layer in network.layers().items() if _can_crop(layer) and context.in_scope(name)]
        return [Option(self.name, self.axis, name, 8 / 9, (name,)) for name in found]

    def step(
        self, network: Network, options: Sequence[Option], settings: Mapping[str, Any], context: TechniqueContext
    ) -> Step | None:
        """The layers by name."""
        return self.make_step({"layers": sorted(option.place for option in options)})

    def apply(self, network: Network, config: KernelCroppingConfig, context: TechniqueContext) -> Network:
        """See the base."""
        result = network.clone()
        for name in config.layers:
            layer = result.layers().get(name)
            if not isinstance(layer, nn.Conv2d) or not _can_crop(layer):
                raise ConfigError(f"kernel_cropping: {name!r} is no 3x3 convolution")
            cropped = nn.Conv2d(
                layer.in_channels, layer.out_channels, 1, layer.stride, groups=layer.groups, bias=layer.bias is not None
            ).to(layer.weight.device)
            with torch.no_grad():
                cropped.weight = nn.Parameter(layer.weight[:, :, 1:2, 1:2].clone())
                cropped.bias = layer.bias
            parent, _, leaf = name.rpartition(".")
            setattr(result.graph.get_submodule(parent), leaf, cropped)
        return result.rebuilt()


def _can_crop(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3) and layer.padding == (1, 1)
