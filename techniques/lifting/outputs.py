"""The form of a network's output."""

from __future__ import annotations

import torch
from torch import fx

from techniques import graph_rewrites


def flatten_output(graph_module: fx.GraphModule) -> list[str]:
    """Turn an output ``(batch, n, 1, 1)`` into ``(batch, n)``; returns a note when it did."""
    output = next(n for n in graph_module.graph.nodes if n.op == "output")
    value = output.args[0]
    while isinstance(value, list | tuple | dict):
        value = next(iter(value.values())) if isinstance(value, dict) else value[0]
    shape = graph_rewrites.shape_of(value)
    if not isinstance(value, fx.Node) or len(shape) != 4 or [str(s) for s in shape[2:]] != ["1", "1"]:
        return []
    with graph_module.graph.inserting_before(output):
        flat = graph_module.graph.call_function(torch.ops.aten.flatten.using_ints, (value, 1))
    flat.meta = {"nn_module_stack": value.meta.get("nn_module_stack")}
    output.args = (flat,)
    return [f"an output of {shape[1]} maps of one position is read as {shape[1]} numbers"]
