"""Operators that read or write single entries by their indices, and that find them: gathers, scatters, extremes, grids."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from torch import fx

from techniques.onnx_graph import BATCH, Converter, GraphBuilder, UnsupportedOperatorError
from techniques.onnx_operators.arguments import at, aten, ints, shape, text
from techniques.onnx_operators.batch import for_all_images


def _constant_indices(x: fx.Node, inputs: list[Any], attributes: dict[str, Any]) -> list[np.ndarray[Any, Any]]:
    """Indices along the first axes, one array per axis, counted from the front."""
    indices, sizes = inputs[1], shape(x)
    if not isinstance(indices, np.ndarray):
        raise UnsupportedOperatorError("its indices must be constants")
    if attributes.get("batch_dims", 0):
        raise UnsupportedOperatorError("batch_dims")
    found = [np.asarray(indices[..., axis], np.int64) for axis in range(indices.shape[-1])]
    for axis, listed in enumerate(found):
        if sizes[axis] % BATCH == 0:
            raise UnsupportedOperatorError(f"indices along axis {axis}, which holds the batch: export the model with a free batch")
        if np.any(listed >= sizes[axis]) or np.any(listed < -sizes[axis]):
            raise UnsupportedOperatorError(f"indices beyond the {sizes[axis]} entries of axis {axis}")
    return [listed % sizes[axis] for axis, listed in enumerate(found)]


def _gather_nd(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    """Indices along the first axes. The exporter moves the axes that it means there, and back behind it: so that the two cancel,
    entries of one axis are read where it lies."""
    x = b.node(inputs[0])
    indices = _constant_indices(x, inputs, attributes)
    if len(indices) == 1 and indices[0].ndim == 1:
        source, order = (x.args[0], list(x.args[1])) if x.target is aten.permute.default else (x, None)  # type: ignore[arg-type]
        found = b.call(aten.index_select.default, source, order[0] if order else 0, b.fixed(indices[0]))
        return b.call(aten.permute.default, found, order) if order else found
    return b.call(aten.index.Tensor, x, [b.fixed(listed) for listed in indices])


def _scatter_nd(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    x = b.node(inputs[0])
    reduction = text(attributes, "reduction", "none")
    if reduction not in ("none", "add"):
        raise UnsupportedOperatorError(f"reduction {reduction[:20]!r}")
    indices = [b.fixed(listed) for listed in _constant_indices(x, inputs, attributes)]
    return b.call(aten.index_put.default, x, indices, b.node(inputs[2]), reduction == "add")


def _gather_elements(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    axis = int(attributes.get("axis", 0)) % len(shape(inputs[0]))
    x, indices = for_all_images(b, [inputs[0], _from_front(inputs[1], shape(inputs[0])[axis])], axis)
    return b.call(aten.gather.default, x, axis, indices)


def _scatter_elements(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    axis = int(attributes.get("axis", 0)) % len(shape(inputs[0]))
    reduction = text(attributes, "reduction", "none")
    if reduction not in ("none", "add"):
        raise UnsupportedOperatorError(f"reduction {reduction[:20]!r}")
    x, indices, updates = for_all_images(b, [inputs[0], _from_front(inputs[1], shape(inputs[0])[axis]), inputs[2]], axis)
    return b.call(aten.scatter.src if reduction == "none" else aten.scatter_add.default, x, axis, indices, updates)


def _from_front(indices: Any, length: int) -> Any:
    """Constant indices without negative ones, which torch does not take here."""
    return np.where(indices < 0, indices + length, indices).astype(np.int64) if isinstance(indices, np.ndarray) else indices


def _top_k(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> list[fx.Node]:
    x, count = inputs[0], ints(at(inputs, 1, attributes.get("k")))[0]
    axis, largest = int(attributes.get("axis", -1)) % len(shape(x)), bool(attributes.get("largest", 1))
    if count == shape(x)[axis]:
        node = b.call(aten.sort.default, x, axis, largest)
    else:
        node = b.call(aten.topk.default, x, count, axis, largest, bool(attributes.get("sorted", 1)))
    return parts(b, node)


def parts(b: GraphBuilder, node: fx.Node) -> list[fx.Node]:
    """The results of a call that gives several."""
    results = []
    for index, value in enumerate(node.meta["val"]):
        item = b.graph.call_function(operator.getitem, (node, index))
        item.meta["val"] = value
        results.append(item)
    return results


def _extreme(target: Any) -> Converter:
    def convert(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
        if attributes.get("select_last_index", 0):
            raise UnsupportedOperatorError("select_last_index: of equal entries torch takes the first")
        return b.call(target, inputs[0], int(attributes.get("axis", 0)), bool(attributes.get("keepdims", 1)))

    return convert


_MODES = {"bilinear": 0, "linear": 0, "nearest": 1, "bicubic": 2, "cubic": 2}
_OUTSIDE = {"zeros": 0, "border": 1, "reflection": 2}


def _grid_sample(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    mode, outside = text(attributes, "mode", "linear"), text(attributes, "padding_mode", "zeros")
    if mode not in _MODES or outside not in _OUTSIDE:
        raise UnsupportedOperatorError(f"mode {mode[:20]!r} with {outside[:20]!r} outside")
    x, grid = (_repeat_first(b, values, inputs) for values in inputs[:2])
    return b.call(aten.grid_sampler.default, x, grid, _MODES[mode], _OUTSIDE[outside], bool(attributes.get("align_corners", 0)))


def _repeat_first(b: GraphBuilder, value: Any, inputs: list[Any]) -> fx.Node:
    return for_all_images(b, [value, next(v for v in inputs if isinstance(v, fx.Node) and shape(v)[0] % BATCH == 0)])[0]


INDEXING: dict[str, Converter] = {
    "GatherND": _gather_nd, "ScatterND": _scatter_nd, "GatherElements": _gather_elements, "ScatterElements": _scatter_elements,
    "TopK": _top_k, "ArgMax": _extreme(aten.argmax.default), "ArgMin": _extreme(aten.argmin.default), "GridSample": _grid_sample,
}  # fmt: skip
