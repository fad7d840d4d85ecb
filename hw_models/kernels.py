"""From an operator graph to the kernels that ONNX Runtime runs for it on a CPU, without running it.

The rules follow ONNX Runtime's optimiser at its highest level (checked against saved optimised graphs): batch norm folds into
the convolution before it; an activation, and in float32 a residual addition, fuse into the convolution; float32 convolutions
run in a layout blocked by 8 channels where the channel counts allow it, and reorder at the borders; quantise-dequantise
pairs vanish into integer kernels, which need quantised values on both sides; integer convolutions run directly where the
channel counts allow it and as unfolded matrix products elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Literal

from hw_models.graph import Operator, OperatorGraph
from hw_models.targets import Precision, Target

BLOCK = 8
BLOCKED_ALIGNMENT = 4
FILTER_BLOCKS_PER_PASS = 4
INT8_COLUMNS = 16
POINTER_BYTES = 8

FEATURES = ("nodes", "macs", "loads", "bytes", "im2col_bytes", "weight_bytes")
"""What a kernel's time is a non-negative combination of; the order of `Kernel.features`."""

_FUSED_ACTIVATIONS = frozenset({"relu", "clip", "sigmoid", "tanh", "hard_sigmoid"})
_INTEGER_KINDS = frozenset(
    {"conv", "linear", "matmul", "add", "mul", "max_pool", "avg_pool", "global_avg_pool", "concat", "sigmoid", "resize"}
)
_PASSES_VALUES_ON = frozenset({"reshape", "transpose", "max_pool", "slice", "split", "relu", "clip"})
_KERNEL_KINDS = {
    "matmul": "linear",
    "relu": "elementwise", "clip": "elementwise", "mul": "elementwise", "sub": "elementwise", "div": "elementwise",
    "batch_norm": "elementwise",
    "hard_swish": "transcendental", "hard_sigmoid": "transcendental", "sigmoid": "transcendental", "silu": "transcendental",
    "gelu": "transcendental", "tanh": "transcendental", "softmax": "transcendental",
    "global_avg_pool": "global_pool", "reduce_mean": "global_pool", "max_pool": "pool", "avg_pool": "pool",
    "concat": "copy", "transpose": "copy", "split": "copy", "slice": "copy", "pad": "copy",
}  # fmt: skip
_KEEPS_ANY_CHANNELS = frozenset({"elementwise", "add", "transcendental"})
_KEEPS_BLOCKED = _KEEPS_ANY_CHANNELS | {"pool", "global_pool"}

Layout = Literal["plain", "blocked", "direct"]
"""``direct`` is an integer convolution that reads its input through pointers instead of unfolding it."""


@dataclass(frozen=True)
class Kernel:
    """One node as the runtime runs it.

    Attributes:
        kind: ``conv1x1``, ``convkxk``, ``depthwise``, ``grouped``, ``first_conv``, ``linear``, ``add``, ``pool``, ``quantize``,
            ``reorder`` ..., or ``other:<op>`` for what these rules do not know.
        operators: names of the operators that it computes; empty for a layout change.
        macs: multiply-accumulates, channel counts padded to what the vector unit computes anyway.
        loads: activation values fetched by the inner loop of a blocked convolution (each serves up to 4 filter blocks); separate
            matrix products, one per group, of a plain grouped one.
        bytes_in, bytes_out, weight_bytes, im2col_bytes: memory moved; im2col is the unfolded input of a matrix convolution.
    """

    name: str
    kind: str
    precision: Precision = "fp32"
    layout: Layout = "plain"
    operators: tuple[str, ...] = ()
    macs: int = 0
    loads: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    weight_bytes: int = 0
    im2col_bytes: int = 0

    @property
    def signature(self) -> str:
        """What kernels must share to be priced by the same coefficients."""
        return f"{self.kind}.{self.precision}.{self.layout}"

    @property
    def features(self) -> tuple[float, ...]:
        """In the order of `FEATURES`."""
        return (1.0, self.macs, self.loads, self.bytes_in + self.bytes_out, self.im2col_bytes, self.weight_bytes)


def kernels(graph: OperatorGraph, target: Target) -> tuple[Kernel, ...]:
    """The kernels in execution order; operators that the runtime removes give none."""
    return _with_conversions(_Fusion(graph, target).run())


@dataclass
class _Fused:
    """An operator with what was fused into it. ``reads`` and ``writes`` are values, named by the operators that make them."""

    operator: Operator
    operators: list[str]
    reads: list[tuple[str, tuple[int, ...]]]
    writes: str
    output_shape: tuple[int, ...]
    precision: Precision = "fp32"
    added: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    kind: str = ""
    layout: Layout = "plain"


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
        self._result: list[_Fused] = []

    def run(self) -> list[_Fused]:
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
        fused = _Fused(op, [op.name], reads, op.name, op.output_shape)
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
        fused.kind = _kind(op, fused.precision)
        fused.layout = _layout(fused, self._blocked_values, self._target)
        if fused.layout == "blocked":
            self._blocked_values.add(fused.writes)
        self._result.append(fused)

    def _absorb_followers(self, fused: _Fused) -> None:
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
        if self._target.optimization == "all" and _conv_is_blocked(op, _kind(op, "fp32")):
            return self._value(others[0]) in self._blocked_values
        return True

    def _absorb(self, fused: _Fused, follower: Operator) -> None:
        self._absorbed.add(follower.name)
        fused.operators.append(follower.name)
        # Later readers name the follower; the value keeps the name of the fused operator.
        self._alias[follower.name] = fused.writes
        fused.output_shape = follower.output_shape

    def _runs_on_integers(self, fused: _Fused) -> bool:
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

    def _absorb_quantizers(self, fused: _Fused) -> None:
        readers = self._consumers.get(fused.operators[-1], [])
        if len(readers) == 1 and readers[0].kind in _FUSED_ACTIVATIONS and fused.operator.kind in ("add", "conv"):
            self._absorb(fused, readers[0])
            readers = self._consumers.get(readers[0].name, [])
        quantizers = [r for r in readers if r.kind == "quantize"]
        for reader in quantizers:
            self._absorb(fused, reader)
        self._integer_values.add(fused.writes)

    def _all_integer(self, fused: _Fused) -> bool:
        return bool(fused.reads) and all(name in self._integer_values for name, _ in fused.reads)


def _with_conversions(fused: Sequence[_Fused]) -> tuple[Kernel, ...]:
    """Kernels of the fused operators, with the changes of layout and precision between them; a value is converted once."""
    blocked = {item.writes for item in fused if item.layout == "blocked"}
    integer = {item.writes for item in fused if item.precision == "int8"}
    converted: set[tuple[str, str]] = set()
    result: list[Kernel] = []

    def convert(kind: str, precision: Precision, values: Iterable[tuple[str, tuple[int, ...]]]) -> None:
        for name, shape in values:
            if (kind, name) not in converted:
                converted.add((kind, name))
                elements = prod(shape)
                size = 4 if precision == "fp32" else 1
                result.append(Kernel(f"{kind}:{name}", kind, precision, bytes_in=size * elements, bytes_out=4 * elements))

    for item in fused:
        if item.precision == "fp32":
            convert("dequantize", "int8", [r for r in item.reads + item.added if r[0] in integer])
        # A first convolution reads the plain layout and writes the blocked one.
        wants_blocked = item.layout == "blocked" and item.kind != "first_conv"
        convert("reorder", "fp32", [r for r in item.reads if (r[0] in blocked) != wants_blocked])
        convert("reorder", "fp32", [r for r in item.added if (r[0] in blocked) != (item.layout == "blocked")])
        result.append(_kernel(item))
    return tuple(result)


def _kind(op: Operator, precision: Precision) -> str:
    if op.kind != "conv":
        return _KERNEL_KINDS.get(op.kind, op.kind)
    groups = int(op.attributes.get("groups", 1))
    in_channels = op.weight_shape[1] * groups
    if groups > 1:
        return "depthwise" if op.weight_shape[1] == 1 and op.weight_shape[0] == groups else "grouped"
    if in_channels < BLOCK and precision == "fp32":
        return "first_conv"
    return "conv1x1" if prod(op.weight_shape[2:]) == 1 else "convkxk"


def _layout(item: _Fused, blocked_values: set[str], target: Target) -> Layout:
    kind = item.kind
    if item.precision == "int8":
        return "direct" if item.operator.kind == "conv" and _conv_is_direct(item.operator, kind) else "plain"
    if target.optimization != "all":
        return "plain"
    if item.operator.kind == "conv":
        return "blocked" if _conv_is_blocked(item.operator, kind) else "plain"
    channels_fit = all(len(shape) == 4 and shape[1] % BLOCK == 0 for _, shape in item.reads)
    if kind == "pool":
        return "blocked" if channels_fit else "plain"
    if kind not in _KEEPS_BLOCKED and item.operator.kind != "concat":
        return "plain"
    if not item.reads or not all(name in blocked_values for name, _ in item.reads):
        return "plain"
    if kind in _KEEPS_ANY_CHANNELS and len({shape for _, shape in item.reads}) > 1:
        # Broadcasting works on plain tensors only.
        return "plain"
    return "blocked" if channels_fit or kind in _KEEPS_ANY_CHANNELS else "plain"


def _conv_is_blocked(op: Operator, kind: str) -> bool:
    out_channels, in_per_group = op.weight_shape[:2]
    groups = int(op.attributes.get("groups", 1))
    if kind == "first_conv":
        return True
    if kind == "depthwise":
        return out_channels % BLOCKED_ALIGNMENT == 0
    if kind == "grouped":
        return in_per_group % BLOCK == 0 and (out_channels // groups) % BLOCK == 0
    return in_per_group % BLOCKED_ALIGNMENT == 0


def _conv_is_direct(op: Operator, kind: str) -> bool:
    out_channels, in_per_group = op.weight_shape[:2]
    if kind == "depthwise":
        return out_channels % INT8_COLUMNS == 0
    return kind != "grouped" and in_per_group % 4 == 0 and out_channels % 8 == 0


def _kernel(item: _Fused) -> Kernel:
    op, kind = item.operator, item.kind
    size = 1 if item.precision == "int8" else 4
    moved = kind != "reshape"
    base = Kernel(
        name=op.name,
        kind=kind,
        precision=item.precision,
        layout=item.layout,
        operators=tuple(item.operators),
        bytes_in=size * sum(prod(s) for _, s in item.reads + item.added) if moved else 0,
        bytes_out=size * prod(item.output_shape) if moved else 0,
    )
    if kind == "quantize":
        return _replace(base, bytes_in=4 * base.bytes_in)
    if op.kind == "conv":
        return _with_convolution(base, op, size)
    if kind == "linear":
        return _with_linear(base, op, size)
    if kind == "pool":
        return _replace(base, macs=prod(op.output_shape) * prod(op.attributes.get("kernel", (1, 1))))
    return base


def _with_convolution(base: Kernel, op: Operator, size: int) -> Kernel:
    out_channels, in_per_group, *window = op.weight_shape
    groups = int(op.attributes.get("groups", 1))
    pixels = op.output_shape[0] * prod(op.output_shape[2:])
    depth = in_per_group * prod(window)
    weight_bytes = size * prod(op.weight_shape)
    if base.kind == "depthwise":
        channels = _padded(out_channels, BLOCK if base.layout == "blocked" else 1)
        loads = groups if base.layout == "plain" else 0
        return _replace(base, macs=pixels * channels * depth, loads=loads, weight_bytes=weight_bytes)
    if base.layout == "blocked":
        inputs = in_per_group if base.kind == "first_conv" else _padded(in_per_group, BLOCK)
        depth = inputs * prod(window)
        outputs = _padded(out_channels // groups, BLOCK)
        passes = -(-outputs // (BLOCK * FILTER_BLOCKS_PER_PASS))
        return _replace(
            base, macs=pixels * outputs * groups * depth, loads=pixels * depth * passes * groups, weight_bytes=weight_bytes
        )
    outputs = out_channels // groups
    if base.precision == "int8":
        depth, outputs = _padded(depth, 4), _padded(outputs, INT8_COLUMNS)
        # The matrix product packs its input even where nothing is unfolded.
        im2col_bytes = POINTER_BYTES * pixels * prod(window) if base.layout == "direct" else pixels * depth * groups
    else:
        unfolds = prod(window) > 1 or prod(op.attributes.get("stride", (1, 1))) > 1
        im2col_bytes = size * pixels * depth * groups if unfolds else 0
        pixels = _padded(pixels, INT8_COLUMNS)
    products = groups if groups > 1 else 0
    return _replace(
        base, macs=pixels * outputs * groups * depth, loads=products, im2col_bytes=im2col_bytes, weight_bytes=weight_bytes
    )


def _with_linear(base: Kernel, op: Operator, size: int) -> Kernel:
    weights = prod(op.weight_shape) if op.weight_shape else prod(op.input_shapes[-1])
    return _replace(base, macs=op.macs(), weight_bytes=size * weights)


def _padded(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _replace(kernel: Kernel, **changes: int) -> Kernel:
    # dataclasses.replace costs ten times as much, and this runs for every kernel of every price
    return Kernel(**{**kernel.__dict__, **changes})
