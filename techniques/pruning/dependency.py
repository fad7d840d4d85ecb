"""What Torch-Pruning has to be told about a lifted network: channel slices, permutations and scales.

Torch-Pruning maps channel indices along edges of its dependency graph (Fang 2023, DepGraph, section 3.2). It derives the
maps of concatenations and flattenings itself; those of our channel operations are installed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch_pruning as tp
from torch import nn
from torch_pruning.pruner import function as pruning_function

from techniques.channel_ops import ChannelPermutation, ChannelScale, ChannelSlice
from techniques.network import Network


class _GatherPruner(pruning_function.BasePruningFunc):  # type: ignore[misc]
    """Prunes a `ChannelSlice` or `ChannelPermutation` by positions of its output."""

    def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> nn.Module:
        layer.remove(idxs)
        return layer  # type: ignore[no-any-return]

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: Any) -> int:
        return len(layer.source_channels())

    get_in_channels = get_out_channels


class _ScalePruner(pruning_function.BasePruningFunc):  # type: ignore[misc]
    """Prunes a `ChannelScale`."""

    def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> nn.Module:
        dropped = set(idxs)
        keep = [i for i in range(layer.weight.shape[0]) if i not in dropped]
        layer.weight = nn.Parameter(layer.weight.data[keep].clone(), layer.weight.requires_grad)
        return layer  # type: ignore[no-any-return]

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: Any) -> int:
        return int(layer.weight.shape[0])

    get_in_channels = get_out_channels


class _GatherMapping:
    """Index map of the edge into a gather: input channels to output positions, or back. Reads the module at call time."""

    def __init__(self, module: ChannelSlice | ChannelPermutation, reverse: bool) -> None:
        self.module = module
        self.reverse = reverse

    def __call__(self, idxs: Sequence[Any]) -> list[Any]:
        source = self.module.source_channels()
        if self.reverse:
            return [i._replace(idx=source[i.idx]) for i in idxs]
        position = {channel: p for p, channel in enumerate(source)}
        return [i._replace(idx=position[i.idx]) for i in idxs if i.idx in position]


def pruner_arguments(network: Network) -> dict[str, Any]:
    """Keyword arguments for ``tp.DependencyGraph.build_dependency`` and ``tp.pruner.BasePruner``.

    With ``BasePruner``, call `install` on its ``DG`` afterwards; the dependency graph of `build` has that done.
    """
    pruners: dict[Any, Any] = {ChannelSlice: _GatherPruner(), ChannelPermutation: _GatherPruner(), ChannelScale: _ScalePruner()}
    return {"customized_pruners": pruners, "example_inputs": network.example_input(2)}


def install(graph: tp.DependencyGraph) -> tp.DependencyGraph:
    """Install the index maps of channel slices and permutations on a built dependency graph; returns it."""
    for node in graph.module2node.values():
        if not isinstance(node.module, ChannelSlice | ChannelPermutation):
            continue
        for source in node.inputs:
            for edge in source.dependencies:
                if edge.target is node:
                    edge.index_mapping[0] = _GatherMapping(node.module, reverse=False)
            for edge in node.dependencies:
                if edge.target is source:
                    edge.index_mapping[0] = _GatherMapping(node.module, reverse=True)
    return graph


def build(network: Network) -> tp.DependencyGraph:
    """The dependency graph of a network (real or meta). The graph's training mode is restored."""
    training = network.graph.training
    with torch.enable_grad():
        graph = tp.DependencyGraph().build_dependency(network.graph, verbose=False, **pruner_arguments(network))
    network.train(training)
    return install(graph)


def output_layers(network: Network) -> list[nn.Module]:
    """Layers whose output channels are the network's output: never to be pruned at their output (``ignored_layers``)."""
    output = next(node for node in network.graph.graph.nodes if node.op == "output")
    found: list[nn.Module] = []
    seen, queue = set(), list(output.all_input_nodes)
    while queue:
        node = queue.pop()
        if node in seen:
            continue
        seen.add(node)
        module = network.graph.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, nn.Conv2d | nn.Linear):
            found.append(module)
        else:
            queue.extend(node.all_input_nodes)
    return found
