"""Layers with weights: convolutions and products of matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import fx

from techniques.onnx_graph import Converter, GraphBuilder, QuantizedConstant, UnsupportedOperatorError
from techniques.onnx_operators.arguments import at, aten, padded, pads, shape, spatial, strides, text

_CONSTANT = (np.ndarray, QuantizedConstant)
_CONVOLUTIONS = (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)
_TRANSPOSED = (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)


def _stored(b: GraphBuilder, kind: str, weight: Any, bias: Any, source: Any = None) -> tuple[Any, Any]:
    """Weight and bias of a layer as graph nodes; what is computed in the graph stays so.

    Args:
        weight, bias: as the layer takes them.
        source: the constant of the file that the weight was made of; layers with the same one are one layer.
    """
    if isinstance(weight, fx.Node):
        return weight, b.node(bias) if bias is not None else None
    constant_bias = bias is None or isinstance(bias, np.ndarray)
    name = b.layer(kind, weight if source is None else source, bias) if constant_bias else b.holder(kind)
    bias_node = b.weight(bias, f"{name}.bias") if bias is not None and constant_bias else bias
    return b.weight(weight, f"{name}.weight"), bias_node


def _conv(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    x, kernel = inputs[0], shape(inputs[1])[2:]
    axes = spatial(x, kernel)
    stride, dilation = strides(attributes, axes), strides(attributes, axes, "dilations")
    x, padding = padded(b, x, pads(x, attributes, kernel, stride, dilation), 0.0)
    weight, bias = _stored(b, "conv", inputs[1], at(inputs, 2))
    return b.call(_CONVOLUTIONS[axes - 1], x, weight, bias, stride, padding, dilation, int(attributes.get("group", 1)))


def _conv_transpose(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    x, kernel = inputs[0], shape(inputs[1])[2:]
    axes = spatial(x, kernel)
    stride, dilation = strides(attributes, axes), strides(attributes, axes, "dilations")
    extra = [int(v) for v in attributes.get("output_padding", [0] * axes)]
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    before, after = _cropped(shape(x)[2:], spans, stride, extra, attributes)
    weight, bias = _stored(b, "conv_transpose", inputs[1], at(inputs, 2))
    even = before == after and min(before) >= 0
    padding = before if even else [0] * axes
    x = b.call(_TRANSPOSED[axes - 1], x, weight, bias, stride, padding, extra, int(attributes.get("group", 1)), dilation)
    if even:
        return x
    if min(*before, *after) < 0:
        raise UnsupportedOperatorError(f"padding of {before} before and {after} behind the result")
    for axis in range(axes):
        end = shape(x)[2 + axis] - after[axis]
        x = b.call(aten.slice.Tensor, x, 2 + axis, before[axis], end if not after[axis] else -after[axis])
    return x


def _cropped(
    sizes: tuple[int, ...], spans: list[int], stride: list[int], extra: list[int], attributes: dict[str, Any]
) -> tuple[list[int], list[int]]:
    """What is cut off before and behind the full result of a transposed convolution."""
    axes, mode = len(spans), text(attributes, "auto_pad", "NOTSET")
    wanted = [int(v) for v in attributes.get("output_shape", [])][-axes:]
    if not wanted and mode not in ("SAME_UPPER", "SAME_LOWER"):
        amounts = list(attributes.get("pads", [0] * 2 * axes)) if mode != "VALID" else [0] * 2 * axes
        return amounts[:axes], amounts[axes:]
    before, after = [], []
    for axis in range(axes):
        size = wanted[axis] if wanted else sizes[axis] * stride[axis]
        total = max(0, stride[axis] * (sizes[axis] - 1) + extra[axis] + spans[axis] - size)
        small, large = total // 2, total - total // 2
        before.append(small if mode == "SAME_UPPER" else large)
        after.append(large if mode == "SAME_UPPER" else small)
    return before, after


def _linear(b: GraphBuilder, x: fx.Node, weight: Any, bias: Any, source: Any) -> fx.Node:
    """``x @ weight.T + bias`` with constant weights ``(out, in)``."""
    weight, bias = _stored(b, "linear", weight, bias, source)
    return b.call(aten.linear.default, x, weight, bias)


def _gemm(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    x, weight, bias = inputs[0], inputs[1], at(inputs, 2)
    alpha, beta = float(attributes.get("alpha", 1.0)), float(attributes.get("beta", 1.0))
    if isinstance(x, fx.Node) and attributes.get("transA", 0):
        x = b.call(aten.permute.default, x, [1, 0])
    plain_bias = bias is None or (isinstance(bias, np.ndarray) and bias.ndim <= 2 and bias.shape[:-1] in ((), (1,)))
    if not isinstance(x, fx.Node) or not isinstance(weight, _CONSTANT) or not plain_bias:
        return _general_gemm(b, (x, weight, bias), (alpha, beta), attributes)
    source = weight if alpha == 1.0 else None
    if isinstance(weight, QuantizedConstant):
        weight = QuantizedConstant(weight.integers, weight.scale * np.float32(alpha), weight.axis)
        weight = _per_output(weight if attributes.get("transB", 0) else weight.permuted([1, 0]))
    else:
        weight = weight if attributes.get("transB", 0) else weight.T
        weight = weight if alpha == 1.0 else (weight * np.float32(alpha)).astype(np.float32)
    if bias is not None:
        scaled = bias.reshape(-1) if beta == 1.0 else bias.reshape(-1) * np.float32(beta)
        bias = np.broadcast_to(scaled, shape(weight)[:1]).astype(np.float32)
    return _linear(b, x, weight, bias, source)


def _per_output(weight: Any) -> Any:
    """Integers with one scale for all, counted along the outputs; floats where the scales lie along the inputs."""
    if not isinstance(weight, QuantizedConstant) or weight.axis == 0:
        return weight
    if len(set(weight.scale.tolist())) > 1:
        return weight.values()
    return QuantizedConstant(weight.integers, np.full(shape(weight)[0], weight.scale[0], np.float32), 0)


def _general_gemm(
    b: GraphBuilder, inputs: tuple[Any, Any, Any], factors: tuple[float, float], attributes: dict[str, Any]
) -> fx.Node:
    """Where the second factor is computed, the first is constant, or the bias is no bias."""
    left, right, bias = (b.node(v) if v is not None else None for v in inputs)
    if attributes.get("transA", 0) and not isinstance(inputs[0], fx.Node):
        left = b.call(aten.permute.default, left, [1, 0])
    if attributes.get("transB", 0):
        right = b.call(aten.permute.default, right, [1, 0])
    product = b.call(aten.matmul.default, left, right)
    product = product if factors[0] == 1.0 else b.call(aten.mul.Tensor, product, factors[0])
    if bias is None:
        return product
    return b.call(aten.add.Tensor, product, bias if factors[1] == 1.0 else b.call(aten.mul.Tensor, bias, factors[1]))


def _matmul(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    x, weight = inputs
    if isinstance(x, fx.Node) and isinstance(weight, _CONSTANT) and len(shape(weight)) == 2:
        flipped = weight.permuted([1, 0]) if isinstance(weight, QuantizedConstant) else weight.T
        return _linear(b, x, _per_output(flipped), None, weight)
    return b.call(aten.matmul.default, b.node(x), b.node(weight))


def _einsum(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    equation = "".join(text(attributes, "equation", "").split())
    return b.call(aten.einsum.default, equation, [b.node(value) for value in inputs])


def take_bias(b: GraphBuilder, node: Any, constant: np.ndarray[Any, Any]) -> bool:
    """Make a constant that is added to a layer without bias its bias."""
    layers = {aten.linear.default: 1, aten.conv2d.default: 3}
    if not isinstance(node, fx.Node) or node.target not in layers or node.users or node.args[2] is not None:
        return False
    outputs = shape(node)[-1] if node.target is aten.linear.default else shape(node)[1]
    trailing = (1,) * (layers[node.target] - 1)
    if constant.size != outputs or tuple(constant.shape[constant.ndim - len(trailing) - 1 :]) != (outputs, *trailing):
        return False
    stored = _attributes(node.args[1])
    path = str(stored[0].target).rpartition(".")[0] if stored else ""
    key = next((key for key, (name, _) in b.shared.items() if name == path and key[2] is None), None)
    if key is None or sum(n.op == "get_attr" and n.target == stored[0].target for n in b.graph.nodes) > 1:
        return False  # another call of the same layer has no bias
    values = constant.reshape(-1).astype(np.float32)
    owner = b.shared.setdefault((*key[:2], values.tobytes()), b.shared.pop(key))[0]
    for attribute in stored:  # the layer that has been built with this bias before, or this one
        attribute.target = f"{owner}.{str(attribute.target).rpartition('.')[2]}"
    with b.graph.inserting_before(node):
        bias = b.weight(values, f"{owner}.bias")
    node.args = (*node.args[:2], bias, *node.args[3:])
    return True


def _attributes(node: Any) -> list[fx.Node]:
    """The stored tensors that a weight is made of."""
    if not isinstance(node, fx.Node):
        return []
    return [node] if node.op == "get_attr" else [found for source in node.all_input_nodes for found in _attributes(source)]


LAYERS: dict[str, Converter] = {
    "Conv": _conv, "ConvTranspose": _conv_transpose, "Gemm": _gemm, "MatMul": _matmul, "Einsum": _einsum,
}  # fmt: skip
