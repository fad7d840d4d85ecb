"""Small CNNs for calibration: each written twice at once, as plain operators and as the ONNX file that is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from paretopress.runtime.kit.onnx_file import Attribute, Node, model_bytes

ACTIVATION_SCALE = 0.02
"""Below 6 / 255, so that the range of a quantised value lies within a clip's and the clip can vanish."""
WEIGHT_SCALE = 0.005
_ONNX_TYPES = {
    "relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "hard_swish": "HardSwish", "hard_sigmoid": "HardSigmoid", "gelu": "Gelu",
}  # fmt: skip


@dataclass(frozen=True)
class Value:
    """A tensor in the network: its name, which is that of the operator that makes it, and its shape with the batch first."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class KitNetwork:
    """A network to measure.

    Attributes:
        precision: ``fp32`` or ``int8``.
        operators: in execution order, each with the fields of the service's operator graph.
    """

    name: str
    precision: str
    input_shape: tuple[int, ...]
    operators: tuple[Mapping[str, Any], ...]
    onnx_model: bytes


class NetworkWriter:
    """Adds layers to both descriptions; int8 networks get a quantise-dequantise pair behind every layer, as an export has them.

    Biases are random: ONNX Runtime does not fuse quantised convolutions whose biases are all alike.
    """

    def __init__(
        self, input_shape: tuple[int, ...], precision: str, generator: np.random.Generator, resize_to: int | None = None
    ) -> None:
        self._integer = precision == "int8"
        self.precision = precision
        self._generator = generator
        self._input_shape = input_shape
        self._operators: list[dict[str, Any]] = []
        self._nodes: list[Node] = []
        self._initializers: dict[str, npt.NDArray[np.generic]] = {}
        self._scales: dict[str, float] = {}
        self.input = Value("input", input_shape)
        if resize_to is not None:
            self.input = self._resize(self.input, resize_to)
        if self._integer:
            self.input = self._quantize(self.input)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of convolutions and linears so far."""
        layers = [op for op in self._operators if op["weight_shape"]]
        return sum(prod(op["output_shape"]) * prod(op["weight_shape"][1:]) for op in layers)

    @property
    def weights(self) -> int:
        """Weights of all layers so far."""
        return sum(prod(op["weight_shape"]) for op in self._operators if op["weight_shape"])

    @property
    def values(self) -> int:
        """Elements of all tensors so far, weights included."""
        return sum(prod(op["output_shape"]) + prod(op["weight_shape"]) for op in self._operators)

    def conv(
        self,
        x: Value,
        channels: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        groups: int = 1,
        activation: str | None = "relu",
        requantize: bool = True,
    ) -> Value:
        """Convolution with 'same' padding and bias, then ``relu``, ``clip``, another elementwise function, or nothing."""
        batch, in_channels, height, width = x.shape
        window = (kernel, kernel) if isinstance(kernel, int) else kernel
        shape = (batch, channels, (height - 1) // stride + 1, (width - 1) // stride + 1)
        weight_shape = (channels, in_channels // groups, *window)
        attributes = {"kernel": list(window), "stride": [stride, stride], "dilation": [1, 1], "groups": groups}
        name = self._name("conv")
        weights = [self._weight(name, weight_shape), self._bias(name, channels)]
        pads = [window[0] // 2, window[1] // 2] * 2
        node_attributes: dict[str, Attribute] = {
            "kernel_shape": list(window),
            "strides": [stride] * 2,
            "pads": pads,
            "group": groups,
        }
        y = self._add(
            "conv", "Conv", [x], shape, weights, node_attributes, name=name, weight_shape=weight_shape, attributes=attributes
        )
        if activation in ("relu", "clip"):
            y = self._activated(y, activation)
        y = self._requantized(y) if requantize else y
        return y if activation in (None, "relu", "clip") else self.unary(y, activation)

    def add(self, a: Value, b: Value, relu: bool = True) -> Value:
        """Sum of two tensors of one shape."""
        y = self._add("add", "Add", [a, b], a.shape)
        return self._requantized(self._activated(y, "relu") if relu else y)

    def pool(self, x: Value, kind: str = "max_pool", kernel: int = 2, stride: int | None = None) -> Value:
        """``max_pool`` or ``avg_pool`` over windows of ``kernel``, padded where windows overlap."""
        stride = stride or kernel
        pad = kernel // 2 if stride < kernel else 0
        shape = (*x.shape[:2], *((size + 2 * pad - kernel) // stride + 1 for size in x.shape[2:]))
        attributes = {"kernel": [kernel, kernel], "stride": [stride, stride]}
        node_attributes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
        onnx_type = "MaxPool" if kind == "max_pool" else "AveragePool"
        y = self._add(kind, onnx_type, [x], shape, [], node_attributes, attributes=attributes)
        return self._same_scale(x, y) if kind == "max_pool" else self._requantized(y)

    def concat(self, *parts: Value) -> Value:
        """Tensors one behind the other along the channels."""
        first = parts[0].shape
        shape = (first[0], sum(part.shape[1] for part in parts), *first[2:])
        return self._requantized(self._add("concat", "Concat", list(parts), shape, [], {"axis": 1}, attributes={"axis": 1}))

    def unary(self, x: Value, kind: str) -> Value:
        """An elementwise function; ``silu`` is a sigmoid and a product, as exporters write it."""
        if kind != "silu":
            attributes: dict[str, Attribute] = {"alpha": 1 / 6, "beta": 0.5} if kind == "hard_sigmoid" else {}
            return self._requantized(self._add(kind, _ONNX_TYPES[kind], [x], x.shape, [], attributes))
        name = self._name("silu")
        self._nodes.append(Node("Sigmoid", [x.name], [f"{name}.sigmoid"], f"{name}.sigmoid"))
        return self._requantized(self._add("silu", "Mul", [x], x.shape, [f"{name}.sigmoid"], name=name))

    def mul(self, a: Value, b: Value) -> Value:
        """Product of two tensors; ``b`` may have one value per channel."""
        return self._requantized(self._add("mul", "Mul", [a, b], a.shape))

    def shuffle(self, x: Value, groups: int) -> Value:
        """Channel shuffle (ShuffleNet): reshape, transpose, reshape back."""
        batch, channels, height, width = x.shape
        name = self._name("transpose")
        apart = self._shape((batch, groups, channels // groups, height, width))
        self._nodes.append(Node("Reshape", [x.name, apart], [f"{name}.apart"], f"{name}.apart"))
        self._nodes.append(Node("Transpose", [f"{name}.apart"], [f"{name}.swapped"], f"{name}.swapped", {"perm": [0, 2, 1, 3, 4]}))
        source = Value(f"{name}.swapped", x.shape)
        self._nodes.append(Node("Reshape", [source.name, self._shape(x.shape)], [name], name))
        self._describe(name, "transpose", [x], x.shape)
        return self._same_scale(x, Value(name, x.shape))

    def split(self, x: Value) -> tuple[Value, Value]:
        """Two halves of the channels."""
        name = self._name("split")
        half = x.shape[1] // 2
        shapes = [(x.shape[0], channels, *x.shape[2:]) for channels in (half, x.shape[1] - half)]
        sizes = self._initializer(f"{name}.sizes", np.array([shape[1] for shape in shapes], np.int64))
        names = [f"{name}.{index}" for index in range(2)]
        self._nodes.append(Node("Split", [x.name, sizes], names, name, {"axis": 1}))
        self._describe(name, "split", [x], x.shape)
        for part, shape in zip(names, shapes, strict=True):
            self._describe(part, "identity", [Value(name, x.shape)], shape)
        first, second = (self._same_scale(x, Value(part, shape)) for part, shape in zip(names, shapes, strict=True))
        return first, second

    def channel_norm(self, x: Value) -> Value:
        """Layer normalisation over the channels (ConvNeXt), between two transposes."""
        batch, channels, height, width = x.shape
        last = (batch, height, width, channels)
        y = self._add("transpose", "Transpose", [x], last, [], {"perm": [0, 2, 3, 1]})
        name = self._name("layer_norm")
        scale = self._initializer(f"{name}.scale", self._generator.uniform(0.5, 1.5, channels).astype(np.float32))
        y = self._add("layer_norm", "LayerNormalization", [y], last, [scale, self._bias(name, channels)], {"axis": -1}, name=name)
        return self._requantized(self._add("transpose", "Transpose", [y], x.shape, [], {"perm": [0, 3, 1, 2]}))

    def head(self, x: Value, classes: int) -> Value:
        """Global average pooling (where there is something to pool) and a linear layer."""
        if x.shape[2] * x.shape[3] > 1:
            x = self.global_pool(x)
        return self.linear(self.flatten(x), classes)

    def global_pool(self, x: Value) -> Value:
        """Mean of every channel, ``(batch, channels, 1, 1)``."""
        return self._requantized(self._add("global_avg_pool", "GlobalAveragePool", [x], (*x.shape[:2], 1, 1)))

    def flatten(self, x: Value) -> Value:
        """``(batch, everything else)``."""
        shape = (x.shape[0], prod(x.shape[1:]))
        y = self._add("reshape", "Reshape", [x], shape, [self._shape(shape)])
        return self._same_scale(x, y)

    def linear(self, x: Value, outputs: int, activation: bool = False) -> Value:
        """Linear layer with bias, then perhaps ReLU (and then, in int8, another quantiser: it is no output)."""
        name = self._name("linear")
        weight_shape = (outputs, x.shape[1])
        weight = self._weight(name, weight_shape)
        weights = [weight, self._integer_bias(name, x, outputs) if self._integer else self._bias(name, outputs)]
        shape = (x.shape[0], outputs)
        y = self._add("linear", "Gemm", [x], shape, weights, {"transB": 1}, name=name, weight_shape=weight_shape)
        return self._requantized(self._activated(y, "relu")) if activation else y

    def finish(self, name: str, output: Value) -> KitNetwork:
        """Both descriptions, ending in ``output``."""
        model_input, model_output = ("input", self._input_shape), (output.name, output.shape)
        model = model_bytes(name, self._nodes, self._initializers, model_input, model_output)
        return KitNetwork(name, self.precision, self._input_shape, tuple(self._operators), model)

    def _add(
        self,
        kind: str,
        onnx_type: str,
        inputs: list[Value],
        shape: tuple[int, ...],
        extra_inputs: list[str] | None = None,
        node_attributes: Mapping[str, Attribute] | None = None,
        name: str | None = None,
        weight_shape: tuple[int, ...] = (),
        attributes: Mapping[str, Any] | None = None,
    ) -> Value:
        name = name or self._name(kind)
        names = [v.name for v in inputs] + (extra_inputs or [])
        self._nodes.append(Node(onnx_type, names, [name], name, node_attributes or {}))
        self._describe(name, kind, inputs, shape, weight_shape, attributes)
        return Value(name, shape)

    def _describe(
        self,
        name: str,
        kind: str,
        inputs: list[Value],
        shape: tuple[int, ...],
        weight_shape: tuple[int, ...] = (),
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        bits = 8 if self._integer and kind != "resize" else 32
        self._operators.append(
            {
                "name": name,
                "kind": kind,
                "inputs": [v.name for v in inputs],
                "input_shapes": [list(v.shape) for v in inputs],
                "output_shape": list(shape),
                "weight_shape": list(weight_shape),
                "weight_bits": bits if weight_shape else 32,
                "activation_bits": bits,
                "has_bias": bool(weight_shape),
                "attributes": dict(attributes or {}),
            }
        )

    def _activated(self, x: Value, activation: str) -> Value:
        if activation == "relu":
            return self._add("relu", "Relu", [x], x.shape)
        return self._add("clip", "Clip", [x], x.shape, [self._constant(0.0), self._constant(6.0)])

    def _same_scale(self, x: Value, y: Value) -> Value:
        """Quantised as the ``x`` that ``y`` only moves or selects values of."""
        return self._quantize(y, self._scales.get(x.name)) if self._integer else y

    def _requantized(self, x: Value) -> Value:
        return self._quantize(x) if self._integer else x

    def _quantize(self, x: Value, value: float | None = None) -> Value:
        name = self._name("quantize")
        value = value or ACTIVATION_SCALE * float(self._generator.uniform(0.8, 1.15))
        self._scales[name] = value
        scale = self._constant(value)
        zero = self._initializer(f"{name}.zero", np.zeros((), np.uint8))
        self._nodes.append(Node("QuantizeLinear", [x.name, scale, zero], [f"{name}.q"], f"{name}.q"))
        self._nodes.append(Node("DequantizeLinear", [f"{name}.q", scale, zero], [name], name))
        self._describe(name, "quantize", [x], x.shape)
        return Value(name, x.shape)

    def _resize(self, x: Value, size: int) -> Value:
        """Bilinear, half-pixel centres: what a network at lower resolution starts with."""
        shape = (*x.shape[:2], size, size)
        attributes = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        return self._add("resize", "Resize", [x], shape, ["", "", self._shape(shape)], attributes)

    def _weight(self, name: str, shape: tuple[int, ...]) -> str:
        if not self._integer:
            values = self._generator.standard_normal(shape, dtype=np.float32) / np.float32(prod(shape[1:]) ** 0.5)
            return self._initializer(f"{name}.weight", values)
        stored = self._initializer(f"{name}.weight.q", self._generator.integers(-127, 128, shape).astype(np.int8))
        scales = self._generator.uniform(0.5, 1.5, shape[0]).astype(np.float32) * np.float32(WEIGHT_SCALE)
        scale = self._initializer(f"{name}.weight.scale", scales)
        zero = self._initializer(f"{name}.weight.zero", np.zeros(shape[0], np.int8))
        self._nodes.append(Node("DequantizeLinear", [stored, scale, zero], [f"{name}.weight"], f"{name}.weight", {"axis": 0}))
        return f"{name}.weight"

    def _bias(self, name: str, channels: int) -> str:
        return self._initializer(f"{name}.bias", self._generator.uniform(-0.5, 0.5, channels).astype(np.float32))

    def _integer_bias(self, name: str, x: Value, channels: int) -> str:
        """As integers of input scale times weight scale: so a linear runs on integers even where its output stays float."""
        scale = (self._initializers[f"{name}.weight.scale"].astype(np.float64) * self._scales[x.name]).astype(np.float32)
        values = self._generator.integers(-2000, 2000, channels).astype(np.int32)
        parts = [self._initializer(f"{name}.bias.q", values), self._initializer(f"{name}.bias.scale", scale)]
        self._nodes.append(Node("DequantizeLinear", parts, [f"{name}.bias"], f"{name}.bias", {"axis": 0}))
        return f"{name}.bias"

    def _shape(self, shape: tuple[int, ...]) -> str:
        return self._initializer(f"shape{len(self._initializers)}", np.array(shape, np.int64))

    def _constant(self, value: float) -> str:
        return self._initializer(f"constant{len(self._initializers)}", np.array(value, np.float32))

    def _initializer(self, name: str, values: npt.NDArray[np.generic]) -> str:
        self._initializers[name] = values
        return name

    def _name(self, kind: str) -> str:
        return f"{kind}{len(self._operators)}"
