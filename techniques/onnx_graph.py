"""Grows a graph of ATen calls from ONNX nodes: constants are computed on the way, a function per operator writes the rest."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx.reference import ReferenceEvaluator
from torch import fx, nn

from techniques.errors import UnsupportedNetworkError
from techniques.network import TABLE

BATCH = 10007
"""Stands for the free batch while shapes are found: a prime that no layer uses, so that sizes which hold the batch are known by
being divisible by it. Shapes are found on meta tensors, where size costs nothing."""
CONSTANT_OPERATORS = frozenset(
    {"Constant", "Gather", "Concat", "Unsqueeze", "Squeeze", "Slice", "Cast", "Add", "Sub", "Mul", "Div", "Reshape", "Transpose"}
    | {"Identity", "Floor", "Ceil", "Round", "Neg", "Abs", "Sqrt", "Exp", "Log", "Reciprocal", "Pow", "ReduceProd", "ReduceSum"}
    | {"ReduceMax", "ReduceMin", "Flatten", "Max", "Min", "Mod", "Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"}
    | {"Not", "And", "Or", "Where", "Clip", "Split"}
    | {"Range", "Expand", "Tile", "ConstantOfShape"}
)
"""Computed when all inputs are weights or shapes. Only the last four and broadcasts make more than they are given: see `_grown`."""
_GROWING = frozenset({"Expand", "Tile", "ConstantOfShape"})
"""Where the sizes hold the batch, these become calls: the constant is as long as the batch is."""
_SHAPES_OF_IMAGES = frozenset({"Shape", "Size"})
KNOWN_CONSTANT_OPERATORS = CONSTANT_OPERATORS | _SHAPES_OF_IMAGES
_TAKES_INTEGERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Transpose", "Identity"})
_BROADCASTING = frozenset(
    {"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Mod", "Where", "Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"}
    | {"And", "Or"}
)
_MAX_CONSTANT_ELEMENTS = 2**28
_MAX_GROWN_ELEMENTS = 2**24
_MAX_ELEMENTS_PER_IMAGE = 2**28


class UnsupportedOperatorError(UnsupportedNetworkError):
    """This node uses an option without a mapping."""


@dataclass(frozen=True)
class QuantizedConstant:
    """Weights that stay integers: ``(integers - zero_point) * scale`` along ``axis``.

    Attributes:
        integers: int8.
        scale: float32, one per entry of ``axis``.
        axis: of the output channels.
    """

    integers: np.ndarray[Any, Any]
    scale: np.ndarray[Any, Any]
    axis: int

    def values(self) -> np.ndarray[Any, Any]:
        """The float32 numbers that the integers stand for."""
        sides = [1] * self.integers.ndim
        sides[self.axis] = -1
        result: np.ndarray[Any, Any] = self.integers.astype(np.float32) * self.scale.reshape(sides)
        return result

    def permuted(self, order: Sequence[int]) -> QuantizedConstant:
        """The same with its axes in another order."""
        return QuantizedConstant(np.transpose(self.integers, order), self.scale, list(order).index(self.axis))


class GraphBuilder:
    """Grows an ATen graph. A value is a numpy array or `QuantizedConstant` (known), or a graph node whose ``meta["val"]`` is a
    meta tensor with a batch of `BATCH`.

    Args:
        operators: what writes the operators whose inputs depend on the image.
        file_batch: the batch that is written into the file; None where the file leaves it free.
        read: names that some node, or whoever runs the file, reads; what else a node gives need not be known.
    """

    def __init__(
        self, opset: int, operators: Mapping[str, Converter], file_batch: int | None = None, read: frozenset[str] = frozenset()
    ) -> None:
        self.opset = opset
        self.file_batch = file_batch
        self.outputs = 1
        self.read = read
        self._operators = operators
        self.graph = fx.Graph()
        self.root = nn.Module()
        self.values: dict[str, Any] = {}
        self.shared: dict[tuple[Any, ...], tuple[str, Any]] = {}
        self._holders = 0

    def placeholder(self, name: str, shape: tuple[int, ...]) -> fx.Node:
        """The image input; ``shape`` without the batch."""
        node = self.graph.placeholder(name)
        node.meta["val"] = torch.empty((BATCH, *shape), device="meta")
        return node

    def add(self, node: onnx.NodeProto) -> None:
        """Map one node and remember its outputs."""
        inputs = [self.values[name] if name else None for name in node.input]
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type in _SHAPES_OF_IMAGES:
            self.values[node.output[0]] = self._size(node.op_type, inputs[0], attributes)
            return
        if node.op_type not in _TAKES_INTEGERS:
            inputs = [value.values() if isinstance(value, QuantizedConstant) else value for value in inputs]
        known = node.op_type in CONSTANT_OPERATORS and all(v is None or isinstance(v, np.ndarray) for v in inputs)
        if known and not (node.op_type in _GROWING and any(_holds_batch(v) for v in inputs)):
            self._compute(node, inputs, attributes)
            return
        if node.op_type not in self._operators:
            raise UnsupportedOperatorError("supported on constants only")
        self.outputs = len(node.output)
        result = self._operators[node.op_type](self, inputs, attributes)
        results = result if isinstance(result, list) else [result]
        for name, value in zip(node.output, results, strict=False):
            self.values[name] = value
        for name in node.output[len(results) :]:
            if name in self.read:
                raise UnsupportedOperatorError(f"its output {name!r} is not supported")

    def _size(self, op_type: str, value: Any, attributes: Mapping[str, Any]) -> np.ndarray[Any, Any]:
        if isinstance(value, QuantizedConstant):
            value = value.integers
        shape = value.meta["val"].shape if isinstance(value, fx.Node) else value.shape
        if op_type == "Size":
            return np.array(math.prod(shape), dtype=np.int64)
        end = attributes.get("end")
        return np.array(shape, dtype=np.int64)[attributes.get("start", 0) : end]

    def _compute(self, node: onnx.NodeProto, inputs: list[Any], attributes: Mapping[str, Any]) -> None:
        if sum(v.size for v in inputs if v is not None) > _MAX_CONSTANT_ELEMENTS:
            raise UnsupportedOperatorError("a constant of that size")
        grown = _grown(node.op_type, inputs, attributes)
        if grown > _MAX_GROWN_ELEMENTS:
            raise UnsupportedOperatorError(f"makes a constant of {grown:,} elements; at most {_MAX_GROWN_ELEMENTS:,} are accepted")
        feeds = {name: value for name, value in zip(node.input, inputs, strict=True) if name}
        values = [
            onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(v.dtype), None) for n, v in feeds.items()
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
        graph = onnx.helper.make_graph([node], "constant", values, outputs)
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", self.opset)])
        for name, value in zip(node.output, ReferenceEvaluator(model).run(None, feeds), strict=True):
            self.values[name] = np.asarray(value)

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """Add a call, with its shape."""
        node = self.graph.call_function(target, args, kwargs)
        with torch.no_grad():
            node.meta["val"] = target(*fx.map_arg(args, _value), **fx.map_arg(kwargs, _value))
        for source in node.all_input_nodes:
            node.meta["inner"] = node.meta.get("inner", {}) | source.meta.get("inner", {})
        if isinstance(node.meta["val"], torch.Tensor):
            elements = node.meta["val"].numel() // (BATCH if _has_batch(tuple(node.meta["val"].shape)) else 1)
            if elements > _MAX_ELEMENTS_PER_IMAGE:
                raise UnsupportedOperatorError(f"makes {elements:,} elements of an image; {_MAX_ELEMENTS_PER_IMAGE:,} are accepted")
        return node

    def weight(self, value: Any, path: str) -> fx.Node:
        """A constant as a parameter of the network at ``path`` (``conv_3.weight``); quantised weights stay integers."""
        if isinstance(value, QuantizedConstant):
            return self._integer_weight(value, path)
        if not isinstance(value, np.ndarray):
            raise UnsupportedOperatorError("its weights must be constants")
        if value.dtype != np.float32:
            raise UnsupportedOperatorError(f"its weights are {value.dtype}; float32 is supported: convert the model first")
        tensor = torch.from_numpy(np.array(value, order="C"))
        return self._stored(tensor, path, trained=not path.rpartition(".")[2].startswith("running"))

    def _integer_weight(self, value: QuantizedConstant, path: str) -> fx.Node:
        moved = value.permuted([value.axis, *(axis for axis in range(value.integers.ndim) if axis != value.axis)])
        parts = (np.array(moved.integers, order="C"), np.array(value.scale), np.zeros(value.scale.shape, np.int8))
        names = ("weight", "weight_scale", "weight_zero_point")
        owner = path.rpartition(".")[0]
        nodes = [self._stored(torch.from_numpy(p), f"{owner}.{n}", trained=False) for p, n in zip(parts, names, strict=True)]
        dequantize = torch.ops.quantized_decomposed.dequantize_per_channel.default
        result = self.call(dequantize, *nodes, 0, -127, 127, torch.int8)
        order = [axis + 1 if axis < value.axis else axis for axis in range(value.integers.ndim)]
        order[value.axis] = 0
        return result if value.axis == 0 else self.call(torch.ops.aten.permute.default, result, order)

    def constant(self, value: np.ndarray[Any, Any]) -> fx.Node:
        """A constant that is no weight of a layer: float32 is trained with the network, other types never change."""
        name = self.holder("constant")
        if value.dtype in (np.float32, np.float64):
            return self.weight(value.astype(np.float32), name)
        return self.fixed(value, name)

    def fixed(self, value: np.ndarray[Any, Any], name: str = "") -> fx.Node:
        """A constant that belongs to the way of computing and is never trained: indices, interpolation, counts."""
        return self._stored(torch.from_numpy(np.array(value, order="C")), name or self.holder(TABLE), trained=False)

    def _stored(self, tensor: torch.Tensor, path: str, trained: bool) -> fx.Node:
        *holders, leaf = path.split(".")
        owner = self.root
        for part in holders:
            if not hasattr(owner, part):
                owner.add_module(part, nn.Module())
            owner = getattr(owner, part)
        if not hasattr(owner, leaf):  # a shared layer is stored once
            if trained:
                owner.register_parameter(leaf, nn.Parameter(tensor))
            else:
                owner.register_buffer(leaf, tensor)
        node = self.graph.get_attr(path)
        node.meta["val"] = tensor.to("meta")
        return node

    def holder(self, kind: str) -> str:
        """A free name for a layer."""
        self._holders += 1
        return f"{kind}_{self._holders - 1}"

    def layer(self, kind: str, weight: Any, bias: Any) -> str:
        """The name of the layer with these constants: the one that there is when they have been used before."""
        key = (kind, id(weight), bias.tobytes() if isinstance(bias, np.ndarray) else bias)
        if key not in self.shared:
            self.shared[key] = (self.holder(kind), weight)  # the weight is kept, so that its id is not given to another one
        return self.shared[key][0]

    def tensor(self, value: Any) -> Any:
        """A value as an argument of an ATen call: nodes as they are, single numbers as numbers, arrays as parameters."""
        if isinstance(value, QuantizedConstant):
            value = value.values()
        if not isinstance(value, np.ndarray):
            return value
        return value.item() if value.ndim == 0 else self.constant(value)

    def node(self, value: Any) -> fx.Node:
        """A value as a graph node, single numbers too."""
        value = value.values() if isinstance(value, QuantizedConstant) else value
        if isinstance(value, fx.Node):
            return value
        return self.constant(value) if value.ndim else self.fixed(value.astype(np.float32) if value.dtype.kind == "f" else value)

    def sizes(self, listed: Sequence[int]) -> list[Any]:
        """Sizes as arguments: those that hold the batch are read from the image at run time, or -1 where one may be."""
        holding = [size for size in listed if size and size % BATCH == 0]
        free = len(holding) == 1 and -1 not in listed and 0 not in listed
        return [self._run_time(s, free) if s and s % BATCH == 0 else s for s in listed]

    def _run_time(self, size: int, free: bool) -> Any:
        if free:
            return -1
        image = next(node for node in self.graph.nodes if node.op == "placeholder")
        batch = self.call(torch.ops.aten.sym_size.int, image, 0)
        if size == BATCH:
            return batch
        node = self.graph.call_function(operator.mul, (batch, size // BATCH))
        node.meta["val"] = size
        return node


def _value(node: fx.Node) -> Any:
    return node.meta["val"]


def _has_batch(shape: Sequence[int]) -> bool:
    return any(size and size % BATCH == 0 for size in shape)


def _holds_batch(value: Any) -> bool:
    """Whether a list of sizes contains the batch."""
    return isinstance(value, np.ndarray) and value.dtype.kind == "i" and value.ndim <= 1 and _has_batch(value.reshape(-1).tolist())


def _grown(op_type: str, inputs: list[Any], attributes: Mapping[str, Any]) -> int:
    """Elements of the result where it may be larger than its inputs together; else 0."""
    arrays = [v for v in inputs if v is not None]
    if op_type == "ConstantOfShape":
        return math.prod(int(v) for v in arrays[0].reshape(-1))
    if op_type == "Expand":
        return math.prod(max(1, int(v)) for v in arrays[1].reshape(-1)) * int(arrays[0].size)
    if op_type == "Tile":
        return int(arrays[0].size) * math.prod(int(v) for v in arrays[1].reshape(-1))
    if op_type == "Range":
        start, limit, delta = (float(np.asarray(v).reshape(-1)[0]) for v in arrays)
        return max(0, math.ceil((limit - start) / delta)) if delta and math.isfinite(limit - start) else _MAX_GROWN_ELEMENTS + 1
    if op_type == "Gather":
        length = int(arrays[0].shape[int(attributes.get("axis", 0))])
        return int(arrays[1].size) * int(arrays[0].size) // max(1, length)
    if op_type in _BROADCASTING and len(arrays) > 1:
        size = int(math.prod(np.broadcast_shapes(*(v.shape for v in arrays))))
        return size if size > max(int(v.size) for v in arrays) else 0
    return 0


Converter = Callable[[GraphBuilder, list[Any], dict[str, Any]], Any]
"""Writes one operator: builder, inputs, attributes."""
