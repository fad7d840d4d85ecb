"""Where quantisers go, so that runtimes find integer kernels: on both sides of layers, sums, pools and concatenations.

A quantiser sits behind the ReLU (or ReLU6) that follows a layer, never between the two. Operations that only move or
select values keep the scale of their input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx

from techniques.head import FINAL_ACTIVATIONS
from techniques.network import Network

_FUSED_ACTIVATIONS = frozenset({"relu", "hardtanh", "relu6", "clamp"})
_SAME_SCALE = frozenset(
    {
        "max_pool2d",
        "flatten",
        "view",
        "reshape",
        "permute",
        "transpose",
        "chunk",
        "split",
        "slice",
        "contiguous",
        "squeeze",
        "unsqueeze",
    }
)
_TO_THE_END = _SAME_SCALE | FINAL_ACTIVATIONS.keys()
_INTEGER = frozenset({"add", "cat", "adaptive_avg_pool2d", "avg_pool2d", "mean", "mul"}) | _SAME_SCALE


@dataclass(frozen=True)
class Placement:
    """Nodes whose values are quantised, in execution order.

    Attributes:
        points: node name to the node whose scale it uses (itself, or the input of a value-moving operation).
    """

    points: Mapping[str, str]


def operation(node: fx.Node) -> str:
    """Name of an ATen operation without namespace, overload and in-place mark; empty for other nodes."""
    parts = str(node.target).split(".") if node.op == "call_function" else []
    return parts[1].rstrip("_") if len(parts) >= 2 and parts[0] == "aten" else ""


def place(network: Network, layers: frozenset[str], shapes: Mapping[str, tuple[int, ...]]) -> Placement:
    """Choose the quantised values for the given layers (qualified names)."""
    points: dict[str, str] = {}
    for node in network.graph.graph.nodes:
        if node.name not in shapes or not node.users or _before_activation(node):
            continue
        feeds_layer = any(user.op == "call_module" and str(user.target) in layers for user in node.users)
        if feeds_layer or (not _reaches_output(node) and (_from_layer(node, layers) or _keeps_integers(node, points))):
            points[node.name] = _scale_owner(node, points)
    return Placement(points)


def _before_activation(node: fx.Node) -> bool:
    """Whether the only reader is an activation that fuses into the layer or sum."""
    users = list(node.users)
    makes_values = node.op == "call_module" or operation(node) == "add"
    return len(users) == 1 and makes_values and operation(users[0]) in _FUSED_ACTIVATIONS and _starts_at_zero(users[0])


def _starts_at_zero(activation: fx.Node) -> bool:
    """Whether the activation's lower bound is 0, as an unsigned range's is."""
    return operation(activation) in ("relu", "relu6") or (len(activation.args) > 1 and activation.args[1] in (0, 0.0))


def _behind_activation(node: fx.Node) -> fx.Node:
    if operation(node) in _FUSED_ACTIVATIONS and node.all_input_nodes:
        source = node.all_input_nodes[0]
        return source if _before_activation(source) else node
    return node


def _from_layer(node: fx.Node, layers: frozenset[str]) -> bool:
    source = _behind_activation(node)
    return source.op == "call_module" and str(source.target) in layers


def _keeps_integers(node: fx.Node, points: Mapping[str, str]) -> bool:
    source = _behind_activation(node)
    inputs = source.all_input_nodes
    if operation(source) in ("add", "mul") and len(inputs) < 2:
        return False
    return operation(source) in _INTEGER and bool(inputs) and all(i.name in points for i in inputs)


def _reaches_output(node: fx.Node) -> bool:
    """Whether the value goes to the output alone, at most reshaped or as probability: logits stay float."""
    users = list(node.users)
    return bool(users) and all(u.op == "output" or (operation(u) in _TO_THE_END and _reaches_output(u)) for u in users)


def _scale_owner(node: fx.Node, points: Mapping[str, str]) -> str:
    if operation(node) in _SAME_SCALE and node.all_input_nodes and node.all_input_nodes[0].name in points:
        return points[node.all_input_nodes[0].name]
    return node.name
