"""Operations that ONNX has no form for, or that ONNX Runtime computes otherwise, written as operations that mean the same to both.

- Average pools with a divisor of their own: ONNX has none, and the exporter drops it without a word.
- Average pools whose windows hang over the edge (``ceil_mode``): ONNX Runtime's integer kernel divides by the whole window. They
  become a padded pool times a constant map, which never runs on integers; where no window hangs over, the mode is dropped.
- Antialiased resizes by a scale that gives no whole size: the exporter passes the size alone, and the two scales differ. A resize
  is linear in each axis, so that it becomes two constant matrices.

Sizes are those of the file: maps and matrices are made for the network's input shape.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from techniques.network import TABLE, Network
from techniques.quantization.placement import operation
from techniques.shapes import node_shapes

aten = torch.ops.aten
_ANTIALIASED = ("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa")


def exact_operations(network: Network) -> Network:
    """The same network in operations that keep their meaning in the file; edited in place, not rebuilt."""
    names = {"avg_pool2d": _pool, **dict.fromkeys(_ANTIALIASED, _resize)}
    found = [node for node in network.graph.graph.nodes if operation(node) in names]
    if found:
        shapes = node_shapes(network)
        for node in found:
            names[operation(node)](network, node, shapes)
    return network


def _constant(network: Network, node: fx.Node, value: Tensor) -> fx.Node:
    name = f"{TABLE}_{node.name}"
    while hasattr(network.graph, name):
        name += "_"
    network.graph.register_buffer(name, value)
    return network.graph.graph.get_attr(name)


def _pair(value: Any) -> list[int]:
    both = [value, value] if isinstance(value, int) else list(value)
    return both * 2 if len(both) == 1 else both


def _pool(network: Network, node: fx.Node, shapes: dict[str, tuple[int, ...]]) -> None:
    arguments = _named(node)
    kernel, divisor, count_padding = _pair(arguments["kernel_size"]), arguments["divisor_override"], arguments["count_include_pad"]
    stride, padding = _pair(arguments["stride"] or kernel), _pair(arguments["padding"])
    source = node.args[0]
    assert isinstance(source, fx.Node)  # the image that is pooled
    size, out = shapes[source.name][2:], shapes[node.name][2:]
    over = [max(0, (out[a] - 1) * stride[a] + kernel[a] - size[a] - 2 * padding[a]) for a in (0, 1)]
    if divisor is None and not any(over):
        node.args, node.kwargs = (source, kernel, stride, padding, False, count_padding), {}
        return
    graph = network.graph.graph
    with graph.inserting_before(node):
        pads = [padding[1], padding[1] + over[1], padding[0], padding[0] + over[0]]
        padded = graph.call_function(aten.constant_pad_nd.default, (source, pads, 0.0)) if any(pads) else source
        sums = graph.call_function(aten.avg_pool2d.default, (padded, kernel, stride, [0, 0], False, True))
        # What torch divides a window of ones by is its sum over its average.
        ones = torch.ones(1, 1, *size)
        average = aten.avg_pool2d.default(ones, kernel, stride, padding, arguments["ceil_mode"], count_padding, divisor)
        share = aten.avg_pool2d.default(torch.nn.functional.pad(ones, pads), kernel, stride)
        factor = graph.call_function(aten.mul.Tensor, (sums, _constant(network, node, average / share)))
    node.replace_all_uses_with(factor)
    graph.erase_node(node)


def _resize(network: Network, node: fx.Node, shapes: dict[str, tuple[int, ...]]) -> None:
    source = node.args[0]
    if not isinstance(source, fx.Node) or _named(node).get("scale_factors") is None:
        return
    height, width = shapes[source.name][2:]
    target: Any = node.target
    tall = target(torch.eye(height).view(1, height, height, 1).expand(-1, -1, -1, width).contiguous(), *node.args[1:])[0, :, :, 0].T
    wide = target(torch.eye(width).view(1, width, 1, width).expand(-1, -1, height, -1).contiguous(), *node.args[1:])[0, :, 0, :]
    if tuple(tall.shape) == (height, height) and tuple(wide.shape) == (width, width):
        return
    graph = network.graph.graph
    with graph.inserting_before(node):
        across = graph.call_function(aten.matmul.default, (source, _constant(network, node, wide.contiguous())))
        both = graph.call_function(aten.matmul.default, (_constant(network, node, tall.contiguous()), across))
    node.replace_all_uses_with(both)
    graph.erase_node(node)


def _named(node: fx.Node) -> dict[str, Any]:
    """All arguments of an ATen call by name, defaults filled in."""
    schema = node.target._schema  # type: ignore[union-attr]
    named = {argument.name: argument.default_value for argument in schema.arguments if argument.has_default_value()}
    named |= dict(zip([argument.name for argument in schema.arguments], node.args, strict=False))
    return named | dict(node.kwargs)
