"""ONNX files written with nothing but numpy: the few messages of onnx.proto that a calibration network needs.

A device that calibrates itself has onnxruntime and numpy, but not the onnx package.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

OPSET = 20
IR_VERSION = 10

Attribute = int | float | str | Sequence[int]

_TENSOR_TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7}
_ATTRIBUTE_FLOAT, _ATTRIBUTE_INT, _ATTRIBUTE_STRING, _ATTRIBUTE_INTS = 1, 2, 3, 7


@dataclass(frozen=True)
class Node:
    """One ONNX node; ``inputs`` may hold empty names for what is left out."""

    op_type: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    name: str
    attributes: Mapping[str, Attribute] = field(default_factory=dict)


def model_bytes(
    name: str,
    nodes: Sequence[Node],
    initializers: Mapping[str, npt.NDArray[np.generic]],
    model_input: tuple[str, Sequence[int]],
    model_output: tuple[str, Sequence[int]],
) -> bytes:
    """A whole model with one float32 input and one float32 output, each a name and a shape."""
    graph = b"".join(_message(1, _node(node)) for node in nodes)
    graph += _text(2, name)
    graph += b"".join(_message(5, _tensor(key, value)) for key, value in initializers.items())
    graph += _message(11, _value(*model_input)) + _message(12, _value(*model_output))
    return _number(1, IR_VERSION) + _message(7, graph) + _message(8, _text(1, "") + _number(2, OPSET))


def _node(node: Node) -> bytes:
    data = b"".join(_text(1, i) for i in node.inputs) + b"".join(_text(2, o) for o in node.outputs)
    data += _text(3, node.name) + _text(4, node.op_type)
    return data + b"".join(_message(5, _attribute(key, value)) for key, value in node.attributes.items())


def _attribute(name: str, value: Attribute) -> bytes:
    data = _text(1, name)
    if isinstance(value, float):
        return data + _key(2, 5) + struct.pack("<f", value) + _number(20, _ATTRIBUTE_FLOAT)
    if isinstance(value, int):
        return data + _number(3, value) + _number(20, _ATTRIBUTE_INT)
    if isinstance(value, str):
        return data + _text(4, value) + _number(20, _ATTRIBUTE_STRING)
    return data + b"".join(_number(8, item) for item in value) + _number(20, _ATTRIBUTE_INTS)


def _tensor(name: str, values: npt.NDArray[np.generic]) -> bytes:
    data = b"".join(_number(1, size) for size in values.shape)
    return data + _number(2, _TENSOR_TYPES[str(values.dtype)]) + _text(8, name) + _message(9, values.tobytes())


def _value(name: str, shape: Sequence[int]) -> bytes:
    dimensions = b"".join(_message(1, _number(1, size)) for size in shape)
    return _text(1, name) + _message(2, _message(1, _number(1, _TENSOR_TYPES["float32"]) + _message(2, dimensions)))


def _key(number: int, wire_type: int) -> bytes:
    return _varint(number << 3 | wire_type)


def _number(number: int, value: int) -> bytes:
    return _key(number, 0) + _varint(value)


def _text(number: int, value: str) -> bytes:
    return _message(number, value.encode())


def _message(number: int, data: bytes) -> bytes:
    return _key(number, 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    value &= 0xFFFF_FFFF_FFFF_FFFF  # negative numbers take all ten bytes, as protobuf has them
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)
