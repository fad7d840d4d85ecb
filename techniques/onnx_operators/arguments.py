"""How the inputs and attributes of an ONNX node are read; shared by the operators of this folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from techniques.onnx_graph import GraphBuilder, QuantizedConstant, UnsupportedOperatorError

aten = torch.ops.aten


def ints(value: Any) -> list[int]:
    """Integers of a constant input or of an attribute."""
    if isinstance(value, fx.Node):
        raise UnsupportedOperatorError("a size or axis that depends on the image's values")
    return [int(v) for v in np.asarray(value).reshape(-1)]


def number(value: Any) -> float:
    """The one number of a constant input or of an attribute."""
    if isinstance(value, fx.Node):
        raise UnsupportedOperatorError("a number that depends on the image's values")
    return float(np.asarray(value).reshape(-1)[0])


def at(inputs: list[Any], index: int, default: Any = None) -> Any:
    """An optional input."""
    return inputs[index] if len(inputs) > index and inputs[index] is not None else default


def text(attributes: dict[str, Any], name: str, default: str) -> str:
    """An attribute that is a word."""
    value = attributes.get(name, default)
    return value.decode() if isinstance(value, bytes) else str(value)


def shape(value: Any) -> tuple[int, ...]:
    """Shape of a graph node or a constant."""
    if isinstance(value, QuantizedConstant):
        value = value.integers
    return tuple(int(s) for s in (value.meta["val"] if isinstance(value, fx.Node) else value).shape)


def axes_of(value: Any, rank: int) -> list[int]:
    """Axes counted from the front, in order."""
    return sorted({axis % rank for axis in ints(value)})


def spatial(x: Any, kernel: Sequence[int]) -> int:
    """Number of spatial axes of a layer with this kernel: 1 to 3."""
    if not isinstance(x, fx.Node) or len(kernel) not in (1, 2, 3) or len(shape(x)) != len(kernel) + 2:
        raise UnsupportedOperatorError("only layers of one to three dimensions are supported")
    return len(kernel)


def strides(attributes: dict[str, Any], axes: int, name: str = "strides") -> list[int]:
    """A number per spatial axis, 1 where nothing is written."""
    return [int(v) for v in attributes.get(name, [1] * axes)]


def pads(x: fx.Node, attributes: dict[str, Any], kernel: Sequence[int], stride: list[int], dilation: list[int]) -> list[int]:
    """Padding before every spatial axis, then behind every one; ``SAME_*`` as in the operator's definition."""
    axes, mode = len(kernel), text(attributes, "auto_pad", "NOTSET")
    if mode in ("NOTSET", ""):
        return list(attributes.get("pads", [0] * 2 * axes))
    if mode == "VALID":
        return [0] * 2 * axes
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        raise UnsupportedOperatorError(f"auto_pad {mode[:40]!r}")
    before, after = [], []
    for axis in range(axes):
        size, span = shape(x)[2 + axis], (kernel[axis] - 1) * dilation[axis] + 1
        total = max(0, (-(-size // stride[axis]) - 1) * stride[axis] + span - size)
        small, large = total // 2, total - total // 2
        before.append(small if mode == "SAME_UPPER" else large)
        after.append(large if mode == "SAME_UPPER" else small)
    return [*before, *after]


def padded(b: GraphBuilder, x: fx.Node, amounts: list[int], value: float, most: Sequence[int] | None = None) -> Any:
    """Uneven padding (or more than ``most`` allows a layer) as a call of its own; even padding as the layer's."""
    axes = len(amounts) // 2
    before, after = amounts[:axes], amounts[axes:]
    if before == after and (most is None or all(a <= m for a, m in zip(before, most, strict=True))):
        return x, before
    return pad_spatial(b, x, before, after, value), [0] * axes


def pad_spatial(b: GraphBuilder, x: fx.Node, before: Sequence[int], after: Sequence[int], value: float) -> fx.Node:
    """Padding of the spatial axes with a number; nothing where there is none."""
    if not any(before) and not any(after):
        return x
    listed = [side[axis] for axis in reversed(range(len(before))) for side in (before, after)]
    return b.call(aten.constant_pad_nd.default, x, listed, value)
