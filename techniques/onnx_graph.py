"""Grows a graph of ATen calls from ONNX nodes: constants are computed on the way, a function per operator writes the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import torch
from onnx.reference import ReferenceEvaluator
from torch import fx, nn

from techniques.errors import UnsupportedNetworkError

CONSTANT_OPERATORS = frozenset(
    {"Constant", "Shape", "Gather", "Concat", "Unsqueeze", "Squeeze", "Slice", "Cast", "Add", "Sub", "Mul", "Div", "Reshape"}
    | {"Transpose", "Identity", "Floor", "Ceil", "Neg", "Sqrt", "Pow", "ReduceProd", "Flatten"}
)
"""Computed when all inputs are weights or shapes. None of them makes a tensor that is larger than its inputs together."""
_MAX_CONSTANT_ELEMENTS = 2**28


class UnsupportedOperatorError(UnsupportedNetworkError):
    """This node uses an option without a mapping."""


class GraphBuilder:
    """Grows an ATen graph. A value is a numpy array (known) or a graph node whose ``meta["val"]`` is a meta tensor.

    Args:
        operators: what writes the operators whose inputs depend on the image.
    """

    def __init__(self, opset: int, operators: Mapping[str, Converter]) -> None:
        self.opset = opset
        self._operators = operators
        self.graph = fx.Graph()
        self.root = nn.Module()
        self.values: dict[str, Any] = {}
        self._holders = 0

    def add(self, node: onnx.NodeProto) -> None:
        """Map one node and remember its outputs."""
        inputs = [self.values[name] if name else None for name in node.input]
        if node.op_type == "Shape" and isinstance(inputs[0], fx.Node):
            inputs = [np.empty(tuple(inputs[0].meta["val"].shape), dtype=np.bool_)]
        if node.op_type in CONSTANT_OPERATORS and all(v is None or isinstance(v, np.ndarray) for v in inputs):
            self._compute(node, inputs)
            return
        if node.op_type not in self._operators:
            raise UnsupportedOperatorError("supported on constants only")
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        result = self._operators[node.op_type](self, inputs, attributes)
        results = result if isinstance(result, list) else [result]
        for name, value in zip(node.output, results, strict=False):
            self.values[name] = value
        for name in node.output[len(results) :]:
            if name:
                raise UnsupportedOperatorError(f"its output {name!r} is not supported")

    def _compute(self, node: onnx.NodeProto, inputs: list[Any]) -> None:
        if sum(v.size for v in inputs if v is not None) > _MAX_CONSTANT_ELEMENTS:
            raise UnsupportedOperatorError("a constant of that size")
        feeds = {name: value for name, value in zip(node.input, inputs, strict=True) if name}
        values = [
            onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(v.dtype), None) for n, v in feeds.items()
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
        graph = onnx.helper.make_graph([node], "constant", values, outputs)
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", self.opset)])
        for name, value in zip(node.output, ReferenceEvaluator(model).run(None, feeds), strict=True):
            self.values[name] = np.asarray(value)

    def call(self, target: Any, *args: Any) -> fx.Node:
        """Add a call, with its shape."""
        node = self.graph.call_function(target, args)
        with torch.no_grad():
            node.meta["val"] = target(*fx.map_arg(args, lambda n: n.meta["val"]))
        return node

    def weight(self, value: Any, path: str) -> fx.Node:
        """A constant as a parameter of the network at ``path`` (``conv_3.weight``)."""
        if not isinstance(value, np.ndarray):
            raise UnsupportedOperatorError("its weights must be constants")
        if value.dtype != np.float32:
            raise UnsupportedOperatorError(f"its weights are {value.dtype}; float32 is supported")
        *holders, leaf = path.split(".")
        owner = self.root
        for part in holders:
            if not hasattr(owner, part):
                owner.add_module(part, nn.Module())
            owner = getattr(owner, part)
        tensor = torch.from_numpy(np.ascontiguousarray(value))
        if leaf.startswith("running"):
            owner.register_buffer(leaf, tensor)
        else:
            owner.register_parameter(leaf, nn.Parameter(tensor))
        node = self.graph.get_attr(path)
        node.meta["val"] = tensor.to("meta")
        return node

    def holder(self, kind: str) -> str:
        """A free name for a layer."""
        self._holders += 1
        return f"{kind}_{self._holders - 1}"

    def tensor(self, value: Any) -> Any:
        """A value as an argument of an ATen call: nodes as they are, single numbers as numbers, arrays as parameters."""
        if not isinstance(value, np.ndarray):
            return value
        if value.size == 1 and value.ndim == 0:
            return value.item()
        return self.weight(value.astype(np.float32), self.holder("constant"))


Converter = Callable[[GraphBuilder, list[Any], dict[str, Any]], Any]
"""Writes one operator: builder, inputs, attributes."""
