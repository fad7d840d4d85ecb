"""From ATen calls to ``nn`` modules: one builder per operation. A builder reads the call's named values and its weight tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Values = dict[str, Any]
Tensors = dict[str, Any]
Builder = Callable[[Values, Tensors], nn.Module | None]


def _pair(value: Any) -> tuple[int, int]:
    items = list(value)
    return (int(items[0]), int(items[-1]))


def _conv2d(values: Values, tensors: Tensors) -> nn.Module:
    weight, bias = tensors["weight"], tensors.get("bias")
    padding = values["padding"] if isinstance(values["padding"], str) else _pair(values["padding"])
    module = nn.Conv2d(
        weight.shape[1] * values["groups"],
        weight.shape[0],
        _pair(weight.shape[2:]),
        _pair(values["stride"]),
        padding,
        _pair(values["dilation"]),
        values["groups"],
        bias is not None,
        device="meta",
    )
    module.weight, module.bias = parameter(weight), parameter(bias)  # type: ignore[assignment]
    return module


def _convolution(values: Values, tensors: Tensors) -> nn.Module | None:
    """ATen's one operator for all convolutions; None for those without a module here."""
    if len(values["stride"]) == 1 and not values["transposed"]:
        return _conv1d(values, tensors)
    if len(values["stride"]) != 2:
        return None
    return _conv_transpose2d(values, tensors) if values["transposed"] else _conv2d(values, tensors)


def _conv1d(values: Values, tensors: Tensors) -> nn.Module:
    weight, bias = tensors["weight"], tensors.get("bias")
    padding = values["padding"] if isinstance(values["padding"], str) else int(values["padding"][0])
    stride, dilation = int(values["stride"][0]), int(values["dilation"][0])
    sizes = (weight.shape[1] * values["groups"], weight.shape[0], int(weight.shape[2]), stride, padding, dilation, values["groups"])
    module = nn.Conv1d(*sizes, bias is not None, device="meta")
    module.weight, module.bias = parameter(weight), parameter(bias)  # type: ignore[assignment]
    return module


def _conv_transpose2d(values: Values, tensors: Tensors) -> nn.Module:
    weight, bias = tensors["weight"], tensors.get("bias")
    module = nn.ConvTranspose2d(
        weight.shape[0],
        weight.shape[1] * values["groups"],
        _pair(weight.shape[2:]),
        _pair(values["stride"]),
        _pair(values["padding"]),
        _pair(values["output_padding"]),
        values["groups"],
        bias is not None,
        _pair(values["dilation"]),
        device="meta",
    )
    module.weight, module.bias = parameter(weight), parameter(bias)  # type: ignore[assignment]
    return module


def _linear(values: Values, tensors: Tensors) -> nn.Module:
    weight, bias = tensors["weight"], tensors.get("bias")
    module = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    module.weight, module.bias = parameter(weight), parameter(bias)  # type: ignore[assignment]
    return module


def _affine(tensors: Tensors, shape: Sequence[int]) -> tuple[nn.Parameter | None, nn.Parameter | None]:
    """Scale and shift of a norm; where it has one of them, the other is what changes nothing."""
    weight, bias = tensors.get("weight"), tensors.get("bias")
    if weight is None and bias is None:
        return None, None
    weight = torch.ones(tuple(shape)) if weight is None else weight
    return parameter(weight), parameter(torch.zeros(tuple(shape)) if bias is None else bias)


def _batch_norm(values: Values, tensors: Tensors) -> nn.Module:
    mean = tensors["running_mean"]
    kind = {4: nn.BatchNorm2d, 5: nn.BatchNorm3d}.get(values["input"].meta["val"].dim(), nn.BatchNorm1d)
    weight, bias = _affine(tensors, mean.shape)
    module = kind(mean.shape[0], values["eps"], values["momentum"], affine=weight is not None, device="meta")
    if weight is not None:
        module.weight, module.bias = weight, bias  # type: ignore[assignment]
    module.running_mean, module.running_var = mean, tensors["running_var"]
    module.num_batches_tracked = mean.new_zeros((), dtype=torch.int64)
    return module.train(bool(values.get("training", False)))


def _layer_norm(values: Values, tensors: Tensors) -> nn.Module:
    shape = [int(s) for s in values["normalized_shape"]]
    has_bias = tensors.get("bias") is not None
    weight, bias = _affine(tensors, shape)
    module = nn.LayerNorm(shape, values["eps"], weight is not None, has_bias, device="meta")
    if weight is not None:
        module.weight, module.bias = weight, bias if has_bias else None  # type: ignore[assignment]
    return module


def _group_norm(values: Values, tensors: Tensors) -> nn.Module:
    channels = int(values["input"].meta["val"].shape[1])
    weight, bias = _affine(tensors, (channels,))
    groups = values["num_groups"] if "num_groups" in values else values["group"]
    module = nn.GroupNorm(groups, channels, values["eps"], weight is not None, device="meta")
    if weight is not None:
        module.weight, module.bias = weight, bias  # type: ignore[assignment]
    return module


def _instance_norm(values: Values, tensors: Tensors) -> nn.Module:
    """With running statistics, a batch norm in evaluation mode; without, a group norm of one channel per group (Wu 2018, 3.1)."""
    if tensors.get("running_mean") is not None:
        return _batch_norm(values, tensors)
    return _group_norm({**values, "num_groups": int(values["input"].meta["val"].shape[1])}, tensors)


def _dropping(kind: Callable[[float], nn.Module]) -> Builder:
    return lambda values, tensors: kind(values["p"]).train(bool(values["train"]))


def _rrelu(values: Values, tensors: Tensors) -> nn.Module:
    return nn.RReLU(float(values["lower"]), float(values["upper"])).train(bool(values["training"]))


def _prelu(values: Values, tensors: Tensors) -> nn.Module:
    weight = tensors["weight"]
    module = nn.PReLU(weight.numel(), device="meta")
    module.weight = parameter(weight)  # type: ignore[assignment]
    return module


def parameter(tensor: Tensor | None) -> nn.Parameter | None:
    """The tensor as a trainable parameter; a parameter stays the same object (shared weights stay shared)."""
    if tensor is None or isinstance(tensor, nn.Parameter):
        return tensor
    return nn.Parameter(tensor.detach())


BUILDERS: dict[str, Builder] = {
    "aten.conv2d.default": _conv2d,
    "aten.conv2d.padding": _conv2d,
    "aten.convolution.default": _convolution,
    "aten.conv1d.default": _conv1d,
    "aten.conv1d.padding": _conv1d,
    "aten.conv_transpose2d.input": _conv_transpose2d,
    "aten.linear.default": _linear,
    "aten.batch_norm.default": _batch_norm,
    "aten._native_batch_norm_legit_no_training.default": _batch_norm,
    "aten.layer_norm.default": _layer_norm,
    "aten.native_layer_norm.default": _layer_norm,
    "aten.group_norm.default": _group_norm,
    "aten.native_group_norm.default": _group_norm,
    "aten.instance_norm.default": _instance_norm,
    "aten.dropout.default": _dropping(nn.Dropout),
    "aten.feature_dropout.default": _dropping(nn.Dropout2d),
    "aten.alpha_dropout.default": _dropping(nn.AlphaDropout),
    "aten.feature_alpha_dropout.default": _dropping(nn.FeatureAlphaDropout),
    "aten.rrelu.default": _rrelu,
    "aten.prelu.default": _prelu,
}
"""Keyed by the overload's name; those that return tuples are unwrapped by the caller. A builder that returns None leaves the
call as it is. What runs otherwise in training is in the mode that the call was exported in."""

RETURNS_TUPLE = frozenset(
    {
        "aten._native_batch_norm_legit_no_training.default",
        "aten.native_layer_norm.default",
        "aten.native_group_norm.default",
    }
)
