"""Which operators ONNX Runtime computes in one kernel: a walk over the graph in execution order.

Worked example, a residual block ``relu(bn2(conv2(q(relu(bn1(conv1(x)))))) + x)`` in float32 (without ``q``) and in 8 bits:

=========  ====================================  =============================================================
operator   float32                               8 bits, quantisers ``q`` behind relu1 and the sum, ``x`` quantised
=========  ====================================  =============================================================
conv1      kernel 1, with bn1 and relu1          kernel 1, an integer convolution with bn1; relu1 vanishes, for the
                                                 unsigned quantiser behind it cuts off at zero
bn1        absorbed by conv1                     absorbed by conv1 (folded before quantising)
relu1      absorbed by conv1                     vanishes
conv2      kernel 2, with bn2, the sum and the   kernel 2, an integer convolution with bn2: integer kernels absorb no
           last relu: blocked float convolutions sum
           add in place
sum        absorbed by conv2                     kernel 3, an integer addition, since both sides are integers
=========  ====================================  =============================================================

A sum that is read twice, or whose other side is made later, is a kernel of its own in float32 too. Convolutions whose channels are
no multiple of the vector width are not blocked: their neighbours pay for a reorder (`hw_models.layout`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hw_models.graph import Operator, OperatorGraph
from hw_models.layout import Layout, conv_is_blocked, kernel_kind, kernel_layout
from hw_models.targets import Precision, Target

Read = tuple[str, tuple[int, ...]]
"""A value, named by the operator that makes it, and its shape."""

_FUSED_ACTIVATIONS = frozenset({"relu", "clip", "sigmoid", "tanh", "hard_sigmoid"})
_BLOCKED_ACTIVATIONS = _FUSED_ACTIVATIONS | {"hard_swish"}
_VANISHING_ACTIVATIONS = frozenset({"relu", "clip"})
"""An unsigned quantiser behind them does their work."""
_INTEGER_KINDS = frozenset(
    {
        "conv",
        "linear",
        "matmul",
        "add",
        "mul",
        "max_pool",
        "avg_pool",
        "global_avg_pool",
        "reduce_mean",
        "concat",
        "sigmoid",
        "resize",
    }
)
_KEEPS_LAYOUT = frozenset({"relu", "clip", "add", "hard_swish", "silu", "gelu", "sigmoid", "max_pool", "concat"})
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


def _as_depthwise(norm: Operator) -> Operator:
    """A batch norm that nothing folded: in the blocked layout the runtime computes it as a 1x1 depthwise convolution."""
    channels = norm.output_shape[1]
    attributes = {"kernel": [1, 1], "stride": [1, 1], "groups": channels}
    return replace(norm, kind="conv", weight_shape=(channels, 1, 1, 1), has_bias=True, attributes=attributes)


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
        self._visited: set[str] = {"input"}
        self._vanished: dict[str, list[str]] = {}
        self._made_by = {op.name: op for op in graph.operators}
        self._result: list[FusedOperator] = []

    def run(self) -> list[FusedOperator]:
        for op in self._operators:
            if op.kind != "identity" and op.name not in self._absorbed:
                self._visit(op)
        for item in self._result:
            # A fused addition may read what comes later in the graph.
            item.added = [(self._value(name), shape) for name, shape in item.added]
            item.operators += self._vanished.get(item.writes, [])
        return self._result

    def _source(self, name: str) -> str:
        return self._identity.get(name, name)

    def _value(self, name: str) -> str:
        name = self._source(name)
        return self._alias.get(name, name)

    def _visit(self, op: Operator) -> None:
        reads = [(self._value(n), s) for n, s in zip(op.inputs, op.input_shapes, strict=False)]
        if op.kind == "batch_norm" and reads[0][0] in self._blocked_values:
            op = _as_depthwise(op)
        elif op.kind == "slice":
            op = self._as_split(op)
        elif op.kind == "max_pool" and reads[0][0] not in self._integer_values and self._is_quantized_at_once(op.name):
            reads = [self._quantized_before(op, reads[0])]
        fused = FusedOperator(op, [op.name], reads, op.name, op.output_shape)
        if op.kind == "quantize" and reads[0][0] in self._integer_values:
            self._alias[op.name] = reads[0][0]
            return
        if op.kind in _VANISHING_ACTIVATIONS and self._target.unsigned_activations and self._is_quantized_at_once(op.name):
            self._alias[op.name] = reads[0][0]
            self._vanished.setdefault(reads[0][0], []).append(op.name)
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
        self._visited.add(fused.writes)
        self._result.append(fused)

    def _as_split(self, op: Operator) -> Operator:
        """Slices of one value are cut in one go."""
        siblings = [r for r in self._consumers.get(self._source(op.inputs[0]), []) if r.kind == "slice"]
        if len(siblings) < 2:
            return op
        for sibling in siblings:
            if sibling.name != op.name:
                self._absorbed.add(sibling.name)
                self._alias[sibling.name] = op.name
                self._vanished.setdefault(op.name, []).append(sibling.name)
        return replace(op, kind="split", output_shape=op.input_shapes[0])

    def _quantized_before(self, pool: Operator, read: Read) -> Read:
        """The runtime moves a quantiser behind a maximum before it, where it picks among integers."""
        quantizer = replace(pool, name=f"{pool.name}:q", kind="quantize", output_shape=read[1])
        self._result.append(FusedOperator(quantizer, [], [read], quantizer.name, read[1], "int8", kind="quantize"))
        self._integer_values.add(quantizer.name)
        return (quantizer.name, read[1])

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
            elif self._fuses_activation(op, follower):
                self._absorb(fused, follower)
                return
            else:
                return
            self._absorb(fused, follower)
            last = follower.name

    def _fuses_activation(self, op: Operator, follower: Operator) -> bool:
        if op.kind != "conv":
            return follower.kind == "relu"
        integer = op.activation_bits <= 8 and op.weight_bits <= 8
        blocked = not integer and self._is_blocked_conv(op)
        return follower.kind in (_BLOCKED_ACTIVATIONS if blocked else _FUSED_ACTIVATIONS)

    def _is_blocked_conv(self, op: Operator) -> bool:
        if op.kind != "conv" or self._target.optimization != "all":
            return False
        return conv_is_blocked(op, kernel_kind(op, "fp32", self._target), self._target)

    def _can_add(self, addition: Operator, last: str, op: Operator) -> bool:
        """A blocked convolution adds what is blocked like itself; a plain one anything of its shape that is there.

        Where both sides of a sum are blocked convolutions, the first one takes the other in.
        """
        sides = [self._source(n) for n in addition.inputs]
        others = [n for n in sides if n != last]
        if len(others) != 1 or any(s != addition.output_shape for s in addition.input_shapes) or self._target.optimization != "all":
            return False
        if not self._is_blocked_conv(op):
            return True
        other = self._behind_norm(others[0])
        rival = other.kind == "conv" and len(self._consumers.get(others[0], [])) == 1 and self._is_blocked_conv(other)
        if rival and sides.index(others[0]) < sides.index(last):
            return False
        return self._will_be_blocked(others[0])

    def _behind_norm(self, name: str) -> Operator:
        """The operator that makes a value, the convolution where a batch norm will fold into it."""
        op = self._made_by.get(name) or Operator(name, "input", (), (), ())
        return self._made_by.get(self._source(op.inputs[0]), op) if op.kind == "batch_norm" else op

    def _will_be_blocked(self, name: str) -> bool:
        """Whether a value that comes later in the graph will be blocked; looks through what keeps the layout."""
        for _ in range(len(self._operators)):
            if self._value(name) in self._visited:
                return self._value(name) in self._blocked_values
            op = self._behind_norm(name)
            if op.kind not in _KEEPS_LAYOUT:
                return self._is_blocked_conv(op)
            name = self._source(op.inputs[0])
        return False

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
        if not self._has_quantizers or op.kind == "linear":
            # A linear runs on integers even where its output stays float.
            return True
        return self._is_requantized(fused.operators[-1])

    def _is_quantized_at_once(self, name: str) -> bool:
        readers = self._consumers.get(name, [])
        return bool(readers) and all(r.kind == "quantize" for r in readers)

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
        if fused.operator.kind != "linear" or self._is_requantized(fused.operators[-1]) or quantizers:
            self._integer_values.add(fused.writes)

    def _all_integer(self, fused: FusedOperator) -> bool:
        return bool(fused.reads) and all(name in self._integer_values for name, _ in fused.reads)
