"""What functions do to labels: data movers are executed on them, the rest joins, passes on or consumes."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from techniques.channels.atoms import ids_of
from techniques.channels.elementwise import elementwise
from techniques.channels.products import matrix_product
from techniques.channels.propagation import PYTHON_OPERATORS, Adaptor, Propagation, on_meta
from techniques.channels.values import Value
from techniques.network_checks import place
from techniques.quantization.placement import operation

aten = torch.ops.aten

# fmt: off
_MOVERS = frozenset((
    "view", "reshape", "_unsafe_view", "permute", "transpose", "t", "flatten", "unflatten", "squeeze", "unsqueeze", "expand",
    "slice", "select", "narrow", "index_select", "chunk", "split", "split_with_sizes", "tensor_split", "unbind", "flip",
    "roll", "repeat", "repeat_interleave", "tile", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle",
    "native_channel_shuffle", "cat", "concat", "stack", "clone", "contiguous", "alias", "detach", "constant_pad_nd", "pad",
    "reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d", "im2col", "movedim", "swapaxes",
    "swapdims", "index", "rot90", "numpy_T", "mT", "adjoint", "diagonal", "hsplit", "vsplit", "broadcast_to", "view_as",
    "reshape_as", "expand_as", "upsample_nearest1d", "upsample_nearest2d", "_upsample_nearest_exact2d", "squeeze_",
    "take_along_dim", "gather", "to", "_to_copy", "lift_fresh_copy",
))
# fmt: on
_RESHAPES = {aten.view.default, aten._unsafe_view.default}
_CHANNELWISE = frozenset(
    {
        "max_pool2d", "max_pool1d", "avg_pool2d", "avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool1d", "adaptive_max_pool2d",
        "_adaptive_avg_pool2d", "upsample_bilinear2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa",
        "max_pool2d_with_indices", "instance_norm",
    }
)  # fmt: skip
_REDUCTIONS = frozenset(
    {"mean", "sum", "amax", "amin", "max", "min", "norm", "linalg_vector_norm", "var", "std", "logsumexp", "prod"}
)
_ZERO_OF_ZEROS = frozenset({"mean", "sum", "amax", "amin", "norm", "linalg_vector_norm", "var", "std", "prod"})
_ALONG = frozenset({"softmax", "_softmax", "log_softmax", "_log_softmax", "cumsum", "argmax", "argmin", "sort", "topk", "var_mean"})
_PRODUCTS = frozenset({"matmul", "bmm", "mm", "__matmul__"})


_CREATED = frozenset({"new_zeros", "new_ones", "new_full", "new_empty"})
"""These read the type of their tensor alone."""


def call_function(state: Propagation, node: fx.Node) -> Any:
    """The value of a function (or method) call."""
    arguments = state.of(node.args)
    if node.target is operator.getitem:
        return arguments[0][arguments[1]]
    tensors = _tensors(arguments) + _tensors(list(state.of(node.kwargs).values()))
    if not any(isinstance(t, Value) for t in tensors):
        return _computed(state, node, arguments)
    name = operation(node) if node.op == "call_function" else str(node.target).rstrip("_")
    return _by_rule(state, node, name, arguments)


def _by_rule(state: Propagation, node: fx.Node, name: str, arguments: Any) -> Any:
    if name.startswith("sym_"):
        return _size(node, arguments)
    if name in _CREATED:
        return _stay(on_meta(state, node))
    if name in _MOVERS:
        return _move(state, node, name, arguments)
    if name in _CHANNELWISE:
        return _channelwise(state, node, name, arguments)
    if name in ("max", "min") and str(node.target).endswith(".other"):
        return elementwise(state, node, f"{name}imum", arguments)
    if name in _REDUCTIONS and isinstance(arguments[0], Value):
        return _reduce(state, node, name, arguments)
    if name in _ALONG:
        return _along(state, node, arguments)
    if name in _PRODUCTS or node.target is operator.matmul:
        return matrix_product(state, node, arguments)
    return elementwise(state, node, name, arguments)


def _tensors(item: Any) -> list[Any]:
    if isinstance(item, list | tuple):
        return [t for part in item for t in _tensors(part)]
    return [item] if isinstance(item, Value | Tensor) else []


def _size(node: fx.Node, arguments: Any) -> Any:
    shape = arguments[0].shape
    return shape[int(arguments[1])] if len(arguments) > 1 else shape


def _computed(state: Propagation, node: fx.Node, arguments: Any) -> Any:
    """What depends on no image: sizes, and whole-number constants; other tensors always stay."""
    keywords = state.of(node.kwargs)
    plain = node.target in PYTHON_OPERATORS or not isinstance(node.target, torch._ops.OpOverload)
    result = node.target(*arguments, **keywords) if plain else on_meta(state, node)  # type: ignore[operator]
    if isinstance(result, Tensor) and not result.is_floating_point() and not any(t.is_meta for t in _tensors(arguments)):
        return node.target(*arguments, **{k: v for k, v in keywords.items() if k != "device"})  # type: ignore[operator]
    if isinstance(result, Tensor):
        return Value.always(tuple(result.shape), result.dtype)
    return result


def _move(state: Propagation, node: fx.Node, name: str, arguments: Any) -> Any:
    values = [t for t in _tensors(arguments) if isinstance(t, Value)]
    zero, dtype = all(v.zero for v in values if v.labelled), values[0].dtype
    if name in ("cat", "concat"):
        return _concatenated(arguments, zero, dtype)
    if name in ("constant_pad_nd", "pad") and (name != "pad" or len(arguments) < 3 or arguments[2] == "constant"):
        return _padded(state, arguments, name)
    if name in ("expand", "expand_as", "broadcast_to", "to", "_to_copy") and not values[0].labelled:
        return _stay(on_meta(state, node))
    if name in ("to", "_to_copy"):
        return values[0]

    def labels(item: Any) -> Any:
        if isinstance(item, Value):
            return item.full()
        if isinstance(item, list | tuple):
            return type(item)(labels(i) for i in item)
        return item

    target: Callable[..., Any] = aten.reshape.default if node.target in _RESHAPES else node.target  # type: ignore[assignment]
    keywords = labels(list(state.of(node.kwargs).items()))
    if node.op == "call_method":
        result = getattr(labels(arguments[0]), str(node.target))(*labels(arguments[1:]), **dict(keywords))
    else:
        result = target(*labels(arguments), **dict(keywords))
    if isinstance(result, list | tuple):
        return [Value.of(part, zero, dtype) for part in result]
    return Value.of(result, zero, dtype)


def _concatenated(arguments: Any, zero: bool, dtype: torch.dtype) -> Value:
    """As `torch.cat`, but dimensions along which no part's labels change are left out."""
    parts: Sequence[Value] = [p if isinstance(p, Value) else Value.always(tuple(p.shape)) for p in arguments[0]]
    parts = [p for p in parts if p.shape != (0,)]
    rank = len(parts[0].shape)
    dim = (int(arguments[1]) if len(arguments) > 1 else 0) % rank
    sizes = [max(p.labels.shape[d] for p in parts) for d in range(rank)]
    labels = [p.labels.expand([p.shape[d] if d == dim else sizes[d] for d in range(rank)]) for p in parts]
    shape = list(parts[0].shape)
    shape[dim] = sum(p.shape[dim] for p in parts)
    joined = torch.cat(labels, dim)
    return Value(tuple(shape), Value.of(joined, zero).labels, zero, dtype)


def _padded(state: Propagation, arguments: Any, name: str) -> Value:
    """Padding along channels makes positions that hold a constant: zeros may go with what they meet, others stay."""
    x, pads = arguments[0], list(arguments[1])
    rest = arguments[3:] if name == "pad" else arguments[2:]
    filler = float(rest[0]) if rest and rest[0] is not None else 0.0
    labels = x.labels
    shape = list(x.shape)
    for position in range(len(pads) // 2):
        dim, before, after = len(shape) - 1 - position, int(pads[2 * position]), int(pads[2 * position + 1])
        shape[dim] += before + after
        if (labels.shape[dim] == 1 and x.shape[dim] > 1) or (before == after == 0):
            continue
        if labels.shape[dim] == 1 and not x.labelled:
            continue
        made = [state.atoms.new(n) if filler == 0 and n > 0 else np.zeros(max(n, 0), np.int64) for n in (before, after)]
        sizes = [1] * labels.dim()
        ends = []
        for ids in made:
            sizes[dim] = len(ids)
            full = list(labels.shape)
            full[dim] = len(ids)
            ends.append(torch.from_numpy(ids.astype(np.float64)).reshape(sizes).expand(full))
        start = max(-before, 0)
        inner = labels.narrow(dim, start, labels.shape[dim] - start - max(-after, 0))
        labels = torch.cat([ends[0], inner, ends[1]], dim)
    return Value(tuple(shape), labels, x.zero and filler == 0, x.dtype)


def _channelwise(state: Propagation, node: fx.Node, name: str, arguments: Any) -> Any:
    """Pools and resizes: every channel for itself."""
    x = arguments[0]
    result = on_meta(state, node)
    if not isinstance(x, Value):
        return state.always(node, "reads a constant")
    several = isinstance(result, list | tuple)
    shape = tuple(result[0].shape) if several else tuple(result.shape)
    dim = 1 if len(x.shape) == len(shape) and len(shape) in (3, 4) else 0
    ids = state.unified(x, dim, f"{place(node)}: reads channels that always stay at other positions")
    value = Value.along(shape, dim, ids, x.zero and name != "instance_norm")
    return [value, replace(Value.along(shape, dim, ids, False), dtype=result[1].dtype)] if several else value


def _dims(node: fx.Node, arguments: Any, x: Value, name: str) -> tuple[list[int], bool]:
    """Reduced dimensions and whether they are kept."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    named = {a.name: v for a, v in zip(schema, arguments, strict=False)} | dict(node.kwargs)
    dims = named.get("dim")
    rank = len(x.shape)
    listed = list(range(rank)) if dims is None or dims == [] else [dims] if isinstance(dims, int) else list(dims)
    return sorted(d % rank for d in listed), bool(named.get("keepdim", False))


def _reduce(state: Propagation, node: fx.Node, name: str, arguments: Any) -> Any:
    x: Value = arguments[0]
    result = on_meta(state, node)
    dims, _ = _dims(node, arguments, x, name)
    if isinstance(result, list | tuple):
        kept = _joined_along(state, node, x, dims) if set(dims) & set(x.varying) else x
        if kept is None:
            return state.always(node, f"takes the {name} over channels")
        return [_reduced(kept, dims, tuple(r.shape), False, r.dtype) for r in result]
    if not x.labelled:
        return _stay(result)
    if not set(dims) & set(x.varying):
        zero = x.zero and name in _ZERO_OF_ZEROS
        return _reduced(x, dims, tuple(result.shape), zero, result.dtype)
    return _over_channels(state, node, name, x, dims, tuple(result.shape))


def _reduced(x: Value, dims: list[int], shape: tuple[int, ...], zero: bool, dtype: torch.dtype) -> Value:
    """Labels do not change along the dimensions that go."""
    labels = x.labels
    for d in dims:
        labels = labels.narrow(d, 0, 1)
    if len(shape) < len(x.shape):
        labels = labels.reshape([s for d, s in enumerate(labels.shape) if d not in dims])
    return Value(shape, labels, zero, dtype)


def _joined_along(state: Propagation, node: fx.Node, x: Value, dims: list[int]) -> Value | None:
    """Labels that do not change along ``dims``, after joining those that meet there; None where the channels lie along ``dims``."""
    along, others = [d for d in x.varying if d in dims], [d for d in x.varying if d not in dims]
    if not others or math.prod(x.shape[d] for d in others) < math.prod(x.shape[d] for d in along):
        return None
    labels = x.labels
    for d in along:
        first = labels.narrow(d, 0, 1)
        state.meet(ids_of(first.expand(labels.shape)), ids_of(labels), f"{place(node)}: meets channels that always stay")
        labels = first
    return Value(x.shape, labels, x.zero)


def _over_channels(state: Propagation, node: fx.Node, name: str, x: Value, dims: list[int], shape: tuple[int, ...]) -> Any:
    """A mean, sum, norm or maximum over channels reads them and loses none: what was removed counts as zeros.

    Where labels change along other dimensions as well (maxout, norms written by hand), the one with more keeps them.
    """
    kept = _joined_along(state, node, x, dims)
    if kept is not None:
        return _reduced(kept, dims, shape, x.zero and name in _ZERO_OF_ZEROS, x.dtype)
    along = [d for d in x.varying if d in dims]
    if not x.zero or name not in ("mean", "sum", "amax", "norm", "linalg_vector_norm") or len(along) > 1:
        return state.always(node, f"takes the {name} over channels")
    ids = state.unified(x, along[0], f"{place(node)}: channels that always stay at other positions")
    if name in ("mean", "amax"):
        state.adaptors.append(Adaptor(node.name, "mean" if name == "mean" else "amax", 0, along[0], ids))
    return Value.always(shape)


def _along(state: Propagation, node: fx.Node, arguments: Any) -> Any:
    """Softmax and the like: free along other dimensions than that of the channels."""
    x = arguments[0]
    result = on_meta(state, node)
    dim = next((int(a) for a in arguments[1:] if isinstance(a, int) and not isinstance(a, bool)), -1) % max(len(x.shape), 1)
    if not isinstance(result, Tensor) or dim in x.varying or not x.varying:
        return state.always(node, "compares channels with each other") if x.labelled else _stay(result)
    if len(result.shape) != len(x.shape):
        return state.always(node, "compares positions")
    return Value(tuple(result.shape), x.labels, False, result.dtype)


def _stay(result: Any) -> Any:
    if isinstance(result, list | tuple):
        return [Value.always(tuple(r.shape), r.dtype) for r in result]
    return Value.always(tuple(result.shape), result.dtype)
