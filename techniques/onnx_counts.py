"""What an ONNX file holds and does, counted on the file itself: parameters and multiply-accumulates of one image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

import onnx

from techniques.errors import UnsupportedNetworkError

_WEIGHT_TYPES = frozenset({onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16})
_KEEPS_SHAPE = frozenset({"GroupNormalization"})
"""Operations whose output has their input's shape, and that ONNX's own inference stops at."""
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear")
_SETTINGS = {"Resize": (1, 2, 3), "Clip": (1, 2), "Pad": (1, 2, 3), "Upsample": (1,)}
"""Inputs that say how an operation works, not what it computes with."""
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class FileCounts:
    """Counts of one file; an original and what it was compressed to are counted alike.

    Attributes:
        macs: multiply-accumulates of one image in convolutions, transposed ones and matrix products.
        parameters: stored numbers that outputs are computed with: weights, biases and scales of norms, of whatever width. Not
            counted are the steps and zero points of quantisation, single numbers without a dimension (an epsilon, a bound), sizes
            and axes.
    """

    macs: int
    parameters: int


def count_file(data: bytes) -> FileCounts:
    """Count a file as `techniques.export.to_onnx` writes it.

    Raises:
        UnsupportedNetworkError: the shape of a convolution or product does not follow from the file.
    """
    model = onnx.load_from_string(data)
    parameters = _parameters(model.graph)
    shapes = _shapes(model)
    return FileCounts(sum(_node_macs(node, shapes) for node in model.graph.node), parameters)


def _shapes(model: onnx.ModelProto) -> Shapes:
    """Of every value for one image, as far as they follow from the file; norms that inference stops at are taken out of it."""
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    for node in model.graph.node:
        if node.op_type in _KEEPS_SHAPE:
            node.CopyFrom(onnx.helper.make_node("Identity", node.input[:1], node.output[:1]))
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {value.name: _dimensions(value) for value in [*graph.input, *graph.value_info, *graph.output]}
    return shapes | {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}


def _dimensions(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """0 stands for a size that is not known."""
    return tuple(int(dim.dim_value) for dim in value.type.tensor_type.shape.dim)


def _node_macs(node: onnx.NodeProto, shapes: Shapes) -> int:
    rule = _MACS.get(node.op_type)
    if rule is None:
        return 0
    try:
        macs = rule([shapes[name] for name in node.input[:2]], shapes[node.output[0]], node)
    except (KeyError, IndexError):
        macs = 0
    if not macs:
        raise UnsupportedNetworkError(f"the sizes of {node.op_type} {node.name!r} do not follow from the exported file")
    return macs


def _conv(inputs: list[tuple[int, ...]], output: tuple[int, ...], _node: onnx.NodeProto) -> int:
    return prod(output) * prod(inputs[1][1:])


def _conv_transpose(inputs: list[tuple[int, ...]], _output: tuple[int, ...], _node: onnx.NodeProto) -> int:
    return prod(inputs[0]) * prod(inputs[1][1:])


def _gemm(inputs: list[tuple[int, ...]], output: tuple[int, ...], node: onnx.NodeProto) -> int:
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    return prod(output) * inputs[0][0 if transposed else 1]


def _matmul(inputs: list[tuple[int, ...]], output: tuple[int, ...], _node: onnx.NodeProto) -> int:
    return prod(output) * inputs[0][-1]


_MACS: Mapping[str, Callable[[list[tuple[int, ...]], tuple[int, ...], onnx.NodeProto], int]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
}


def _parameters(graph: onnx.GraphProto) -> int:
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    counted: set[str] = set()
    for node in graph.node:
        settings = (1, 2) if node.op_type in _QUANTIZED else _SETTINGS.get(node.op_type, ())
        for index, name in enumerate(node.input):
            tensor = tensors.get(name)
            if tensor is None or index in settings or not tensor.dims:
                continue
            if tensor.data_type in _WEIGHT_TYPES or node.op_type == "DequantizeLinear":
                counted.add(name)
    return sum(prod(tensors[name].dims) for name in counted)
