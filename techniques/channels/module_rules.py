"""What modules do to labels: layers make new atoms and consume, norms pass on, channel operations move."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from techniques.channel_ops import ChannelPermutation, ChannelScale, ChannelSlice
from techniques.channels.atoms import Ids
from techniques.channels.gather import ChannelGather
from techniques.channels.norms import PaddedNorm
from techniques.channels.propagation import Adaptor, Propagation, on_meta
from techniques.channels.values import Value
from techniques.network_checks import place


def call_module(state: Propagation, node: fx.Node, module: nn.Module) -> Any:
    """The value of a module call."""
    x = state.values[node.all_input_nodes[0]] if node.all_input_nodes else None
    if not isinstance(x, Value):
        return state.always(node, "takes something else than one tensor")
    name = str(node.target)
    if isinstance(module, nn.Sequential):  # factors of one layer and the like
        for child_name, child in module.named_children():
            x = _one(state, node, f"{name}.{child_name}", child, x)
        return x
    return _one(state, node, name, module, x)


def _one(state: Propagation, node: fx.Node, name: str, module: nn.Module, x: Value) -> Any:
    if isinstance(module, _ConvNd):
        return _convolution(state, node, name, module, x)
    if isinstance(module, nn.Linear):
        return _linear(state, node, name, module, x)
    if isinstance(module, _BatchNorm):
        return _per_channel(state, name, x, 1, True)
    if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1:
        return _layer_norm(state, node, name, x, len(x.shape) - 1, module.elementwise_affine)
    if isinstance(module, nn.GroupNorm):
        return _group_norm(state, node, name, module, x)
    if isinstance(module, PaddedNorm):
        return state.always(node, "is a norm that was cut before")
    if type(module).__name__ == "ChannelNorm":
        return _layer_norm(state, node, name, x, 1, module.weight is not None)
    if isinstance(module, nn.PReLU):
        return _per_channel(state, name, x, 1, x.zero) if module.weight.numel() > 1 else x
    if isinstance(module, ChannelScale):
        return _per_channel(state, name, x, 1, True)
    if isinstance(module, ChannelSlice | ChannelPermutation | ChannelGather):
        return Value.of(module(x.full()), x.zero)
    return _other(state, node, module, x)


def _other(state: Propagation, node: fx.Node, module: nn.Module, x: Value) -> Any:
    """Activations, dropout and quantisers: found out by a trial on zeros."""
    if list(module.parameters()) or len(node.all_input_nodes) != 1:
        return state.always(node, f"({type(module).__name__}) is not known to keep channels apart")
    if isinstance(module, nn.Upsample):
        shape = on_meta(state, node).shape
        return Value.along(tuple(shape), 1, state.unified(x, 1, f"{place(node)}: meets channels that always stay"), x.zero)
    if not isinstance(module, _ELEMENTWISE) and not isinstance(getattr(module, "bits", None), int):
        return state.always(node, f"({type(module).__name__}) is not known to keep channels apart")
    with torch.no_grad():
        zero = x.zero and bool((module(torch.zeros(1, 1, 1, 1)) == 0).all())
    return Value(x.shape, x.labels, zero)


_ELEMENTWISE = (
    nn.Dropout, nn.Dropout2d, nn.Identity, nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.SiLU, nn.Sigmoid,
    nn.Tanh, nn.GELU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.Mish, nn.Softplus,
)  # fmt: skip


def _outputs(state: Propagation, name: str, count: int) -> Ids:
    if name not in state.producers:
        state.producers[name] = state.atoms.new(count)
    return state.producers[name]


def _convolution(state: Propagation, node: fx.Node, name: str, conv: Any, x: Value) -> Any:
    spatial = tuple(range(2, len(x.shape)))
    if len(x.shape) != len(conv.kernel_size) + 2:
        return state.always(node, "takes no batch")
    if conv.in_channels == 1 and x.labelled and set(x.varying) & set(spatial):
        x = _whole(state, node, x)
    outputs = _outputs(state, name, conv.out_channels)
    inputs = state.unified(x, 1, f"{place(node)}: reads channels that always stay at other positions")
    groups = conv.groups
    if groups == 1:
        state.note(name, "in", inputs)
    elif conv.in_channels == groups and (inputs > 0).all():
        # A group is one input with its outputs: all of it goes, or none.
        state.note(name, "in", inputs)
        state.atoms.join(np.repeat(inputs, conv.out_channels // groups), outputs)
    else:
        _grouped(state, node, name, inputs.reshape(groups, -1), outputs.reshape(groups, -1))
    state.note(name, "out", outputs)
    shape = _shape(state, node, name, conv, x)
    return Value.along(shape, 1, outputs)


def _whole(state: Propagation, node: fx.Node, x: Value) -> Value:
    """A convolution along channels (ECA, Wang et al. 2020, section 3.2) reads zeros where channels went."""
    dims = x.varying
    if len(dims) == 1 and x.zero:
        dim = dims[0]
        state.adaptors.append(Adaptor(node.name, "scatter", 0, dim, state.unified(x, dim, f"{place(node)}: along channels")))
    else:
        state.fix([node.all_input_nodes[0]], f"{place(node)}: a convolution along channels")
    return Value.always(x.shape)


def _grouped(state: Propagation, node: fx.Node, name: str, inputs: Ids, outputs: Ids) -> None:
    """Every group loses the same positions."""
    reason = f"{place(node)}: a group has channels that always stay"
    for positions in (inputs, outputs):
        state.meet(np.broadcast_to(positions[:1], positions.shape), positions, reason)
    state.note(name, "in", inputs.reshape(-1))


def _shape(state: Propagation, node: fx.Node, name: str, conv: Any, x: Value) -> tuple[int, ...]:
    weight = torch.empty(conv.weight.shape, device="meta")
    image = torch.empty(x.shape, device="meta")
    if conv.transposed:
        bias = None
        function: Any = {1: nn.functional.conv_transpose1d, 2: nn.functional.conv_transpose2d}[len(conv.kernel_size)]
        result = function(image, weight, bias, conv.stride, conv.padding, conv.output_padding, conv.groups, conv.dilation)
    else:
        function = {1: nn.functional.conv1d, 2: nn.functional.conv2d, 3: nn.functional.conv3d}[len(conv.kernel_size)]
        result = function(image, weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)
    return tuple(result.shape)


def _linear(state: Propagation, node: fx.Node, name: str, linear: nn.Linear, x: Value) -> Any:
    last = len(x.shape) - 1
    outputs = _outputs(state, name, linear.out_features)
    if x.labelled and x.varying and last not in x.varying:
        state.fix([node.all_input_nodes[0]], f"{place(node)}: a linear layer along another axis than that of the channels")
        x = Value.always(x.shape)
    inputs = state.unified(x, last, f"{place(node)}: reads channels that always stay at other positions")
    state.note(name, "in", inputs)
    state.note(name, "out", outputs)
    return Value.along((*x.shape[:-1], linear.out_features), last, outputs)


def _per_channel(state: Propagation, name: str, x: Value, dim: int, zero: bool) -> Value:
    ids = state.unified(x, dim, f"layer {name!r}: meets channels that always stay at other positions")
    state.note(name, "norm", ids)
    return Value.along(x.shape, dim, ids, zero)


def _layer_norm(state: Propagation, node: fx.Node, name: str, x: Value, dim: int, affine: bool) -> Any:
    """Statistics are over channels: where some went, zeros are counted (`techniques.channels.norms`)."""
    if not x.labelled:
        state.note(name, "norm", np.zeros(x.shape[dim], np.int64))
        return Value.always(x.shape)
    if dim not in x.varying:
        state.note(name, "norm", np.zeros(x.shape[dim], np.int64))
        return Value(x.shape, x.labels, False)
    if not x.zero:
        return state.always(node, "is a norm over channels that are not zero where they are removed")
    return _per_channel(state, name, x, dim, affine)


def _group_norm(state: Propagation, node: fx.Node, name: str, norm: nn.GroupNorm, x: Value) -> Any:
    if norm.num_groups < norm.num_channels:
        if not x.zero and x.labelled:
            return state.always(node, "is a norm over channels that are not zero where they are removed")
        ids = state.unified(x, 1, f"{place(node)}: meets channels that always stay at other positions").reshape(norm.num_groups, -1)
        state.meet(np.broadcast_to(ids[:1], ids.shape), ids, f"{place(node)}: a group has channels that always stay")
    return _per_channel(state, name, x, 1, norm.affine)
