"""Between which numbers a node's values lie, whatever the images: outputs that stay within 0 and 1 are probabilities.

Interval arithmetic over what stands behind a network's last activations: several heads joined, clipping, averages, one minus.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

from torch import fx, nn

Bounds = tuple[float, float]
UNBOUNDED: Bounds = (-math.inf, math.inf)
_MODULES: Mapping[type[nn.Module], Bounds] = {
    nn.Sigmoid: (0.0, 1.0), nn.Hardsigmoid: (0.0, 1.0), nn.Softmax: (0.0, 1.0), nn.Softmax2d: (0.0, 1.0),
    nn.Tanh: (-1.0, 1.0), nn.ReLU: (0.0, math.inf),
}  # fmt: skip
_FUNCTIONS: Mapping[str, Bounds] = {
    "sigmoid": (0.0, 1.0), "hardsigmoid": (0.0, 1.0), "softmax": (0.0, 1.0), "_softmax": (0.0, 1.0),
    "tanh": (-1.0, 1.0), "relu": (0.0, math.inf), "log_softmax": (-math.inf, 0.0), "_log_softmax": (-math.inf, 0.0),
}  # fmt: skip
_SAME = frozenset(
    {
        "flatten", "view", "reshape", "_unsafe_view", "squeeze", "unsqueeze", "contiguous", "clone", "alias", "detach", "_to_copy",
        "to", "select", "slice", "narrow", "permute", "transpose", "t", "expand", "mean", "amax", "amin", "max_pool2d",
        "avg_pool2d", "adaptive_avg_pool2d", "index_select", "flip",
    }
)  # fmt: skip
_ARITHMETIC: Mapping[str, Callable[[float, float], float]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv, "rsub": lambda a, b: b - a,
}  # fmt: skip
_SAME_MODULES = (nn.Flatten, nn.Identity, nn.Unflatten, nn.Dropout, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.MaxPool2d)


def bounds_of(root: nn.Module, value: Any, known: dict[fx.Node, Bounds] | None = None) -> Bounds:
    """Of a node of a lifted graph, or of a number; unbounded where nothing is known.

    Args:
        root: what the graph calls its modules on.
    """
    known = {} if known is None else known
    if isinstance(value, bool | int | float):
        return float(value), float(value)
    if not isinstance(value, fx.Node):
        return UNBOUNDED
    if value not in known:
        known[value] = UNBOUNDED  # while it is being found out
        known[value] = _of_node(root, value, known)
    return known[value]


def within(bounds: Bounds, low: float = 0.0, high: float = 1.0) -> bool:
    """Whether all values lie between the two, ends included."""
    return low <= bounds[0] and bounds[1] <= high


def _of_node(root: nn.Module, node: fx.Node, known: dict[fx.Node, Bounds]) -> Bounds:
    if node.op == "get_attr":
        return _of_constant(root, str(node.target))
    if node.op == "call_module":
        module = root.get_submodule(str(node.target))
        if isinstance(module, _SAME_MODULES):
            return bounds_of(root, node.args[0], known)
        if isinstance(module, nn.Hardtanh):  # ReLU6 is one
            return float(module.min_val), float(module.max_val)
        return _MODULES.get(type(module), UNBOUNDED)
    name = operation(node)
    if name in _SAME and node.args:
        return bounds_of(root, node.args[0], known)
    if name in ("cat", "concat", "stack") and isinstance(node.args[0], list | tuple):
        parts = [bounds_of(root, part, known) for part in node.args[0]]
        return min(low for low, _ in parts), max(high for _, high in parts)
    if name == "exp":
        low, high = bounds_of(root, node.args[0], known)
        return (math.exp(low), math.exp(high)) if high <= 0 else (0.0, math.inf)
    if name == "reciprocal":
        low, high = bounds_of(root, node.args[0], known)
        return (1 / high, 1 / low) if low > 0 else UNBOUNDED
    if is_share(node) and bounds_of(root, node.args[0], known)[0] >= 0:
        return 0.0, 1.0
    if name in ("clamp", "clip"):
        return _clamped(root, node, known)
    if name in _ARITHMETIC and len(node.args) == 2 and not node.kwargs:  # ``alpha`` and rounding make something else of it
        return _combined(_ARITHMETIC[name], *(bounds_of(root, one, known) for one in node.args[:2]))
    return _FUNCTIONS.get(name, UNBOUNDED)


def is_share(node: fx.Node) -> bool:
    """Whether a node is values over their own sum."""
    if operation(node) != "div" or len(node.args) != 2 or node.kwargs:
        return False
    over = node.args[1]
    return isinstance(over, fx.Node) and operation(over) == "sum" and over.args[0] is node.args[0]


def _of_constant(root: nn.Module, name: str) -> Bounds:
    parent, _, leaf = name.rpartition(".")
    tensor = getattr(root.get_submodule(parent), leaf, None)
    if tensor is None or isinstance(tensor, nn.Parameter) or tensor.is_meta or not tensor.numel():
        return UNBOUNDED
    return float(tensor.min()), float(tensor.max())


def _clamped(root: nn.Module, node: fx.Node, known: dict[fx.Node, Bounds]) -> Bounds:
    low, high = bounds_of(root, node.args[0], known)
    ends = [node.args[i] if len(node.args) > i else node.kwargs.get(name) for i, name in ((1, "min"), (2, "max"))]
    least, most = (None if end is None else bounds_of(root, end, known) for end in ends)
    if least is not None:
        low, high = max(low, least[0]), max(high, least[1])
    if most is not None:
        low, high = min(low, most[0]), min(high, most[1])
    return low, high


def _combined(function: Callable[[float, float], float], first: Bounds, second: Bounds) -> Bounds:
    if function is operator.truediv and second[0] <= 0 <= second[1]:
        return UNBOUNDED
    corners = [function(a, b) for a in first for b in second]
    return UNBOUNDED if any(math.isnan(one) for one in corners) else (min(corners), max(corners))


def operation(node: fx.Node) -> str:
    """Name of an ATen operation, of a function or of a method; empty for modules and constants."""
    if node.op == "call_method":
        return str(node.target)
    if node.op != "call_function":
        return ""
    parts = str(node.target).split(".")
    name = parts[1] if len(parts) >= 2 and parts[0] == "aten" else getattr(node.target, "__name__", "")
    return str(name).rstrip("_")
