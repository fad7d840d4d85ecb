"""One function per ONNX operator: writes it as ATen calls. What an operator cannot express raises `UnsupportedOperatorError`."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import onnx
import torch
from torch import fx

from techniques.onnx_graph import Converter, GraphBuilder, UnsupportedOperatorError

aten = torch.ops.aten


def _ints(value: Any) -> list[int]:
    """Integers of a constant input or of an attribute."""
    if isinstance(value, fx.Node):
        raise UnsupportedOperatorError("a size or axis that depends on the image's values")
    return [int(v) for v in np.asarray(value).reshape(-1)]


def _at(inputs: list[Any], index: int, default: Any = None) -> Any:
    return inputs[index] if len(inputs) > index and inputs[index] is not None else default


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(int(s) for s in node.meta["val"].shape)


def _pads(x: fx.Node, attributes: dict[str, Any], kernel: list[int], stride: list[int], dilation: list[int]) -> list[int]:
    """Padding as ``[top, left, bottom, right]``."""
    mode = attributes.get("auto_pad", b"NOTSET").decode()
    if mode in ("NOTSET", ""):
        return list(attributes.get("pads", [0, 0, 0, 0]))
    if mode == "VALID":
        return [0, 0, 0, 0]
    before, after = [], []
    for axis in range(2):
        size, span = _shape(x)[2 + axis], (kernel[axis] - 1) * dilation[axis] + 1
        total = max(0, (-(-size // stride[axis]) - 1) * stride[axis] + span - size)
        small, large = total // 2, total - total // 2
        before.append(small if mode == "SAME_UPPER" else large)
        after.append(large if mode == "SAME_UPPER" else small)
    return [*before, *after]


def _padded(b: GraphBuilder, x: fx.Node, pads: list[int], value: float) -> tuple[fx.Node, list[int]]:
    """Uneven padding as a call of its own; even padding as the layer's."""
    if pads[0] == pads[2] and pads[1] == pads[3]:
        return x, pads[:2]
    return b.call(aten.constant_pad_nd.default, x, [pads[1], pads[3], pads[0], pads[2]], value), [0, 0]


def _spatial(x: Any, kernel: list[int]) -> None:
    if not isinstance(x, fx.Node) or len(_shape(x)) != 4 or len(kernel) != 2:
        raise UnsupportedOperatorError("only two-dimensional layers are supported")


def _conv(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    x, weight = inputs[0], inputs[1]
    kernel = list(weight.shape[2:]) if isinstance(weight, np.ndarray) else []
    _spatial(x, kernel)
    stride, dilation = list(attributes.get("strides", [1, 1])), list(attributes.get("dilations", [1, 1]))
    x, padding = _padded(b, x, _pads(x, attributes, kernel, stride, dilation), 0.0)
    name = b.holder("conv")
    bias = _at(inputs, 2)
    bias_node = b.weight(bias, f"{name}.bias") if bias is not None else None
    weight_node = b.weight(weight, f"{name}.weight")
    return b.call(aten.conv2d.default, x, weight_node, bias_node, stride, padding, dilation, int(attributes.get("group", 1)))


def _linear(b: GraphBuilder, x: fx.Node, weight: Any, bias: Any) -> fx.Node:
    """``x @ weight.T + bias`` with constant weights ``(out, in)``."""
    name = b.holder("linear")
    bias_node = b.weight(bias.reshape(-1), f"{name}.bias") if bias is not None else None
    return b.call(aten.linear.default, x, b.weight(weight, f"{name}.weight"), bias_node)


def _gemm(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    x, weight, bias = inputs[0], inputs[1], _at(inputs, 2)
    if not isinstance(weight, np.ndarray) or attributes.get("transA", 0):
        raise UnsupportedOperatorError("the second factor must be a constant, the first not transposed")
    weight = weight if attributes.get("transB", 0) else weight.T
    weight = (weight * np.float32(attributes.get("alpha", 1.0))).astype(np.float32)
    if bias is not None and (not isinstance(bias, np.ndarray) or bias.size not in (1, weight.shape[0])):
        raise UnsupportedOperatorError("its bias must be a constant per output")
    if bias is not None:
        bias = np.broadcast_to(bias.reshape(-1) * np.float32(attributes.get("beta", 1.0)), weight.shape[:1]).astype(np.float32)
    return _linear(b, x, weight, bias)


def _matmul(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    if isinstance(inputs[1], np.ndarray) and inputs[1].ndim == 2 and isinstance(inputs[0], fx.Node):
        return _linear(b, inputs[0], inputs[1].T, None)
    return b.call(aten.matmul.default, b.tensor(inputs[0]), b.tensor(inputs[1]))


def _batch_norm(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    if attributes.get("training_mode", 0):
        raise UnsupportedOperatorError("training mode")
    name = b.holder("batch_norm")
    leaves = ("weight", "bias", "running_mean", "running_var")
    weight, bias, mean, variance = (b.weight(v, f"{name}.{leaf}") for v, leaf in zip(inputs[1:5], leaves, strict=True))
    momentum = 1.0 - float(attributes.get("momentum", 0.9))
    epsilon = float(attributes.get("epsilon", 1e-5))
    return b.call(aten.batch_norm.default, inputs[0], weight, bias, mean, variance, False, momentum, epsilon, False)


def _layer_norm(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    rank = len(_shape(inputs[0]))
    axis = int(attributes.get("axis", -1)) % rank
    name = b.holder("layer_norm")
    weight = b.weight(inputs[1], f"{name}.weight")
    bias = b.weight(inputs[2], f"{name}.bias") if _at(inputs, 2) is not None else None
    sizes = list(_shape(inputs[0])[axis:])
    return b.call(aten.layer_norm.default, inputs[0], sizes, weight, bias, float(attributes.get("epsilon", 1e-5)))


def _instance_norm(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    name, channels = b.holder("group_norm"), _shape(inputs[0])[1]
    weight, bias = b.weight(inputs[1], f"{name}.weight"), b.weight(inputs[2], f"{name}.bias")
    return b.call(aten.group_norm.default, inputs[0], channels, weight, bias, float(attributes.get("epsilon", 1e-5)))


def _unary(target: Any) -> Converter:
    return lambda b, inputs, attributes: b.call(target, inputs[0])


def _binary(target: Any) -> Converter:
    def convert(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
        left, right = inputs
        if target is aten.add.Tensor:
            for node, constant in ((left, right), (right, left)):
                if isinstance(constant, np.ndarray) and _take_bias(b, node, constant):
                    return node  # type: ignore[no-any-return]
        left, right = b.tensor(left), b.tensor(right)
        if not isinstance(left, fx.Node):
            left = b.weight(np.asarray(left, dtype=np.float32), b.holder("constant"))
        return b.call(target, left, right)

    return convert


def _take_bias(b: GraphBuilder, node: fx.Node, constant: np.ndarray[Any, Any]) -> bool:
    """Make a constant that is added to a layer without bias its bias."""
    layers = {aten.linear.default: 1, aten.conv2d.default: 3}
    if node.target not in layers or node.users or node.args[2] is not None:
        return False
    outputs = _shape(node)[-1] if node.target is aten.linear.default else _shape(node)[1]
    trailing = (1,) * (layers[node.target] - 1)
    if constant.size != outputs or tuple(constant.shape[constant.ndim - len(trailing) - 1 :]) != (outputs, *trailing):
        return False
    weight = node.args[1]
    path = str(weight.target).rpartition(".")[0]  # type: ignore[union-attr]
    with b.graph.inserting_before(node):
        bias = b.weight(constant.reshape(-1).astype(np.float32), f"{path}.bias")
    node.args = (*node.args[:2], bias, *node.args[3:])
    return True


def _clip(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    low, high = _at(inputs, 1, attributes.get("min")), _at(inputs, 2, attributes.get("max"))
    bounds = [None if v is None else float(np.asarray(v).reshape(-1)[0]) for v in (low, high)]
    if bounds == [0.0, 6.0]:
        return b.call(aten.hardtanh.default, inputs[0], 0.0, 6.0)
    return b.call(aten.clamp.default, inputs[0], *bounds)


def _hard_sigmoid(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    alpha, beta = float(attributes.get("alpha", 0.2)), float(attributes.get("beta", 0.5))
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return b.call(aten.hardsigmoid.default, inputs[0])
    line = b.call(aten.add.Tensor, b.call(aten.mul.Tensor, inputs[0], alpha), beta)
    return b.call(aten.clamp.default, line, 0.0, 1.0)


def _max_pool(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    kernel = list(attributes["kernel_shape"])
    _spatial(inputs[0], kernel)
    stride, dilation = list(attributes.get("strides", [1, 1])), list(attributes.get("dilations", [1, 1]))
    pads = _pads(inputs[0], attributes, kernel, stride, dilation)
    x, padding = _padded(b, inputs[0], pads, float("-inf"))
    return b.call(aten.max_pool2d.default, x, kernel, stride, padding, dilation, bool(attributes.get("ceil_mode", 0)))


def _average_pool(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    kernel = list(attributes["kernel_shape"])
    _spatial(inputs[0], kernel)
    stride = list(attributes.get("strides", [1, 1]))
    pads, counted = _pads(inputs[0], attributes, kernel, stride, [1, 1]), bool(attributes.get("count_include_pad", 0))
    if (pads[:2] != pads[2:] and not counted) or list(attributes.get("dilations", [1, 1])) != [1, 1]:
        raise UnsupportedOperatorError("uneven padding that is not counted, or dilation")
    x, padding = _padded(b, inputs[0], pads, 0.0)
    return b.call(aten.avg_pool2d.default, x, kernel, stride, padding, bool(attributes.get("ceil_mode", 0)), counted)


def _global_average(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    _spatial(inputs[0], [1, 1])
    return b.call(aten.adaptive_avg_pool2d.default, inputs[0], [1, 1])


def _global_max(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    return b.call(aten.amax.default, inputs[0], [2, 3], True)


def _reduce(target: Any) -> Converter:
    def convert(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
        axes = _at(inputs, 1, attributes.get("axes"))
        rank = len(_shape(inputs[0]))
        listed = sorted(a % rank for a in _ints(axes)) if axes is not None else list(range(rank))
        return b.call(target, inputs[0], listed, bool(attributes.get("keepdims", 1)))

    return convert


def _concat(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    return b.call(aten.cat.default, [b.tensor(v) for v in inputs], int(attributes["axis"]))


def _flatten(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    if int(attributes.get("axis", 1)) % len(_shape(inputs[0])) != 1:
        raise UnsupportedOperatorError("only axis 1 is supported")
    return b.call(aten.flatten.using_ints, inputs[0], 1)


def _reshape(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    sizes = _ints(inputs[1])
    if not attributes.get("allowzero", 0):
        sizes = [_shape(inputs[0])[i] if size == 0 else size for i, size in enumerate(sizes)]
    return b.call(aten.reshape.default, inputs[0], sizes)


def _transpose(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    order = list(attributes.get("perm", range(len(_shape(inputs[0])))[::-1]))
    return b.call(aten.permute.default, inputs[0], order)


def _squeeze(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    axes = _at(inputs, 1, attributes.get("axes"))
    if axes is None:
        raise UnsupportedOperatorError("without axes it depends on the batch")
    return b.call(aten.squeeze.dims, inputs[0], _ints(axes))


def _unsqueeze(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    x, axes = inputs[0], _ints(_at(inputs, 1, attributes.get("axes")))
    rank = len(_shape(x)) + len(axes)
    for axis in sorted(a % rank for a in axes):
        x = b.call(aten.unsqueeze.default, x, axis)
    return x  # type: ignore[no-any-return]


def _dropout(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    ratio = float(np.asarray(_at(inputs, 1, attributes.get("ratio", 0.5))).reshape(-1)[0])
    return b.call(aten.dropout.default, inputs[0], ratio, False)


def _identity(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> Any:
    return inputs[0]


def _cast(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> Any:
    if int(attributes["to"]) != onnx.TensorProto.FLOAT:
        raise UnsupportedOperatorError("activations must stay float32")
    return inputs[0]


def _softmax(target: Any) -> Converter:
    def convert(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
        axis = int(attributes.get("axis", -1 if b.opset >= 13 else 1))
        if b.opset < 13 and axis % len(_shape(inputs[0])) != len(_shape(inputs[0])) - 1:
            raise UnsupportedOperatorError("before opset 13 only the last axis is supported")
        return b.call(target, inputs[0], axis)

    return convert


def _with_slope(target: Any, name: str, default: float) -> Converter:
    return lambda b, inputs, attributes: b.call(target, inputs[0], float(attributes.get(name, default)))


def _prelu(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    if not isinstance(inputs[1], np.ndarray) or inputs[1].size not in (1, _shape(inputs[0])[1]):
        raise UnsupportedOperatorError("its slope must be a constant per channel")
    return b.call(aten.prelu.default, inputs[0], b.weight(inputs[1].reshape(-1), f"{b.holder('prelu')}.weight"))


def _gelu(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    node = b.graph.call_function(aten.gelu.default, (inputs[0],), {"approximate": attributes.get("approximate", b"none").decode()})
    node.meta["val"] = torch.empty_like(inputs[0].meta["val"])
    return node


def _pad(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    if attributes.get("mode", b"constant") != b"constant" or _at(inputs, 3) is not None:
        raise UnsupportedOperatorError("only constant padding of all axes is supported")
    pads = _ints(_at(inputs, 1, attributes.get("pads")))
    value = float(np.asarray(_at(inputs, 2, attributes.get("value", 0.0))).reshape(-1)[0])
    rank = len(pads) // 2
    if any(pads[:1]) or pads[rank]:
        raise UnsupportedOperatorError("padding of the batch")
    listed = [pads[axis + side * rank] for axis in range(rank - 1, 0, -1) for side in (0, 1)]
    return b.call(aten.constant_pad_nd.default, inputs[0], listed, value)


def _split(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> list[fx.Node]:
    axis, sizes = int(attributes.get("axis", 0)), _at(inputs, 1, attributes.get("split"))
    length = _shape(inputs[0])[axis]
    if sizes is None:
        parts = int(attributes.get("num_outputs", 0))
        if not parts:
            raise UnsupportedOperatorError("without sizes or number of outputs")
        size = -(-length // parts)
        sizes = [min(size, length - i * size) for i in range(parts)]
    node = b.call(aten.split_with_sizes.default, inputs[0], _ints(sizes), axis)
    results = []
    for index, value in enumerate(node.meta["val"]):
        item = b.graph.call_function(operator.getitem, (node, index))
        item.meta["val"] = value
        results.append(item)
    return results


def _slice(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    x = inputs[0]
    starts, ends = _ints(_at(inputs, 1, attributes.get("starts"))), _ints(_at(inputs, 2, attributes.get("ends")))
    axes = _ints(_at(inputs, 3, attributes.get("axes", list(range(len(starts))))))
    steps = _ints(_at(inputs, 4, [1] * len(starts)))
    if min(steps) < 1:
        raise UnsupportedOperatorError("negative steps")
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        x = b.call(aten.slice.Tensor, x, axis, start, end, step)
    return x  # type: ignore[no-any-return]


def _gather(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    x, indices, axis = inputs[0], inputs[1], int(attributes.get("axis", 0))
    if not isinstance(indices, np.ndarray) or indices.ndim > 1 or not isinstance(x, fx.Node):
        raise UnsupportedOperatorError("its indices must be constants of at most one dimension")
    length = _shape(x)[axis]
    if indices.ndim == 0:
        return b.call(aten.select.int, x, axis, int(indices) % length)
    name = b.holder("index")
    tensor = torch.from_numpy(indices.astype(np.int64) % length)
    b.root.register_buffer(name, tensor)
    index = b.graph.get_attr(name)
    index.meta["val"] = tensor.to("meta")
    return b.call(aten.index_select.default, x, axis, index)


OPERATORS: dict[str, Converter] = {
    "Conv": _conv, "Gemm": _gemm, "MatMul": _matmul, "BatchNormalization": _batch_norm, "LayerNormalization": _layer_norm,
    "InstanceNormalization": _instance_norm, "Relu": _unary(aten.relu.default), "Sigmoid": _unary(aten.sigmoid.default),
    "Tanh": _unary(aten.tanh.default), "HardSwish": _unary(aten.hardswish.default), "Erf": _unary(aten.erf.default),
    "Exp": _unary(aten.exp.default), "Sqrt": _unary(aten.sqrt.default), "Abs": _unary(aten.abs.default),
    "Neg": _unary(aten.neg.default), "Reciprocal": _unary(aten.reciprocal.default), "Softplus": _unary(aten.softplus.default),
    "Mish": _unary(aten.mish.default), "Swish": _unary(aten.silu.default), "Selu": _unary(aten.selu.default),
    "Add": _binary(aten.add.Tensor), "Sub": _binary(aten.sub.Tensor), "Mul": _binary(aten.mul.Tensor),
    "Div": _binary(aten.div.Tensor), "Clip": _clip, "HardSigmoid": _hard_sigmoid, "Gelu": _gelu, "PRelu": _prelu,
    "LeakyRelu": _with_slope(aten.leaky_relu.default, "alpha", 0.01), "Elu": _with_slope(aten.elu.default, "alpha", 1.0),
    "Softmax": _softmax(aten.softmax.int), "LogSoftmax": _softmax(aten.log_softmax.int), "MaxPool": _max_pool,
    "AveragePool": _average_pool, "GlobalAveragePool": _global_average, "GlobalMaxPool": _global_max,
    "ReduceMean": _reduce(aten.mean.dim), "ReduceMax": _reduce(aten.amax.default), "ReduceSum": _reduce(aten.sum.dim_IntList),
    "Concat": _concat, "Flatten": _flatten, "Reshape": _reshape, "Transpose": _transpose, "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze, "Dropout": _dropout, "Identity": _identity, "Cast": _cast, "Pad": _pad, "Split": _split,
    "Slice": _slice, "Gather": _gather,
}  # fmt: skip
"""Operators with a mapping for values that depend on the image."""
