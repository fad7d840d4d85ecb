"""From an exported program to a `Network`: ATen convolutions, linears and norms become ``nn`` modules again."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn
from torch.export import Dim, ExportedProgram

from techniques.network import Network


def from_module(module: nn.Module, input_shape: tuple[int, int, int]) -> Network:
    """Export a module with a free batch and lift the program. The module itself is not changed."""
    training = module.training
    module.eval()
    example = torch.zeros(2, *input_shape)
    program = torch.export.export(module, (example,), dynamic_shapes=({0: Dim.DYNAMIC},), strict=False)
    module.train(training)
    return from_exported_program(program)


def from_exported_program(program: ExportedProgram) -> Network:
    """Lift an exported program."""
    source = program.module()
    graph_module = fx.GraphModule(source, source.graph)
    graph = graph_module.graph
    for node in list(graph.nodes):
        if node.op == "call_module" and "guard" in str(node.target):
            graph.erase_node(node)
        elif node.op == "call_function":
            _lift_node(graph_module, node)
    output = next(n for n in graph.nodes if n.op == "output")
    value = output.args[0]
    if isinstance(value, list | tuple) and len(value) == 1:
        output.args = (value[0],)
    graph.set_codegen(fx.graph.CodeGen())
    placeholder = next(n for n in graph.nodes if n.op == "placeholder")
    shape = tuple(int(s) for s in placeholder.meta["val"].shape[1:])
    network = Network(fx.GraphModule(graph_module, graph), (shape[0], shape[1], shape[2]))
    return network.rebuilt().eval()


def _lift_node(owner: fx.GraphModule, node: fx.Node) -> None:
    build = _BUILDERS.get(str(node.target))
    if build is None:
        return
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    values: dict[str, Any] = {a.name: a.default_value for a in schema if a.has_default_value()}
    values |= {a.name: v for a, v in zip(schema, node.args, strict=False)} | dict(node.kwargs)
    tensors = {k: _attribute(owner, v) for k, v in values.items() if isinstance(v, fx.Node) and v.op == "get_attr"}
    module = build(values, tensors)
    weight = values.get("weight")
    path = str(weight.target).rpartition(".")[0] if isinstance(weight, fx.Node) else ""
    name = path or str(node.name)
    parent, _, leaf = name.rpartition(".")
    setattr(_ensure_parent(owner, parent), leaf, module)
    with owner.graph.inserting_before(node):
        call = owner.graph.call_module(name, (values["input"],))
    call.meta = dict(node.meta)
    node.replace_all_uses_with(call)
    owner.graph.erase_node(node)


def _ensure_parent(owner: nn.Module, path: str) -> nn.Module:
    for part in path.split(".") if path else ():
        if not hasattr(owner, part):
            setattr(owner, part, nn.Module())
        owner = getattr(owner, part)
    return owner


def _attribute(owner: nn.Module, node: fx.Node) -> Any:
    value: Any = owner
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value


def _conv2d(values: dict[str, Any], tensors: dict[str, Any]) -> nn.Module:
    weight, bias = tensors["weight"], tensors.get("bias")
    module = nn.Conv2d(
        weight.shape[1] * values["groups"], weight.shape[0], tuple(weight.shape[2:]), tuple(values["stride"]),
        tuple(values["padding"]), tuple(values["dilation"]), values["groups"], bias is not None,
    )  # fmt: skip
    module.weight, module.bias = weight, bias
    return module


def _linear(values: dict[str, Any], tensors: dict[str, Any]) -> nn.Module:
    weight, bias = tensors["weight"], tensors.get("bias")
    module = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    module.weight, module.bias = weight, bias  # type: ignore[assignment]
    return module


def _batch_norm(values: dict[str, Any], tensors: dict[str, Any]) -> nn.Module:
    mean = tensors["running_mean"]
    module = nn.BatchNorm2d(mean.shape[0], values["eps"], values["momentum"], affine=tensors.get("weight") is not None)
    if module.affine:
        module.weight, module.bias = tensors["weight"], tensors["bias"]
    module.running_mean, module.running_var = mean, tensors["running_var"]
    return module


def _dropout(values: dict[str, Any], tensors: dict[str, Any]) -> nn.Module:
    return nn.Dropout(values["p"])


_BUILDERS = {
    "aten.conv2d.default": _conv2d,
    "aten.linear.default": _linear,
    "aten.batch_norm.default": _batch_norm,
    "aten.dropout.default": _dropout,
}
