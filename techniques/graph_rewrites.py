"""Rewrites that make an exported graph editable: no in-place calls, no constants where a size at run time belongs.

Each takes the graph module and changes its graph in place. Shapes come from ``node.meta["val"]`` of the export.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from techniques.channel_ops import ChannelPermutation, ChannelScale, ChannelSlice

aten = torch.ops.aten

_NO_EFFECT = {
    aten.contiguous.default, aten.clone.default, aten.alias.default, aten.detach.default, aten.detach_.default,
    aten.lift_fresh_copy.default, aten.lift_fresh.default,
}  # fmt: skip
_RESHAPES = {aten.view.default, aten.reshape.default, aten._unsafe_view.default}


def calls(graph_module: fx.GraphModule) -> Iterator[fx.Node]:
    """The graph's function calls, a snapshot in execution order."""
    yield from [node for node in graph_module.graph.nodes if node.op == "call_function"]


def shape_of(node: Any) -> tuple[Any, ...]:
    """Exported shape of a node's tensor (ints and symbols); empty when unknown."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()


def replace(graph_module: fx.GraphModule, node: fx.Node, target: Any, args: tuple[Any, ...]) -> fx.Node:
    """Put one call in the place of another, with its shape and its place in the original model."""
    graph = graph_module.graph
    with graph.inserting_before(node):
        new = graph.call_module(target, args) if isinstance(target, str) else graph.call_function(target, args)
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    graph.erase_node(node)
    return new


def add_module(graph_module: fx.GraphModule, name: str, module: torch.nn.Module) -> str:
    """Add a module at the root under a free name; returns the name."""
    free, count = name, 0
    while hasattr(graph_module, free):
        count += 1
        free = f"{name}_{count}"
    graph_module.add_module(free, module)
    return free


def drop_guards(graph_module: fx.GraphModule) -> None:
    """Remove guards, assertions and the counting of batches."""
    for node in list(graph_module.graph.nodes):
        name = str(node.target)
        if (node.op == "call_module" and "guard" in name) or name.startswith(("aten._assert", "aten.sym_constrain")):
            graph_module.graph.erase_node(node)
    for node in list(graph_module.graph.nodes):
        if node.op == "get_attr":
            for call in reversed(_unread_writes(node)):
                graph_module.graph.erase_node(call)


def _unread_writes(state: fx.Node) -> list[fx.Node]:
    """The writes into a buffer that nothing else reads (a counter of batches); empty where something does."""
    values, found = [state], list[fx.Node]()
    for value in values:
        for user in value.users:
            schema = getattr(user.target, "_schema", None)
            if schema is None or not schema.is_mutable or user.args[0] not in values:
                return []
            if user not in found:
                found.append(user)
                values.append(user)
    return sorted(found)


def drop_copies(graph_module: fx.GraphModule) -> None:
    """Remove calls that only copy or rename a tensor; right once nothing writes in place any more."""
    for node in calls(graph_module):
        if node.target in _NO_EFFECT:
            node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
            graph_module.graph.erase_node(node)


def attribute(graph_module: torch.nn.Module, node: fx.Node) -> Any:
    """The tensor that a ``get_attr`` node reads."""
    value: Any = graph_module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value


def free_reshapes(graph_module: fx.GraphModule, batch: Any) -> None:
    """Turn reshapes with written sizes into flatten, unsqueeze, or a reshape with a free batch.

    Args:
        graph_module: changed in place.
        batch: the exported batch, a number or a symbol.
    """
    for node in calls(graph_module):
        if node.target in _RESHAPES:
            _free_reshape(graph_module, node, batch)
        elif node.target is aten.expand.default:
            sizes = list(node.args[1])  # type: ignore[arg-type]
            source = shape_of(node.args[0])
            if sizes and isinstance(sizes[0], int) and str(sizes[0]) == str(batch) and source and str(source[0]) == str(batch):
                node.args = (node.args[0], [-1, *sizes[1:]])


def _free_reshape(graph_module: fx.GraphModule, node: fx.Node, batch: Any) -> None:
    source, old, new = node.args[0], shape_of(node.args[0]), shape_of(node)
    keeps_batch = bool(old and new) and str(old[0]) == str(new[0]) == str(batch)
    if not keeps_batch:
        node.target = aten.reshape.default
    elif len(new) == 2 and len(old) > 2:
        replace(graph_module, node, aten.flatten.using_ints, (source, 1))
    elif len(old) == 2 and len(new) > 2 and str(old[1]) == str(new[1]) and all(str(s) == "1" for s in new[2:]):
        for _ in new[3:]:
            with graph_module.graph.inserting_before(node):
                source = graph_module.graph.call_function(aten.unsqueeze.default, (source, -1))
        replace(graph_module, node, aten.unsqueeze.default, (source, -1))
    else:
        node.target = aten.reshape.default
        sizes = list(node.args[1])  # type: ignore[arg-type]
        if not isinstance(sizes[0], int) or sizes[0] == -1:
            return
        if -1 not in sizes:
            sizes[0] = -1
        else:
            with graph_module.graph.inserting_before(node):
                sizes[0] = graph_module.graph.call_function(aten.sym_size.int, (source, 0))
        node.args = (source, sizes)


def lift_shuffles(graph_module: fx.GraphModule) -> None:
    """Replace reshape, transpose, reshape of channel groups by `ChannelPermutation`."""
    for node in calls(graph_module):
        if node.target in (aten.channel_shuffle.default, aten.native_channel_shuffle.default) and len(shape_of(node)) == 4:
            module = ChannelPermutation.shuffle(int(shape_of(node)[1]), int(node.args[1]))  # type: ignore[arg-type]
            replace(graph_module, node, add_module(graph_module, "channel_shuffle", module), (node.args[0],))
    for last in calls(graph_module):
        if last.target not in _RESHAPES:
            continue
        middle = last.args[0]
        if not isinstance(middle, fx.Node) or not _swaps_groups(middle):
            continue
        first = middle.args[0]
        if not isinstance(first, fx.Node) or first.target not in _RESHAPES:
            continue
        shape, grouped, result = shape_of(first.args[0]), shape_of(first), shape_of(last)
        same = len(shape) == 4 and len(grouped) == 5 and [str(s) for s in shape] == [str(s) for s in result]
        if same and int(grouped[1]) * int(grouped[2]) == int(shape[1]):
            module = ChannelPermutation.shuffle(int(shape[1]), int(grouped[1]))
            replace(graph_module, last, add_module(graph_module, "channel_shuffle", module), (first.args[0],))
    for node in calls(graph_module):
        if node.target is aten.index_select.default and node.args[1] == 1 and _is_constant(node.args[2]):
            index = attribute(graph_module, node.args[2]).tolist()  # type: ignore[arg-type]
            if sorted(index) == list(range(int(shape_of(node.args[0])[1]))):
                name = add_module(graph_module, "channel_permutation", ChannelPermutation(index))
                replace(graph_module, node, name, (node.args[0],))


def _is_constant(node: Any) -> bool:
    return isinstance(node, fx.Node) and node.op == "get_attr"


def _swaps_groups(node: fx.Node) -> bool:
    if node.target is aten.transpose.int:
        return {int(a) for a in node.args[1:3]} == {1, 2}  # type: ignore[arg-type]
    return node.target is aten.permute.default and list(node.args[1]) == [0, 2, 1, 3, 4]  # type: ignore[arg-type]


def lift_splits(graph_module: fx.GraphModule) -> None:
    """Replace splits, chunks and complete sets of slices along channels by `ChannelSlice` parts that share their sizes."""
    for node in calls(graph_module):
        if node.target in (aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default):
            _lift_split(graph_module, node)
    slices: dict[fx.Node, list[tuple[int, int, fx.Node]]] = defaultdict(list)
    for node in calls(graph_module):
        cut = _channel_slice(node)
        if cut is not None:
            slices[node.args[0]].append((*cut, node))  # type: ignore[index]
    for source, cuts in slices.items():
        bounds = sorted({(start, stop) for start, stop, _ in cuts})
        channels = int(shape_of(source)[1])
        edges = [0, *(stop for _, stop in bounds)]
        if [start for start, _ in bounds] != edges[:-1] or edges[-1] != channels:
            continue
        sizes = [stop - start for start, stop in bounds]
        for start, stop, node in cuts:
            part = ChannelSlice(sizes, bounds.index((start, stop)))
            replace(graph_module, node, add_module(graph_module, "channel_slice", part), (source,))


def _lift_split(graph_module: fx.GraphModule, node: fx.Node) -> None:
    source = node.args[0]
    dim = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)
    rank = len(shape_of(source))
    if rank != 4 or int(dim) % rank != 1 or any(user.target is not operator.getitem for user in node.users):  # type: ignore[arg-type]
        return
    sizes = [int(part.shape[1]) for part in node.meta["val"]]
    for user in list(node.users):
        part = ChannelSlice(sizes, int(user.args[1]))  # type: ignore[arg-type]
        replace(graph_module, user, add_module(graph_module, "channel_slice", part), (source,))
    graph_module.graph.erase_node(node)


def _channel_slice(node: fx.Node) -> tuple[int, int] | None:
    """Start and stop of a slice along the channels of a 4-d tensor."""
    shape = shape_of(node.args[0]) if node.args else ()
    if len(shape) != 4:
        return None
    args = list(node.args[1:])
    if node.target is aten.narrow.default and args[0] in (1, -3):
        return int(args[1]), int(args[1]) + int(args[2])  # type: ignore[arg-type]
    if node.target is aten.slice.Tensor and args and args[0] in (1, -3) and (len(args) < 4 or args[3] == 1):
        channels = int(shape[1])
        start = int(args[1] or 0) if len(args) > 1 else 0  # type: ignore[arg-type]
        stop = min(int(args[2]), channels) if len(args) > 2 and args[2] is not None else channels  # type: ignore[arg-type]
        return start % channels if start < 0 else start, stop % channels if stop < 0 else stop
    return None


def lift_scales(graph_module: fx.GraphModule) -> None:
    """Replace products of maps with a ``(c, 1, 1)`` parameter that is read by nothing else by `ChannelScale`."""
    for weight in [node for node in graph_module.graph.nodes if node.op == "get_attr"]:
        tensor, users = attribute(graph_module, weight), list(weight.users)
        sizes = tuple(tensor.shape) if isinstance(tensor, torch.nn.Parameter) else ()
        if sizes[-2:] != (1, 1) or len(sizes) not in (3, 4) or (len(sizes) == 4 and sizes[0] != 1):
            continue
        if not users or not all(_scales(user, weight, sizes[-3]) for user in users):
            continue
        parameter = tensor if len(sizes) == 3 else torch.nn.Parameter(tensor.detach().reshape(sizes[-3:]))
        name = add_module(graph_module, f"{weight.target}_scale".replace(".", "_"), ChannelScale(parameter))
        for user in users:
            source = next(a for a in user.args if a is not weight)
            replace(graph_module, user, name, (source,))


def _scales(node: fx.Node, weight: fx.Node, channels: int) -> bool:
    others = [a for a in node.args if a is not weight]
    if node.target is not aten.mul.Tensor or len(others) != 1:
        return False
    shape = shape_of(others[0])
    return len(shape) == 4 and str(shape[1]) == str(channels)


_ELEMENTWISE = {
    aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.where.self, aten.maximum.default, aten.minimum.default,
}  # fmt: skip


def drop_expansions(graph_module: fx.GraphModule) -> None:
    """Let broadcasting do what an ``expand`` before elementwise calls does: no written sizes, and no copies at run time."""
    for node in calls(graph_module):
        expands = node.target in (aten.expand.default, aten.expand_as.default) and node.users
        if expands and all(_broadcasts(user, node) for user in node.users):
            node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
            graph_module.graph.erase_node(node)


def _broadcasts(user: fx.Node, expanded: fx.Node) -> bool:
    """Whether another input has the result's shape already."""
    result = [str(s) for s in shape_of(user)]
    others = [a for a in user.args if isinstance(a, fx.Node) and a is not expanded]
    return user.target in _ELEMENTWISE and any([str(s) for s in shape_of(other)] == result for other in others)


def is_random(node: fx.Node) -> bool:
    """Whether a call draws random numbers at each run."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
