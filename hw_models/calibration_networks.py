"""Random small CNNs for calibration: each written twice at once, as an operator graph and as the ONNX file that is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hw_models.graph import Operator, OperatorGraph
from hw_models.targets import Precision

OPSET = 18
IR_VERSION = 10
ACTIVATION_SCALE = 0.02
"""Below 6 / 255, so that the range of a quantised value lies within a clip's and the clip can vanish."""
WEIGHT_SCALE = 0.005


@dataclass(frozen=True)
class Value:
    """A tensor in the network: its name, which is that of the operator that makes it, and its shape with the batch first."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class CalibrationNetwork:
    """A network to measure, in both descriptions."""

    name: str
    graph: OperatorGraph
    onnx_model: bytes


class NetworkWriter:
    """Adds layers to both descriptions; int8 networks get a quantise-dequantise pair behind every layer, as an export has them.

    Biases are random: ONNX Runtime does not fuse quantised convolutions whose biases are all alike.
    """

    def __init__(
        self, input_shape: tuple[int, ...], precision: Precision, generator: np.random.Generator, resize_to: int | None = None
    ) -> None:
        self._precision = precision
        self._generator = generator
        self._input_shape = input_shape
        self._operators: list[Operator] = []
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._onnx_names: dict[str, str] = {"input": "input"}
        self.input = Value("input", input_shape)
        if resize_to is not None:
            self.input = self._resize(self.input, resize_to)
        if precision == "int8":
            self.input = self._quantize(self.input)

    def conv(
        self,
        x: Value,
        channels: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        activation: str | None = "relu",
        requantize: bool = True,
    ) -> Value:
        """Convolution with 'same' padding and bias, then ``relu``, ``clip`` or nothing."""
        batch, in_channels, height, width = x.shape
        shape = (batch, channels, (height - 1) // stride + 1, (width - 1) // stride + 1)
        weight_shape = (channels, in_channels // groups, kernel, kernel)
        attributes = {"kernel": [kernel, kernel], "stride": [stride, stride], "groups": groups}
        name = self._name("conv")
        weights = [self._weight(name, weight_shape), self._bias(name, channels)]
        node_attributes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4, "group": groups}
        y = self._add(
            "conv", "Conv", [x], shape, weights, node_attributes, name=name, weight_shape=weight_shape, attributes=attributes
        )
        if activation == "relu":
            y = self._add("relu", "Relu", [y], shape)
        elif activation == "clip":
            y = self._add("clip", "Clip", [y], shape, [self._constant(0.0), self._constant(6.0)])
        return self._requantized(y) if requantize else y

    def add(self, a: Value, b: Value, relu: bool = True) -> Value:
        """Sum of two tensors of one shape."""
        y = self._add("add", "Add", [a, b], a.shape)
        return self._requantized(self._add("relu", "Relu", [y], a.shape) if relu else y)

    def max_pool(self, x: Value, kernel: int = 2) -> Value:
        """Maximum over windows of ``kernel``, which is also the stride."""
        shape = (*x.shape[:2], x.shape[2] // kernel, x.shape[3] // kernel)
        attributes = {"kernel": [kernel, kernel], "stride": [kernel, kernel]}
        node_attributes = {"kernel_shape": [kernel] * 2, "strides": [kernel] * 2}
        return self._add("max_pool", "MaxPool", [x], shape, [], node_attributes, attributes=attributes)

    def concat(self, a: Value, b: Value) -> Value:
        """Two tensors one behind the other along the channels."""
        shape = (a.shape[0], a.shape[1] + b.shape[1], *a.shape[2:])
        return self._requantized(self._add("concat", "Concat", [a, b], shape, [], {"axis": 1}, attributes={"axis": 1}))

    def unary(self, x: Value, kind: str) -> Value:
        """An elementwise function: ``sigmoid``, ``tanh`` or ``relu``."""
        onnx_type = {"sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "Relu"}[kind]
        return self._requantized(self._add(kind, onnx_type, [x], x.shape))

    def mul(self, a: Value, b: Value) -> Value:
        """Product of two tensors; ``b`` may have one value per channel."""
        return self._requantized(self._add("mul", "Mul", [a, b], a.shape))

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
        target = self._initializer(f"shape{len(self._initializers)}", np.array(shape, np.int64))
        return self._add("reshape", "Reshape", [x], shape, [target])

    def linear(self, x: Value, outputs: int, activation: bool = False) -> Value:
        """Linear layer with bias, then perhaps ReLU (and then, in int8, another quantiser: it is no output)."""
        name = self._name("linear")
        weight_shape = (outputs, x.shape[1])
        weights = [self._weight(name, weight_shape), self._bias(name, outputs)]
        shape = (x.shape[0], outputs)
        y = self._add("linear", "Gemm", [x], shape, weights, {"transB": 1}, name=name, weight_shape=weight_shape)
        return self._requantized(self._add("relu", "Relu", [y], shape)) if activation else y

    def finish(self, name: str, output: Value) -> CalibrationNetwork:
        """Both descriptions, ending in ``output``."""
        graph = helper.make_graph(
            self._nodes,
            name,
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, self._input_shape)],
            [helper.make_tensor_value_info(self._onnx_names[output.name], TensorProto.FLOAT, output.shape)],
            self._initializers,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        return CalibrationNetwork(name, OperatorGraph(tuple(self._operators), self._input_shape), model.SerializeToString())

    def _add(
        self,
        kind: str,
        onnx_type: str,
        inputs: list[Value],
        shape: tuple[int, ...],
        extra_inputs: list[str] | None = None,
        node_attributes: Mapping[str, object] | None = None,
        name: str | None = None,
        weight_shape: tuple[int, ...] = (),
        attributes: Mapping[str, object] | None = None,
    ) -> Value:
        name = name or self._name(kind)
        names = [self._onnx_names[v.name] for v in inputs] + (extra_inputs or [])
        self._nodes.append(helper.make_node(onnx_type, names, [name], name, **(node_attributes or {})))
        self._onnx_names[name] = name
        bits = 8 if self._precision == "int8" else 32
        self._operators.append(
            Operator(
                name,
                kind,
                tuple(v.name for v in inputs),
                tuple(v.shape for v in inputs),
                shape,
                weight_shape,
                weight_bits=bits if weight_shape else 32,
                activation_bits=bits,
                has_bias=bool(weight_shape),
                attributes=attributes or {},
            )
        )
        return Value(name, shape)

    def _requantized(self, x: Value) -> Value:
        return self._quantize(x) if self._precision == "int8" else x

    def _quantize(self, x: Value) -> Value:
        name = self._name("quantize")
        scale = self._constant(ACTIVATION_SCALE * float(self._generator.uniform(0.8, 1.15)))
        zero = self._initializer(f"{name}.zero", np.zeros((), np.uint8))
        self._nodes.append(helper.make_node("QuantizeLinear", [self._onnx_names[x.name], scale, zero], [f"{name}.q"], f"{name}.q"))
        self._nodes.append(helper.make_node("DequantizeLinear", [f"{name}.q", scale, zero], [name], name))
        self._onnx_names[name] = name
        self._operators.append(Operator(name, "quantize", (x.name,), (x.shape,), x.shape, activation_bits=8))
        return Value(name, x.shape)

    def _resize(self, x: Value, size: int) -> Value:
        """Bilinear, half-pixel centres: what a network at lower resolution starts with."""
        shape = (*x.shape[:2], size, size)
        target = self._initializer(f"size{len(self._initializers)}", np.array(shape, np.int64))
        attributes = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        resized = self._add("resize", "Resize", [x], shape, ["", "", target], attributes)
        last = self._operators[-1]
        self._operators[-1] = Operator(**{**last.__dict__, "activation_bits": 32})
        return resized

    def _weight(self, name: str, shape: tuple[int, ...]) -> str:
        if self._precision == "fp32":
            values = self._generator.standard_normal(shape, dtype=np.float32) / np.float32(prod(shape[1:]) ** 0.5)
            return self._initializer(f"{name}.weight", values)
        stored = self._initializer(f"{name}.weight.q", self._generator.integers(-127, 128, shape).astype(np.int8))
        scales = self._generator.uniform(0.5, 1.5, shape[0]).astype(np.float32) * np.float32(WEIGHT_SCALE)
        scale = self._initializer(f"{name}.weight.scale", scales)
        zero = self._initializer(f"{name}.weight.zero", np.zeros(shape[0], np.int8))
        self._nodes.append(helper.make_node("DequantizeLinear", [stored, scale, zero], [f"{name}.weight"], axis=0))
        return f"{name}.weight"

    def _bias(self, name: str, channels: int) -> str:
        return self._initializer(f"{name}.bias", self._generator.uniform(-0.5, 0.5, channels).astype(np.float32))

    def _constant(self, value: float) -> str:
        return self._initializer(f"constant{len(self._initializers)}", np.array(value, np.float32))

    def _initializer(self, name: str, values: np.ndarray) -> str:
        self._initializers.append(numpy_helper.from_array(values, name))
        return name

    def _name(self, kind: str) -> str:
        return f"{kind}{len(self._operators)}"
