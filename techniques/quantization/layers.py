"""Modules of a quantised network: integer weights, and quantise-dequantise pairs that runtimes fuse into integer kernels.

Everything goes through ``torch.ops.quantized_decomposed``, which the ONNX exporter writes as QuantizeLinear and
DequantizeLinear.
"""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.ao.quantization.fx._decomposed  # registers torch.ops.quantized_decomposed
from torch import Tensor, nn

from techniques.network import Network
from techniques.quantization.weights import WEIGHT_LIMIT, weight_scales

Layer = TypeVar("Layer", bound=nn.Module)


class ActivationQuantizer(nn.Module):
    """Rounds a tensor to 8 bits and back (Jacob et al. 2018, section 2.1): ``real = scale * (integer - zero_point)``.

    Attributes:
        bits: width of the integers.
        scale: size of one step, a float32 number.
        zero_point: the integer that stands for 0.0. Both are Python numbers: exporters want constants here.
    """

    bits = 8

    def __init__(self, scale: float, zero_point: int, unsigned: bool) -> None:
        super().__init__()
        self.scale = float(torch.tensor(scale, dtype=torch.float32))
        self.zero_point = zero_point
        self.unsigned = unsigned

    def forward(self, x: Tensor) -> Tensor:
        """Any shape, float32 to float32."""
        low, high, dtype = (0, 255, torch.uint8) if self.unsigned else (-128, 127, torch.int8)
        if not torch.compiler.is_exporting():
            # The same numbers (but NaN stays NaN) in a third of the time: in place, and without a turn to integers and back.
            steps = x.detach().mul(1.0 / self.scale).round_().clamp_(low - self.zero_point, high - self.zero_point)
            return steps.mul_(self.scale)
        ops, args = torch.ops.quantized_decomposed, (self.scale, self.zero_point, low, high, dtype)
        result: Tensor = ops.dequantize_per_tensor(ops.quantize_per_tensor(x, *args), *args)
        return result

    def extra_repr(self) -> str:
        """For printing."""
        return f"bits={self.bits}, scale={self.scale:.6g}, zero_point={self.zero_point}, unsigned={self.unsigned}"


class QuantizedConv2d(nn.Conv2d):
    """A convolution whose ``weight`` is an int8 buffer ``(out, in / groups, h, w)`` with a scale per output channel."""

    weight_bits = 8
    weight_scale: Tensor
    weight_zero_point: Tensor

    @staticmethod
    def from_float(layer: nn.Conv2d, reduced: bool = False, input_scale: float = 1.0) -> QuantizedConv2d:
        """Round a float convolution's weights to integers, see `weight_scales`; the bias stays float."""
        result = _of_type(QuantizedConv2d, layer)
        _take_weights(result, layer, reduced, input_scale)
        return result

    def forward(self, input: Tensor) -> Tensor:
        """As the float convolution, on dequantised weights."""
        result: Tensor = self._conv_forward(input, dequantized_weight(self), self.bias)
        return result


class QuantizedLinear(nn.Linear):
    """A linear layer whose ``weight`` is an int8 buffer ``(out, in)`` with a scale per output."""

    weight_bits = 8
    weight_scale: Tensor
    weight_zero_point: Tensor

    @staticmethod
    def from_float(layer: nn.Linear, reduced: bool = False, input_scale: float = 1.0) -> QuantizedLinear:
        """Round a float layer's weights to integers, see `weight_scales`; the bias stays float."""
        result = _of_type(QuantizedLinear, layer)
        _take_weights(result, layer, reduced, input_scale)
        return result

    def forward(self, input: Tensor) -> Tensor:
        """As the float layer, on dequantised weights."""
        return nn.functional.linear(input, dequantized_weight(self), self.bias)


def _of_type(quantized: type[Layer], layer: nn.Module) -> Layer:
    """A layer of the same sizes and settings without weights; a constructor would draw weights first, for every price again."""
    result = quantized.__new__(quantized)
    state = {key: value.copy() if isinstance(value, dict | set) else value for key, value in layer.__dict__.items()}
    state["_parameters"] = {"bias": None}
    result.__dict__ = state
    return result


def dequantized_weight(layer: QuantizedConv2d | QuantizedLinear) -> Tensor:
    """The float32 weights that the integers stand for."""
    result: Tensor = torch.ops.quantized_decomposed.dequantize_per_channel(
        layer.weight, layer.weight_scale, layer.weight_zero_point, 0, -WEIGHT_LIMIT, WEIGHT_LIMIT, torch.int8
    )
    return result


def without_rounding(network: Network) -> Network:
    """The same layers, by the same names, in floats: nothing is rounded, and gradients reach every weight.

    The network itself where it holds no integers.
    """
    kinds = (QuantizedConv2d, QuantizedLinear, ActivationQuantizer)
    if not any(isinstance(module, kinds) for _, module in network.module_calls()):
        return network
    result = network.clone()
    for name, module in list(result.graph.named_modules()):
        if isinstance(module, kinds):
            parent, _, leaf = name.rpartition(".")
            setattr(result.graph.get_submodule(parent), leaf, _in_floats(module))
    return result.rebuilt()


def _in_floats(module: nn.Module) -> nn.Module:
    if not isinstance(module, QuantizedConv2d | QuantizedLinear):
        return nn.Identity()
    layer = _of_type(nn.Conv2d if isinstance(module, QuantizedConv2d) else nn.Linear, module)
    layer._buffers = {}
    layer._parameters = {"weight": nn.Parameter(dequantized_weight(module).detach()), "bias": module._parameters["bias"]}
    return layer


@torch.no_grad()
def _take_weights(
    result: QuantizedConv2d | QuantizedLinear, layer: nn.Conv2d | nn.Linear, reduced: bool, input_scale: float
) -> None:
    weight = layer.weight.detach()
    if weight.is_meta:
        scale, integers = weight.new_empty(len(weight)), torch.empty_like(weight, dtype=torch.int8)
    else:
        scale = weight_scales(layer, reduced, input_scale)
        integers = (weight / scale.view(-1, *[1] * (weight.ndim - 1))).round().clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT).to(torch.int8)
    zero_point = torch.zeros_like(scale, dtype=torch.int8)
    result._buffers.update({"weight": integers, "weight_scale": scale, "weight_zero_point": zero_point})
    if layer.bias is not None:
        result.bias = nn.Parameter(layer.bias.detach().clone(), requires_grad=False)
