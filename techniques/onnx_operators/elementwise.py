"""Operators that work number by number: arithmetic, comparisons, activations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from onnx import TensorProto
from torch import fx

from techniques.onnx_graph import Converter, GraphBuilder, UnsupportedOperatorError
from techniques.onnx_operators.arguments import at, aten, number, shape, text
from techniques.onnx_operators.layers import take_bias

_TYPES = {
    TensorProto.FLOAT: torch.float32, TensorProto.BOOL: torch.bool, TensorProto.INT32: torch.int32, TensorProto.INT64: torch.int64,
}  # fmt: skip


def _unary(target: Any) -> Converter:
    return lambda b, inputs, attributes: b.call(target, inputs[0])


def _add(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> Any:
    for node, constant in (inputs, inputs[::-1]):
        if isinstance(constant, np.ndarray) and take_bias(b, node, constant):
            return node
    return b.call(aten.add.Tensor, *_node_first(b, *inputs))


def _multiply(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    return b.call(aten.mul.Tensor, *_node_first(b, *inputs))


def _node_first(b: GraphBuilder, left: Any, right: Any) -> tuple[Any, Any]:
    """Operands that may change places; a single number stands on the right."""
    left, right = b.tensor(left), b.tensor(right)
    return (left, right) if isinstance(left, fx.Node) else (right, left)


def _subtract(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    left, right = b.tensor(inputs[0]), b.tensor(inputs[1])
    if isinstance(left, fx.Node):
        return b.call(aten.sub.Tensor, left, right)
    return b.call(aten.rsub.Scalar, right, left)


def _divide(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    return b.call(aten.div.Tensor, b.node(inputs[0]), b.tensor(inputs[1]))


def _power(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    base, exponent = b.tensor(inputs[0]), b.tensor(inputs[1])
    if not isinstance(base, fx.Node):
        return b.call(aten.pow.Scalar, float(base), exponent)
    if not isinstance(exponent, fx.Node):
        return b.call(aten.pow.Tensor_Scalar, base, float(exponent))
    return b.call(aten.pow.Tensor_Tensor, base, exponent)


def _many(target: Any, bound: int = 0) -> Converter:
    """An operator of any number of inputs, two by two.

    Args:
        target: of two tensors.
        bound: argument of `clamp` that does the same with a single number, if one does.
    """

    def convert(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> Any:
        nodes = [v for v in inputs if isinstance(v, fx.Node)]
        result = nodes[0]
        for value in nodes[1:] + [v for v in inputs if not isinstance(v, fx.Node)]:
            if bound and isinstance(value, np.ndarray) and value.ndim == 0:
                limits = [None, None]
                limits[bound - 1] = value.item()
                result = b.call(aten.clamp.default, result, *limits)
            else:
                result = b.call(target, result, b.tensor(value))
        return result

    return convert


def _mean(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> Any:
    total = _many(aten.add.Tensor)(b, inputs, attributes)
    return b.call(aten.div.Tensor, total, float(len(inputs))) if len(inputs) > 1 else total


def _compare(tensor: Any, scalar: Any, swapped: Any) -> Converter:
    """A comparison; ``swapped`` is the one that holds where left and right change places."""

    def convert(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
        left, right = inputs
        if not isinstance(left, fx.Node):
            left, right, pair = right, left, swapped
        else:
            pair = (tensor, scalar)
        right = b.tensor(right)
        return b.call(pair[0] if isinstance(right, fx.Node) else pair[1], left, right)

    return convert


def _logical(target: Any) -> Converter:
    return lambda b, inputs, attributes: b.call(target, *(b.node(v) for v in inputs))


def _where(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    condition, left, right = b.node(inputs[0]), b.tensor(inputs[1]), b.tensor(inputs[2])
    if not isinstance(left, fx.Node) and not isinstance(right, fx.Node):
        left = b.node(inputs[1])
    if not isinstance(right, fx.Node):
        return b.call(aten.where.ScalarOther, condition, left, right)
    if not isinstance(left, fx.Node):
        return b.call(aten.where.ScalarSelf, condition, left, right)
    return b.call(aten.where.self, condition, left, right)


def _clip(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> Any:
    low, high = at(inputs, 1, attributes.get("min")), at(inputs, 2, attributes.get("max"))
    x = inputs[0]
    bounds = [None if v is None or isinstance(v, fx.Node) or abs(number(v)) > 3.4e38 else number(v) for v in (low, high)]
    if bounds == [0.0, 6.0]:
        return b.call(aten.hardtanh.default, x, 0.0, 6.0)
    if bounds != [None, None]:
        x = b.call(aten.clamp.default, x, *bounds)
    for bound, target in ((low, aten.maximum.default), (high, aten.minimum.default)):
        x = b.call(target, x, bound) if isinstance(bound, fx.Node) else x
    return x


def _hard_sigmoid(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    alpha, beta = float(attributes.get("alpha", 0.2)), float(attributes.get("beta", 0.5))
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return b.call(aten.hardsigmoid.default, inputs[0])
    line = b.call(aten.add.Tensor, b.call(aten.mul.Tensor, inputs[0], alpha), beta)
    return b.call(aten.clamp.default, line, 0.0, 1.0)


def _softmax(target: Any) -> Converter:
    def convert(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
        x, sizes = inputs[0], shape(inputs[0])
        axis = int(attributes.get("axis", -1 if b.opset >= 13 else 1)) % len(sizes)
        if b.opset >= 13 or all(size == 1 for size in sizes[axis + 1 :]):
            return b.call(target, x, axis)
        # Before opset 13 all axes from this one on are one.
        flat = b.call(aten.reshape.default, x, b.sizes([*sizes[:axis], math.prod(sizes[axis:])]))
        return b.call(aten.reshape.default, b.call(target, flat, axis), b.sizes(sizes))

    return convert


def _with_slope(target: Any, name: str, default: float) -> Converter:
    return lambda b, inputs, attributes: b.call(target, inputs[0], float(attributes.get(name, default)))


def _selu(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    alpha, gamma = float(attributes.get("alpha", 1.6732632)), float(attributes.get("gamma", 1.0507010))
    if abs(alpha - 1.6732632) < 1e-5 and abs(gamma - 1.0507010) < 1e-5:
        return b.call(aten.selu.default, inputs[0])
    return b.call(aten.mul.Tensor, b.call(aten.elu.default, inputs[0], alpha), gamma)


def _thresholded(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    return b.call(aten.threshold.default, inputs[0], float(attributes.get("alpha", 1.0)), 0.0)


def _softsign(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    return b.call(aten.div.Tensor, inputs[0], b.call(aten.add.Tensor, b.call(aten.abs.default, inputs[0]), 1.0))


def _prelu(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    x, slope = inputs
    sizes = shape(x)
    channels = (sizes[1], *[1] * (len(sizes) - 2)) if len(sizes) > 1 else ()
    if isinstance(slope, np.ndarray) and (slope.size == 1 or slope.shape in (channels, (1, *channels))):
        return b.call(aten.prelu.default, x, b.weight(slope.reshape(-1), f"{b.holder('prelu')}.weight"))
    negative = b.call(aten.mul.Tensor, b.call(aten.clamp.default, x, None, 0.0), b.tensor(slope))
    return b.call(aten.add.Tensor, b.call(aten.relu.default, x), negative)


def _gelu(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    return b.call(aten.gelu.default, inputs[0], approximate=text(attributes, "approximate", "none"))


def _swish(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    x, alpha = inputs[0], float(attributes.get("alpha", 1.0))
    if alpha == 1.0:
        return b.call(aten.silu.default, x)
    return b.call(aten.mul.Tensor, x, b.call(aten.sigmoid.default, b.call(aten.mul.Tensor, x, alpha)))


def _remainder(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    """With the sign of the divisor, or of what is divided where the file says ``fmod``."""
    target = (aten.fmod if attributes.get("fmod", 0) else aten.remainder).Tensor
    return b.call(target, b.node(inputs[0]), b.node(inputs[1]))


def _infinite(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    if not attributes.get("detect_negative", 1) or not attributes.get("detect_positive", 1):
        raise UnsupportedOperatorError("infinity of one sign")
    return b.call(aten.isinf.default, inputs[0])


def _identity(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> Any:
    return inputs[0]


def _cast(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> Any:
    dtype = _TYPES.get(int(attributes["to"]))
    if dtype is None:
        raise UnsupportedOperatorError("activations must stay float32: convert the model to float32 first")
    if inputs[0].meta["val"].dtype == dtype:
        return inputs[0]
    return b.call(aten._to_copy.default, inputs[0], dtype=dtype)


_GREATER = (aten.gt.Tensor, aten.gt.Scalar)
_LESS = (aten.lt.Tensor, aten.lt.Scalar)
_AT_LEAST = (aten.ge.Tensor, aten.ge.Scalar)
_AT_MOST = (aten.le.Tensor, aten.le.Scalar)
_EQUAL = (aten.eq.Tensor, aten.eq.Scalar)

ELEMENTWISE: dict[str, Converter] = {
    "Add": _add, "Sub": _subtract, "Mul": _multiply, "Div": _divide, "Pow": _power, "Sum": _many(aten.add.Tensor), "Mean": _mean,
    "Max": _many(aten.maximum.default, 1), "Min": _many(aten.minimum.default, 2),
    "Greater": _compare(*_GREATER, _LESS), "Less": _compare(*_LESS, _GREATER), "Equal": _compare(*_EQUAL, _EQUAL),
    "GreaterOrEqual": _compare(*_AT_LEAST, _AT_MOST), "LessOrEqual": _compare(*_AT_MOST, _AT_LEAST),
    "Not": _logical(aten.logical_not.default), "And": _logical(aten.logical_and.default), "Or": _logical(aten.logical_or.default),
    "Xor": _logical(aten.logical_xor.default), "Where": _where, "Clip": _clip,
    "Relu": _unary(aten.relu.default), "Sigmoid": _unary(aten.sigmoid.default), "Tanh": _unary(aten.tanh.default),
    "HardSwish": _unary(aten.hardswish.default), "Erf": _unary(aten.erf.default), "Exp": _unary(aten.exp.default),
    "Log": _unary(aten.log.default), "Sqrt": _unary(aten.sqrt.default), "Abs": _unary(aten.abs.default),
    "Neg": _unary(aten.neg.default), "Sign": _unary(aten.sign.default), "Round": _unary(aten.round.default),
    "Floor": _unary(aten.floor.default), "Ceil": _unary(aten.ceil.default), "Sin": _unary(aten.sin.default),
    "Tan": _unary(aten.tan.default), "Asin": _unary(aten.asin.default), "Acos": _unary(aten.acos.default),
    "Atan": _unary(aten.atan.default), "Sinh": _unary(aten.sinh.default), "Cosh": _unary(aten.cosh.default),
    "Asinh": _unary(aten.asinh.default), "Acosh": _unary(aten.acosh.default), "Atanh": _unary(aten.atanh.default),
    "IsNaN": _unary(aten.isnan.default), "IsInf": _infinite, "Mod": _remainder,
    "Cos": _unary(aten.cos.default), "Reciprocal": _unary(aten.reciprocal.default), "Softplus": _unary(aten.softplus.default),
    "Mish": _unary(aten.mish.default), "Swish": _swish, "Selu": _selu, "Elu": _with_slope(aten.elu.default, "alpha", 1.0),
    "Celu": _with_slope(aten.celu.default, "alpha", 1.0),
    "LeakyRelu": _with_slope(aten.leaky_relu.default, "alpha", 0.01), "HardSigmoid": _hard_sigmoid, "Gelu": _gelu, "PRelu": _prelu,
    "ThresholdedRelu": _thresholded, "Softsign": _softsign, "Softmax": _softmax(aten.softmax.int),
    "LogSoftmax": _softmax(aten.log_softmax.int), "Identity": _identity, "Cast": _cast,
}  # fmt: skip
