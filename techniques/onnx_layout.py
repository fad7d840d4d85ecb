"""Whether a file takes its images as ``(N, C, H, W)`` or, as TensorFlow and Keras write them, as ``(N, H, W, C)``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx

from techniques.errors import UnsupportedNetworkError

_CHANNELS = frozenset({1, 3, 4})
"""Grey, colours, colours with transparency."""
_TO_CHANNELS_FIRST = [0, 3, 1, 2]
_CHANNELS_FIRST = frozenset(
    {"Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "BatchNormalization"}
    | {"InstanceNormalization", "GroupNormalization", "LRN", "DepthToSpace", "SpaceToDepth"}
)
_NUMBER_BY_NUMBER = frozenset(
    {"Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Neg", "Abs", "Relu", "Sigmoid", "Tanh", "Clip", "Cast", "Identity", "Min", "Max"}
    | {"QuantizeLinear", "DequantizeLinear", "Reciprocal", "Dropout", "Pad"}
)
NOTE = "the file's input was (N, H, W, C); the network takes (N, C, H, W)"


def channels_last(graph: onnx.GraphProto, input_name: str, sizes: tuple[int, int, int]) -> bool:
    """Whether the file's three sizes behind the batch are height, width and channels.

    The first operators that know of channels tell; where there are none, the sizes do.

    Raises:
        UnsupportedNetworkError: both readings make sense.
    """
    first, last = sizes[0] in _CHANNELS, sizes[2] in _CHANNELS
    kinds = _first_operators(graph, input_name)
    if "channels first" in kinds or not last:
        return False
    if "transposed" in kinds or (not first and min(sizes[:2]) > sizes[2]):
        return True
    if first and sizes[0] == sizes[1] != sizes[2]:
        return True
    if first and sizes[0] == sizes[1] and sizes[2] > 1:
        raise UnsupportedNetworkError(
            f"input {input_name!r} is (N, {', '.join(map(str, sizes))}): it could be (N, C, H, W) or (N, H, W, C), and no operator "
            "tells; export the model with an input (N, C, H, W)"
        )
    return False


def _first_operators(graph: onnx.GraphProto, input_name: str) -> set[str]:
    """What the first operators that know of channels take the image for."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found, seen, open_names = set[str](), {input_name}, [input_name]
    while open_names:
        for node in readers.get(open_names.pop(), ()):
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == "Transpose" and _order(attributes) == _TO_CHANNELS_FIRST:
                found.add("transposed")
            elif node.op_type in _CHANNELS_FIRST:
                found.add("channels first")
            elif node.op_type in _NUMBER_BY_NUMBER and node.output and node.output[0] not in seen:
                seen.add(node.output[0])
                open_names.append(node.output[0])
    return found


def _order(attributes: Mapping[str, Any]) -> list[int]:
    order = attributes.get("perm", [])
    return [int(axis) for axis in order] if isinstance(order, list) else []
