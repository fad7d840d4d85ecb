"""From a `Network` to an `OperatorGraph`: shapes are propagated through the graph, nothing is computed and nothing copied.

Works on real and on meta networks alike, in a millisecond or two.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from math import prod
from typing import Any

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from hw_models.graph import Operator, OperatorGraph
from techniques.network import Network
from techniques.shapes import Shape, module_shape, propagate

FLOAT_BITS = 32

_ATEN_KINDS = {
    "relu": "relu", "relu_": "relu",
    "hardtanh": "clip", "hardtanh_": "clip", "clamp": "clip", "clamp_": "clip", "clamp_min": "clip", "relu6": "clip",
    "hardswish": "hard_swish", "hardswish_": "hard_swish", "hardsigmoid": "hard_sigmoid", "hardsigmoid_": "hard_sigmoid",
    "silu": "silu", "silu_": "silu", "sigmoid": "sigmoid", "sigmoid_": "sigmoid", "gelu": "gelu", "tanh": "tanh",
    "softmax": "softmax", "_softmax": "softmax", "log_softmax": "softmax", "_log_softmax": "softmax",
    "add": "add", "add_": "add", "sub": "sub", "mul": "mul", "mul_": "mul", "div": "div", "div_": "div",
    "max_pool2d": "max_pool", "max_pool2d_with_indices": "max_pool", "avg_pool2d": "avg_pool",
    "adaptive_avg_pool2d": "avg_pool", "_adaptive_avg_pool2d": "avg_pool", "mean": "reduce_mean",
    "cat": "concat", "concat": "concat",
    "view": "reshape", "_unsafe_view": "reshape", "reshape": "reshape", "flatten": "reshape", "unflatten": "reshape",
    "squeeze": "reshape", "unsqueeze": "reshape",
    "permute": "transpose", "transpose": "transpose", "t": "transpose", "pixel_shuffle": "transpose",
    "pixel_unshuffle": "transpose", "channel_shuffle": "transpose",
    "split": "split", "split_with_sizes": "split", "chunk": "split", "unbind": "split",
    "slice": "slice", "select": "slice", "narrow": "slice", "index_select": "slice",
    "pad": "pad", "constant_pad_nd": "pad",
    "upsample_nearest2d": "resize", "upsample_bilinear2d": "resize", "upsample_bicubic2d": "resize",
    "_upsample_bilinear2d_aa": "resize", "_upsample_bicubic2d_aa": "resize",
    "matmul": "matmul", "mm": "matmul", "bmm": "matmul", "layer_norm": "layer_norm", "native_layer_norm": "layer_norm",
    "dropout": "identity", "clone": "identity", "contiguous": "identity", "alias": "identity", "detach": "identity",
    "lift_fresh_copy": "identity", "to": "identity", "_to_copy": "identity",
}  # fmt: skip

_PYTHON_KINDS: dict[Callable[..., Any], str] = {
    operator.add: "add", operator.sub: "sub", operator.mul: "mul", operator.truediv: "div", operator.matmul: "matmul",
    operator.iadd: "add", operator.imul: "mul",
}  # fmt: skip

_MODULE_KINDS: tuple[tuple[tuple[type[nn.Module], ...], str], ...] = (
    ((nn.Dropout, nn.Dropout2d, nn.Identity), "identity"),
    ((nn.LayerNorm,), "layer_norm"),
    ((nn.ReLU,), "relu"),
    ((nn.ReLU6, nn.Hardtanh), "clip"),
    ((nn.Upsample,), "resize"),
    ((nn.Flatten,), "reshape"),
)

_MODULE_NAME_KINDS = {
    "ChannelSlice": "slice",
    "ChannelPermutation": "transpose",
    "ChannelScale": "mul",
    "ChannelNorm": "layer_norm",
    "ChannelGather": "gather",
    "PaddedNorm": "layer_norm",
}

_KEEPS_BITS = frozenset({"identity", "reshape", "transpose", "max_pool", "slice", "split", "relu", "clip"})


def describe(network: Network, batch: int = 1) -> OperatorGraph:
    """The operators of one run at this batch size, with shapes, bits and layer sizes; unknown ones as ``other:<name>``."""
    input_shape = (batch, *network.input_shape)
    return OperatorGraph(_Describer(network, batch).run(), input_shape)


def network_macs(network: Network) -> int:
    """Multiply-accumulates of one image."""
    return describe(network).macs()


class _Describer:
    """One pass over the graph, beside the shapes of its values; ``bits`` are those of values in integers."""

    def __init__(self, network: Network, batch: int) -> None:
        self._network = network
        self._values = propagate(network, batch)
        self._names: dict[fx.Node, str] = {}
        self._taken: set[str] = set()
        self._bits: dict[str, int] = {}
        self._modules = dict(network.graph.named_modules())
        self._operators: list[Operator] = []

    def run(self) -> tuple[Operator, ...]:
        for node in self._network.graph.graph.nodes:
            if node.op == "placeholder":
                self._names[node] = "input"
            elif node.op == "call_module":
                self._call_module(node, self._modules[str(node.target)])
            elif node.op in ("call_function", "call_method"):
                self._call_function(node)
        return tuple(self._operators)

    def _call_module(self, node: fx.Node, module: nn.Module) -> None:
        source = next(a for a in [*node.args, *node.kwargs.values()] if isinstance(a, fx.Node))
        if source not in self._names:  # a layer of parameters alone: the runtime computes it once
            return
        name, value = self._names[source], self._values[source]
        if isinstance(module, nn.Sequential):
            for child_name, child in module.named_children():
                name, value = self._module(f"{node.target}.{child_name}", child, name, value, module_shape(child, value))
        else:
            name, _ = self._module(str(node.target), module, name, value, self._values[node])
        self._names[node] = name

    def _module(self, name: str, module: nn.Module, source: str, x: Shape, y: Shape) -> tuple[str, Shape]:
        kind, attributes, weight_shape = _module_kind(module)
        bits = int(getattr(module, "bits", FLOAT_BITS)) if kind == "quantize" else self._activation_bits((source,))
        described = Operator(
            name,
            kind,
            (source,),
            (tuple(x),),
            tuple(y),
            weight_shape,
            int(getattr(module, "weight_bits", None) or FLOAT_BITS),
            bits,
            getattr(module, "bias", None) is not None,
            attributes,
        )
        return self._append(described), y

    def _call_function(self, node: fx.Node) -> None:
        sources = [n for n in node.all_input_nodes if n in self._names]
        shapes = [self._values[n] for n in sources if isinstance(self._values[n], Shape)]
        result = _first_shape(self._values[node])
        if result is None or not sources:
            # Sizes and index arithmetic cost nothing on the device, constants neither.
            return
        kind = "identity" if node.target is operator.getitem else _function_kind(node)
        if kind == "split":
            result = shapes[0]
        if kind == "avg_pool" and prod(result[2:]) == 1:
            kind = "global_avg_pool"
        inputs = tuple(self._names[n] for n in sources)
        arguments = fx.node.map_arg(node.args, self._values.__getitem__)
        operator_ = Operator(
            str(node.name), kind, inputs, tuple(tuple(s) for s in shapes), tuple(result),
            activation_bits=self._activation_bits(inputs), attributes=_function_attributes(kind, node, arguments),
        )  # fmt: skip
        self._names[node] = self._append(operator_)

    def _append(self, described: Operator) -> str:
        name = described.name
        while name in self._taken:
            # A module that is called twice is two operators.
            name += "'"
        if name != described.name:
            described = Operator(**{**described.__dict__, "name": name})
        self._taken.add(name)
        self._operators.append(described)
        if described.kind == "quantize" or described.kind in _KEEPS_BITS:
            self._bits[name] = described.activation_bits
        return name

    def _activation_bits(self, sources: tuple[str, ...]) -> int:
        return max((self._bits.get(name, FLOAT_BITS) for name in sources), default=FLOAT_BITS)


def _module_kind(module: nn.Module) -> tuple[str, dict[str, Any], tuple[int, ...]]:
    """Kind, attributes and weight shape of a module; read from its attributes, since a parametrised weight would be computed."""
    if isinstance(module, _ConvNd):
        kind = "conv_transpose" if module.transposed else "conv1d" if len(module.kernel_size) == 1 else "conv"
        attributes = {
            "kernel": _last_two(module.kernel_size),
            "stride": _last_two(module.stride),
            "dilation": _last_two(module.dilation),
            "groups": module.groups,
        }
        return kind, attributes, (module.out_channels, module.in_channels // module.groups, *module.kernel_size)
    if isinstance(module, nn.Linear):
        return "linear", {}, (module.out_features, module.in_features)
    if isinstance(module, _BatchNorm):
        return "batch_norm", {}, ()
    if isinstance(getattr(module, "bits", None), int) and not hasattr(module, "weight"):
        return "quantize", {}, ()
    for types, kind in _MODULE_KINDS:
        if isinstance(module, types):
            return kind, {}, ()
    name = type(module).__name__
    if name == "ChannelPermutation" and not module.groups:
        return "gather", {}, ()
    return _MODULE_NAME_KINDS.get(name, f"other:{name}"), {}, ()


def _last_two(sizes: tuple[int, ...]) -> list[int]:
    """Height and width; what has one axis is one row."""
    return [1, 1, *sizes][-2:]


def _function_kind(node: fx.Node) -> str:
    if node.target in _PYTHON_KINDS:
        return _PYTHON_KINDS[node.target]
    name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", str(node.target))
    base = name.split(".")[0]
    return _ATEN_KINDS.get(base, f"other:{base}")


def _function_attributes(kind: str, node: fx.Node, arguments: Any) -> dict[str, Any]:
    if kind in ("max_pool", "avg_pool") and "adaptive" not in str(node.target) and len(arguments) > 1:
        kernel = _pair(arguments[1])
        stride = _pair(arguments[2]) if len(arguments) > 2 and arguments[2] else kernel
        return {"kernel": kernel, "stride": stride}
    if kind == "concat":
        return {"axis": arguments[1] if len(arguments) > 1 else 0}
    return {}


def _pair(value: Any) -> list[int]:
    items = [int(v) for v in (value if isinstance(value, list | tuple) else [value])]
    return [items[0], items[-1]]


def _first_shape(value: Any) -> Shape | None:
    if isinstance(value, Shape):
        return value
    if isinstance(value, list | tuple) and value and isinstance(value[0], Shape):
        return value[0]
    return None
