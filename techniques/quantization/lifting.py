"""Finds quantised layers in a graph that was read from a file: integer weights and rounded activations become modules again."""

from __future__ import annotations

from typing import Any

import torch
import torch.ao.quantization.fx._decomposed  # registers torch.ops.quantized_decomposed
from torch import Tensor, fx, nn

from techniques import graph_rewrites
from techniques.quantization.layers import ActivationQuantizer, QuantizedConv2d, QuantizedLinear

aten, decomposed = torch.ops.aten, torch.ops.quantized_decomposed
_LAYERS = (aten.conv2d.default, aten.conv2d.padding, aten.linear.default)
_LEAVES = frozenset({"weight", "weight_scale", "weight_zero_point", "bias"})
_UNSIGNED, _SIGNED = (0, 255, torch.uint8), (-128, 127, torch.int8)


def lift_quantized(graph_module: fx.GraphModule) -> None:
    """Replace what `techniques.quantization` writes into a file by its modules; all else is left as it is."""
    built: dict[tuple[Any, ...], str] = {}
    for node in graph_rewrites.calls(graph_module):
        if node.target in _LAYERS:
            _lift_layer(graph_module, node, built)
        elif node.target is decomposed.quantize_per_tensor.default:
            _lift_activation(graph_module, node)
    graph_module.graph.eliminate_dead_code()


def _lift_activation(owner: fx.GraphModule, node: fx.Node) -> None:
    """A quantiser whose integers go nowhere but into the dequantisers with its own scale."""
    if len(node.args) != 6 or node.kwargs:
        return
    x, scale, zero_point, *kind = node.args
    readers = list(node.users)
    if tuple(kind) not in (_UNSIGNED, _SIGNED) or not readers:
        return
    if any(
        r.target is not decomposed.dequantize_per_tensor.default or r.args[1:] != node.args[1:] or r.kwargs.get("out_dtype")
        for r in readers
    ):
        return
    module = ActivationQuantizer(float(scale), int(zero_point), tuple(kind) == _UNSIGNED)  # type: ignore[arg-type]
    name = graph_rewrites.add_module(owner, f"{x.name}_quantizer", module)  # type: ignore[union-attr]
    call = graph_rewrites.replace(owner, readers[0], name, (x,))
    for reader in readers[1:]:
        reader.replace_all_uses_with(call)
        owner.graph.erase_node(reader)
    owner.graph.erase_node(node)


def _lift_layer(owner: fx.GraphModule, node: fx.Node, built: dict[tuple[Any, ...], str]) -> None:
    """A convolution or linear whose weight is dequantised per output channel."""
    x, weight, *rest = node.args
    bias = rest[0] if rest else None
    tensors = _integers(owner, weight)
    stored_bias = isinstance(bias, fx.Node) and bias.op == "get_attr"
    if tensors is None or not (bias is None or stored_bias) or node.kwargs:
        return
    bias_values = graph_rewrites.attribute(owner, bias) if isinstance(bias, fx.Node) else None
    key = (node.target, weight.args[:2], bias.target if isinstance(bias, fx.Node) else None, str(rest[1:]))  # type: ignore[union-attr]
    if key not in built:
        module = _linear(tensors[0]) if node.target is aten.linear.default else _conv(tensors[0], rest)
        for leaf, tensor in zip(("weight", "weight_scale", "weight_zero_point"), tensors, strict=True):
            module.register_buffer(leaf, tensor)
        module.bias = None if bias_values is None else nn.Parameter(bias_values.detach(), requires_grad=False)  # type: ignore[assignment]
        built[key] = _put(owner, node, str(weight.args[0].target), module)  # type: ignore[union-attr]
    graph_rewrites.replace(owner, node, built[key], (x,))


def _integers(owner: fx.GraphModule, weight: Any) -> tuple[Tensor, Tensor, Tensor] | None:
    """Integers, scales and zero points of a dequantised weight, where they are what `QuantizedConv2d` holds."""
    if not isinstance(weight, fx.Node) or weight.target is not decomposed.dequantize_per_channel.default:
        return None
    sources, axis = weight.args[:3], weight.args[3]
    if axis != 0 or not all(isinstance(s, fx.Node) and s.op == "get_attr" for s in sources):
        return None
    integers, scale, zero_point = (graph_rewrites.attribute(owner, s) for s in sources)  # type: ignore[arg-type]
    if integers.dtype != torch.int8 or scale.dtype != torch.float32 or bool(zero_point.any()):
        return None
    return integers, scale, zero_point


def _conv(weight: Tensor, rest: list[Any]) -> nn.Module:
    defaults: list[Any] = [None, [1, 1], [0, 0], [1, 1], 1]
    _, stride, padding, dilation, groups = rest + defaults[len(rest) :]
    module = QuantizedConv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        _pair(weight.shape[2:]),
        _pair(stride),
        padding if isinstance(padding, str) else _pair(padding),
        _pair(dilation),
        groups,
        bias=False,
        device="meta",
    )
    del module._parameters["weight"]
    return module


def _linear(weight: Tensor) -> nn.Module:
    module = QuantizedLinear(weight.shape[1], weight.shape[0], False, device="meta")
    del module._parameters["weight"]
    return module


def _pair(value: Any) -> tuple[int, int]:
    items = list(value) if not isinstance(value, int) else [value]
    return int(items[0]), int(items[-1])


def _put(owner: fx.GraphModule, node: fx.Node, weight_path: str, module: nn.Module) -> str:
    """Where the weight stood in the file, if that is free."""
    path, _, leaf = weight_path.rpartition(".")
    holder = owner.get_submodule(path) if path else owner
    stored = {*holder._parameters, *holder._buffers}
    if not path or leaf != "weight" or isinstance(holder, QuantizedConv2d | QuantizedLinear) or not stored <= _LEAVES:
        return graph_rewrites.add_module(owner, node.name, module)
    parent, _, name = path.rpartition(".")
    setattr(owner.get_submodule(parent), name, module)
    return path
