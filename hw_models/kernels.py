"""From an operator graph to the kernels that ONNX Runtime runs for it on a CPU, without running it.

The rules follow ONNX Runtime's optimiser at its highest level (checked against saved optimised graphs): batch norm folds into
the convolution before it; an activation, and in float32 a residual addition, fuse into the convolution; float32 convolutions
run in a layout blocked by 8 channels where the channel counts allow it, and reorder at the borders; quantise-dequantise
pairs vanish into integer kernels, which need quantised values on both sides; integer convolutions run directly where the
channel counts allow it and as unfolded matrix products elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

from hw_models.fusion import FusedOperator, Read, fuse
from hw_models.graph import Operator, OperatorGraph
from hw_models.layout import INT8_COLUMNS, Layout
from hw_models.targets import Precision, Target

FILTER_BLOCKS_PER_PASS = 4
POINTER_BYTES = 8

FEATURES = ("nodes", "macs", "loads", "bytes", "im2col_bytes", "weight_bytes")
"""What a kernel's time is a non-negative combination of; the order of `Kernel.features`."""


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
    return _with_conversions(fuse(graph, target), target)


def _with_conversions(fused: Sequence[FusedOperator], target: Target) -> tuple[Kernel, ...]:
    """Kernels of the fused operators, with the changes of layout and precision between them; a value is converted once."""
    blocked = {item.writes for item in fused if item.layout == "blocked"}
    integer = {item.writes for item in fused if item.precision == "int8"}
    converted: set[tuple[str, str]] = set()
    result: list[Kernel] = []

    def convert(kind: str, precision: Precision, values: Iterable[Read]) -> None:
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
        result.append(_kernel(item, target))
    return tuple(result)


def _kernel(item: FusedOperator, target: Target) -> Kernel:
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
        return _with_convolution(base, op, size, target.layout_block)
    if kind == "linear":
        return _with_linear(base, op, size)
    if kind == "pool":
        return _replace(base, macs=prod(op.output_shape) * prod(op.attributes.get("kernel", (1, 1))))
    return base


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
