"""What a walk with labels found, ready for use: classes of channels, and every place in the network that loses some with them."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor, fx, nn

from techniques.channel_ops import ChannelPermutation, ChannelSlice
from techniques.channels.atoms import Classes, Ids
from techniques.channels.gather import ChannelGather
from techniques.channels.propagation import AdaptorKind, AxisKind, Propagation
from techniques.channels.values import Value
from techniques.network import Network
from techniques.quantization.placement import operation

_ROUNDS = 20
_SIZED = frozenset({"view", "reshape", "_unsafe_view", "expand", "broadcast_to"})
_INDEXED = frozenset(
    {
        "slice", "narrow", "index_select", "roll", "constant_pad_nd", "pad", "channel_shuffle", "native_channel_shuffle", "select",
        "index", "chunk", "split", "split_with_sizes", "tensor_split", "reflection_pad1d", "reflection_pad2d", "replication_pad2d",
        "gather", "take_along_dim", "diagonal", "rot90", "unbind",
    }
)  # fmt: skip
_MODULES = (ChannelSlice, ChannelPermutation, ChannelGather)


@dataclass(frozen=True)
class Axis:
    """One axis of a value, with the class of each index; 0 stays."""

    dim: int
    classes: Ids
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Sizes:
    """A reshape or expand whose written size along ``dim`` shrinks."""

    node: str
    argument: int
    position: int
    classes: Ids


@dataclass(frozen=True)
class Pick:
    """A node that picks positions of ``source`` along its axis; -1 is an empty one."""

    node: str
    source: str
    dim: int
    positions: Ids
    source_classes: Ids
    classes: Ids
    drops_dim: bool


@dataclass(frozen=True)
class Extra:
    """See `techniques.channels.propagation.Adaptor`, with classes instead of atoms."""

    node: str
    kind: AdaptorKind
    operand: int
    dim: int
    classes: Ids


@dataclass(frozen=True)
class ChannelMap:
    """All classes of a network.

    Attributes:
        count: classes, that of what stays (0) included.
        axes: module and kind of axis -> class per index.
        producers: layer -> class per output channel, stuck ones as 0.
        parameters: path of a parameter that the graph reads by itself -> its axis.
        nodes: node -> the axis of its value that loses positions.
        edits: nodes that write sizes or indices.
        extras: what is put beside nodes.
        reasons: layer -> why outputs of it stay.
    """

    count: int
    axes: Mapping[tuple[str, AxisKind], Ids]
    producers: Mapping[str, Ids]
    parameters: Mapping[str, Axis]
    nodes: Mapping[str, Axis]
    edits: tuple[Sizes | Pick, ...]
    extras: tuple[Extra, ...]
    reasons: Mapping[str, str]


_KNOWN: weakref.WeakKeyDictionary[nn.Module, ChannelMap] = weakref.WeakKeyDictionary()


def channel_map(network: Network) -> ChannelMap:
    """The classes of a network, real or meta; remembered as long as its graph lives, which nobody changes in place."""
    if network.graph not in _KNOWN:
        with torch.no_grad():
            state = Propagation(network)
            state.run()
            _KNOWN[network.graph] = _finish(state)
    return _KNOWN[network.graph]


def _finish(state: Propagation) -> ChannelMap:
    values = [(node, v) for node, value in state.values.items() for v in _flat(value) if v.labelled]
    _make_rectangular(state, [v for _, v in values])
    _keep_the_last(state, values)
    classes = state.atoms.classes()
    nodes: dict[str, Axis] = {}
    for node, value in state.values.items():
        axis = _axis(value, classes) if isinstance(value, Value) else None
        if axis is not None:
            nodes[node.name] = axis
    extras = [Extra(a.node, a.kind, a.operand, a.dim, classes.live(a.atoms)) for a in state.adaptors]
    return ChannelMap(
        count=classes.count,
        axes={key: live for key, atoms in state.axes.items() if (live := classes.live(atoms)).any()},
        producers={name: classes.live(atoms) for name, atoms in state.producers.items()},
        parameters=dict(_parameters(state, classes)),
        nodes=nodes,
        edits=tuple(_edits(state, nodes)),
        extras=tuple(e for e in extras if e.classes.any()),
        reasons=_reasons(state, classes),
    )


def _flat(value: Any) -> Iterator[Value]:
    if isinstance(value, Value):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _flat(part)


def _reasons(state: Propagation, classes: Classes) -> dict[str, str]:
    found = {}
    for name, atoms in state.producers.items():
        stuck = [classes.reasons[c] for c in classes.of_atom[atoms].tolist() if c in classes.reasons]
        if stuck:
            found[name] = stuck[0]
    return found


def _make_rectangular(state: Propagation, values: list[Value]) -> None:
    """Along all axes but one, positions of an index go together: what is left of a tensor must be a tensor."""
    several = [v for v in values if len(v.varying) > 1]
    for _ in range(_ROUNDS):
        classes = state.atoms.classes()
        before = (classes.count, len(classes.reasons))
        for value in several:
            live = classes.live(value.ids()).reshape(tuple(value.labels.shape))
            dims = [d for d in range(live.ndim) if live.shape[d] > 1 and (live != live.take([0], d)).any()]
            if len(dims) > 1:
                best = max(dims, key=lambda d: (_independent(live, d), d))
                state.unified(value, best, "a tensor keeps a part of its channels at some positions only")
        classes = state.atoms.classes()
        if (classes.count, len(classes.reasons)) == before:
            return
    for value in several:
        state.atoms.fix(value.ids(), "its channels are rearranged in a way that could not be followed")


def _independent(live: Ids, dim: int) -> int:
    """How many classes would be left if each index along ``dim`` were one."""
    rows = np.moveaxis(live, dim, 0).reshape(live.shape[dim], -1)
    names, flat = np.unique(rows, return_inverse=True)
    flat = flat.reshape(rows.shape)
    first = np.repeat(flat[:, :1], rows.shape[1], 1).reshape(-1)
    graph = coo_matrix((np.ones(first.size), (first, flat.reshape(-1))), (len(names), len(names)))
    return int(connected_components(graph, directed=False)[0])


def _keep_the_last(state: Propagation, values: list[tuple[fx.Node, Value]]) -> None:
    """Channels that are all there is of a value can only go with it."""
    classes = state.atoms.classes()
    for node, value in values:
        if len(np.unique(classes.of_atom[value.ids()])) == 1:
            state.atoms.fix(value.ids(), f"its channels are all that node {node.name!r} has")


def _axis(value: Value, classes: Classes) -> Axis | None:
    live = classes.live(value.ids()).reshape(tuple(value.labels.shape))
    if not live.any():
        return None
    dims = [d for d in range(live.ndim) if live.shape[d] > 1 and (live != live.take([0], d)).any()]
    if len(dims) != 1:
        raise AssertionError(f"labels change along {dims}")
    flat = np.moveaxis(live, dims[0], 0).reshape(live.shape[dims[0]], -1)
    return Axis(dims[0], flat.max(axis=1), value.shape)


def _parameters(state: Propagation, classes: Classes) -> Iterator[tuple[str, Axis]]:
    for path, atoms in state.parameters.items():
        value = Value.of(torch.from_numpy(atoms.astype(np.float64)), True)
        axis = _axis(value, classes)
        if axis is not None:
            yield path, axis


def _edits(state: Propagation, nodes: Mapping[str, Axis]) -> Iterator[Sizes | Pick]:
    modules = dict(state.network.graph.named_modules())
    for node in state.values:
        name = operation(node)
        axis = nodes.get(node.name)
        if name in _SIZED and axis is not None and isinstance(node.args[1], list | tuple):
            yield Sizes(node.name, 1, axis.dim, axis.classes)
        elif name == "unflatten" and axis is not None:
            rank = len(nodes[node.all_input_nodes[0].name].shape)
            yield Sizes(node.name, 2, axis.dim - int(node.args[1]) % rank, axis.classes)  # type: ignore[arg-type]
        elif name in _INDEXED or (node.op == "call_module" and isinstance(modules[str(node.target)], _MODULES)):
            yield from _picks(state, node, nodes, modules)


def _picks(state: Propagation, node: fx.Node, nodes: Mapping[str, Axis], modules: Mapping[str, nn.Module]) -> Iterator[Pick]:
    source = node.all_input_nodes[0]
    axis = nodes.get(source.name)
    known = state.values[source]
    if axis is None and nodes.get(node.name) is None:
        return
    dim = axis.dim if axis is not None else nodes[node.name].dim
    size = known.shape[dim]
    shape = [1] * len(known.shape)
    shape[dim] = size
    positions = torch.arange(1, size + 1, dtype=torch.float64).reshape(shape).expand(known.shape)
    if node.op == "call_module":
        result: Any = modules[str(node.target)](positions)
    else:
        arguments = [positions if a is source else state.of(a) for a in node.args]
        result = node.target(*arguments, **state.of(node.kwargs))  # type: ignore[operator]
    in_classes = axis.classes if axis is not None else np.zeros(size, np.int64)
    if isinstance(result, Tensor):
        yield from _pick(node, source, result, dim, in_classes, nodes)
        return
    for user in node.users:
        yield from _pick(user, source, result[user.args[1]], dim, in_classes, nodes)


def _pick(node: fx.Node, source: fx.Node, result: Tensor, dim: int, in_classes: Ids, nodes: Mapping[str, Axis]) -> Iterator[Pick]:
    axis = nodes.get(node.name)
    if axis is None and operation(node) == "select":
        found = np.unique(result.numpy().astype(np.int64)) - 1
        if len(found) == 1:  # else it selects along another axis
            yield Pick(node.name, source.name, dim, found, in_classes, np.zeros(1, np.int64), True)
        return
    if not result.numel():
        return  # an empty part has nothing to lose
    out_dim = axis.dim if axis is not None else dim
    moved = result.movedim(out_dim, 0).reshape(result.shape[out_dim], -1)
    found = moved.amax(1).numpy().astype(np.int64) - 1
    if len(found) == len(in_classes) and (found == np.arange(len(found))).all():
        return  # another axis is picked from
    classes = axis.classes if axis is not None else np.zeros(len(found), np.int64)
    yield Pick(node.name, source.name, out_dim, found, in_classes, classes, False)
