"""Operators that move values: reshapes, slices, splits, padding. The batch stays free wherever a size was made of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import fx

from techniques.onnx_graph import BATCH, Converter, GraphBuilder, QuantizedConstant, UnsupportedOperatorError
from techniques.onnx_operators.arguments import at, aten, axes_of, ints, number, shape, text
from techniques.onnx_operators.batch import for_all_images, freed_sizes
from techniques.onnx_operators.indexing import parts


def _concat(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    axis = int(attributes["axis"]) % len(shape(inputs[0]))
    return b.call(aten.cat.default, for_all_images(b, inputs, axis), axis)


def _flatten(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    sizes = shape(inputs[0])
    axis = int(attributes.get("axis", 1))
    axis = axis + len(sizes) if axis < 0 else axis
    if axis == 1:
        return b.call(aten.flatten.using_ints, inputs[0], 1)
    return b.call(aten.reshape.default, inputs[0], b.sizes([math.prod(sizes[:axis]), math.prod(sizes[axis:])]))


def _reshape(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    x, sizes = _unmoved(inputs[0]), ints(inputs[1] if len(inputs) > 1 else attributes.get("shape"))
    given = shape(inputs[0])
    if not attributes.get("allowzero", 0):
        sizes = [given[i] if size == 0 else size for i, size in enumerate(sizes)]
    sizes, inside = freed_sizes(b, inputs[0], sizes)
    known = math.prod(size for size in sizes if size != -1)
    full = tuple(math.prod(given) // known if size == -1 and known else size for size in sizes)
    if full == shape(x):
        return x
    result = b.call(aten.reshape.default, x, b.sizes(sizes))
    result.meta["inner"] = inside
    return result


def _unmoved(x: fx.Node) -> fx.Node:
    """The value before a permutation that moves axes of size 1 only: in memory it is the same."""
    if x.target is not aten.permute.default:
        return x
    sizes, order = shape(x.args[0]), list(x.args[1])  # type: ignore[arg-type]
    moved = [axis for axis in order if sizes[axis] != 1]
    return x.args[0] if moved == sorted(moved) else x  # type: ignore[return-value]


def _transpose(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> Any:
    x = inputs[0]
    order = [int(a) for a in attributes.get("perm", range(len(shape(x)))[::-1])]
    if isinstance(x, QuantizedConstant):
        return x.permuted(order)
    if x.target is aten.permute.default:  # two in a row are one, or none
        order, x = [list(x.args[1])[axis] for axis in order], x.args[0]
    return x if order == sorted(order) else b.call(aten.permute.default, x, order)


def _squeeze(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    axes, sizes = at(inputs, 1, attributes.get("axes")), shape(inputs[0])
    listed = axes_of(axes, len(sizes)) if axes is not None else [axis for axis, size in enumerate(sizes) if size == 1]
    if any(sizes[axis] != 1 for axis in listed):
        raise UnsupportedOperatorError("removes the batch: export the model with a free batch")
    return b.call(aten.squeeze.dims, inputs[0], listed)


def _unsqueeze(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    x, axes = inputs[0], ints(at(inputs, 1, attributes.get("axes")))
    for axis in axes_of(axes, len(shape(x)) + len(axes)):
        x = b.call(aten.unsqueeze.default, x, axis)
    return x  # type: ignore[no-any-return]


def _expand(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> Any:
    x, wanted = inputs[0], ints(inputs[1])
    given = shape(x)
    given = (*[1] * (len(wanted) - len(given)), *given)
    wanted = [*[1] * (len(given) - len(wanted)), *wanted]
    if b.file_batch and b.file_batch > 1 and wanted[0] == b.file_batch and given[0] in (1, BATCH):
        wanted[0] = BATCH
    sizes = [g if w == 1 else w for g, w in zip(given, wanted, strict=True)]
    if tuple(sizes) == shape(x) and isinstance(x, fx.Node):
        return x
    kept = [-1 if s == g else s for s, g in zip(sizes, given, strict=True)]
    return b.call(aten.expand.default, b.node(x), _at_run_time(b, kept, len(given) - len(shape(x)), sizes))


def _at_run_time(b: GraphBuilder, kept: list[int], added: int, sizes: list[int]) -> list[Any]:
    """Sizes of an expansion: -1 keeps one, which axes that are added in front cannot."""
    listed = [size if i < added else kept[i] for i, size in enumerate(sizes)]
    return [b.sizes([size, 0])[0] if size > 0 else size for size in listed]


def _full(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    """A constant whose size holds the batch."""
    from onnx import numpy_helper

    sizes = ints(inputs[0])
    value = numpy_helper.to_array(attributes["value"]) if "value" in attributes else np.zeros(1, np.float32)
    one = b.fixed(value.reshape([1] * len(sizes)))
    return b.call(aten.expand.default, one, [b.sizes([size, 0])[0] for size in sizes])


def _tile(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> Any:
    repeats = ints(inputs[1])
    if all(r == 1 for r in repeats):
        return b.node(inputs[0])
    return b.call(aten.repeat.default, b.node(inputs[0]), [b.sizes([r, 0])[0] for r in repeats])


_PAD_MODES: dict[str, tuple[Any, ...]] = {
    "reflect": (aten.reflection_pad1d.default, aten.reflection_pad2d.default, aten.reflection_pad3d.default),
    "edge": (aten.replication_pad1d.default, aten.replication_pad2d.default, aten.replication_pad3d.default),
    "wrap": (),
}
"""By the number of spatial axes; wrapping has one call for all."""


def _pad(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> Any:
    x, rank = inputs[0], len(shape(inputs[0]))
    mode = text(attributes, "mode", "constant")
    amounts = ints(at(inputs, 1, attributes.get("pads", attributes.get("paddings"))))
    axes = [a % rank for a in ints(at(inputs, 3, list(range(rank))))]
    before, behind = [0] * rank, [0] * rank
    for position, axis in enumerate(axes):
        before[axis], behind[axis] = amounts[position], amounts[position + len(axes)]
    if before[0] or behind[0]:
        raise UnsupportedOperatorError("padding of the batch")
    padded = [axis for axis in range(1, rank) if before[axis] or behind[axis]]
    if not padded:
        return x
    listed = [side[axis] for axis in range(rank - 1, 0, -1) for side in (before, behind)]
    if mode == "constant":
        return b.call(aten.constant_pad_nd.default, x, listed, number(at(inputs, 2, attributes.get("value", 0.0))))
    if mode not in _PAD_MODES or not 3 <= rank <= 5 or padded[0] < 2 or min(before[2:] + behind[2:]) < 0:
        raise UnsupportedOperatorError(
            f"mode {mode[:20]!r} on axes {padded}; constant, and reflect, edge and wrap of images, are supported"
        )
    spatial_pads = listed[: 2 * (rank - 2)]
    if mode == "wrap":
        return b.call(aten.pad.default, x, spatial_pads, "circular")
    return b.call(_PAD_MODES[mode][rank - 3], x, spatial_pads)


def _split(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> list[fx.Node]:
    axis, sizes = int(attributes.get("axis", 0)), at(inputs, 1, attributes.get("split"))
    length = shape(inputs[0])[axis]
    if sizes is None:
        size = -(-length // int(attributes.get("num_outputs", b.outputs)))
        sizes = [max(0, min(size, length - i * size)) for i in range(b.outputs)]
    node = b.call(aten.split_with_sizes.default, inputs[0], ints(sizes), axis % len(shape(inputs[0])))
    return parts(b, node)


def _slice(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> Any:
    x = inputs[0]
    starts, ends = ints(at(inputs, 1, attributes.get("starts"))), ints(at(inputs, 2, attributes.get("ends")))
    axes = ints(at(inputs, 3, attributes.get("axes", list(range(len(starts))))))
    steps = ints(at(inputs, 4, [1] * len(starts)))
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        length = shape(x)[axis]
        if step > 0:
            whole = start in (0, -length) and end >= length and step == 1
            x = x if whole else b.call(aten.slice.Tensor, x, axis, start, min(end, 2**62), step)
        else:
            last = None if end < -length else end
            x = _selected(b, x, axis, np.arange(length)[start:last:step])
    return x


def _gather(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    x, indices, axis = inputs[0], inputs[1], int(attributes.get("axis", 0))
    if isinstance(x, np.ndarray) and isinstance(indices, fx.Node) and x.ndim == 2 and axis == 0:
        return b.call(aten.embedding.default, b.weight(x, f"{b.holder('embedding')}.weight"), indices)
    if not isinstance(indices, np.ndarray) or not isinstance(x, fx.Node):
        raise UnsupportedOperatorError("its indices must be constants")
    sizes = shape(x)
    axis %= len(sizes)
    if np.any(indices >= sizes[axis]) or np.any(indices < -sizes[axis]):
        raise UnsupportedOperatorError(f"indices beyond the {sizes[axis]} entries of axis {axis}")
    if indices.ndim == 0:
        return b.call(aten.select.int, x, axis, int(indices) % sizes[axis])
    found = _selected(b, x, axis, indices.reshape(-1) % sizes[axis])
    if indices.ndim == 1:
        return found
    return b.call(aten.reshape.default, found, b.sizes([*sizes[:axis], *indices.shape, *sizes[axis + 1 :]]))


def _selected(b: GraphBuilder, x: fx.Node, axis: int, indices: np.ndarray[Any, Any]) -> fx.Node:
    return b.call(aten.index_select.default, x, axis, b.fixed(indices.astype(np.int64)))


def _triangle(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    target = aten.triu.default if attributes.get("upper", 1) else aten.tril.default
    return b.call(target, inputs[0], ints(at(inputs, 1, 0))[0])


def _depth_to_space(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    """Pixel shuffle; ``DCR`` counts the places in a block before the channels, torch counts them behind."""
    x, block = inputs[0], int(attributes["blocksize"])
    if text(attributes, "mode", "DCR") == "DCR":
        channels = np.arange(shape(x)[1]).reshape(block * block, -1)
        x = _selected(b, x, 1, channels.T.reshape(-1))
    return b.call(aten.pixel_shuffle.default, x, block)


def _space_to_depth(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    x = b.call(aten.pixel_unshuffle.default, inputs[0], int(attributes["blocksize"]))
    channels = np.arange(shape(x)[1]).reshape(shape(inputs[0])[1], -1)
    return _selected(b, x, 1, channels.T.reshape(-1))


MOVES: dict[str, Converter] = {
    "Concat": _concat, "Flatten": _flatten, "Reshape": _reshape, "Transpose": _transpose, "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze, "Expand": _expand, "ConstantOfShape": _full, "Tile": _tile, "Pad": _pad, "Split": _split,
    "Slice": _slice, "Gather": _gather, "Trilu": _triangle, "DepthToSpace": _depth_to_space, "SpaceToDepth": _space_to_depth,
}  # fmt: skip
