"""How tiny ONNX models around one operator or a few are written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)


def rand(*shape: int) -> Array:
    return (RNG.standard_normal(shape) * 0.5).astype(np.float32)


def i64(*values: int) -> Array:
    return np.array(values, dtype=np.int64)


def f32(value: float) -> Array:
    return np.array(value, dtype=np.float32)


def node(op_type: str, inputs: str = "x", outputs: str = "y", **attributes: Any) -> onnx.NodeProto:
    """Names of inputs and outputs are separated by blanks; ``-`` is an input that is left out."""
    names = [name.replace("-", "") for name in inputs.split()]
    return helper.make_node(op_type, names, outputs.split(), **attributes)


@dataclass(frozen=True)
class Case:
    """Nodes from ``x`` (the image) to ``y``; where ``y`` is no 4-d tensor of the right batch, the nodes see to it."""

    name: str
    nodes: tuple[onnx.NodeProto, ...]
    weights: Mapping[str, Array] = field(default_factory=dict)
    shape: tuple[int, int, int] = (4, 7, 6)
    opset: int = 17
    batch: int | str = "N"
    tolerance: float = 1e-5

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(
            list(self.nodes),
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [self.batch, *self.shape])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(value, name) for name, value in self.weights.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


def one(op_type: str, weights: Mapping[str, Array] | None = None, *, name: str = "", **more: Any) -> Case:
    """One node whose inputs are ``x`` and the weights, in order."""
    case = {key: more.pop(key) for key in ("shape", "opset", "batch", "tolerance") if key in more}
    weights = weights or {}
    inputs = more.pop("inputs", " ".join(["x", *weights]))
    return Case(name or op_type, (node(op_type, inputs, **more),), weights, **case)
