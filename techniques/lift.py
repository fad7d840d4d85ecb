"""From a module or an exported program to a `Network`: ATen convolutions, linears and norms become ``nn`` modules again.

The way in is always the same: export, refuse what cannot be edited, rewrite the graph (`techniques.graph_rewrites`), build
modules (`techniques.lift_modules`), check against the original (`techniques.network_checks`).
"""

from __future__ import annotations

import operator
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from techniques import graph_rewrites, network_checks, pt2_archive, pt2_loader
from techniques.errors import UnsupportedNetworkError
from techniques.lift_modules import BUILDERS, RETURNS_TUPLE
from techniques.network import Network
from techniques.pt2_limits import DEFAULT_LIMITS, ArchiveLimits
from techniques.quantization.lifting import lift_quantized

_NAMESPACES = ("aten", "quantized_decomposed")
_SYMBOLIC = ("_operator", "math", "torch")
_ERASED_NAMES = re.compile(r"(stochastic_?depth|drop_?path)", re.IGNORECASE)


def from_module(module: nn.Module, input_shape: tuple[int, int, int]) -> Network:
    """Export a module in evaluation mode, with a free batch where it allows one, and lift the program.

    The module itself is left as it was; the network shares its weights.

    Raises:
        UnsupportedNetworkError: it cannot be exported or lifted; the message names the op and its place.
    """
    modes = {child: child.training for child in module.modules()}
    module.eval()
    try:
        program = _export(module, torch.zeros(2, *input_shape))
        network = from_exported_program(program)
    finally:
        for child, training in modes.items():
            child.training = training
    kinds = sorted({type(m).__name__ for m in module.modules() if _ERASED_NAMES.search(type(m).__name__)})
    notes = [note for note in network.erased if not note.startswith("stochastic depth")]
    notes += [f"stochastic depth ({kind})" for kind in kinds]
    return replace(network, erased=tuple(notes))


def _export(module: nn.Module, example: Tensor) -> ExportedProgram:
    try:
        return torch.export.export(module, (example,), dynamic_shapes=({0: Dim.DYNAMIC},), strict=False)
    except Exception:  # a baked batch: export as it is, `graph_rewrites.free_reshapes` frees it where it can
        try:
            return torch.export.export(module, (example,), strict=False)
        except Exception as error:
            first_line = str(error).strip().partition("\n")[0]
            raise UnsupportedNetworkError(f"torch.export cannot trace {type(module).__name__}: {first_line}") from error


def from_pt2(path: Path | str, limits: ArchiveLimits = DEFAULT_LIMITS) -> Network:
    """Read a ``torch.export`` archive: checked entry by entry, rebuilt without anything pickled, loaded, lifted.

    Raises:
        UnsafeModelError: the archive holds something that could run, or breaks a limit.
        UnsupportedNetworkError: it is a sound archive of a network that cannot be lifted.
    """
    contents = pt2_archive.check(Path(path), limits)
    program = pt2_loader.load(contents)
    network = from_exported_program(program, limits.input_elements)
    facts = dict(contents.network_facts)
    if network.size_is_free:  # what was found here counts; the file may only word it better
        facts.pop("size_note", None)
    return replace(network, **facts)


def from_exported_program(program: ExportedProgram, max_input_elements: int = DEFAULT_LIMITS.input_elements) -> Network:
    """Lift an exported program. Its batch may be fixed; the network's never is.

    Raises:
        UnsupportedNetworkError: what stands in the way, with the op and its place in the original model.
    """
    _refuse_unsupported(program)
    source = program.module()
    graph_module = fx.GraphModule(source, source.graph)
    placeholder = next(n for n in graph_module.graph.nodes if n.op == "placeholder")
    exported_shape = placeholder.meta["val"].shape
    batch = exported_shape[0]
    input_shape = tuple(_hint(s) for s in exported_shape[1:])
    network_checks.check_input_size((batch if isinstance(batch, int) else 2, *input_shape), max_input_elements)
    images = torch.randn(batch if isinstance(batch, int) else 2, *input_shape, generator=torch.Generator().manual_seed(0))
    reference = None if _is_training(graph_module) else _reference(graph_module, images)

    shape = (input_shape[0], input_shape[1], input_shape[2])
    network = lift_graph(graph_module, shape, batch, (images, reference) if reference is not None else None)
    return replace(network, erased=_erased(program))


def lift_graph(
    graph_module: fx.GraphModule,
    input_shape: tuple[int, int, int],
    batch: Any,
    example: tuple[Tensor, Tensor] | None,
    tolerance: float = network_checks.RELATIVE_TOLERANCE,
) -> Network:
    """Rewrite, lift and check an ATen graph whose nodes know their shapes (``node.meta["val"]``); shared by all readers.

    Args:
        graph_module: one image input, weights as ``get_attr``; changed in place.
        input_shape: ``(channels, height, width)``.
        batch: the batch that the shapes were found with, a number or a symbol.
        example: images and the original's outputs for them, to check against.
        tolerance: accepted difference from the original, relative to the output's scale.

    Raises:
        UnsupportedNetworkError: what stands in the way, with the node.
    """
    graph_rewrites.drop_guards(graph_module)
    graph_rewrites.make_functional(graph_module)
    graph_rewrites.fold_constants(graph_module)
    lift_quantized(graph_module)
    _lift_modules(graph_module)
    graph_rewrites.lift_scales(graph_module)
    graph_rewrites.lift_shuffles(graph_module)
    graph_rewrites.lift_splits(graph_module)
    graph_rewrites.free_reshapes(graph_module, batch)
    network = network_checks.with_shape_facts(_network(graph_module, input_shape))
    if example is not None:
        network_checks.check_outputs(network, *example, tolerance)
    return network


def _network(graph_module: fx.GraphModule, shape: tuple[int, int, int]) -> Network:
    graph = graph_module.graph
    placeholder = next(n for n in graph.nodes if n.op == "placeholder")
    output = next(n for n in graph.nodes if n.op == "output")
    values: Any = list(output.args[0].values()) if isinstance(output.args[0], dict) else output.args[0]
    if isinstance(values, list | tuple):
        output.args = (values[0],)
    graph.set_codegen(fx.graph.CodeGen())
    graph._tracer_cls = None  # the export's own tracer cannot be built again when a network is unpickled between our processes
    network = Network(fx.GraphModule(graph_module, graph, "Network"), shape, str(placeholder.target))
    network = network.rebuilt().eval()
    for node in graph.nodes:
        node.meta = {key: value for key, value in node.meta.items() if key == "nn_module_stack"}
    for parameter in network.graph.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return network


def _hint(size: Any) -> int:
    if isinstance(size, int):
        return size
    hint = getattr(size.node, "hint", None)
    if hint is None:
        raise UnsupportedNetworkError("input channels, height and width need a size: export with an example input")
    return int(hint)


def _reference(graph_module: fx.GraphModule, images: Tensor) -> Tensor:
    """Outputs of the unlifted program, guards left out."""
    graph = fx.Graph()
    result = graph.graph_copy(graph_module.graph, {})
    graph.output(result)
    for node in list(graph.nodes):
        if node.op == "call_module" and "guard" in str(node.target):
            graph.erase_node(node)
    plain = fx.GraphModule(graph_module, graph)
    try:
        with torch.no_grad():
            output = plain(images)
    except Exception as error:
        first_line = str(error).strip().partition("\n")[0]
        raise UnsupportedNetworkError(f"the program does not run on {tuple(images.shape)} images: {first_line}") from error
    while isinstance(output, list | tuple | dict):
        output = next(iter(output.values())) if isinstance(output, dict) else output[0]
    return output.clone()  # type: ignore[no-any-return]


def _is_training(graph_module: fx.GraphModule) -> bool:
    """Whether the program was exported in training mode (batch statistics, dropout that drops)."""
    for node in graph_rewrites.calls(graph_module):
        name = str(node.target)
        if name == "aten.batch_norm.default" and node.args[5]:
            return True
        if "dropout" in name and node.args[2]:
            return True
    return False


def _refuse_unsupported(program: ExportedProgram) -> None:
    signature = program.graph_signature
    inputs = [name for name in signature.user_inputs if isinstance(name, str)]
    nodes = {node.name: node for node in program.graph.nodes}
    if len(inputs) != 1:
        raise UnsupportedNetworkError(f"the network has {len(inputs)} inputs {inputs}; exactly one image input is supported")
    value = nodes[inputs[0]].meta.get("val")
    if not isinstance(value, Tensor) or value.dim() != 4 or value.dtype != torch.float32:
        got = f"{value.dtype} of rank {value.dim()}" if isinstance(value, Tensor) else type(value).__name__
        raise UnsupportedNetworkError(f"input {inputs[0]!r} is {got}; float32 (batch, channels, height, width) is supported")
    outputs = [name for name in signature.user_outputs if name is not None]
    if len(outputs) != 1:
        raise UnsupportedNetworkError(f"the network has {len(outputs)} outputs {outputs}; exactly one tensor is supported")
    for name, tensor in program.state_dict.items():
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise UnsupportedNetworkError(f"weight {name!r} is {tensor.dtype}; convert the model to float32 first")
    for node in program.graph.nodes:
        _refuse_node(node)


def _refuse_node(node: fx.Node) -> None:
    if node.op != "call_function":
        return
    target = node.target
    if isinstance(target, torch._ops.HigherOrderOperator):
        raise UnsupportedNetworkError(f"{network_checks.place(node)}: control flow inside the graph is not supported")
    if isinstance(target, torch._ops.OpOverload):
        if target.namespace not in _NAMESPACES:
            raise UnsupportedNetworkError(f"{network_checks.place(node)}: operators outside ATen are not supported")
    elif target is not operator.getitem and getattr(target, "__module__", "") not in _SYMBOLIC:
        raise UnsupportedNetworkError(f"{network_checks.place(node)}: unknown function")


def _erased(program: ExportedProgram) -> tuple[str, ...]:
    """What stands in the program without being used: weights of auxiliary heads, modules that do nothing in evaluation."""
    used = {node.name for node in program.graph.nodes if node.users}
    specs = program.graph_signature.inputs_to_parameters
    unused = sorted({name.partition(".")[0] for node, name in specs.items() if node not in used})
    notes = [f"unused weights of {name!r} (an auxiliary head?)" for name in unused]
    if any(_ERASED_NAMES.search(entry.fqn) for entry in program.module_call_graph):
        notes.append("stochastic depth")
    return tuple(notes)


def _lift_modules(graph_module: fx.GraphModule) -> None:
    built: dict[str, nn.Module] = {}
    for node in graph_rewrites.calls(graph_module):
        if str(node.target) in ("aten.addmm.default", "aten.mm.default"):
            node = _as_linear(graph_module, node)
        if str(node.target) in BUILDERS:
            _lift_node(graph_module, node, built)


def _as_linear(graph_module: fx.GraphModule, node: fx.Node) -> fx.Node:
    """Rewrite ``addmm(bias, x, weight.T)`` of a decomposed export as ``linear``."""
    bias, x, weight = node.args if len(node.args) == 3 else (None, *node.args)
    if not isinstance(weight, fx.Node) or weight.op != "get_attr":
        return node
    name = f"{str(weight.target).replace('.', '_')}_transposed"
    tensor = graph_rewrites.attribute(graph_module, weight)
    graph_module.register_buffer(name, tensor.detach().T.contiguous())
    with graph_module.graph.inserting_before(node):
        transposed = graph_module.graph.get_attr(name)
    return graph_rewrites.replace(graph_module, node, torch.ops.aten.linear.default, (x, transposed, bias))


def _lift_node(owner: fx.GraphModule, node: fx.Node, built: dict[str, nn.Module]) -> None:
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    values: dict[str, Any] = {a.name: a.default_value for a in schema if a.has_default_value()}
    values |= {a.name: v for a, v in zip(schema, node.args, strict=False)} | dict(node.kwargs)
    attributes = {k: v for k, v in values.items() if isinstance(v, fx.Node) and v.op == "get_attr"}
    computed = [
        k for k, v in values.items() if k in ("weight", "bias", "running_mean") and isinstance(v, fx.Node) and k not in attributes
    ]
    if computed or values.get("transposed") or (str(node.target).endswith("convolution.default") and len(values["stride"]) != 2):
        return  # weights computed from the input, or not a 2-d convolution: it stays an ATen call
    tensors = {k: graph_rewrites.attribute(owner, v) for k, v in attributes.items()}
    if "batch_norm" in str(node.target) and "running_mean" not in tensors:
        raise UnsupportedNetworkError(f"{network_checks.place(node)}: batch norm without running statistics")
    module = BUILDERS[str(node.target)](values, tensors)
    name = _module_name(owner, node, attributes, module, built)
    source = values.get("input", values.get("self"))
    if str(node.target) in RETURNS_TUPLE:
        for user in list(node.users):
            graph_rewrites.replace(owner, user, name, (source,))
        owner.graph.erase_node(node)
    else:
        graph_rewrites.replace(owner, node, name, (source,))


def _module_name(
    owner: fx.GraphModule, node: fx.Node, attributes: dict[str, fx.Node], module: nn.Module, built: dict[str, nn.Module]
) -> str:
    """Put the module where its weight stood in the original; a shared layer is built once."""
    weight = attributes.get("weight", attributes.get("running_mean"))
    path, _, leaf = str(weight.target).rpartition(".") if weight is not None else ("", "", "")
    if path and leaf in ("weight", "running_mean"):
        known = built.get(path)
        if known is not None and repr(known) == repr(module) and known.weight is module.weight:
            return path
        holder = _descend(owner, path)
        if known is None and not list(holder.children()):
            parent, _, name = path.rpartition(".")
            setattr(_descend(owner, parent), name, module)
            built[path] = module
            return path
    return graph_rewrites.add_module(owner, node.name, module)


def _descend(owner: nn.Module, path: str) -> nn.Module:
    for part in path.split(".") if path else ():
        owner = getattr(owner, part)
    return owner
