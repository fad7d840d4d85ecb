"""Rewrites in-place calls as functional ones, through views too, so that a graph's values never change once made.

A write through a view (``y[:, :4] = 0``) becomes a new value of the whole tensor, and every later reader of the tensor, or of
another view of it, reads that new value: the functionalisation of torch's own compiler, on the exported graph. What cannot be
written back through is refused with its place.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from techniques import graph_rewrites, network_checks
from techniques.errors import UnsupportedNetworkError

aten = torch.ops.aten

_MAY_RETURN_ITS_INPUT = {aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default, aten.einsum.default}
"""Their schemas promise a new tensor, yet in evaluation, or where nothing moves, they hand back what they were given."""
_RESHAPING = {
    aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.flatten.using_ints, aten.unflatten.int,
    aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.unsqueeze.default, aten.view_as.default,
    aten.reshape_as.default,
}  # fmt: skip
_KEEPING = {
    aten.alias.default, aten.detach.default, aten.contiguous.default, aten.dropout.default, aten.feature_dropout.default,
    aten.alpha_dropout.default, aten.to.dtype, aten.to.dtype_layout, aten.to.device, aten.lift_fresh.default, aten.type_as.default,
}  # fmt: skip
_PARTS = {aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default, aten.unbind.int, aten.split.sizes}
_CERTAIN = {aten.slice.Tensor, aten.select.int, aten.narrow.default, aten.view.default, aten.permute.default, aten.transpose.int}


@dataclass(frozen=True)
class _Alias:
    """A tensor that shares the memory of ``root``, by the views ``chain`` (from the root on), as of a version of the root."""

    root: fx.Node
    chain: tuple[fx.Node, ...]
    version: int


def make_functional(graph_module: fx.GraphModule, images: Tensor | None) -> None:
    """Replace in-place calls by functional ones; later readers of the changed memory read the result.

    Args:
        graph_module: changed in place; guards are gone, copies (``clone``) are still there.
        images: what the graph runs on, to see which reshapes share memory where that depends on strides.

    Raises:
        UnsupportedNetworkError: a write that cannot be expressed, or one into a weight, with the node.
    """
    if any(_writes(node) for node in graph_rewrites.calls(graph_module)):
        _Functional(graph_module, images).run()
        graph_module.graph.eliminate_dead_code()


def _writes(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _may_alias(node: fx.Node) -> bool:
    """Whether a call may hand out the memory of its first input."""
    if node.target is operator.getitem:
        source = node.args[0]
        return isinstance(source, fx.Node) and source.target in _PARTS
    if not isinstance(node.target, torch._ops.OpOverload) or not node.args or not isinstance(_first(node), fx.Node):
        return False
    returns = node.target._schema.returns
    return node.target in _MAY_RETURN_ITS_INPUT or any(r.alias_info is not None for r in returns)


def _first(node: fx.Node) -> Any:
    """The tensor that a view is taken of."""
    if node.target is aten.einsum.default:
        operands = node.args[1]
        return operands[0] if isinstance(operands, list | tuple) and len(operands) == 1 else None
    return node.args[0]


class _Functional:
    """One walk through the graph; knows for every tensor whose memory it shares and what that memory holds by now."""

    def __init__(self, graph_module: fx.GraphModule, images: Tensor | None) -> None:
        self._module = graph_module
        self._graph = graph_module.graph
        self._aliases: dict[fx.Node, _Alias] = {}
        self._current: dict[fx.Node, fx.Node] = {}
        self._versions: dict[fx.Node, int] = {}
        self._made: dict[tuple[fx.Node, int], fx.Node] = {}
        self._views = self._views_written_later(images)

    def _views_written_later(self, images: Tensor | None) -> set[fx.Node]:
        """Calls that share memory with their input, which is written into after them."""
        nodes = list(self._graph.nodes)
        roots: dict[fx.Node, fx.Node] = {}
        last_write: dict[fx.Node, int] = {}
        for position, node in enumerate(nodes):
            roots[node] = roots[_first(node)] if node.op == "call_function" and _may_alias(node) else node
            if _writes(node) and isinstance(node.args[0], fx.Node):
                last_write[roots[node.args[0]]] = position
        found = [n for position, n in enumerate(nodes) if roots[n] is not n and last_write.get(roots[n], -1) > position]
        found = [n for n in found if not _writes(n)]
        certain = {n for n in found if n.target is operator.getitem or n.target in _PARTS | _CERTAIN}
        if len(certain) == len(found) or images is None:
            return set(found)
        recorder = _StorageRecorder(self._module)
        with torch.no_grad(), network_checks.unchanged(self._module):
            recorder.run(images.clone())
        return certain | {n for n in found if recorder.storages.get(n, -1) == recorder.storages.get(_first(n), -2)}

    def run(self) -> None:
        for node in list(self._graph.nodes):
            source = _first(node) if node.op == "call_function" and node.args else None
            self._read_current(node)
            if _writes(node):
                self._write(node, source)
            elif node in self._views:
                alias = self._alias(source)
                version = alias.version if node.target is operator.getitem else self._versions.get(alias.root, 0)
                self._aliases[node] = _Alias(alias.root, (*alias.chain, node), version)

    def _alias(self, node: Any) -> _Alias:
        return self._aliases.get(node, _Alias(node, (), 0))

    def _read_current(self, node: fx.Node) -> None:
        """Let a node read what the memory of its inputs holds by now."""
        for source in node.all_input_nodes:
            alias = self._alias(source)
            version = self._versions.get(alias.root, 0)
            if alias.version == version or source.target in _PARTS:
                continue
            if (source, version) not in self._made:
                value = self._current[alias.root]
                with self._graph.inserting_before(node):
                    for view in alias.chain:
                        value = self._replayed(view, value)
                self._made[source, version] = value
            node.replace_input_with(source, self._made[source, version])

    def _replayed(self, view: fx.Node, value: fx.Node) -> fx.Node:
        """The same view of another value; parts of a split as slices."""
        if view.target in _PARTS or view.target in _KEEPING:
            return value
        if view.target is operator.getitem:
            target, args = _cut(view)
            return self._call(view, target, (value, *args))
        first = _first(view)
        return self._call(view, view.target, fx.node.map_arg(view.args, lambda n: value if n is first else n), view.kwargs)

    def _call(self, like: fx.Node, target: Any, args: Any, keywords: Any = None) -> fx.Node:
        new = self._graph.call_function(target, args, keywords or {})
        new.meta = dict(like.meta)
        return new

    def _write(self, node: fx.Node, original: Any) -> None:
        base = str(node.target._overloadpacket).rpartition(".")[2]  # type: ignore[union-attr]
        if not isinstance(original, fx.Node) or not base.endswith("_") or base.endswith("__"):
            raise UnsupportedNetworkError(f"{network_checks.place(node)}: writes into its arguments; write it without")
        alias = self._alias(original)
        if alias.root.op == "get_attr":
            name = alias.root.target
            raise UnsupportedNetworkError(f"{network_checks.place(node)}: changes the network's own {name!r} when it runs")
        changed, following = node.args[0], node.next
        value = self._functional(node, changed, base)  # type: ignore[arg-type]
        if value is not node:
            node.replace_all_uses_with(value)
            self._graph.erase_node(node)
        with self._graph.inserting_before(following):
            whole = self._written_back(value, alias)
        version = self._versions[alias.root] = self._versions.get(alias.root, 0) + 1
        self._current[alias.root] = whole
        self._made[original, version] = value
        self._aliases[value] = _Alias(alias.root, alias.chain, version)

    def _functional(self, node: fx.Node, changed: fx.Node, base: str) -> fx.Node:
        """The call's result as a new value."""
        with self._graph.inserting_before(node):
            if base in ("zero_", "fill_"):
                return self._filled(node, changed, base)
            if base == "copy_":
                return self._copied(node, changed, node.args[1])
            if base == "detach_":
                return self._call(changed, aten.alias.default, (changed,))
        functional = getattr(getattr(aten, base[:-1], None), node.target._overloadname, None)  # type: ignore[union-attr]
        if functional is None or functional._schema.is_mutable:
            told = "has no form that leaves its input as it is"
            if graph_rewrites.is_random(node):
                told = "draws random numbers; export the model in evaluation mode"
            raise UnsupportedNetworkError(f"{network_checks.place(node)}: {told}")
        node.target = functional
        return node

    def _filled(self, node: fx.Node, changed: fx.Node, base: str) -> fx.Node:
        value: Any = 0 if base == "zero_" else node.args[1]
        while isinstance(value, fx.Node) and value.target in (aten.lift_fresh_copy.default, aten.lift_fresh.default):
            value = value.args[0]
        if isinstance(value, fx.Node) and value.op == "get_attr":
            value = graph_rewrites.attribute(self._module, value).item()
        if isinstance(value, fx.Node):
            return self._copied(node, changed, value)
        return self._call(changed, aten.full_like.default, (changed, value))

    def _copied(self, node: fx.Node, changed: fx.Node, source: Any) -> fx.Node:
        to, given = changed.meta.get("val"), source.meta.get("val") if isinstance(source, fx.Node) else None
        if not isinstance(to, Tensor) or not isinstance(given, Tensor):
            raise UnsupportedNetworkError(f"{network_checks.place(node)}: copies something of an unknown shape")
        if given.dtype != to.dtype:
            source = self._graph.call_function(aten.to.dtype, (source, to.dtype))
        if [str(s) for s in given.shape] != [str(s) for s in to.shape] or given.dtype != to.dtype:
            return self._call(changed, aten.expand_as.default, (source, changed))
        return self._call(changed, aten.alias.default, (source,))

    def _written_back(self, value: fx.Node, alias: _Alias) -> fx.Node:
        """The root after a part of it was replaced: the views undone from the last to the first."""
        wholes = [self._current.get(alias.root, alias.root)]
        for view in alias.chain[:-1]:
            wholes.append(self._replayed(view, wholes[-1]))
        for view, whole in zip(reversed(alias.chain), reversed(wholes), strict=False):
            value = self._undone(view, whole, value)
        return value

    def _undone(self, view: fx.Node, whole: fx.Node, part: fx.Node) -> fx.Node:
        """``whole`` with the part that ``view`` shows replaced."""
        if view.target in _PARTS or view.target in _KEEPING:
            return part
        target: Any = view.target
        args: Any = view.args[1:]
        if view.target is operator.getitem:
            target, args = _cut(view)
        if target in _RESHAPING:
            new = self._graph.call_function(aten.reshape_as.default, (part, whole))
        elif target is aten.transpose.int:
            new = self._graph.call_function(target, (part, *args))
        elif target is aten.permute.default:
            order = [int(a) for a in args[0]]
            rank = len(order)
            inverse = [[o % rank for o in order].index(axis) for axis in range(rank)]
            new = self._graph.call_function(target, (part, inverse))
        elif target is aten.select.int:
            new = self._graph.call_function(aten.select_scatter.default, (whole, part, *args))
        elif target in (aten.slice.Tensor, aten.narrow.default):
            return self._slice_replaced(whole, part, _bounds(target, args))
        else:
            told = f"{network_checks.place(view)}: what it shows is changed in place, which is not supported through this view"
            raise UnsupportedNetworkError(f"{told}; write it without")
        new.meta = dict(whole.meta)
        return new

    def _slice_replaced(self, whole: fx.Node, part: fx.Node, bounds: tuple[int, Any, Any, int]) -> fx.Node:
        """A slice put back, as a concatenation where that is possible: pruning and runtimes know it."""
        dim, start, stop, step = bounds
        shape = graph_rewrites.shape_of(whole)
        length: Any = shape[dim] if shape else None
        if start == 0 and step == 1 and (stop is None or (isinstance(stop, int) and stop >= 2**62)):
            return part
        if step != 1 or not all(isinstance(v, int) for v in (start, stop, length)):
            new = self._graph.call_function(aten.slice_scatter.default, (whole, part, dim, start, stop, step))
            new.meta = dict(whole.meta)
            return new
        first, last = [max(0, min(int(v + length if v < 0 else v), length)) for v in (start, stop)]
        parts = [part]
        ends: list[tuple[int, int, int]] = [(0, 0, first), (2, last, length)]
        for position, low, high in ends:
            if high > low:
                cut = self._graph.call_function(aten.slice.Tensor, (whole, dim, low, high))
                value = whole.meta.get("val")
                cut.meta = {**whole.meta, "val": value.narrow(dim, low, high - low)} if isinstance(value, Tensor) else {}
                parts.insert(0 if position == 0 else len(parts), cut)
        if len(parts) == 1:
            return part
        new = self._graph.call_function(aten.cat.default, (parts, dim))
        new.meta = dict(whole.meta)
        return new


def _bounds(target: Any, args: Any) -> tuple[int, Any, Any, int]:
    """Axis, start, stop and step of a slice; a start of None is 0."""
    if target is aten.narrow.default:
        return int(args[0]), args[1], args[1] + args[2] if isinstance(args[1], int) else None, 1
    given: Any = [*args, *[0, None, None, 1][len(args) :]]
    dim, start, stop, step = given
    return int(dim), start or 0, stop, int(step)


def _cut(item: fx.Node) -> tuple[Any, tuple[Any, ...]]:
    """One part of a split, chunk or unbind as a slice or select."""
    arguments: Any = item.args
    split, position = arguments[0], int(arguments[1])
    kind = split.target
    given = split.kwargs.get("dim", 0)
    dim = int(split.args[1] if kind is aten.unbind.int and len(split.args) > 1 else split.args[2] if len(split.args) > 2 else given)
    if kind is aten.unbind.int:
        return aten.select.int, (dim, position)
    sizes = [part.shape[dim] for part in split.meta["val"]]
    start = sum(sizes[:position])
    return aten.slice.Tensor, (dim, start, start + sizes[position])


class _StorageRecorder(fx.Interpreter):
    """Runs the graph, functional so far, and notes which memory every tensor is in; all of them are kept, so none is reused."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.storages: dict[fx.Node, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.storages[n] = result.untyped_storage().data_ptr()
        return result
