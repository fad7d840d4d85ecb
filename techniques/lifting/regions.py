"""Puts the contents of ``no_grad`` and ``autocast`` regions where they stand: for one float32 run they change nothing."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

from techniques import network_checks
from techniques.errors import UnsupportedNetworkError

_GRAD, _AUTOCAST = "wrap_with_set_grad_enabled", "wrap_with_autocast"
REGIONS = frozenset({_GRAD, _AUTOCAST})
"""Names of the higher-order operators that only switch something on or off around a piece of the graph."""


def region_name(node: fx.Node) -> str:
    """The region's operator, empty for any other node."""
    name = getattr(node.target, "__name__", "") if isinstance(node.target, torch._ops.HigherOrderOperator) else ""
    return name if name in REGIONS else ""


def inline_regions(graph_module: fx.GraphModule) -> None:
    """Replace every region by its nodes, nested ones included.

    Raises:
        UnsupportedNetworkError: an autocast region that computes in less than float32.
    """
    found = True
    while found:
        found = False
        for node in list(graph_module.graph.nodes):
            if node.op == "call_function" and region_name(node):
                _inline(graph_module, node)
                found = True
    graph_module.graph.eliminate_dead_code()


def _inline(owner: fx.GraphModule, node: fx.Node) -> None:
    position = 1 if region_name(node) == _GRAD else 4
    holder, arguments = node.args[position], node.args[position + 1 :]
    if not isinstance(holder, fx.Node) or holder.op != "get_attr" or node.kwargs:
        raise UnsupportedNetworkError(f"{network_checks.place(node)}: a region without its graph")
    inner: Any = owner.get_submodule(str(holder.target))
    if region_name(node) == _AUTOCAST and node.args[2]:
        _refuse_low_precision(node, inner)
    copies: dict[fx.Node, Any] = {}
    inputs = iter(arguments)
    results: Any = ()
    with owner.graph.inserting_before(node):
        for part in inner.graph.nodes:
            if part.op == "placeholder":
                copies[part] = next(inputs)
            elif part.op == "output":
                results = fx.node.map_arg(part.args[0], copies.__getitem__)
            elif part.op == "get_attr":
                copies[part] = owner.graph.get_attr(_moved(owner, str(holder.target), inner, str(part.target)))
                copies[part].meta = dict(part.meta)
            else:
                copies[part] = owner.graph.node_copy(part, lambda n: copies[n])
    for user in list(node.users):
        if user.target is not operator.getitem:
            raise UnsupportedNetworkError(f"{network_checks.place(user)}: reads a region as a whole")
        user.replace_all_uses_with(results[user.args[1]])
        owner.graph.erase_node(user)
    owner.graph.erase_node(node)


def _moved(owner: fx.GraphModule, prefix: str, inner: nn.Module, path: str) -> str:
    """A tensor or graph of the region, held by the owner."""
    value: Any = inner
    for part in path.split("."):
        value = getattr(value, part)
    name = f"{prefix}_{path}".replace(".", "_")
    if isinstance(value, nn.Module):
        owner.add_module(name, value)
    elif isinstance(value, nn.Parameter):
        owner.register_parameter(name, value)
    else:
        owner.register_buffer(name, value)
    return name


def _refuse_low_precision(node: fx.Node, inner: fx.GraphModule) -> None:
    for part in inner.graph.nodes:
        value = part.meta.get("val")
        if isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16):
            raise UnsupportedNetworkError(f"{network_checks.place(part)}: autocast computes it in {value.dtype}; export in float32")
    if node.args[0] == "cpu" and not any(isinstance(part.meta.get("val"), Tensor) for part in inner.graph.nodes):
        raise UnsupportedNetworkError(f"{network_checks.place(node)}: an autocast region of unknown precision; export in float32")
