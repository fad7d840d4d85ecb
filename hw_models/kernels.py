"""From an operator graph to the kernels that ONNX Runtime runs for it on a CPU, without running it.

The rules follow ONNX Runtime's optimiser at its highest level (checked against saved optimised graphs): batch norm folds into
the convolution before it; an activation, and in float32 a residual addition, fuse into the convolution; float32 convolutions
run in a layout blocked by 8 channels where the channel counts allow it, and reorder at the borders; quantise-dequantise
pairs vanish into integer kernels, which need quantised values on both sides; integer convolutions run directly where the
channel counts allow it and as unfolded matrix products elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from hw_models.fusion import FusedOperator, Read, fuse
from hw_models.graph import Operator, OperatorGraph
from hw_models.layout import ACTIVATION_KINDS, INT8_COLUMNS, Layout
from hw_models.targets import Precision, Target

FILTER_BLOCKS_PER_PASS = 4
POINTER_BYTES = 8

FEATURES = ("calls", "macs", "loads", "bytes", "im2col_bytes", "weight_bytes", "cold_weight_bytes")
"""What a kernel's time is a non-negative combination of; the order of `Kernel.features`."""


GEOMETRY = ("in_per_group", "out_channels", "groups", "window_height", "window_width", "stride", "height", "width", "inputs")
"""Sizes of a kernel: channels read by a filter and written, window, stride, output height and width, tensors read."""
COLDEST = 12
_NO_GEOMETRY = (0,) * len(GEOMETRY)


@dataclass(frozen=True)
class Kernel:
    """One node as the runtime runs it.

    Attributes:
        kind: ``conv1x1``, ``convkxk``, ``depthwise``, ``grouped``, ``first_conv``, ``linear``, ``add``, ``pool``, ``quantize``,
            ``reorder`` ..., or ``other:<op>`` for what these rules do not know.
        operators: names of the operators that it computes; empty for a layout change.
        macs: multiply-accumulates, channel counts padded to what the vector unit computes anyway.
        loads: activation values fetched by the inner loop of a blocked convolution (each serves up to 4 filter blocks); pieces
            copied one by one to unfold the input of an integer one.
        bytes_in, bytes_out, weight_bytes, im2col_bytes: memory moved; im2col is the unfolded input of a matrix convolution.
        coldness: how far the whole network outgrows the caches, 0 to `COLDEST`.
        geometry: the sizes themselves, in the order of `GEOMETRY`.
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
    coldness: int = 0
    geometry: tuple[int, ...] = _NO_GEOMETRY

    @property
    def key(self) -> tuple[object, ...]:
        """What decides the kernel's price: kernels with the same key cost the same."""
        return (self.kind, self.precision, self.layout, self.geometry, self.bytes_in, self.bytes_out, self.coldness)

    @property
    def signature(self) -> str:
        """What kernels must share to be priced by the same coefficients."""
        return f"{self.kind}.{self.precision}.{self.layout}"

    @property
    def features(self) -> tuple[float, ...]:
        """In the order of `FEATURES`."""
        moved = self.bytes_in + self.bytes_out
        cold_bytes = self.weight_bytes * self.coldness / COLDEST
        return (self.calls, self.macs, self.loads, moved, self.im2col_bytes, self.weight_bytes, cold_bytes)

    @property
    def calls(self) -> int:
        """Matrix products, each with a start-up of its own: one per group of a grouped convolution that is unfolded."""
        return self.geometry[2] if self.kind == "grouped" and self.layout == "plain" else 1


@dataclass(frozen=True)
class TimedKernel:
    """A kernel with the microseconds that the runtime's profiler saw."""

    kernel: Kernel
    us: float


def kernels(graph: OperatorGraph, target: Target) -> tuple[Kernel, ...]:
    """The kernels in execution order; operators that the runtime removes give none."""
    return with_coldness(_with_conversions(fuse(graph, target), target), target)


def with_coldness(run: Sequence[Kernel], target: Target) -> tuple[Kernel, ...]:
    """The kernels of one network, knowing how cold their weights and code are when their turn comes again.

    Between two runs of a kernel, all that the network reads and writes passes through the caches: 0 while that is less than a
    32nd of the last cache, `COLDEST` from twice that cache on, a step for every half octave between.
    """
    passed = sum(kernel.weight_bytes + kernel.bytes_out for kernel in run)
    steps = round(2 * math.log2(max(32 * passed / target.cache_bytes, 1)))
    coldness = min(steps, COLDEST)
    return tuple(_replace(kernel, coldness=coldness) for kernel in run) if coldness else tuple(run)


def _with_conversions(fused: Sequence[FusedOperator], target: Target) -> tuple[Kernel, ...]:
    """Kernels of the fused operators, with the changes of layout and precision between them; a value is converted once."""
    state = _Conversions(
        blocked={item.writes for item in fused if item.layout == "blocked"},
        integer={item.writes for item in fused if item.precision == "int8" and not _gives_floats(item)},
        target=target,
    )
    for item in fused:
        state.visit(item)
    return tuple(state.kernels)


def _gives_floats(item: FusedOperator) -> bool:
    return item.operator.kind == "linear" and len(item.operators) == 1


class _Conversions:
    """Walks fused operators in order and adds a kernel wherever a value is not what its reader needs.

    Float values are plain or blocked, integer ones have their channels first or last (as integer convolutions want them).
    """

    def __init__(self, blocked: set[str], integer: set[str], target: Target) -> None:
        self._blocked, self._integer, self._target = blocked, integer, target
        self._channels_last: set[str] = set()
        self._done: set[tuple[str, str]] = set()
        self.kernels: list[Kernel] = []

    def visit(self, item: FusedOperator) -> None:
        """Conversions of what the operator reads, then its own kernels."""
        turned = False
        if self._target.optimization == "all":
            # A shuffle behind a convolution also turns the channels first: one transpose, but a slow one.
            turned = _is_shuffle(item) and item.reads[0][0] in self._channels_last and item.reads[0][0] in self._integer
            if not turned:
                self._turn_channels(item)
        if item.precision == "fp32":
            # Every reader dequantises for itself; a SiLU is two readers.
            times = 2 if item.operator.kind == "silu" else 1
            integers = [r for r in item.reads + item.added if r[0] in self._integer]
            self._convert("dequantize", "int8", times * integers, again=True)
        # A first convolution reads the plain layout and writes the blocked one.
        wants_blocked = item.layout == "blocked" and item.kind != "first_conv"
        self._convert("reorder", "fp32", [r for r in item.reads if (r[0] in self._blocked) != wants_blocked])
        self._convert("reorder", "fp32", [r for r in item.added if (r[0] in self._blocked) != (item.layout == "blocked")])
        self.kernels += _kernels_of(item, self._target, any(r[0] in self._integer for r in item.reads), turned)

    def _turn_channels(self, item: FusedOperator) -> None:
        reads = item.reads + item.added
        last = [r for r in reads if r[0] in self._channels_last]
        if item.precision == "int8" and item.operator.kind == "conv":
            wants_last = True
        else:
            enough = len(reads) if item.operator.kind == "concat" else 1
            wants_last = len(last) >= enough and item.operator.kind in _ANY_CHANNEL_ORDER
        if wants_last:
            self._convert("transpose", "int8", [r for r in reads if r[0] not in self._channels_last and r[0] in self._integer])
            self._channels_last.add(item.writes)
        else:
            self._convert("transpose", "int8", [r for r in last if r[0] in self._integer])

    def _convert(self, kind: str, precision: Precision, values: Iterable[Read], again: bool = False) -> None:
        for name, shape in values:
            if again or (kind, name) not in self._done:
                self._done.add((kind, name))
                if kind == "reorder":
                    # As the blocked side of it is: channels filled up to a whole block.
                    shape = (shape[0], _padded(shape[1], self._target.layout_block), *shape[2:])
                self.kernels.append(conversion(kind, f"{kind}:{name}", precision, shape))


def _is_shuffle(item: FusedOperator) -> bool:
    return item.operator.kind == "transpose" and item.operator.input_shapes[0] == item.output_shape


def _kernels_of(item: FusedOperator, target: Target, from_integers: bool, turned: bool) -> list[Kernel]:
    """One kernel; two where the runtime has none for the operator and computes it in two steps."""
    kernel = kernel_of(item, target)
    if item.operator.kind == "hard_swish" or (item.operator.kind == "silu" and from_integers):
        product = _replace(kernel, name=f"{kernel.name}:mul", kind="elementwise", operators=(), bytes_in=2 * kernel.bytes_in)
        if item.operator.kind == "silu":
            kernel = _replace(kernel, kind="sigmoid")
        return [kernel, product]
    if _is_shuffle(item):
        # A shuffle of channels: taken apart, turned, put together again.
        reshape = Kernel(f"{kernel.name}:reshape", "reshape", kernel.precision, geometry=kernel.geometry)
        kind = "shuffle_turned" if turned else "shuffle"
        return [reshape, _replace(kernel, kind=kind), _replace(reshape, name=f"{kernel.name}:back")]
    return [kernel]


_LAYOUT_BLIND = ACTIVATION_KINDS | {"elementwise", "add", "concat"}
_ANY_CHANNEL_ORDER = frozenset(
    {
        "conv", "add", "mul", "relu", "clip", "sigmoid", "hard_sigmoid", "hard_swish", "silu", "gelu", "tanh", "max_pool",
        "avg_pool", "global_avg_pool", "reduce_mean", "concat", "quantize", "split", "slice",
    }
)  # fmt: skip


def conversion(kind: str, name: str, precision: Precision, shape: tuple[int, ...]) -> Kernel:
    """A change of layout (``reorder``, ``transpose``) or of precision (``dequantize``, ``quantize``) of a value of this shape."""
    elements = prod(shape)
    sizes = {"reorder": (4, 4), "transpose": (1, 1), "dequantize": (1, 4), "quantize": (4, 1)}[kind]
    return Kernel(
        name,
        "reorder" if kind == "transpose" else kind,
        precision,
        bytes_in=sizes[0] * elements,
        bytes_out=sizes[1] * elements,
        geometry=geometry_of(shape),
    )


def kernel_of(item: FusedOperator, target: Target) -> Kernel:
    """The kernel that computes a fused operator, whose kind, precision and layout are known."""
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
        bytes_out=(4 if _gives_floats(item) else size) * prod(item.output_shape) if moved else 0,
        geometry=geometry_of(item.output_shape, op, len(item.reads) + len(item.added)),
    )
    if kind == "quantize":
        return _replace(base, bytes_in=4 * base.bytes_in)
    if kind in _LAYOUT_BLIND and item.layout == "blocked":
        # They run over the filled-up channels of the blocked layout as over any others.
        padded = _padded(item.output_shape[1], target.layout_block) / item.output_shape[1]
        return _replace(base, layout="plain", bytes_in=round(base.bytes_in * padded), bytes_out=round(base.bytes_out * padded))
    if op.kind == "conv":
        return _with_convolution(base, op, size, target.layout_block)
    if kind in ("linear", "conv1d", "conv_transpose"):
        return _with_linear(base, op, size)
    if kind in ("max_pool", "avg_pool"):
        return _replace(base, macs=prod(op.output_shape) * prod(op.attributes.get("kernel", (1, 1))))
    return base


def geometry_of(shape: tuple[int, ...], op: Operator | None = None, inputs: int = 1) -> tuple[int, ...]:
    """Sizes of a kernel that writes a value of this shape, in the order of `GEOMETRY`."""
    channels, height, width = (*shape[1:], 1, 1, 1)[:3] if len(shape) < 5 else (prod(shape[1:-2]), *shape[-2:])
    if op is None:
        return (channels, channels, 1, 1, 1, 1, height, width, inputs)
    source = op.input_shapes[0] if op.input_shapes else shape
    in_channels = op.weight_shape[1] if len(op.weight_shape) > 1 else (source[1] if len(source) > 1 else 1)
    window = op.attributes.get("kernel", (1, 1))
    stride = op.attributes.get("stride", (1, 1))
    return (in_channels, channels, int(op.attributes.get("groups", 1)), window[0], window[1], stride[0], height, width, inputs)


def _with_convolution(base: Kernel, op: Operator, size: int, block: int) -> Kernel:
    out_channels, in_per_group, *window = op.weight_shape
    groups = int(op.attributes.get("groups", 1))
    pixels = op.output_shape[0] * prod(op.output_shape[2:])
    depth = in_per_group * prod(window)
    weight_bytes = size * prod(op.weight_shape)
    if base.kind == "depthwise":
        channels = _padded(out_channels, block if base.layout == "blocked" else 1)
        loads = groups if base.layout == "plain" else 0
        return _replace(base, macs=pixels * channels * depth, loads=loads, weight_bytes=weight_bytes)
    if base.layout == "blocked":
        inputs = in_per_group if base.kind == "first_conv" else _padded(in_per_group, block)
        depth = inputs * prod(window)
        outputs = _padded(out_channels // groups, block)
        passes = -(-outputs // (block * FILTER_BLOCKS_PER_PASS))
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
    loads = groups if groups > 1 else 0
    if base.precision == "int8" and base.layout == "plain":
        loads = op.output_shape[0] * prod(op.output_shape[2:]) * prod(window) * groups
    return _replace(base, macs=pixels * outputs * groups * depth, loads=loads, im2col_bytes=im2col_bytes, weight_bytes=weight_bytes)


def _with_linear(base: Kernel, op: Operator, size: int) -> Kernel:
    weights = prod(op.weight_shape) if op.weight_shape else prod(op.input_shapes[-1])
    return _replace(base, macs=op.macs(), weight_bytes=size * weights)


def _padded(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _replace(kernel: Kernel, **changes: Any) -> Kernel:
    # dataclasses.replace costs ten times as much, and this runs for every kernel of every price
    return Kernel(**{**kernel.__dict__, **changes})
