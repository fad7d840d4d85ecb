"""Tensors that are made at each run: on the image's device, whatever device the export wrote down."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from techniques import graph_rewrites

aten = torch.ops.aten

_FILLED = {aten.zeros.default: 0, aten.ones.default: 1, aten.empty.memory_format: 0}
_LIKE = {aten.empty_like.default: aten.zeros_like.default, aten.new_empty.default: aten.new_zeros.default}
_CONVERTING = {aten.to.device, aten.to.dtype_layout, aten._to_copy.default, aten.to.dtype}


def follow_the_image(graph_module: fx.GraphModule) -> None:
    """Let what depends on the batch be made like the input, and drop devices from all other calls."""
    image = next(n for n in graph_module.graph.nodes if n.op == "placeholder")
    for node in graph_rewrites.calls(graph_module):
        value = node.meta.get("val")
        if node.target in _LIKE:
            node.target = _LIKE[node.target]
        if node.target in _CONVERTING and isinstance(value, Tensor):
            graph_rewrites.replace(graph_module, node, aten.to.dtype, (node.args[0], value.dtype))
        elif isinstance(value, Tensor) and (node.target in _FILLED or node.target is aten.full.default):
            fill = node.args[1] if node.target is aten.full.default else _FILLED[node.target]
            _replace(graph_module, node, aten.new_full.default, (image, node.args[0], fill), value.dtype)
        elif node.target in (aten.arange.default, aten.arange.start):
            _range(graph_module, node, image)
        elif node.kwargs.get("device") is not None and any(isinstance(a, fx.Node) for a in node.args):
            node.kwargs = {k: v for k, v in node.kwargs.items() if k not in ("device", "pin_memory", "layout")}


def _replace(graph_module: fx.GraphModule, node: fx.Node, target: Any, args: tuple[Any, ...], dtype: torch.dtype) -> None:
    graph_rewrites.replace(graph_module, node, target, args).kwargs = {"dtype": dtype}


def _range(graph_module: fx.GraphModule, node: fx.Node, image: fx.Node) -> None:
    """``arange`` up to the batch, as a running sum of ones."""
    value = node.meta.get("val")
    start = node.args[0] if node.target is aten.arange.start else 0
    if not isinstance(value, Tensor) or start != 0 or value.dtype != torch.int64:
        return
    with graph_module.graph.inserting_before(node):
        ones = graph_module.graph.call_function(aten.new_full.default, (image, [node.args[-1]], 1), {"dtype": torch.int64})
        counted = graph_module.graph.call_function(aten.cumsum.default, (ones, 0))
        graph_rewrites.replace(graph_module, node, aten.sub.Tensor, (counted, 1))
