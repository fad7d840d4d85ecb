"""Shapes of every value in a network's graph, found on meta tensors (no arithmetic, a few milliseconds)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from techniques.errors import TechniqueError
from techniques.network import Network


def node_shapes(network: Network, batch: int = 1) -> dict[str, tuple[int, ...]]:
    """Output shape, batch first, of every graph node that yields a tensor.

    Raises:
        TechniqueError: the graph does not run at this size; the message names the node.
    """
    meta = network if network.is_meta else network.to_meta()
    recorder = _ShapeRecorder(meta.graph)
    with torch.no_grad():
        recorder.run(torch.empty(batch, *network.input_shape, device="meta"))
    return recorder.shapes


def layer_macs(network: Network, shapes: Mapping[str, tuple[int, ...]] | None = None) -> dict[str, int]:
    """Multiply-accumulates of one image per convolution and linear, by qualified name; a layer called twice counts twice."""
    shapes = node_shapes(network) if shapes is None else shapes
    macs: dict[str, int] = {}
    for node, module in network.module_calls():
        if isinstance(module, nn.Conv2d | nn.Linear):
            positions = torch.Size(shapes[node.name]).numel() // module.weight.shape[0]
            name = str(node.target)
            macs[name] = macs.get(name, 0) + positions * module.weight.numel()
    return macs


_SHAPE_KEEPING = frozenset({"relu", "relu6", "hardtanh", "hardswish", "hardsigmoid", "sigmoid", "silu", "gelu", "tanh", "dropout"})


class _ShapeRecorder(fx.Interpreter):
    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.shapes: dict[str, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        kept = self._kept(n)
        try:
            value = super().run_node(n) if kept is None else kept
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else repr(error)
            raise TechniqueError(f"node {n.name} ({n.target}) does not run on these shapes: {reason}") from error
        if isinstance(value, Tensor):
            self.shapes[n.name] = tuple(int(size) for size in value.shape)
        return value

    def _kept(self, n: fx.Node) -> Tensor | None:
        """The input of an operation that keeps shapes: torch's own meta kernels of these cost most of the time."""
        if n.op == "call_module":
            keeps = isinstance(self.fetch_attr(str(n.target)), nn.BatchNorm2d)
        else:
            parts = str(n.target).split(".") if n.op == "call_function" else []
            keeps = len(parts) == 3 and parts[0] == "aten" and parts[1].rstrip("_") in _SHAPE_KEEPING
        value = self.env.get(n.args[0]) if keeps and n.args and isinstance(n.args[0], fx.Node) else None
        return value if isinstance(value, Tensor) else None
