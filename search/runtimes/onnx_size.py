"""How large an exported ONNX file will be, from the graph that it holds."""

from __future__ import annotations

from math import prod

from hw_models.graph import Operator, OperatorGraph

FLOAT_BYTES = 4
SCALE_AND_ZERO_BYTES = 5
"""Per output channel of an integer weight: a float32 scale and an int8 zero point."""
ONNX_NODE_BYTES = 60
"""A node with its values in a stripped file, on average over ResNet-20 in float32 and int8, pruned and not."""
_QUANTIZER_NODES = 2


def estimated_onnx_size_bytes(graph: OperatorGraph) -> int:
    """Size of the exported file: weights, scales of integer weights, and what nodes and names take."""
    normed = {op.inputs[0] for op in graph.operators if op.kind == "batch_norm" and op.inputs}
    nodes = weights = scales = 0
    for op in graph.operators:
        weights += _folded_weight_bytes(op, op.name in normed)
        if op.kind in ("identity", "batch_norm"):
            continue
        nodes += _QUANTIZER_NODES if op.kind == "quantize" else 1
        if op.weight_shape and op.weight_bits < 32:
            nodes += 1
            scales += SCALE_AND_ZERO_BYTES * op.weight_shape[0]
    return weights + scales + ONNX_NODE_BYTES * nodes


def _folded_weight_bytes(op: Operator, has_norm: bool) -> int:
    """A norm behind a convolution becomes part of it and leaves a bias."""
    if not op.weight_shape:
        return 0
    bias = FLOAT_BYTES * op.weight_shape[0] if op.has_bias or has_norm else 0
    return prod(op.weight_shape) * op.weight_bits // 8 + bias
