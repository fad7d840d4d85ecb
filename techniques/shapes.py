"""Shapes of every value in a network's graph, by arithmetic where the rule is simple, else on meta tensors."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from techniques.errors import TechniqueError
from techniques.network import Network


class Shape(tuple[int, ...]):
    """Shape of a tensor that is not there; in this module it stands for the tensor. Equal to another if the sizes are."""

    dtype: torch.dtype

    def __new__(cls, sizes: Iterable[int], dtype: torch.dtype = torch.float32) -> Shape:
        """Of these sizes, for a tensor of this type."""
        shape = super().__new__(cls, sizes)
        shape.dtype = dtype
        return shape

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied and pickled with its type."""
        return Shape, (tuple(self), self.dtype)


def node_shapes(network: Network, batch: int = 1) -> dict[str, tuple[int, ...]]:
    """Output shape, batch first, of every graph node that yields a tensor; real and meta networks alike, in a millisecond or two.

    Raises:
        TechniqueError: the graph does not run at this size; the message names the node.
    """
    return {node.name: tuple(value) for node, value in propagate(network, batch).items() if isinstance(value, Shape)}


def propagate(network: Network, batch: int = 1) -> dict[fx.Node, Any]:
    """What every node yields: a `Shape` (or a list of them) instead of tensors, numbers as they are.

    Raises:
        TechniqueError: see `node_shapes`.
    """
    values: dict[fx.Node, Any] = {}
    modules = dict(network.graph.named_modules())
    for node in network.graph.graph.nodes:
        try:
            values[node] = _value(node, values, modules, network, batch)
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else repr(error)
            raise TechniqueError(f"node {node.name} ({node.target}) does not run on these shapes: {reason}") from error
    return values


def layer_macs(network: Network, shapes: Mapping[str, tuple[int, ...]] | None = None) -> dict[str, int]:
    """Multiply-accumulates of one image per convolution and linear, by qualified name; a layer called twice counts twice."""
    shapes = node_shapes(network) if shapes is None else shapes
    macs: dict[str, int] = {}
    for node, module in network.module_calls():
        if isinstance(module, _ConvNd | nn.Linear):
            name = str(node.target)
            if isinstance(module, _ConvNd) and module.transposed:
                # Every position that it reads meets the whole kernel.
                positions = torch.Size(shapes[node.all_input_nodes[0].name]).numel() // module.in_channels
            else:
                positions = torch.Size(shapes[node.name]).numel() // module.weight.shape[0]
            macs[name] = macs.get(name, 0) + positions * module.weight.numel()
    return macs


def module_shape(module: nn.Module, x: Shape, arguments: tuple[Any, ...] | None = None) -> Any:
    """What a module yields for an input of shape ``x`` (or for ``arguments``, where it takes more).

    Raises:
        ValueError: the module does not take this shape.
    """
    if isinstance(module, nn.Conv2d):
        return _conv_shape(module, x)
    if isinstance(module, nn.Linear):
        _require(x[-1] == module.in_features, f"{x[-1]} features, {module.in_features} are needed")
        return Shape((*x[:-1], module.out_features))
    if isinstance(module, nn.BatchNorm2d):
        _require(x[1] == module.num_features, f"{x[1]} channels, {module.num_features} are needed")
        return x
    if isinstance(module, nn.Upsample) and isinstance(module.size, tuple) and len(x) == 2 + len(module.size):
        return Shape((*x[:2], *module.size), x.dtype)
    if isinstance(module, nn.Sequential):
        for child in module:
            x = module_shape(child, x)
        return x
    if isinstance(module, _KEEPING_MODULES) or (isinstance(getattr(module, "bits", None), int) and not hasattr(module, "weight")):
        return x
    return _run(lambda *tensors: _on_meta(module, tensors), arguments or (x,), {})


_KEEPING_MODULES = (nn.Dropout, nn.Dropout2d, nn.Identity, nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid, nn.SiLU, nn.Sigmoid)
_KEEPING_OPERATIONS = frozenset(
    {
        "relu", "relu6", "hardtanh", "hardswish", "hardsigmoid", "sigmoid", "silu", "gelu", "tanh", "dropout", "clamp", "clamp_min",
        "clone", "contiguous", "alias", "detach", "softmax", "log_softmax",
    }
)  # fmt: skip
_BROADCASTING = frozenset({"add", "sub", "mul", "div"})
_PYTHON_BROADCASTING = frozenset({operator.add, operator.sub, operator.mul, operator.truediv})


def _value(node: fx.Node, values: Mapping[fx.Node, Any], modules: Mapping[str, nn.Module], network: Network, batch: int) -> Any:
    if node.op == "placeholder":
        return Shape((batch, *network.input_shape))
    if node.op == "get_attr":
        return _stands_for(_attribute(network.graph, str(node.target)))
    arguments = fx.node.map_arg(node.args, values.__getitem__)
    if node.op == "output":
        return arguments[0]
    keywords = fx.node.map_arg(node.kwargs, values.__getitem__) if node.kwargs else {}
    if node.op == "call_module":
        first = next(a for a in [*arguments, *keywords.values()] if isinstance(a, Shape))
        return module_shape(modules[str(node.target)], first, arguments)
    if node.op == "call_method":
        return _run(lambda x, *rest, **more: getattr(x, str(node.target))(*rest, **more), arguments, keywords)
    known = _function_shape(node, arguments)
    return known if known is not None else _run(node.target, arguments, keywords)  # type: ignore[arg-type]


def _function_shape(node: fx.Node, arguments: tuple[Any, ...]) -> Shape | None:
    """By arithmetic, for the operations that networks are full of; None where that is not simple."""
    name = str(node.target).split(".")[1].rstrip("_") if str(node.target).startswith("aten.") else ""
    x = arguments[0] if arguments else None
    if name in _KEEPING_OPERATIONS and isinstance(x, Shape) and x.dtype == torch.float32:
        return x
    if name in _BROADCASTING or node.target in _PYTHON_BROADCASTING:
        shapes = [a for a in arguments[:2] if isinstance(a, Shape)]
        return _broadcast(shapes) if all(s.dtype == torch.float32 for s in shapes) else None
    if name == "cat" and all(isinstance(part, Shape) and part.dtype == torch.float32 for part in arguments[0]):
        return _concatenated(arguments[0], int(arguments[1]) if len(arguments) > 1 else 0)
    if name == "adaptive_avg_pool2d" and isinstance(x, Shape) and list(arguments[1]) in ([1], [1, 1]):
        return Shape((*x[:-2], 1, 1))
    return None


def _broadcast(shapes: list[Shape]) -> Shape | None:
    if len(shapes) == 1 or (len(shapes) == 2 and shapes[0] == shapes[1]):
        return shapes[0]
    return Shape(torch.broadcast_shapes(*shapes)) if shapes else None  # type: ignore[no-untyped-call]


def _concatenated(parts: list[Shape], axis: int) -> Shape:
    axis %= len(parts[0])
    for part in parts[1:]:
        same = part[:axis] == parts[0][:axis] and part[axis + 1 :] == parts[0][axis + 1 :]
        _require(same, f"{tuple(part)} and {tuple(parts[0])} do not go together along axis {axis}")
    return Shape((*parts[0][:axis], sum(part[axis] for part in parts), *parts[0][axis + 1 :]))


def _conv_shape(conv: nn.Conv2d, x: Shape) -> Shape:
    _require(len(x) == 4 and x[1] == conv.in_channels, f"shape {tuple(x)}, {conv.in_channels} channels are needed")
    weight = conv._parameters.get("weight", conv._buffers.get("weight"))
    outputs, per_group = (conv.out_channels, x[1] // conv.groups) if weight is None else weight.shape[:2]
    _require(
        per_group * conv.groups == x[1] and outputs % conv.groups == 0,
        f"{conv.groups} groups of {per_group} do not read {x[1]} channels or give {outputs}",
    )
    sizes = []
    for axis in (0, 1):
        span = conv.dilation[axis] * (conv.kernel_size[axis] - 1) + 1
        padding = 2 * int(conv.padding[axis]) if not isinstance(conv.padding, str) else (span - 1) * (conv.padding == "same")
        sizes.append((x[2 + axis] + padding - span) // conv.stride[axis] + 1)
    _require(min(sizes) > 0, f"the kernel {conv.kernel_size} is larger than the map {tuple(x[2:])}")
    return Shape((x[0], conv.out_channels, *sizes))


def _run(function: Callable[..., Any], arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
    """Call on meta tensors."""
    with torch.no_grad():
        return _stands_for(function(*_tensors(arguments), **_tensors(keywords)))


def _tensors(value: Any) -> Any:
    if isinstance(value, Shape):
        return torch.empty(value, dtype=value.dtype, device="meta")
    if isinstance(value, list | tuple):
        items = [_tensors(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, Mapping):
        return {key: _tensors(item) for key, item in value.items()}
    return value


def _stands_for(value: Any) -> Any:
    if isinstance(value, Tensor):
        return Shape(value.shape, value.dtype)
    if isinstance(value, list | tuple) and any(isinstance(item, Tensor) for item in value):
        return [_stands_for(item) for item in value]
    return value


def _on_meta(module: nn.Module, arguments: tuple[Any, ...]) -> Any:
    state = {k: torch.empty_like(v, device="meta") for k, v in [*module.named_parameters(), *module.named_buffers()]}
    return torch.func.functional_call(module, state, arguments)


def _attribute(owner: Any, path: str) -> Any:
    for part in path.split("."):
        owner = getattr(owner, part)
    return owner


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)
