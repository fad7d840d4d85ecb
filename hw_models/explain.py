"""What makes a kernel slow on a target, in words for people: the next thing to change in a network."""

from __future__ import annotations

from hw_models.kernels import Kernel
from hw_models.targets import Target

MEMORY_BOUND_MACS_PER_BYTE = 4.0
_CONVOLUTIONS = frozenset({"conv1x1", "convkxk", "grouped", "first_conv"})
_CONVERSIONS = {"reorder": "layout change", "quantize": "precision change", "dequantize": "precision change"}


def slow_reasons(kernel: Kernel, target: Target) -> tuple[str, ...]:
    """Why the kernel takes longer than its multiply-accumulates alone would; empty where nothing stands out."""
    inputs, outputs, groups = kernel.geometry[:3]
    multiple, reasons = target.channel_multiple, []
    if kernel.kind in _CONVOLUTIONS or kernel.kind == "depthwise":
        channels = {"in": inputs if kernel.kind != "depthwise" else 0, "out": outputs}
        odd = [f"{name} {count}" for name, count in channels.items() if count % multiple and (name == "out" or inputs > multiple)]
        if odd:
            reasons.append(f"channels not a multiple of {multiple} ({', '.join(odd)})")
    if kernel.kind == "depthwise":
        reasons.append("depthwise")
    if kernel.kind == "grouped":
        reasons.append(f"{groups} groups")
    if kernel.kind in _CONVERSIONS:
        reasons.append(_CONVERSIONS[kernel.kind])
    if kernel.layout == "plain" and kernel.im2col_bytes and target.optimization == "all" and kernel.precision == "fp32":
        reasons.append("unfolded: not in the blocked layout")
    if kernel.macs and kernel.kind not in ("max_pool", "avg_pool"):
        moved = kernel.bytes_in + kernel.bytes_out + kernel.weight_bytes
        if kernel.macs / max(moved, 1) < MEMORY_BOUND_MACS_PER_BYTE:
            reasons.append("bound by memory")
    return tuple(reasons)
