"""Quantisation as ONNX writes it, as calls of ``torch.ops.quantized_decomposed``: the operators that our own export starts from."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.ao.quantization.fx._decomposed  # registers the quantized_decomposed operators
from torch import fx

from techniques.onnx_graph import Converter, GraphBuilder, QuantizedConstant, UnsupportedOperatorError
from techniques.onnx_operators.arguments import at

_RANGES = {np.dtype(np.uint8): (0, 255, torch.uint8), np.dtype(np.int8): (-128, 127, torch.int8)}


def _arguments(inputs: list[Any], attributes: dict[str, Any]) -> tuple[Any, ...]:
    scale, zero_point = inputs[1], at(inputs, 2, np.zeros((), np.uint8))
    if not isinstance(scale, np.ndarray) or not isinstance(zero_point, np.ndarray) or scale.size != 1 or zero_point.size != 1:
        raise UnsupportedOperatorError("the scale and zero point of activations must be one constant number each")
    if zero_point.dtype not in _RANGES or scale.dtype != np.float32:
        raise UnsupportedOperatorError(f"{zero_point.dtype} with scales in {scale.dtype}; 8 bits with float32 are supported")
    return (float(scale.item()), int(zero_point.item()), *_RANGES[zero_point.dtype])


def _quantize(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> Any:
    if isinstance(inputs[0], fx.Node):
        return b.call(torch.ops.quantized_decomposed.quantize_per_tensor.default, inputs[0], *_arguments(inputs, attributes))
    values, scale = inputs[0], _along(inputs[1], inputs[0], attributes)
    zero_point = at(inputs, 2, np.zeros((), np.uint8))
    if zero_point.dtype not in _RANGES:
        raise UnsupportedOperatorError(f"weights in {zero_point.dtype}; 8 bits are supported")
    low, high, _ = _RANGES[zero_point.dtype]
    rounded = np.rint(values / scale) + _along(zero_point, values, attributes).astype(np.int32)
    return np.clip(rounded, low, high).astype(zero_point.dtype)


def _dequantize(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> Any:
    if not isinstance(inputs[0], fx.Node):
        return _stored(inputs, attributes)
    if at(inputs, 2) is None:
        dtype = np.int8 if inputs[0].meta["val"].dtype == torch.int8 else np.uint8
        inputs = [*inputs[:2], np.zeros((), dtype)]
    return b.call(torch.ops.quantized_decomposed.dequantize_per_tensor.default, inputs[0], *_arguments(inputs, attributes))


def _stored(inputs: list[Any], attributes: dict[str, Any]) -> Any:
    """Weights in 8 bits around zero stay integers for the layer that reads them; others are computed here."""
    integers, scale, zero_point = inputs[0], inputs[1], at(inputs, 2, np.zeros((), inputs[0].dtype))
    middle = 128 if integers.dtype == np.uint8 else 0
    axis = int(attributes.get("axis", 1)) if scale.size > 1 else 0
    plain = integers.dtype in _RANGES and integers.ndim > 1 and scale.ndim <= 1 and scale.dtype == np.float32
    if not plain or not np.all(zero_point == middle) or scale.size not in (1, integers.shape[axis]):
        offsets = _along(zero_point, integers, attributes).astype(np.int64)
        difference = integers.astype(np.int64) - offsets
        return difference.astype(np.float32) * _along(scale, integers, attributes).astype(np.float32)
    axis %= integers.ndim
    signed = (integers.astype(np.int16) - middle).astype(np.int8)
    return QuantizedConstant(signed, np.array(np.broadcast_to(scale.reshape(-1), integers.shape[axis : axis + 1])), axis)


def _along(value: Any, of: Any, attributes: dict[str, Any]) -> Any:
    """A scale or zero point so that it goes with a tensor: one number, one per entry of an axis, or one per block of it."""
    if value.size == 1:
        return value.reshape([1] * of.ndim)
    axis = int(attributes.get("axis", 1)) % of.ndim
    block = int(attributes.get("block_size", 0))
    if block:
        return value.repeat(block, axis)[tuple(slice(0, size) for size in of.shape)]
    sides = [1] * of.ndim
    sides[axis] = -1
    return value.reshape(sides)


QUANTIZED: dict[str, Converter] = {"QuantizeLinear": _quantize, "DequantizeLinear": _dequantize}
