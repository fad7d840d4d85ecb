"""How ONNX Runtime's CPU kernels hold their tensors: which kernel an operator becomes, and in which memory layout it runs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import prod
from typing import Literal

from hw_models.graph import Operator
from hw_models.targets import Precision, Target

BLOCKED_ALIGNMENT = 4
INT8_COLUMNS = 16

Layout = Literal["plain", "blocked", "direct"]
"""``direct`` is an integer convolution that reads its input through pointers instead of unfolding it."""

_KERNEL_KINDS = {
    "matmul": "linear",
    "relu": "elementwise", "clip": "elementwise", "mul": "elementwise", "sub": "elementwise", "div": "elementwise",
    "batch_norm": "elementwise",
    "hard_swish": "hard_sigmoid", "gather": "slice", "global_avg_pool": "global_pool", "reduce_mean": "global_pool",
}  # fmt: skip
ACTIVATION_KINDS = frozenset({"hard_sigmoid", "sigmoid", "silu", "gelu", "tanh"})
"""Elementwise functions with a kernel of their own; where the float layout is blocked, they run over it as it is."""
_KEEPS_ANY_CHANNELS = ACTIVATION_KINDS | {"elementwise", "add"}
_KEEPS_BLOCKED = _KEEPS_ANY_CHANNELS | {"max_pool", "avg_pool", "global_pool"}


def kernel_kind(op: Operator, precision: Precision, target: Target) -> str:
    """What kind of kernel computes the operator; its own kind where these rules know nothing better."""
    if op.kind != "conv":
        return _KERNEL_KINDS.get(op.kind, op.kind)
    groups = int(op.attributes.get("groups", 1))
    in_channels = op.weight_shape[1] * groups
    if groups > 1:
        return "depthwise" if op.weight_shape[1] == 1 and op.weight_shape[0] == groups else "grouped"
    if in_channels < target.layout_block and precision == "fp32":
        return "first_conv"
    return "conv1x1" if prod(op.weight_shape[2:]) == 1 else "convkxk"


def kernel_layout(
    op: Operator,
    kind: str,
    precision: Precision,
    reads: Sequence[tuple[str, tuple[int, ...]]],
    blocked_values: Collection[str],
    target: Target,
) -> Layout:
    """The layout that the kernel writes, given what it reads (value and shape) and which values are blocked."""
    if precision == "int8":
        return "direct" if op.kind == "conv" and runs_directly(op, kind) else "plain"
    if target.optimization != "all":
        return "plain"
    if op.kind == "conv":
        return "blocked" if conv_is_blocked(op, kind, target) else "plain"
    channels_fit = all(len(shape) == 4 and shape[1] % target.layout_block == 0 for _, shape in reads)
    if kind in ("max_pool", "avg_pool"):
        return "blocked" if channels_fit else "plain"
    if kind not in _KEEPS_BLOCKED and op.kind != "concat":
        return "plain"
    if not reads or not all(name in blocked_values for name, _ in reads):
        return "plain"
    if kind in _KEEPS_ANY_CHANNELS and len({shape for _, shape in reads}) > 1:
        # Broadcasting works on plain tensors only.
        return "plain"
    return "blocked" if channels_fit or kind in _KEEPS_ANY_CHANNELS else "plain"


def conv_is_blocked(op: Operator, kind: str, target: Target) -> bool:
    """Whether a float32 convolution writes the blocked layout, at the level that has it."""
    block = target.layout_block
    out_channels, in_per_group = op.weight_shape[:2]
    groups = int(op.attributes.get("groups", 1))
    if kind == "first_conv":
        return True
    if kind == "depthwise":
        return out_channels % BLOCKED_ALIGNMENT == 0
    if kind == "grouped":
        return in_per_group % block == 0 and (out_channels // groups) % block == 0
    return in_per_group % BLOCKED_ALIGNMENT == 0


def runs_directly(op: Operator, kind: str) -> bool:
    """Whether an integer convolution reads its input through pointers instead of unfolding it."""
    out_channels, in_per_group = op.weight_shape[:2]
    if kind == "depthwise":
        return out_channels % INT8_COLUMNS == 0
    return kind != "grouped" and in_per_group % 4 == 0 and out_channels % 8 == 0
