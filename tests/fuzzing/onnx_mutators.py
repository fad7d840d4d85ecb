"""ONNX models that reach for files, never end, or do not fit together."""

from __future__ import annotations

import copy
from random import Random
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.fuzzing.byte_mutators import EXTREMES
from tests.fuzzing.corpus import Corpus

_PATHS = ("/etc/passwd", "../../../etc/passwd", "/proc/self/environ", "weights.bin", "")
_OPERATORS = ("Add", "Resize", "Pad", "Slice", "Gather", "Concat", "Split", "Reshape", "Transpose", "MaxPool", "AveragePool",
"Clip",
              "BatchNormalization", "Expand", "Tile", "ConstantOfShape", "Loop", "If", "NonZero", "Einsum", "LSTM",
              "QuantizeLinear",
              "DequantizeLinear", "MatMul", "Pow", "Sqrt", "Unsqueeze", "ReduceMean", "LayerNormalization", "Softmax",
              "Unknown")  # fmt: skip


def external_data(random: Random, corpus: Corpus) -> bytes:
    """A tensor whose bytes lie in a file of the reader's machine."""
    model = _copy(corpus)
    tensor = model.graph.initializer[random.randrange(len(model.graph.initializer))]
    place = random.randrange(3)
    if place == 1:
        tensor = (
            model.graph.node.add(op_type="Constant", output=["leak"]).attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t
        )
    elif place == 2:
        attribute = model.graph.node.add(op_type="Constant", output=["leak"]).attribute.add(name="sparse_value")
        attribute.type = onnx.AttributeProto.SPARSE_TENSOR
        attribute.sparse_tensor.dims.append(16)
        attribute.sparse_tensor.indices.CopyFrom(numpy_helper.from_array(np.arange(4), "i"))
        tensor = attribute.sparse_tensor.values
    tensor.data_type = tensor.data_type or TensorProto.FLOAT
    tensor.dims.extend([] if tensor.dims else [4])
    tensor.ClearField("raw_data")
    if random.random() < 0.8:
        tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", random.choice(_PATHS)), ("offset", "0"), ("length", str(random.choice((16, -1, 10**12))))):
        tensor.external_data.add(key=key, value=value)
    return bytes(model.SerializeToString())


def lying_tensor(random: Random, corpus: Corpus) -> bytes:
    """Dimensions that are huge, negative or not those of the bytes; types that do not exist; weights that are no numbers."""
    model = _copy(corpus)
    tensor = model.graph.initializer[random.randrange(len(model.graph.initializer))]
    action = random.randrange(5)
    if action == 0:
        tensor.dims[:] = [_int64(random.choice(EXTREMES)) for _ in range(random.choice((0, 1, 4, 30)))]
    elif action == 1:
        tensor.data_type = random.choice((0, 8, 10, 16, 22, 99, 2**31 - 1))
    elif action == 2:
        tensor.raw_data = tensor.raw_data[: random.randrange(len(tensor.raw_data))]
    elif action == 3:
        values = numpy_helper.to_array(tensor).copy().astype(np.float32)
        values.reshape(-1)[0] = random.choice((np.nan, np.inf, 1e38))
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    else:
        tensor.string_data.extend([b"x"] * 9)
        tensor.float_data.extend([1.0] * random.choice((1, 500)))
    return bytes(model.SerializeToString())


def lying_input(random: Random, corpus: Corpus) -> bytes:
    """An input or output of another size, type or number."""
    model = _copy(corpus)
    value = random.choice((model.graph.input, model.graph.input, model.graph.output))
    kind = value[0].type.tensor_type
    action = random.randrange(5)
    if action == 0 and kind.shape.dim:
        kind.shape.dim[random.randrange(len(kind.shape.dim))].dim_value = _int64(random.choice(EXTREMES))
    elif action == 1:
        kind.elem_type = random.choice((0, 8, 10, 99))
    elif action == 2:
        value.add().CopyFrom(value[0])
    elif action == 3:
        value[0].type.Clear()
    else:
        del value[:]
    return bytes(model.SerializeToString())


def wrong_graph(random: Random, corpus: Corpus) -> bytes:
    """Edges that lead nowhere or in circles, nodes that are not in order, names that are there twice."""
    model = _copy(corpus)
    nodes = model.graph.node
    node = nodes[random.randrange(len(nodes))]
    action = random.randrange(7)
    if action == 0 and node.input:
        node.input[random.randrange(len(node.input))] = random.choice(("nothing", "", "logits", node.output[0]))
    elif action == 1:
        node.output[0] = random.choice(("image", "", "logits", "w1"))
    elif action == 2:
        del model.graph.initializer[random.randrange(len(model.graph.initializer))]
    elif action == 3:
        nodes.sort(key=lambda _: random.random())
    elif action == 4:
        node.op_type, node.domain = random.choice(_OPERATORS), random.choice(("", "", "ai.onnx.ml", "com.evil", "ai.onnx"))
    elif action == 5:
        del node.input[:]
    else:
        del node.output[:]
    return bytes(model.SerializeToString())


def wrong_attribute(random: Random, corpus: Corpus) -> bytes:
    """Strides of zero, kernels of a mile, groups that do not divide, attributes of another type."""
    model = _copy(corpus)
    node = model.graph.node[random.choice((0, 0, 4))]
    names = ("strides", "dilations", "pads", "kernel_shape", "group", "auto_pad", "alpha", "transB", "transA", "axis")
    value: Any = random.choice(
        ([0, 0], [-1, -1], [2**31, 2**31], [1] * 50, 0, -1, 2**62, 1e38, "SAME_UPPER", "evil", [1.5, 2.5], b"\xff", 7, [3, 3])
    )
    for name in random.sample(names, random.choice((1, 2))):
        for old in [a for a in node.attribute if a.name == name]:
            node.attribute.remove(old)
        node.attribute.append(helper.make_attribute(name, value))
    return bytes(model.SerializeToString())


def inserted_operator(random: Random, corpus: Corpus) -> bytes:
    """An operator with inputs of the wrong kind and number, some of which would make an endless tensor."""
    model = _copy(corpus)
    huge = numpy_helper.from_array(np.array([2**20, 2**20, 1, 1], np.int64), "huge")
    ones = numpy_helper.from_array(np.ones((1, 4, 1, 1), np.float32), "ones")
    index = numpy_helper.from_array(np.zeros(100_000, np.int64), "index")
    row = numpy_helper.from_array(np.zeros((1, 100_000), np.float32), "row")
    model.graph.initializer.extend([huge, ones, index, row])
    operator = random.choice(_OPERATORS)
    inputs = [random.choice(("r", "huge", "ones", "index", "row", "")) for _ in range(random.choice((1, 2, 3, 5)))]
    node = helper.make_node(operator, inputs, ["x"], **random.choice(({}, {"axis": 9}, {"perm": [9, 9]}, {"mode": "cubic"})))
    at = 2
    model.graph.node.insert(at, node)
    model.graph.node[at + 1].input[0] = "x"
    return bytes(model.SerializeToString())


def nested_graph(random: Random, corpus: Corpus) -> bytes:
    """Graphs in graphs in graphs."""
    inner = helper.make_graph([], "leaf", [], [])
    for _ in range(random.choice((1, 10, 28))):
        node = helper.make_node("If", ["image"], ["y"])
        node.attribute.append(helper.make_attribute("then_branch", inner))
        inner = helper.make_graph([node], "branch", [], [])
    model = _copy(corpus)
    model.graph.node.extend(inner.node)
    return bytes(model.SerializeToString())


def wrong_model(random: Random, corpus: Corpus) -> bytes:
    """Versions that do not exist, functions, training graphs, no graph at all."""
    model = _copy(corpus)
    action = random.randrange(6)
    if action == 0:
        model.opset_import[0].version = random.choice((0, -1, 1, 5, 9999, 2**62))
    elif action == 1:
        del model.opset_import[:]
    elif action == 2:
        model.ir_version = random.choice((0, -1, 1, 9999))
    elif action == 3:
        model.functions.add(name="Conv", domain="").output.append("y")
    elif action == 4:
        model.training_info.add().algorithm.CopyFrom(model.graph)
    else:
        model.ClearField("graph")
    return bytes(model.SerializeToString())


def many_nodes(count: int) -> bytes:
    """A chain of ``count`` nodes, written without building them all."""
    node = helper.make_node("Relu", ["image"], ["image"]).SerializeToString()
    graph = (b"\x0a" + _varint(len(node)) + node) * count
    return b"\x08\x08" + b"\x3a" + _varint(len(graph)) + graph


def long_chain(random: Random, corpus: Corpus) -> bytes:
    """More nodes than are taken."""
    return many_nodes(random.choice((50_001, 60_000)))


def _copy(corpus: Corpus) -> onnx.ModelProto:
    return copy.deepcopy(corpus.onnx)


def _int64(number: int) -> int:
    return (number + 2**63) % 2**64 - 2**63


def _varint(number: int) -> bytes:
    found = bytearray()
    while number >= 0x80:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])
