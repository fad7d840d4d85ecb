"""Takes classes of channels out of a network, real or meta, at every place that `ChannelMap` names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from techniques.channel_ops import ChannelScale
from techniques.channels.channel_map import ChannelMap, Extra, Pick, Sizes
from techniques.channels.gather import ChannelGather
from techniques.channels.norms import PaddedNorm
from techniques.network import Network

Removed = npt.NDArray[np.bool_]
"""Per class, whether it goes; class 0 never does."""
_PER_OUTPUT = ("weight_scale", "weight_zero_point")
"""What a quantised layer has one of for each output."""


def remove(network: Network, known: ChannelMap, removed: Removed) -> None:
    """Take the classes out, in place. Layers that are not there any more (folded norms) are passed over; the caller rebuilds.

    Args:
        network: the one that ``known`` describes, or one that a transform which ignores sizes made of it.
        removed: what goes.
    """
    modules = dict(network.graph.named_modules())
    lone = {name for name, module in modules.items() if isinstance(module, _ConvNd) and module.in_channels == module.groups}
    for (name, kind), classes in known.axes.items():
        keep = ~removed[classes]
        if not keep.all() and name in modules:
            _shrink(network.graph, name, modules[name], kind, keep, name in lone)
    for path, axis in known.parameters.items():
        keep = ~removed[axis.classes]
        owner, _, leaf = path.rpartition(".")
        module = network.graph.get_submodule(owner)
        if not keep.all() and hasattr(module, leaf):
            _cut(module, leaf, axis.dim, keep)
    nodes = {node.name: node for node in network.graph.graph.nodes}
    for edit in known.edits:
        if edit.node in nodes:
            _edit(network.graph, nodes, edit, removed)
    for extra in known.extras:
        if extra.node in nodes and removed[extra.classes].any():
            _put_beside(network.graph, nodes[extra.node], extra, removed)


def _cut(module: nn.Module, name: str, dim: int, keep: npt.NDArray[np.bool_]) -> None:
    """Keep some positions of a parameter or buffer."""
    tensor = getattr(module, name, None)
    if tensor is None:
        return
    if tensor.is_meta:
        shape = list(tensor.shape)
        shape[dim] = int(keep.sum())
        found = torch.empty(shape, device="meta", dtype=tensor.dtype)
    else:
        found = tensor.detach().index_select(dim, torch.from_numpy(np.flatnonzero(keep)))
    if name in module._parameters:
        module._parameters[name] = nn.Parameter(found, requires_grad=tensor.requires_grad)
    else:
        module._buffers[name] = found


def _shrink(owner: nn.Module, name: str, module: nn.Module, kind: str, keep: npt.NDArray[np.bool_], lone: bool) -> None:
    """``lone``: a convolution each group of which reads one input; it loses whole groups."""
    count = int(keep.sum())
    if isinstance(module, _ConvNd):
        _shrink_convolution(module, kind, keep, count, lone)
    elif isinstance(module, nn.Linear):
        _cut(module, "weight", 0 if kind == "out" else 1, keep)
        if kind == "out":
            module.out_features = count
            _cut_outputs(module, keep)
        else:
            module.in_features = count
    elif isinstance(module, _BatchNorm):
        module.num_features = count
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            _cut(module, leaf, 0, keep)
    elif isinstance(module, nn.PReLU | ChannelScale):
        _cut(module, "weight", 0, keep)
        if isinstance(module, nn.PReLU):
            module.num_parameters = count
    else:
        _shrink_norm(owner, name, module, keep, count)


def _cut_outputs(layer: nn.Module, keep: npt.NDArray[np.bool_]) -> None:
    for leaf in ("bias", *_PER_OUTPUT):
        _cut(layer, leaf, 0, keep)


def _shrink_convolution(conv: Any, kind: str, keep: npt.NDArray[np.bool_], count: int, lone: bool) -> None:
    """A transposed convolution stores ``(in, out / groups, ...)``, any other ``(out, in / groups, ...)``."""
    first_is_output = not conv.transposed
    on_first = (kind == "out") == first_is_output
    if on_first:
        _cut(conv, "weight", 0, keep)
    elif conv.groups == 1:
        _cut(conv, "weight", 1, keep)
    elif not lone:
        _cut(conv, "weight", 1, keep.reshape(conv.groups, -1)[0])
    if kind == "out":
        conv.out_channels = count
        _cut_outputs(conv, keep)
        return
    conv.in_channels = count
    if lone and conv.groups > 1:
        conv.groups = count


def _shrink_norm(owner: nn.Module, name: str, norm: Any, keep: npt.NDArray[np.bool_], count: int) -> None:
    for leaf in ("weight", "bias"):
        _cut(norm, leaf, 0, keep)
    if isinstance(norm, nn.GroupNorm):
        if norm.num_groups == norm.num_channels:
            norm.num_groups = norm.num_channels = count
            return
        padded = PaddedNorm(norm.weight, norm.bias, norm.eps, 1, norm.num_channels // norm.num_groups, norm.num_groups)
    else:
        dim = -1 if isinstance(norm, nn.LayerNorm) else 1
        padded = PaddedNorm(norm.weight, norm.bias, norm.eps, dim, len(keep))
    parent, _, leaf = name.rpartition(".")
    padded.training = norm.training
    setattr(owner.get_submodule(parent), leaf, padded)


def _edit(graph: fx.GraphModule, nodes: Mapping[str, fx.Node], edit: Sizes | Pick, removed: Removed) -> None:
    gone = removed[edit.classes]
    node = nodes[edit.node]
    if isinstance(edit, Sizes):
        sizes = list(node.args[edit.argument])  # type: ignore[arg-type]
        if gone.any() and isinstance(sizes[edit.position], int) and sizes[edit.position] != -1:
            sizes[edit.position] = int((~gone).sum())
            node.args = (*node.args[: edit.argument], sizes, *node.args[edit.argument + 1 :])
        return
    lost = removed[edit.source_classes]
    if not lost.any() and not gone.any():
        return
    rank = np.cumsum(~lost) - 1
    index = [int(rank[p]) if p >= 0 else -1 for p, out in zip(edit.positions.tolist(), gone.tolist(), strict=True) if not out]
    if edit.drops_dim:
        node.args = (*node.args[:2], index[0])
        return
    _replace(graph, node, nodes[edit.source], ChannelGather(index, edit.dim))


def _replace(graph: fx.GraphModule, node: fx.Node, source: fx.Node, module: ChannelGather) -> None:
    """Let the module yield the node's value; the node's name goes on, for what else is to be done to it."""
    own = source if source in node.all_input_nodes else _read(node, source)
    name = _free(graph, f"{node.name}_kept")
    graph.add_submodule(name, module)
    node.op, node.target = "call_module", name
    node.args, node.kwargs = (own,), {}


def _read(node: fx.Node, source: fx.Node) -> fx.Node:
    """What the split behind a part really reads: a quantiser may stand between it and the source."""
    split = node.all_input_nodes[0]
    return source if source in split.all_input_nodes else split.all_input_nodes[0]


def _free(graph: nn.Module, name: str) -> str:
    found, count = name, 0
    while hasattr(graph, found):
        count += 1
        found = f"{name}_{count}"
    return found


def _put_beside(graph: fx.GraphModule, node: fx.Node, extra: Extra, removed: Removed) -> None:
    gone = removed[extra.classes]
    if extra.kind in ("gather", "scatter"):
        operand = node.args[extra.operand]
        if not isinstance(operand, fx.Node):
            return
        positions = np.cumsum(~gone) - 1
        index = np.flatnonzero(~gone) if extra.kind == "gather" else np.where(gone, -1, positions)
        name = _free(graph, f"{node.name}_{extra.kind}")
        graph.add_submodule(name, ChannelGather(index.tolist(), extra.dim))
        with graph.graph.inserting_before(node):
            cut = graph.graph.call_module(name, (operand,))
        node.args = (*node.args[: extra.operand], cut, *node.args[extra.operand + 1 :])
        return
    share = float((~gone).sum() / len(gone))
    with graph.graph.inserting_after(node):
        arguments = (node, share) if extra.kind == "mean" else (node, 0.0)
        target = torch.ops.aten.mul.Tensor if extra.kind == "mean" else torch.ops.aten.clamp_min.default
        made = graph.graph.call_function(target, arguments)
    made.meta = dict(node.meta)
    node.replace_all_uses_with(made, delete_user_cb=lambda user: user is not made)


def zero_weights(network: Network, known: ChannelMap, removed: Removed) -> None:
    """Set to zero, in place, all that `remove` would take out: what a smaller network is compared with."""
    modules = dict(network.graph.named_modules())
    with torch.no_grad():
        for (name, kind), classes in known.axes.items():
            gone = torch.from_numpy(removed[classes])
            if bool(gone.any()) and name in modules:
                _zero(modules[name], kind, gone)
        for path, axis in known.parameters.items():
            tensor: Any = network.graph
            for part in path.split("."):
                tensor = getattr(tensor, part)
            _fill(tensor, axis.dim, torch.from_numpy(removed[axis.classes]))


def _zero(module: Any, kind: str, gone: Tensor) -> None:
    if isinstance(module, _ConvNd | nn.Linear):
        transposed = isinstance(module, _ConvNd) and module.transposed
        groups = module.groups if isinstance(module, _ConvNd) else 1
        if (kind == "out") != transposed:
            _fill(module.weight, 0, gone)
        elif groups == 1:
            _fill(module.weight, 1, gone)
        elif len(gone) // groups == module.weight.shape[1]:
            for weight, lost in zip(module.weight.chunk(groups), gone.reshape(groups, -1), strict=True):
                _fill(weight, 1, lost)
        if kind == "out" and module.bias is not None:
            _fill(module.bias, 0, gone)
        return
    for leaf in ("weight", "bias", "running_mean"):
        tensor = getattr(module, leaf, None)
        if tensor is not None:
            _fill(tensor, 0, gone)


def _fill(tensor: Tensor, dim: int, gone: Tensor) -> None:
    tensor.index_fill_(dim, gone.nonzero().reshape(-1), 0)
