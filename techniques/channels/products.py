"""Matrix products: what is summed over goes together, rows and columns keep their labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from techniques.channels.atoms import ids_of
from techniques.channels.propagation import Adaptor, Propagation, on_meta
from techniques.channels.values import Value
from techniques.network_checks import place


def matrix_product(state: Propagation, node: fx.Node, arguments: Any) -> Any:
    """``(..., m, k) @ (..., k, n)``; labels along k are consumed, those along m or n (not both) stay."""
    result = on_meta(state, node)
    pair = [a if isinstance(a, Value) else Value.always(tuple(a.shape)) for a in arguments[:2]]
    if min(len(v.shape) for v in pair) < 2:
        return state.always(node, "multiplies a vector")
    left, right = pair
    shape = tuple(result.shape)
    left, right = _checked(state, node, left, right)
    _contract(state, node, left, right)
    rows, columns = _varies(left, -2), _varies(right, -1)
    if rows and columns:
        return state.always(node, "multiplies channels with channels: each output belongs to two")
    labels = torch.zeros((1,) * len(shape), dtype=torch.float64)
    if rows:
        labels = _along(left, -2, shape)
    elif columns:
        labels = _along(right, -1, shape)
    zero = left.zero if rows else right.zero
    return Value(shape, labels, zero, result.dtype)


def _varies(value: Value, dim: int) -> bool:
    return value.labels.shape[dim] > 1


def _along(value: Value, dim: int, shape: tuple[int, ...]) -> Tensor:
    other = -1 if dim == -2 else -2
    labels = value.labels.narrow(other, 0, 1)
    return labels.reshape((1,) * (len(shape) - labels.dim()) + tuple(labels.shape))


def _checked(state: Propagation, node: fx.Node, left: Value, right: Value) -> tuple[Value, Value]:
    """Operands whose labels change along both of their axes, or along the batch alone, stay whole."""
    checked = []
    for value, kept, summed in ((left, -2, -1), (right, -1, -2)):
        both = _varies(value, kept) and _varies(value, summed)
        batch_only = value.labelled and not _varies(value, kept) and not _varies(value, summed)
        if both or batch_only:
            state.atoms.fix(value.ids(), f"{place(node)}: multiplies channels along several axes")
            value = Value.always(value.shape)
        checked.append(value)
    return checked[0], checked[1]


def _contract(state: Propagation, node: fx.Node, left: Value, right: Value) -> None:
    """Positions that are multiplied and summed go together; an operand that always stays is cut."""
    along = [_varies(left, -1), _varies(right, -2)]
    if not any(along):
        return
    a, b = left.labels.narrow(-2, 0, 1).transpose(-1, -2), right.labels.narrow(-1, 0, 1)
    reason = f"{place(node)}: sums over channels that are not zero where they are removed"
    zero = (along[0] and left.zero) or (along[1] and right.zero)
    if not zero:
        state.atoms.fix(left.ids() if along[0] else np.zeros(0, np.int64), reason)
        state.atoms.fix(right.ids() if along[1] else np.zeros(0, np.int64), reason)
        return
    if all(along):
        sizes = torch.broadcast_shapes(a.shape, b.shape)  # type: ignore[no-untyped-call]
        state.meet(ids_of(a.expand(sizes)), ids_of(b.expand(sizes)), f"{place(node)}: joined with what always stays")
    for value, dim, varies in ((left, -1, along[0]), (right, -2, along[1])):
        if not varies:
            continue
        ids = state.unified(value, dim % len(value.shape), f"{place(node)}: channels that always stay at other positions")
        if not all(along):
            other = 1 if value is left else 0
            state.adaptors.append(Adaptor(node.name, "gather", other, -2 if value is left else -1, ids))
