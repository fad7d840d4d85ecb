"""Pruning of meta networks in a millisecond: what the dependency graph says is found once per network and remembered.

Thousands of recipes of one network are priced. Their shapes follow from how many channels each group keeps; which ones, no
price depends on. Real networks are pruned by Torch-Pruning itself, and a test holds both to the same shapes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from techniques.network import Network

Handler = Callable[[nn.Module, list[int]], Any]


@dataclass(frozen=True)
class Coupling:
    """One layer that loses channels with a group.

    Attributes:
        module: its qualified name.
        is_output: whether its outputs are lost, else its inputs.
        handler: Torch-Pruning's function for this kind of layer.
        positions: per channel of the group, the layer's positions that go with it.
    """

    module: str
    is_output: bool
    handler: Handler
    positions: Mapping[int, tuple[int, ...]]


def remove_channels(network: Network, coupled: Mapping[str, tuple[Coupling, ...]], removed: Mapping[str, list[int]]) -> None:
    """Take channels (positions before any removal) out of every layer of a meta network, in place.

    Args:
        coupled: by group, the layers that go with it.
        removed: by group, the channels to remove.
    """
    lost: dict[tuple[str, bool], set[int]] = defaultdict(set)
    handlers: dict[tuple[str, bool], Handler] = {}
    for group, channels in removed.items():
        for coupling in coupled[group]:
            place = (coupling.module, coupling.is_output)
            handlers[place] = coupling.handler
            lost[place].update(position for channel in channels for position in coupling.positions.get(channel, ()))
    modules = dict(network.graph.named_modules())
    for (name, is_output), positions in lost.items():
        module = modules.get(name)
        if module is None:
            continue  # a batch norm that was folded away
        if not _shrink(module, is_output, len(positions)):
            handlers[(name, is_output)](module, sorted(positions))


def _shrink(module: nn.Module, is_output: bool, count: int) -> bool:
    """The usual layers, whose shape is all that matters on meta; False where Torch-Pruning has to do it."""
    if isinstance(module, nn.Conv2d) and module.groups == 1:
        if is_output:
            module.out_channels -= count
        else:
            module.in_channels -= count
        _resize_layer(module, is_output, count)
        return True
    if isinstance(module, nn.Linear):
        if is_output:
            module.out_features -= count
        else:
            module.in_features -= count
        _resize_layer(module, is_output, count)
        return True
    if isinstance(module, nn.Conv2d) and module.groups == module.in_channels == module.out_channels:
        module.groups = module.in_channels = module.out_channels = module.groups - count
        _resize_layer(module, True, count)
        return True
    if type(module) is nn.BatchNorm2d:
        module.num_features -= count
        for name in ("weight", "bias", "running_mean", "running_var"):
            _resize(module, name, 0, count)
        return True
    return False


def _resize_layer(layer: nn.Module, is_output: bool, count: int) -> None:
    _resize(layer, "weight", 0 if is_output else 1, count)
    if is_output:
        for name in ("bias", *_PER_OUTPUT):
            if hasattr(layer, name):
                _resize(layer, name, 0, count)


_PER_OUTPUT = ("weight_scale", "weight_zero_point")
"""What a quantised layer has one of for each output."""


def _resize(module: nn.Module, name: str, axis: int, count: int) -> None:
    tensor = getattr(module, name)
    if tensor is None:
        return
    shape = list(tensor.shape)
    shape[axis] -= count
    empty = torch.empty(shape, device="meta", dtype=tensor.dtype)
    if name in module._parameters:
        module._parameters[name] = nn.Parameter(empty, requires_grad=tensor.requires_grad)
    else:
        module._buffers[name] = empty
