"""Pools over windows and over whole maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import fx

from techniques.onnx_graph import Converter, GraphBuilder, UnsupportedOperatorError
from techniques.onnx_operators.arguments import aten, pad_spatial, padded, pads, shape, spatial, strides

_MAXIMA = (aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default)
_AVERAGES = (aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default)


def _max_pool(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    kernel = list(attributes["kernel_shape"])
    axes = spatial(inputs[0], kernel)
    stride, dilation = strides(attributes, axes), strides(attributes, axes, "dilations")
    amounts = pads(inputs[0], attributes, kernel, stride, dilation)
    x, padding = padded(b, inputs[0], amounts, float("-inf"), [k // 2 for k in kernel])
    return b.call(_MAXIMA[axes - 1], x, kernel, stride, padding, dilation, bool(attributes.get("ceil_mode", 0)))


def _average_pool(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    x, kernel = inputs[0], list(attributes["kernel_shape"])
    axes = spatial(x, kernel)
    stride = strides(attributes, axes)
    amounts, counted = pads(x, attributes, kernel, stride, [1] * axes), bool(attributes.get("count_include_pad", 0))
    if strides(attributes, axes, "dilations") != [1] * axes:
        raise UnsupportedOperatorError("dilation")
    before, after, ceil = amounts[:axes], amounts[axes:], bool(attributes.get("ceil_mode", 0))
    if before == after and all(a <= k // 2 for a, k in zip(before, kernel, strict=True)) and not ceil:
        return _average(b, x, kernel, stride, before, counted)
    sizes = [(n - k) / s + 1 for n, k, s in zip(_padded_sizes(x, amounts), kernel, stride, strict=True)]
    found = [_windows(v, ceil, shape(x)[2 + i] + before[i], stride[i]) for i, v in enumerate(sizes)]
    missing = [max(0, (f - 1) * s + k - n) for f, s, k, n in zip(found, stride, kernel, _padded_sizes(x, amounts), strict=True)]
    wide = pad_spatial(b, x, before, [a + m for a, m in zip(after, missing, strict=True)], 0.0)
    pooled = _average(b, wide, kernel, stride, [0] * axes, True)
    ends = [n if counted else n - after[i] for i, n in enumerate(_padded_sizes(x, amounts))]
    counts = np.ones((1, 1), np.float64)
    for start, end, window, step, outputs in zip([0] * axes if counted else before, ends, kernel, stride, found, strict=True):
        first = np.arange(outputs) * step
        counts = counts[..., None] * (np.minimum(first + window, end) - np.maximum(first, start))
    if (counts == np.prod(kernel)).all():
        return pooled
    return b.call(aten.mul.Tensor, pooled, b.fixed((np.prod(kernel) / counts).astype(np.float32)))


def _padded_sizes(x: fx.Node, amounts: Sequence[int]) -> list[int]:
    axes = len(amounts) // 2
    return [n + amounts[i] + amounts[axes + i] for i, n in enumerate(shape(x)[2:])]


def _windows(exact: float, ceil: bool, end: int, stride: int) -> int:
    """Windows along an axis; with ``ceil`` the last one may reach over the edge, but must begin before it."""
    if not ceil:
        return int(exact // 1)
    count = int(-(-exact // 1))
    return count - 1 if (count - 1) * stride >= end else count


def _average(b: GraphBuilder, x: fx.Node, kernel: list[int], stride: list[int], padding: list[int], counted: bool) -> fx.Node:
    return b.call(_AVERAGES[len(kernel) - 1], x, kernel, stride, padding, False, counted)


def _power_pool(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    """``(sum of |x|^p) ^ (1 / p)`` over windows."""
    kernel, power = list(attributes["kernel_shape"]), float(attributes.get("p", 2))
    axes = spatial(inputs[0], kernel)
    stride = strides(attributes, axes)
    if attributes.get("ceil_mode", 0) or strides(attributes, axes, "dilations") != [1] * axes:
        raise UnsupportedOperatorError("ceil_mode or dilation")
    amounts = pads(inputs[0], attributes, kernel, stride, [1] * axes)
    x = pad_spatial(b, _power(b, inputs[0], power), amounts[:axes], amounts[axes:], 0.0)
    pooled = _average(b, x, kernel, stride, [0] * axes, True)
    return b.call(aten.pow.Tensor_Scalar, b.call(aten.mul.Tensor, pooled, float(np.prod(kernel))), 1.0 / power)


def _power(b: GraphBuilder, x: fx.Node, power: float) -> fx.Node:
    if power == 2:
        return b.call(aten.mul.Tensor, x, x)
    return b.call(aten.pow.Tensor_Scalar, b.call(aten.abs.default, x), power)


def _whole(x: fx.Node) -> list[int]:
    return list(range(2, len(shape(x))))


def _global_average(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    if len(shape(inputs[0])) == 4:
        return b.call(aten.adaptive_avg_pool2d.default, inputs[0], [1, 1])
    return b.call(aten.mean.dim, inputs[0], _whole(inputs[0]), True)


def _global_max(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    return b.call(aten.amax.default, inputs[0], _whole(inputs[0]), True)


def _global_power(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    power = float(attributes.get("p", 2))
    total = b.call(aten.sum.dim_IntList, _power(b, inputs[0], power), _whole(inputs[0]), True)
    return b.call(aten.pow.Tensor_Scalar, total, 1.0 / power)


POOLS: dict[str, Converter] = {
    "MaxPool": _max_pool, "AveragePool": _average_pool, "LpPool": _power_pool, "GlobalAveragePool": _global_average,
    "GlobalMaxPool": _global_max, "GlobalLpPool": _global_power,
}  # fmt: skip
