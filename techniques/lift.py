"""From a module or an exported program to a `Network`: ATen convolutions, linears and norms become ``nn`` modules again.

The way in is always the same: export, refuse what cannot be edited, rewrite the graph (`techniques.graph_rewrites`), build
modules (`techniques.lift_modules`), check against the original (`techniques.network_checks`).
"""

from __future__ import annotations

import operator
import re
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from techniques import graph_rewrites, network_checks, pt2_archive, pt2_loader
from techniques.errors import FAILURES, UnsupportedNetworkError
from techniques.lift_modules import BUILDERS, RETURNS_TUPLE
from techniques.lifting import branches, constants, creation, inplace, norms, outputs, regions
from techniques.network import Network
from techniques.pt2_limits import DEFAULT_LIMITS, ArchiveLimits
from techniques.quantization.lifting import lift_quantized

_NAMESPACES = ("aten", "quantized_decomposed")
_SYMBOLIC = ("_operator", "math", "torch")
_WEIGHTS = ("weight", "bias", "running_mean", "running_var")
_RUNS = 3
"""Of a program with a batch of one or two: its images together show whether the network mixes them."""
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
        _check_runs(module, torch.zeros(2, *input_shape))
        program = _export(module, torch.zeros(2, *input_shape))
        network = from_exported_program(program)
    finally:
        for child, training in modes.items():
            child.training = training
    kinds = sorted({type(m).__name__ for m in module.modules() if _ERASED_NAMES.search(type(m).__name__)})
    notes = [note for note in network.erased if not note.startswith("stochastic depth")]
    notes += [f"stochastic depth ({kind})" for kind in kinds]
    return replace(network, erased=tuple(notes))


def _check_runs(module: nn.Module, example: Tensor) -> None:
    """A module that does not take these images says so at once, with the layer; exporting would try twice and name none."""
    running: list[str] = []

    def ended(*_: object) -> None:
        running.pop()

    hooks = [part.register_forward_pre_hook(lambda *_, name=name: running.append(name)) for name, part in module.named_modules()]
    hooks += [part.register_forward_hook(ended) for part in module.modules()]
    try:
        with torch.no_grad(), network_checks.unchanged(module):
            module(example)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        said = str(error).strip().partition("\n")[0] or last.line
        layer = f"in module {running[-1]!r} ({type(module.get_submodule(running[-1])).__name__})" if running else "at its start"
        told = f"{layer}: {type(error).__name__}: {said} ({Path(last.filename).name}:{last.lineno})"
        raise UnsupportedNetworkError(f"the module does not run on images of shape {tuple(example.shape)}, {told}") from error
    finally:
        for hook in hooks:
            hook.remove()


def _export(module: nn.Module, example: Tensor) -> ExportedProgram:
    try:
        return torch.export.export(module, (example,), dynamic_shapes=({0: Dim.DYNAMIC},), strict=False)
    except Exception:  # a baked batch: export as it is, `graph_rewrites.free_reshapes` frees it where it can
        try:
            fresh = torch.zeros_like(example)  # the first try left marks on its example
            return torch.export.export(module, (fresh,), strict=False)
        except Exception as error:
            first_line = str(error).strip().partition("\n")[0] or type(error).__name__
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
    graph_rewrites.drop_guards(graph_module)
    placeholder = next(n for n in graph_module.graph.nodes if n.op == "placeholder")
    exported_shape = placeholder.meta["val"].shape
    batch = exported_shape[0]
    input_shape = tuple(_hint(s) for s in exported_shape[1:])
    own, runs = (batch, _RUNS if batch < _RUNS else 1) if isinstance(batch, int) else (2, 1)
    network_checks.check_input_size((runs * own, *input_shape), max_input_elements)
    images = torch.randn(runs * own, *input_shape, generator=torch.Generator().manual_seed(0))
    reference = torch.cat([_reference(graph_module, some) for some in torch.split(images, own)])
    shape = (input_shape[0], input_shape[1], input_shape[2])
    network = lift_graph(graph_module, shape, batch, (images, reference))
    return replace(network, erased=(*_erased(program), *network.erased))


def lift_graph(
    graph_module: fx.GraphModule,
    input_shape: tuple[int, int, int],
    batch: Any,
    example: tuple[Tensor, Tensor],
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
    _refuse_foreign(graph_module)
    graph_rewrites.drop_guards(graph_module)
    own = example[0][:batch] if isinstance(batch, int) else example[0]
    logits = network_checks.before_activation(graph_module, own)
    regions.inline_regions(graph_module)
    inplace.make_functional(graph_module, own)
    graph_rewrites.drop_copies(graph_module)
    constants.settle_constants(graph_module)
    constants.count_masks(graph_module)
    creation.follow_the_image(graph_module)
    lift_quantized(graph_module)
    _lift_modules(graph_module)
    _refuse_random(graph_module)
    _edit_patterns(graph_module)
    notes = outputs.flatten_output(graph_module)
    graph_rewrites.free_reshapes(graph_module, batch)
    constants.drop_unread(graph_module)
    modes = _modes(graph_module)
    network = network_checks.with_shape_facts(_network(graph_module, input_shape))
    images, reference = example[0], example[1].flatten(1) if notes else example[1]
    if any(modes.values()):  # statistics of a batch are those of the batch that it was exported with
        images, reference = own, reference[: len(own)]
    network_checks.check_outputs(network, images, reference, tolerance, modes)
    if logits is not None and not any(modes.values()):
        network_checks.check_logits(network, own, logits, tolerance)
    network = replace(network, erased=(*notes, *_always_on(modes, network)))
    return network if any(modes.values()) else _with_merged_branches(network, images, reference, tolerance)


def _with_merged_branches(network: Network, images: Tensor, reference: Tensor, tolerance: float) -> Network:
    """Parallel branches as one convolution each, if that computes the same; else the network as it is."""
    merged = branches.merge_branches(network)
    if merged is None:
        return network
    try:
        network_checks.check_outputs(merged, images, reference, tolerance)
    except UnsupportedNetworkError:
        return network
    return merged


def _edit_patterns(graph_module: fx.GraphModule) -> None:
    """What is written in several calls and means one layer."""
    norms.lift_channel_norms(graph_module)
    norms.fold_frozen_norms(graph_module)
    graph_rewrites.drop_expansions(graph_module)
    graph_rewrites.lift_scales(graph_module)
    graph_rewrites.lift_shuffles(graph_module)
    graph_rewrites.lift_splits(graph_module)


def _modes(graph_module: fx.GraphModule) -> dict[str, bool]:
    """Which modules were exported in training mode, of those that run otherwise in training."""
    kinds = (_BatchNorm, _DropoutNd, nn.RReLU)
    called = [str(node.target) for node in graph_module.graph.nodes if node.op == "call_module"]
    found = {name: graph_module.get_submodule(name) for name in called}
    return {name: module.training for name, module in found.items() if isinstance(module, kinds)}


def _always_on(modes: dict[str, bool], network: Network) -> list[str]:
    """Dropout that drops although the batch norms are in evaluation mode: written without the module's own flag."""
    norms = [mode for name, mode in modes.items() if isinstance(network.graph.get_submodule(name), _BatchNorm)]
    dropping = [name for name, mode in modes.items() if mode and name]
    return [f"dropout that drops in evaluation too ({name})" for name in dropping] if norms and not any(norms) else []


def _refuse_foreign(graph_module: fx.GraphModule) -> None:
    for module in graph_module.modules():
        for node in module.graph.nodes if isinstance(module, fx.GraphModule) else ():
            _refuse_node(node)


def _refuse_random(graph_module: fx.GraphModule) -> None:
    """What draws random numbers at each run and is no module with an evaluation mode."""
    for node in graph_rewrites.calls(graph_module):
        if graph_rewrites.is_random(node) and _drops(node):
            told = "draws random numbers (stochastic depth in training mode?); export the model in evaluation mode"
            raise UnsupportedNetworkError(f"{network_checks.place(node)}: {told}")


def _drops(node: fx.Node) -> bool:
    """Of recurrent layers and attention, whether their own dropout is on; anything else with random numbers draws them."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    values = {a.name: a.default_value for a in schema if a.has_default_value()}
    values |= {a.name: v for a, v in zip(schema, node.args, strict=False)} | dict(node.kwargs)
    chance = values.get("dropout_p", values.get("dropout"))
    return chance is None or (bool(chance) and values.get("train", True))


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
    """Outputs of the unlifted program, in the mode that it was exported in."""
    try:
        output = network_checks.run(graph_module, images)
    except UnsupportedNetworkError as error:
        raise UnsupportedNetworkError(f"the program does not run on {tuple(images.shape)} images: {error}") from error
    while isinstance(output, list | tuple | dict):
        output = next(iter(output.values())) if isinstance(output, dict) else output[0]
    return output.clone()  # type: ignore[no-any-return]


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
    _refuse_foreign(program.graph_module)


def _refuse_node(node: fx.Node) -> None:
    if node.op != "call_function":
        return
    target = node.target
    if isinstance(target, torch._ops.HigherOrderOperator):
        if regions.region_name(node):
            return
        raise UnsupportedNetworkError(f"{network_checks.place(node)}: control flow inside the graph is not supported")
    if isinstance(target, torch._ops.OpOverload):
        if target.namespace not in _NAMESPACES:
            raise UnsupportedNetworkError(f"{network_checks.place(node)}: operators outside ATen are not supported")
        if str(target) == "aten.instance_norm.default" and node.args[3] is not None and node.args[5]:
            told = "an instance norm with running statistics in training mode; export the model in evaluation mode"
            raise UnsupportedNetworkError(f"{network_checks.place(node)}: {told}")
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
    _products_as_linear(graph_module)
    lifter = _Lifter(graph_module)
    for node in graph_rewrites.calls(graph_module):
        if str(node.target) in BUILDERS:
            lifter.lift(node)
    for node in reversed(list(graph_module.graph.nodes)):
        if node.op == "get_attr" and not node.users:  # a module may stand where its tensor was
            graph_module.graph.erase_node(node)


def _products_as_linear(graph_module: fx.GraphModule) -> None:
    """Rewrite ``addmm(bias, x, weight.T)`` of a decomposed export as ``linear``, with the weight stored as linears store it."""
    for weight in [n for n in graph_module.graph.nodes if n.op == "get_attr"]:
        users = list(weight.users)
        products = [u for u in users if _is_product(u) and u.args[-1] is weight]
        if not users or len(products) < len(users):
            continue
        tensor = graph_rewrites.attribute(graph_module, weight)
        constants.store(graph_module, str(weight.target), tensor.detach().T.contiguous())
        for node in products:
            bias, x = node.args[:2] if len(node.args) == 3 else (None, node.args[0])
            graph_rewrites.replace(graph_module, node, torch.ops.aten.linear.default, (x, weight, bias))


def _is_product(node: fx.Node) -> bool:
    """A product as a linear layer computes it: no factors (``alpha``, ``beta``), and one number per output added, if any."""
    if str(node.target) not in ("aten.addmm.default", "aten.mm.default") or node.kwargs:
        return False
    bias = node.args[0] if len(node.args) == 3 else None
    shape = bias.meta.get("val") if isinstance(bias, fx.Node) else None
    return bias is None or shape is None or shape.dim() == 1


class _Lifter:
    """Puts modules in the place of calls; a layer that is called twice with the same tensors is built once."""

    def __init__(self, owner: fx.GraphModule) -> None:
        self._owner = owner
        self._built: dict[str, nn.Module] = {}
        self._readers: dict[str, list[fx.Node]] = {}
        for node in owner.graph.nodes:
            if node.op == "get_attr":
                self._readers.setdefault(str(node.target).rpartition(".")[0], []).append(node)

    def lift(self, node: fx.Node) -> None:
        """Replace one call by a module, if it has one."""
        schema = node.target._schema.arguments  # type: ignore[union-attr]
        values: dict[str, Any] = {a.name: a.default_value for a in schema if a.has_default_value()}
        values |= {a.name: v for a, v in zip(schema, node.args, strict=False)} | dict(node.kwargs)
        attributes = {k: v for k, v in values.items() if isinstance(v, fx.Node) and v.op == "get_attr" and k in _WEIGHTS}
        if any(isinstance(values.get(name), fx.Node) and name not in attributes for name in _WEIGHTS):
            return  # weights computed from the input: it stays an ATen call
        tensors = {k: graph_rewrites.attribute(self._owner, v) for k, v in attributes.items()}
        if "batch_norm" in str(node.target) and "running_mean" not in tensors:
            raise UnsupportedNetworkError(f"{network_checks.place(node)}: batch norm without running statistics")
        try:
            module = BUILDERS[str(node.target)](values, tensors)
        except FAILURES as error:
            told = f"this form of it is not read ({type(error).__name__}: {error})"
            raise UnsupportedNetworkError(f"{network_checks.place(node)}: {told}") from error
        if module is None:
            return
        name = self._place(node, attributes, module)
        source = values.get("input", values.get("self"))
        if str(node.target) in RETURNS_TUPLE:
            for user in list(node.users):
                graph_rewrites.replace(self._owner, user, name, (source,))
            self._owner.graph.erase_node(node)
        else:
            graph_rewrites.replace(self._owner, node, name, (source,))

    def _place(self, node: fx.Node, attributes: dict[str, fx.Node], module: nn.Module) -> str:
        """Put the module where its weights stood in the original, if nothing else needs that place."""
        for path, known in self._built.items():
            if attributes and _are_same(known, module):
                return path
        for path in self._paths(node, attributes):
            if path not in self._built and self._is_free(path, node):
                parent, _, name = path.rpartition(".")
                setattr(self._owner.get_submodule(parent), name, module)
                self._built[path] = module
                return path
        name = graph_rewrites.add_module(self._owner, node.name, module)
        self._built[name] = module
        return name

    def _paths(self, node: fx.Node, attributes: dict[str, fx.Node]) -> list[str]:
        paths = [str(attributes[k].target).rpartition(".") for k in ("weight", "running_mean", "bias") if k in attributes]
        found = [path for path, _, leaf in paths if path and leaf in _WEIGHTS]
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        return [*found, str(stack[-1][0])] if attributes and stack and stack[-1][0] else found

    def _is_free(self, path: str, node: fx.Node) -> bool:
        """Whether nothing else reads a tensor, or calls a module, below a path of the original."""
        try:
            holder = self._owner.get_submodule(path)
        except AttributeError:
            return False
        others = [user for n in self._readers.get(path, []) for user in n.users if not _is_same_call(user, node)]
        return not list(holder.children()) and not others


def _is_same_call(call: fx.Node, other: fx.Node) -> bool:
    """Whether two calls are of one layer: they differ in their input alone."""
    return call is other or (call.target == other.target and call.args[1:] == other.args[1:] and call.kwargs == other.kwargs)


def _are_same(known: nn.Module, module: nn.Module) -> bool:
    """Whether two modules are one layer: the same settings, mode and tensors."""
    if type(known) is not type(module) or known.training != module.training:
        return False
    tensors = [{**m._parameters, **m._buffers} for m in (known, module)]
    names = [name for name in tensors[0] if name != "num_batches_tracked"]
    same = bool(names) and all(tensors[0][name] is tensors[1].get(name) for name in names)
    return same and repr(known) == repr(module)  # last: it is slow, and a network of n layers asks n * n times
