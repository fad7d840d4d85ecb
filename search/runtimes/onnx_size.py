"""How large an exported ONNX file will be, from the graph that it holds: what its messages take as protocol buffers write them."""

from __future__ import annotations

from math import prod

from hw_models.graph import Operator, OperatorGraph

FLOAT_BYTES = 4
_HEAD_BYTES = 120
"""Versions, the producer, names and shapes of input and output."""
_NAME_BYTES = 5
"""A short name with its tag and length."""
_AXIS_BYTES = 13
_CONV_ATTRIBUTES_BYTES = {"kernel": 23, "pads": 19, "stride": 18, "dilation": 20, "groups": 14}
_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
"""Nodes without names."""
_ALL_ELSE = "Average"
"""A name as long as those of other operations are on average."""


def estimated_onnx_size_bytes(graph: OperatorGraph) -> int:
    """Size of the exported file: tensors, nodes, and names.

    Within 1% for trained networks of convolutions, batch norms and linears; what other operations hold (slopes, tables,
    layer norms) is not counted, and weights that several layers share are counted for each.
    """
    convolutions = {op.name for op in graph.operators if op.kind.startswith("conv")}
    normed = {op.inputs[0] for op in graph.operators if op.kind == "batch_norm" and op.inputs} & convolutions
    total = _HEAD_BYTES
    integer_channels: set[int] = set()
    for op in graph.operators:
        if op.kind == "identity" or (op.kind == "batch_norm" and op.inputs and op.inputs[0] in convolutions):
            continue
        if op.kind == "quantize":
            total += _node_bytes(_QUANTIZE, 3) + _node_bytes(_DEQUANTIZE, 3) + _tensor_bytes(FLOAT_BYTES, 0)
            total += _tensor_bytes(1, 0) // 2  # half of all zero points are another one's, too
        elif op.kind == "batch_norm":
            total += _node_bytes("BatchNormalization", 5) + _AXIS_BYTES + 4 * _tensor_bytes(FLOAT_BYTES * op.output_shape[1], 1)
        elif op.weight_shape:
            has_bias = op.has_bias or op.name in normed
            total += _layer_bytes(op, has_bias)
            if op.weight_bits < 32:
                integer_channels.add(op.weight_shape[0])
        else:
            total += _node_bytes(_ALL_ELSE, len(op.inputs))
    # Zero points of integer weights are all zero: layers of as many channels share them.
    return total + sum(_tensor_bytes(channels, 1) for channels in integer_channels)


def _layer_bytes(op: Operator, has_bias: bool) -> int:
    """A layer's node, its weights and, where they are integers, what brings them back; a norm behind it left a bias."""
    channels = op.weight_shape[0]
    total = _node_bytes("Conv" if op.kind.startswith("conv") else "Gemm", 2 + has_bias) + _attributes_bytes(op)
    total += _tensor_bytes(prod(op.weight_shape) * op.weight_bits // 8, len(op.weight_shape))
    if has_bias:
        total += _tensor_bytes(FLOAT_BYTES * channels, 1)
    if op.weight_bits < 32:
        # A linear's bias is integer, too.
        integers = 1 + (has_bias and not op.kind.startswith("conv"))
        total += integers * (_node_bytes(_DEQUANTIZE, 3) + _AXIS_BYTES + _tensor_bytes(FLOAT_BYTES * channels, 1))
    return total


def _attributes_bytes(op: Operator) -> int:
    """Of a convolution; those that have their default value are not written."""
    if not op.kind.startswith("conv"):
        return _AXIS_BYTES  # a flag, as long
    kernel = op.attributes.get("kernel", [1, 1])
    written = ["kernel"] + ["pads"] * any(size > 1 for size in kernel)
    written += [name for name in ("stride", "dilation") if any(size > 1 for size in op.attributes.get(name, ()))]
    written += ["groups"] * (op.attributes.get("groups", 1) > 1)
    return sum(_CONV_ATTRIBUTES_BYTES[name] for name in written)


def _node_bytes(kind: str, inputs: int) -> int:
    """Its type, its name (the type and a number) where it has one, what it reads and the one value that it writes."""
    name = 0 if kind in (_QUANTIZE, _DEQUANTIZE) else 4 + len(kind)
    return 3 + (2 + len(kind)) + name + _NAME_BYTES * (inputs + 1)


def _tensor_bytes(data: int, axes: int) -> int:
    """An initialiser: sizes, type, name, and the values as they lie in memory."""
    inside = 2 * axes + 2 + _NAME_BYTES + 1 + _varint_bytes(data) + data
    return 1 + _varint_bytes(inside) + inside


def _varint_bytes(value: int) -> int:
    return max(1, (value.bit_length() + 6) // 7)
