"""Which operators ONNX Runtime computes in one kernel: a walk over the graph in execution order."""

from __future__ import annotations

from dataclasses import dataclass, field

from hw_models.graph import Operator, OperatorGraph
from hw_models.layout import Layout, conv_is_blocked, kernel_kind, kernel_layout
from hw_models.targets import Precision, Target

Read = tuple[str, tuple[int, ...]]
"""A value, named by the operator that makes it, and its shape."""

_FUSED_ACTIVATIONS = frozenset({"relu", "clip", "sigmoid", "tanh", "hard_sigmoid"})
_INTEGER_KINDS = frozenset(
    {"conv", "linear", "matmul", "add", "mul", "max_pool", "avg_pool", "global_avg_pool", "concat", "sigmoid", "resize"}
)
_PASSES_VALUES_ON = frozenset({"reshape", "transpose", "max_pool", "slice", "split", "relu", "clip"})


@dataclass
class FusedOperator:
    """An operator with what was fused into it. ``reads`` and ``writes`` are values, named by the operators that make them."""

    operator: Operator
    operators: list[str]
    reads: list[Read]
    writes: str
    output_shape: tuple[int, ...]
    precision: Precision = "fp32"
    added: list[Read] = field(default_factory=list)
    kind: str = ""
    layout: Layout = "plain"


def fuse(graph: OperatorGraph, target: Target) -> list[FusedOperator]:
    """The graph's operators as the target's runtime fuses them, each with its precision, kernel kind and layout."""
    return _Fusion(graph, target).run()


class _Fusion:
    """Walks the operators in order; `alias` maps a removed operator to the value that stands for its result."""

    def __init__(self, graph: OperatorGraph, target: Target) -> None:
        self._target = target
        self._operators = graph.operators
        self._consumers: dict[str, list[Operator]] = {}
        self._identity: dict[str, str] = {}
        for op in graph.operators:
            if op.kind == "identity" and op.inputs:
                self._identity[op.name] = self._source(op.inputs[0])
                continue
            for name in op.inputs:
                self._consumers.setdefault(self._source(name), []).append(op)
        self._has_quantizers = any(op.kind == "quantize" for op in graph.operators)
        self._alias: dict[str, str] = {}
        self._absorbed: set[str] = set()
        self._integer_values: set[str] = set()
        self._blocked_values: set[str] = set()
        self._result: list[FusedOperator] = []

    def run(self) -> list[FusedOperator]:
        for op in self._operators:
            if op.kind != "identity" and op.name not in self._absorbed:
                self._visit(op)
        for item in self._result:
            # A fused addition may read what comes later in the graph.
            item.added = [(self._value(name), shape) for name, shape in item.added]
        return self._result

    def _source(self, name: str) -> str:
        return self._identity.get(name, name)

    def _value(self, name: str) -> str:
        name = self._source(name)
        return self._alias.get(name, name)

    def _visit(self, op: Operator) -> None:
        reads = [(self._value(n), s) for n, s in zip(op.inputs, op.input_shapes, strict=False)]
        fused = FusedOperator(op, [op.name], reads, op.name, op.output_shape)
        if op.kind == "quantize" and reads[0][0] in self._integer_values:
            self._alias[op.name] = reads[0][0]
            return
        if op.kind in ("conv", "linear", "matmul"):
            self._absorb_followers(fused)
        if self._runs_on_integers(fused):
            fused.precision = "int8"
            self._absorb_quantizers(fused)
        elif op.kind == "quantize" or (op.kind in _PASSES_VALUES_ON and self._all_integer(fused)):
            fused.precision = "int8"
            self._integer_values.add(fused.writes)
        fused.kind = kernel_kind(op, fused.precision, self._target)
        fused.layout = kernel_layout(op, fused.kind, fused.precision, fused.reads, self._blocked_values, self._target)
        if fused.layout == "blocked":
            self._blocked_values.add(fused.writes)
        self._result.append(fused)

    def _absorb_followers(self, fused: FusedOperator) -> None:
        """Batch norm, then (float32 convolutions) a residual addition, then an activation, while nothing else reads the value."""
        op = fused.operator
        integer = op.activation_bits <= 8 and op.weight_bits <= 8
        added = op.kind != "conv" or integer
        last = op.name
        while True:
            readers = self._consumers.get(last, [])
            if len(readers) != 1 or readers[0].name in self._absorbed:
                return
            follower = readers[0]
            if follower.kind == "batch_norm" and len(fused.operators) == 1:
                pass
            elif follower.kind == "add" and not added and self._can_add(follower, last, op):
                added = True
                others = zip(follower.inputs, follower.input_shapes, strict=False)
                fused.added = [(n, s) for n, s in others if self._source(n) != last]
            elif follower.kind in _FUSED_ACTIVATIONS and (op.kind == "conv" or follower.kind == "relu"):
                self._absorb(fused, follower)
                return
            else:
                return
            self._absorb(fused, follower)
            last = follower.name

    def _can_add(self, addition: Operator, last: str, op: Operator) -> bool:
        """A blocked convolution adds what is there, and blocked like itself; a plain one adds anything of its shape."""
        others = [n for n in addition.inputs if self._source(n) != last]
        if len(others) != 1 or any(s != addition.output_shape for s in addition.input_shapes):
            return False
        if self._target.optimization == "all" and conv_is_blocked(op, kernel_kind(op, "fp32", self._target), self._target):
            return self._value(others[0]) in self._blocked_values
        return True

    def _absorb(self, fused: FusedOperator, follower: Operator) -> None:
        self._absorbed.add(follower.name)
        fused.operators.append(follower.name)
        # Later readers name the follower; the value keeps the name of the fused operator.
        self._alias[follower.name] = fused.writes
        fused.output_shape = follower.output_shape

    def _runs_on_integers(self, fused: FusedOperator) -> bool:
        op = fused.operator
        if op.kind not in _INTEGER_KINDS or op.activation_bits > 8:
            return False
        if op.kind in ("conv", "linear") and op.weight_bits > 8:
            return False
        if not self._has_quantizers:
            return True
        return self._is_requantized(fused.operators[-1])

    def _is_requantized(self, name: str) -> bool:
        """Whether every reader quantises, at once or behind operators that quantisation moves through."""
        readers = self._consumers.get(name, [])
        return bool(readers) and all(
            r.kind == "quantize" or (r.kind in _PASSES_VALUES_ON and self._is_requantized(r.name)) for r in readers
        )

    def _absorb_quantizers(self, fused: FusedOperator) -> None:
        readers = self._consumers.get(fused.operators[-1], [])
        if len(readers) == 1 and readers[0].kind in _FUSED_ACTIVATIONS and fused.operator.kind in ("add", "conv"):
            self._absorb(fused, readers[0])
            readers = self._consumers.get(readers[0].name, [])
        quantizers = [r for r in readers if r.kind == "quantize"]
        for reader in quantizers:
            self._absorb(fused, reader)
        self._integer_values.add(fused.writes)

    def _all_integer(self, fused: FusedOperator) -> bool:
        return bool(fused.reads) and all(name in self._integer_values for name, _ in fused.reads)
