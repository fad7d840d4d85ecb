"""Norms written by hand, in several calls, become one module: layer norm over channels, and frozen batch norms.

A layer norm over channels is ``(x - mean) / sqrt(variance + eps)`` along axis 1 in any spelling (``pow`` or a product, ``var``
or a mean of squares, a division or ``rsqrt``), then a factor and a shift per channel; or a `LayerNorm` between two permutations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from techniques import graph_rewrites
from techniques.channel_ops import ChannelNorm

aten = torch.ops.aten

_TO_LAST, _TO_SECOND = [0, 2, 3, 1], [0, 3, 1, 2]
_VARIANCES = {aten.var.correction, aten.var.dim}
_BOTH = {aten.var_mean.correction, aten.var_mean.dim}


@dataclass(frozen=True)
class _Normalised:
    """A call that yields the normalised tensor: of what, and with which epsilon."""

    source: fx.Node
    eps: float


def lift_channel_norms(graph_module: fx.GraphModule) -> None:
    """Replace norms over axis 1 of maps, with what is learned per channel, by `ChannelNorm`."""
    for node in graph_rewrites.calls(graph_module):
        found = _normalised(node)
        if found is not None and len(graph_rewrites.shape_of(found.source)) == 4:
            _replace_written(graph_module, node, found)
    graph_module.graph.eliminate_dead_code()
    for node in list(graph_module.graph.nodes):
        if node.op == "call_module":
            _replace_permuted(graph_module, node)
    graph_module.graph.eliminate_dead_code()


def _normalised(node: fx.Node) -> _Normalised | None:
    """``(x - mean) / sqrt(variance + eps)``, or the same with ``rsqrt``."""
    if node.target is aten.div.Tensor and len(node.args) == 2:
        pairs = [(node.args[0], _root(node.args[1], 0.5))]
    elif node.target is aten.mul.Tensor:
        left, right = node.args
        pairs = [(left, _root(right, -0.5)), (right, _root(left, -0.5))]
    else:
        return None
    for centred, radicand in pairs:
        source = _centred(centred)
        if source is None or not isinstance(radicand, fx.Node) or radicand.target not in (aten.add.Tensor, aten.add.Scalar):
            continue
        variance, eps = radicand.args[:2]
        if isinstance(eps, int | float) and _is_variance(variance, source):
            return _Normalised(source, float(eps))
    return None


def _root(node: Any, power: float) -> Any:
    """What a square root (power 0.5), or its reciprocal (-0.5), is taken of."""
    if not isinstance(node, fx.Node):
        return None
    if node.target is aten.mul.Tensor and node.args[1] == 1:  # 1 / x is exported as its reciprocal times 1
        return _root(node.args[0], power)
    if node.target is aten.pow.Tensor_Scalar and node.args[1] == power:
        return node.args[0]
    if power == 0.5:
        return node.args[0] if node.target is aten.sqrt.default else None
    if node.target is aten.rsqrt.default:
        return node.args[0]
    return _root(node.args[0], 0.5) if node.target is aten.reciprocal.default else None


def _centred(node: Any) -> fx.Node | None:
    """``x`` of ``x - mean(x)`` along axis 1."""
    if not isinstance(node, fx.Node) or node.target is not aten.sub.Tensor or len(node.args) != 2 or node.kwargs:
        return None
    source, mean = node.args
    return source if isinstance(source, fx.Node) and _is_mean(mean, source) else None


def _is_mean(node: Any, source: fx.Node) -> bool:
    if not isinstance(node, fx.Node):
        return False
    if _is_part(node, 1):
        return _is_biased_variance(node.args[0], source)
    return node.target is aten.mean.dim and node.args[0] is source and _along_channels(node.args[1:])


def _is_part(node: fx.Node, position: int) -> bool:
    """A result of ``var_mean``."""
    parent = node.args[0] if node.args else None
    return isinstance(parent, fx.Node) and parent.target in _BOTH and bool(node.args[1] == position)


def _along_channels(args: Any) -> bool:
    """Axis 1, kept."""
    axes = list(args[0]) if args and isinstance(args[0], list | tuple) else []
    return axes in ([1], [-3]) and len(args) > 1 and args[1] is True


def _is_variance(node: Any, source: fx.Node) -> bool:
    if not isinstance(node, fx.Node):
        return False
    if _is_part(node, 0):
        return _is_biased_variance(node.args[0], source)
    if node.target in _VARIANCES:
        return _is_biased_variance(node, source)
    return node.target is aten.mean.dim and _along_channels(node.args[1:]) and _is_square(node.args[0], source)


def _is_square(node: Any, source: fx.Node) -> bool:
    """The square of ``x - mean``."""
    if not isinstance(node, fx.Node):
        return False
    if node.target in (aten.pow.Tensor_Scalar, aten.square.default):
        return bool(node.target is aten.square.default or node.args[1] == 2) and _centred(node.args[0]) is source
    return node.target is aten.mul.Tensor and node.args[0] is node.args[1] and _centred(node.args[0]) is source


def _is_biased_variance(node: Any, source: fx.Node) -> bool:
    schema = [a.name for a in node.target._schema.arguments]
    values = {**dict(zip(schema, node.args, strict=False)), **node.kwargs}
    unbiased = values.get("unbiased", values.get("correction", 1))
    axes = list(values.get("dim") or [])
    return node.args[0] is source and axes in ([1], [-3]) and values.get("keepdim") is True and unbiased in (False, 0)


def _replace_written(graph_module: fx.GraphModule, node: fx.Node, found: _Normalised) -> None:
    channels = int(graph_rewrites.shape_of(found.source)[1])
    last, weight = _absorbed(graph_module, node, aten.mul.Tensor, channels)
    last, bias = _absorbed(graph_module, last, aten.add.Tensor, channels)
    module = ChannelNorm(channels, weight, bias, found.eps)
    name = graph_rewrites.add_module(graph_module, f"{node.name}_norm", module)
    graph_rewrites.replace(graph_module, last, name, (found.source,))


def _absorbed(graph_module: fx.GraphModule, node: fx.Node, target: Any, channels: int) -> tuple[fx.Node, nn.Parameter | None]:
    """The next call, if it only scales (or shifts) by a parameter per channel that nothing else reads, and that parameter."""
    users = list(node.users)
    if len(users) != 1 or users[0].target is not target or users[0].kwargs or len(users[0].args) != 2:
        return node, None
    other = next((a for a in users[0].args if a is not node), None)
    if not isinstance(other, fx.Node) or other.op != "get_attr" or len(other.users) != 1:
        return node, None
    tensor = graph_rewrites.attribute(graph_module, other)
    if not isinstance(tensor, nn.Parameter) or tuple(tensor.shape) not in ((channels, 1, 1), (1, channels, 1, 1)):
        return node, None
    return users[0], nn.Parameter(tensor.detach().reshape(-1))


def _replace_permuted(graph_module: fx.GraphModule, node: fx.Node) -> None:
    """A `LayerNorm` over the last axis between two permutations that bring the channels there and back."""
    norm = graph_module.get_submodule(str(node.target))
    before = node.args[0]
    if type(norm) is not nn.LayerNorm or len(norm.normalized_shape) != 1 or not isinstance(before, fx.Node):
        return
    after = list(node.users)
    if not _permutes(before, _TO_LAST) or not after or not all(_permutes(user, _TO_SECOND) for user in after):
        return
    module = ChannelNorm(norm.normalized_shape[0], norm.weight, norm.bias, norm.eps)
    name = str(node.target)
    if sum(n.op == "call_module" and n.target == name for n in graph_module.graph.nodes) == 1:
        parent, _, leaf = name.rpartition(".")
        setattr(graph_module.get_submodule(parent), leaf, module)
    else:  # elsewhere it is called on another layout
        name = graph_rewrites.add_module(graph_module, f"{node.name}_channels", module)
    for user in after:
        graph_rewrites.replace(graph_module, user, name, (before.args[0],))


def _permutes(node: fx.Node, order: list[int]) -> bool:
    return node.target is aten.permute.default and bool([int(a) % 4 for a in node.args[1]] == order)  # type: ignore[union-attr,arg-type]


def fold_frozen_norms(graph_module: fx.GraphModule) -> None:
    """Fold a factor and a shift per channel that are no parameters (a frozen batch norm) into the convolution before them."""
    calls = [str(node.target) for node in graph_module.graph.nodes if node.op == "call_module"]
    for node in list(graph_module.graph.nodes):
        if node.op != "call_module" or calls.count(str(node.target)) != 1:
            continue
        conv = graph_module.get_submodule(str(node.target))
        if type(conv) is not nn.Conv2d:
            continue
        last, scale = _frozen(graph_module, node, aten.mul.Tensor, conv.out_channels)
        last, shift = _frozen(graph_module, last, aten.add.Tensor, conv.out_channels)
        if last is not node:
            _fold(conv, scale, shift)
            last.replace_all_uses_with(node)
    graph_module.graph.eliminate_dead_code()


def _frozen(graph_module: fx.GraphModule, node: fx.Node, target: Any, channels: int) -> tuple[fx.Node, Tensor | None]:
    users = list(node.users)
    if len(users) != 1 or users[0].target is not target or users[0].kwargs or len(users[0].args) != 2:
        return node, None
    other = next((a for a in users[0].args if a is not node), None)
    if not isinstance(other, fx.Node) or other.op != "get_attr":
        return node, None
    tensor = graph_rewrites.attribute(graph_module, other)
    if isinstance(tensor, nn.Parameter) or tuple(tensor.shape) not in ((channels, 1, 1), (1, channels, 1, 1)):
        return node, None
    return (users[0], tensor.reshape(-1).double()) if tensor.is_floating_point() else (node, None)


@torch.no_grad()
def _fold(conv: nn.Conv2d, scale: Tensor | None, shift: Tensor | None) -> None:
    weight, bias = conv.weight.double(), conv.bias.double() if conv.bias is not None else conv.weight.new_zeros(1).double()
    if scale is not None:
        weight, bias = weight * scale.reshape(-1, 1, 1, 1), bias * scale
    bias = (bias + shift if shift is not None else bias).expand(conv.out_channels)
    conv.weight, conv.bias = nn.Parameter(weight.to(conv.weight.dtype)), nn.Parameter(bias.to(conv.weight.dtype).contiguous())
