"""Proof before trust: a network without some channels computes what the original with zeros in their place does (contract 16)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from techniques.channels.channel_map import ChannelMap
from techniques.channels.surgery import Removed, remove, zero_weights
from techniques.network import Network
from techniques.shapes import node_shapes

TOLERANCE = 1e-4
IMAGES = 2


class _Watching(fx.Interpreter):
    """Remembers what the layers yield, for those nodes that are asked for."""

    def __init__(self, graph: fx.GraphModule, nodes: frozenset[str]) -> None:
        super().__init__(graph, garbage_collect_values=True)
        self._nodes = nodes
        self.found: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self._nodes and isinstance(value, Tensor):
            self.found[n.name] = value
        return value


def removed_network(network: Network, known: ChannelMap, removed: Removed) -> Network:
    """A copy without these classes.

    Raises:
        TechniqueError: the copy does not run; the message names the node.
    """
    smaller = network.clone()
    remove(smaller, known, removed)
    smaller = smaller.rebuilt()
    node_shapes(smaller, batch=2)
    return smaller


def difference(network: Network, known: ChannelMap, removed: Removed) -> tuple[float, str]:
    """Largest difference between the smaller network and the zeroed original, over all layers' outputs, and where it is.

    Each value is compared relative to its own scale, at the positions that are left; looking at layers as well as at outputs, a
    mistake cannot fade on the way. Random images: what is compared are two ways of computing the same thing.
    """
    smaller = removed_network(network, known, removed).eval()
    zeroed = network.clone().eval()
    zero_weights(zeroed, known, removed)
    layers = frozenset(node.name for node, _ in network.module_calls())
    images = torch.randn(IMAGES, *network.input_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        runs = _Watching(zeroed.graph, layers), _Watching(smaller.graph, layers)
        outputs = [run.run(images) for run in runs]
    smaller.discard()
    zeroed.discard()
    worst, where = relative_difference(outputs[1], outputs[0]), "the outputs"
    for name, value in runs[1].found.items():
        reference = runs[0].found.get(name)
        if reference is None:
            continue
        axis = known.nodes.get(name)
        if axis is not None:
            keep = torch.from_numpy(np.flatnonzero(~removed[axis.classes]))
            reference = reference.index_select(axis.dim, keep)
        found = relative_difference(value, reference)
        if found > worst:
            worst, where = found, f"node {name!r}"
    return worst, where


def relative_difference(value: Tensor, reference: Tensor) -> float:
    """Largest difference over the reference's largest value; infinite where the shapes differ."""
    if value.shape != reference.shape:
        return float("inf")
    scale = float(reference.abs().max()) if reference.numel() else 0.0
    error = float((value.double() - reference.double()).abs().max()) if value.numel() else 0.0
    found = error / scale if scale > 0 else error
    return float("inf") if math.isnan(found) else found  # no number is no agreement
