"""What does not depend on the image: computed once where it comes from buffers, kept trainable where it comes from parameters.

A parameter that the network only ever reads in another shape (a bias per channel as ``(1, c, 1, 1)``) is stored in that shape,
one tensor at its own path. A result of parameters alone (a standardised weight) takes their place as a parameter, if nothing
else reads them. Everything else that comes from parameters stays in the graph: counted once, trained, and computed at each run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from techniques import graph_rewrites
from techniques.lift_modules import BUILDERS

aten = torch.ops.aten

_MOST_ELEMENTS = 2**22
"""Tensors made of nothing (zeros, ranges) beyond this size are made at each run rather than stored."""
_CREATING = {
    aten.arange.default, aten.arange.start, aten.arange.start_step, aten.zeros.default, aten.ones.default, aten.full.default,
    aten.linspace.default, aten.eye.default, aten.eye.m, aten.tril_indices.default, aten.triu_indices.default,
    aten.scalar_tensor.default, aten.logspace.default, aten.hann_window.default,
}  # fmt: skip


def settle_constants(graph_module: fx.GraphModule) -> None:
    """Fold what depends on weights only; quantised weights are left as they are."""
    _merge_equal(graph_module)
    constant = _constants(graph_module)
    sources: dict[fx.Node, set[fx.Node]] = {}
    for node in graph_module.graph.nodes:
        if node in constant:
            own = (
                {node}
                if node.op == "get_attr" and isinstance(graph_rewrites.attribute(graph_module, node), nn.Parameter)
                else set()
            )
            sources[node] = own.union(*(sources[n] for n in node.all_input_nodes)) if node.op != "get_attr" else own
    frontier = [n for n in graph_module.graph.nodes if n in constant and any(user not in constant for user in n.users)]
    values: dict[fx.Node, Any] = {}
    for node in frontier:
        if node.op != "get_attr" and isinstance(_evaluated(graph_module, node, values), Tensor):
            others = set().union(*(sources[n] for n in frontier if n is not node))
            _settle(graph_module, node, values[node], sources[node], others)
    graph_module.graph.eliminate_dead_code()


def count_masks(graph_module: fx.GraphModule) -> None:
    """Boolean masks that are stored become the positions that they pick: how many is then known without looking at values."""
    for node in graph_rewrites.calls(graph_module):
        if str(node.target) in ("aten.index.Tensor", "aten._unsafe_index.Tensor"):
            picks = [n for part in node.args[1] for n in _positions(graph_module, node, part)]  # type: ignore[union-attr]
            node.args = (node.args[0], picks)
    graph_module.graph.eliminate_dead_code()


def _positions(graph_module: fx.GraphModule, node: fx.Node, part: Any) -> list[Any]:
    mask = graph_rewrites.attribute(graph_module, part) if isinstance(part, fx.Node) and part.op == "get_attr" else None
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        return [part]
    found = []
    for number, indices in enumerate(mask.nonzero(as_tuple=True)):
        path = f"{node.name}_positions_{number}"
        graph_module.register_buffer(path, indices)
        with graph_module.graph.inserting_before(node):
            found.append(graph_module.graph.get_attr(path))
    return found


def _constants(graph_module: fx.GraphModule) -> set[fx.Node]:
    constant: set[fx.Node] = set()
    for node in graph_module.graph.nodes:
        if node.op == "get_attr":
            constant.add(node)
        elif node.op == "call_function" and "quantized_decomposed" not in str(node.target):
            inputs = node.all_input_nodes
            if (inputs and set(inputs) <= constant and not graph_rewrites.is_random(node)) or (
                not inputs and _is_small_creation(node)
            ):
                constant.add(node)
    return constant


def _is_small_creation(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return node.target in _CREATING and isinstance(value, Tensor) and value.numel() <= _MOST_ELEMENTS


def _merge_equal(graph_module: fx.GraphModule) -> None:
    """Let equal calls on constants be one: a layer that is called twice computes its weight twice."""
    seen: dict[str, fx.Node] = {}
    constant = _constants(graph_module)
    for node in list(graph_module.graph.nodes):
        if node not in constant:
            continue
        key = f"{node.target} {node.args} {node.kwargs}"
        if node.op == "get_attr":
            key = f"tensor {id(graph_rewrites.attribute(graph_module, node))}"
        if key in seen:
            node.replace_all_uses_with(seen[key])
            graph_module.graph.erase_node(node)
        else:
            seen[key] = node


def _evaluated(graph_module: fx.GraphModule, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    stack = [node]
    while stack:
        current = stack[-1]
        missing = [n for n in current.all_input_nodes if n not in values]
        if current in values or missing:
            stack = stack[:-1] if current in values else [*stack, *missing]
            continue
        if current.op == "get_attr":
            values[current] = graph_rewrites.attribute(graph_module, current)
        else:
            args, kwargs = fx.map_arg((current.args, current.kwargs), values.__getitem__)
            with torch.no_grad():
                values[current] = current.target(*args, **kwargs)  # type: ignore[operator]
    return values[node]


def _settle(graph_module: fx.GraphModule, node: fx.Node, value: Tensor, parameters: set[fx.Node], others: set[fx.Node]) -> None:
    """Store one constant result, unless it has to stay computed."""
    value = value.detach().clone(memory_format=torch.contiguous_format)
    if not parameters:
        name = f"folded_{node.name}"
        graph_module.register_buffer(name, value)
    else:
        if parameters & others or not value.is_floating_point():
            return
        if value.numel() > sum(_numel(graph_module, p) for p in parameters) and not _is_weight(node):
            return
        name = str(next(iter(parameters)).target) if len(parameters) == 1 else f"folded_{node.name}"
        store(graph_module, name, value)
    with graph_module.graph.inserting_before(node):
        attribute = graph_module.graph.get_attr(name)
    attribute.meta = dict(node.meta)
    node.replace_all_uses_with(attribute)
    graph_module.graph.erase_node(node)


def _numel(graph_module: fx.GraphModule, node: fx.Node) -> int:
    return int(graph_rewrites.attribute(graph_module, node).numel())


def _is_weight(node: fx.Node) -> bool:
    """Whether a layer takes the value as its weight or bias."""
    return any(str(user.target) in BUILDERS and node in user.args[1:3] for user in node.users)


def store(graph_module: fx.GraphModule, path: str, value: Tensor) -> None:
    """Put a trainable tensor at a path, in the place of the one that stood there."""
    holder, _, leaf = path.rpartition(".")
    owner: nn.Module = graph_module.get_submodule(holder)
    owner.register_parameter(leaf, nn.Parameter(value))


def drop_unread(graph_module: fx.GraphModule) -> None:
    """Delete tensors that the graph does not read any more (they moved into modules, or into what was computed of them)."""
    graph_module.graph.eliminate_dead_code()
    read = {str(node.target) for node in graph_module.graph.nodes if node.op == "get_attr"}
    called = tuple(f"{node.target}." for node in graph_module.graph.nodes if node.op == "call_module")
    for prefix, module in list(graph_module.named_modules()):
        inside = f"{prefix}.".startswith(called) if called and prefix else False
        for tensors in (module._parameters, module._buffers):
            for name in list(tensors):
                path = f"{prefix}.{name}" if prefix else name
                if not inside and path not in read:
                    del tensors[name]
