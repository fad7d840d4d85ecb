"""OperatorGraph: a network as hardware sees it. Ops, shapes, bits; no weights, no torch. Plain JSON in and out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

KINDS = frozenset(
    {
        "conv",
        "conv1d",
        "conv_transpose",
        "linear",
        "matmul",
        "batch_norm",
        "layer_norm",
        "relu",
        "clip",
        "hard_swish",
        "hard_sigmoid",
        "sigmoid",
        "silu",
        "gelu",
        "tanh",
        "softmax",
        "add",
        "mul",
        "sub",
        "div",
        "max_pool",
        "avg_pool",
        "global_avg_pool",
        "concat",
        "reshape",
        "transpose",
        "split",
        "slice",
        "gather",
        "pad",
        "resize",
        "reduce_mean",
        "quantize",
        "identity",
    }
)
"""Known kinds; anything else is ``other:<op name>`` and is never priced at zero."""


@dataclass(frozen=True)
class Operator:
    """One operation on concrete shapes at the graph's batch size.

    Attributes:
        name: unique in the graph; for layers the module's qualified name.
        kind: one of `KINDS` or ``other:<op name>``.
        inputs: names of the operators (or ``input``) whose results it reads.
        input_shapes, output_shape: with the batch first.
        weight_shape: of convolutions and linears, output channels first; empty otherwise.
        weight_bits, activation_bits: 32 for float; 8 where the op runs on integers.
        attributes: numbers that matter to cost: ``kernel`` [h, w], ``stride`` [h, w], ``groups``, ``dilation``, ``axis`` ...
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    input_shapes: tuple[tuple[int, ...], ...]
    output_shape: tuple[int, ...]
    weight_shape: tuple[int, ...] = ()
    weight_bits: int = 32
    activation_bits: int = 32
    has_bias: bool = False
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def macs(self) -> int:
        """Multiply-accumulates of a convolution, linear or matmul; 0 for the rest (the field's convention)."""
        if self.kind == "conv_transpose":
            batch, _, *positions = self.input_shapes[0]
            return batch * _product(positions) * _product(self.weight_shape)
        if self.kind in ("conv", "conv1d"):
            _, in_per_group, *kernel = self.weight_shape
            return _product(self.output_shape) * in_per_group * _product(kernel)
        if self.kind == "linear":
            return _product(self.output_shape) * self.weight_shape[1]
        if self.kind == "matmul":
            return _product(self.output_shape) * self._summed()
        return 0

    def _summed(self) -> int:
        """Products that a matmul adds up for one output: of ``(..., m, k)`` and ``(..., k, n)``, ``k``. A constant has no shape
        here: its side is told by what the output keeps of the other's."""
        first = self.input_shapes[0]
        if (
            len(self.input_shapes) == 1
            and len(first) > 1
            and first[-1] == self.output_shape[-1]
            and first[-2] != self.output_shape[-2]
        ):
            return first[-2]  # a constant on the left
        return first[-1]


@dataclass(frozen=True)
class OperatorGraph:
    """Operators in execution order; the last one gives the output."""

    operators: tuple[Operator, ...]
    input_shape: tuple[int, ...]

    def macs(self) -> int:
        """Multiply-accumulates of one run at the graph's batch size."""
        return sum(op.macs() for op in self.operators)

    def to_json(self) -> str:
        """Canonical text with type and version."""
        return json.dumps({"type": "operator_graph", "version": 1, **asdict(self)}, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> OperatorGraph:
        """Read what `to_json` wrote.

        Raises:
            ValueError: not an operator graph of a known version.
        """
        data = json.loads(text)
        if data.get("type") != "operator_graph" or data.get("version") != 1:
            raise ValueError(f"not an operator graph: type {data.get('type')!r} version {data.get('version')!r}")
        return OperatorGraph.from_operators(data["operators"], data["input_shape"])

    @staticmethod
    def from_operators(operators: Iterable[Mapping[str, Any]], input_shape: Iterable[int]) -> OperatorGraph:
        """From plain objects with the fields of `Operator`, lists where those are tuples."""
        made = tuple(
            Operator(
                **{
                    **op,
                    "inputs": tuple(op["inputs"]),
                    "input_shapes": tuple(tuple(s) for s in op["input_shapes"]),
                    "output_shape": tuple(op["output_shape"]),
                    "weight_shape": tuple(op["weight_shape"]),
                }
            )
            for op in operators
        )
        return OperatorGraph(made, tuple(input_shape))


def _product(sizes: Any) -> int:
    result = 1
    for size in sizes:
        result *= int(size)
    return result
