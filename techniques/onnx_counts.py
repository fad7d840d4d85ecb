"""What an ONNX file holds and does, counted on the file itself: parameters and multiply-accumulates of one image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from math import prod

import onnx

from techniques.errors import UnsupportedNetworkError
from techniques.network import TABLE

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
        macs: multiply-accumulates of one image in convolutions, transposed ones and matrix products (einsum's among them); a
            product with a table is another operation in disguise, such as a resize, and counts as little as that does.
        parameters: stored numbers that outputs are computed with: weights, biases and scales of norms, of whatever width. Not
            counted are the steps and zero points of quantisation, single numbers without a dimension (an epsilon, a bound), sizes
            and axes, and tables of the way of computing (`techniques.network.TABLE`).
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
    tables = {tensor.name for tensor in model.graph.initializer if tensor.name.startswith(TABLE)}
    return FileCounts(sum(_node_macs(node, shapes, tables) for node in model.graph.node), parameters)


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


def _node_macs(node: onnx.NodeProto, shapes: Shapes, tables: Set[str]) -> int:
    rule = _MACS.get(node.op_type)
    sole = node.op_type == "Einsum" and len(node.input) < 2  # a sum or a transposition
    if rule is None or sole or not tables.isdisjoint(node.input):
        return 0
    try:
        macs = rule([shapes[name] for name in node.input], shapes[node.output[0]], node)
    except (KeyError, IndexError, ValueError):
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


def _einsum(inputs: list[tuple[int, ...]], _output: tuple[int, ...], node: onnx.NodeProto) -> int:
    """Every combination of the indices is one product; a size that is not known (0) makes it unknown."""
    equation = next(onnx.helper.get_attribute_value(a).decode() for a in node.attribute if a.name == "equation")
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, inputs, strict=True):
        before, dots, behind = term.partition("...")
        free = len(shape) - len(before) - len(behind)
        labels = [*before, *(f"...{free - i}" for i in range(free if dots else 0)), *behind]
        for label, size in zip(labels, shape, strict=True):
            sizes[label] = size if sizes.get(label, 1) == 1 else sizes[label]
    return prod(sizes.values())


_MACS: Mapping[str, Callable[[list[tuple[int, ...]], tuple[int, ...], onnx.NodeProto], int]] = {
    "Conv": _conv,
    "Einsum": _einsum,
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
            if tensor is None or index in settings or not tensor.dims or name.startswith(TABLE):
                continue
            if tensor.data_type in _WEIGHT_TYPES or node.op_type == "DequantizeLinear":
                counted.add(name)
    return sum(prod(tensors[name].dims) for name in counted)
