"""Normalisations. Their statistics and factors are constants of the file."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import fx

from techniques.onnx_graph import Converter, GraphBuilder, UnsupportedOperatorError
from techniques.onnx_operators.arguments import at, aten, number, shape


def _batch_norm(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    if attributes.get("training_mode", 0):
        raise UnsupportedOperatorError("training mode: export the model in evaluation mode")
    name = b.holder("batch_norm")
    leaves = ("weight", "bias", "running_mean", "running_var")
    weight, bias, mean, variance = (b.weight(v, f"{name}.{leaf}") for v, leaf in zip(inputs[1:5], leaves, strict=True))
    momentum = 1.0 - float(attributes.get("momentum", 0.9))
    epsilon = float(attributes.get("epsilon", 1e-5))
    return b.call(aten.batch_norm.default, inputs[0], weight, bias, mean, variance, False, momentum, epsilon, False)


def _layer_norm(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    sizes = list(shape(inputs[0])[int(attributes.get("axis", -1)) % len(shape(inputs[0])) :])
    name = b.holder("layer_norm")
    weight = b.weight(np.broadcast_to(inputs[1], sizes), f"{name}.weight")
    bias = b.weight(np.broadcast_to(inputs[2], sizes), f"{name}.bias") if at(inputs, 2) is not None else None
    return b.call(aten.layer_norm.default, inputs[0], sizes, weight, bias, float(attributes.get("epsilon", 1e-5)))


def _grouped(b: GraphBuilder, inputs: list[Any], groups: int, epsilon: float) -> fx.Node:
    """Statistics per image and group of channels; a factor per channel, or per group as before opset 21."""
    name, channels = b.holder("group_norm"), shape(inputs[0])[1]
    factors = [v.repeat(channels // v.size) if v.size < channels else v for v in inputs[1:3]]
    weight, bias = b.weight(factors[0], f"{name}.weight"), b.weight(factors[1], f"{name}.bias")
    return b.call(aten.group_norm.default, inputs[0], groups, weight, bias, epsilon)


def _instance_norm(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    return _grouped(b, inputs, shape(inputs[0])[1], float(attributes.get("epsilon", 1e-5)))


def _group_norm(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    return _grouped(b, inputs, int(attributes["num_groups"]), float(attributes.get("epsilon", 1e-5)))


def _local_response(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    """Krizhevsky et al. 2012, section 3.3, with the sum over neighbouring channels as a sum of shifted copies."""
    x, size = inputs[0], int(attributes["size"])
    alpha, beta, bias = (float(attributes.get(n, d)) for n, d in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    rank, channels = len(shape(x)), shape(x)[1]
    if not 1 <= size <= 64:
        raise UnsupportedOperatorError(f"a window of {size} channels; 1 to 64 are supported")
    edges = [0, 0] * (rank - 2) + [(size - 1) // 2, size - 1 - (size - 1) // 2]
    squares = b.call(aten.constant_pad_nd.default, b.call(aten.mul.Tensor, x, x), edges, 0.0)
    total = b.call(aten.slice.Tensor, squares, 1, 0, channels)
    for shift in range(1, size):
        total = b.call(aten.add.Tensor, total, b.call(aten.slice.Tensor, squares, 1, shift, shift + channels))
    scale = b.call(aten.add.Tensor, b.call(aten.mul.Tensor, total, alpha / size), bias)
    return b.call(aten.div.Tensor, x, b.call(aten.pow.Tensor_Scalar, scale, beta))


def _to_unit_length(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    x, axis, power = inputs[0], int(attributes.get("axis", -1)), int(attributes.get("p", 2))
    if power == 1:
        length = b.call(aten.sum.dim_IntList, b.call(aten.abs.default, x), [axis], True)
    else:
        squares = b.call(aten.sum.dim_IntList, b.call(aten.mul.Tensor, x, x), [axis], True)
        length = b.call(aten.sqrt.default, squares)
    return b.call(aten.div.Tensor, x, length)


def _dropout(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    return b.call(aten.dropout.default, inputs[0], number(at(inputs, 1, attributes.get("ratio", 0.5))), False)


NORMS: dict[str, Converter] = {
    "BatchNormalization": _batch_norm, "LayerNormalization": _layer_norm, "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm, "LRN": _local_response, "LpNormalization": _to_unit_length, "Dropout": _dropout,
}  # fmt: skip
