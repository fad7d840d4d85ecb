"""Makes an exported ONNX graph small and friendly to runtimes: no metadata, short names, nothing unused, one bias per layer."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from techniques.network import TABLE

_INT32_LIMIT = 2.0**31
_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_MOVES = frozenset({"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "MaxPool", "Slice", "Split", "Pad", "Identity"})
_SLIDING = frozenset({"Conv", "ConvTranspose", "MaxPool", "AveragePool"})
_SLIDING_DEFAULTS = {"strides": 1, "dilations": 1, "pads": 0}
_ROUNDING = frozenset({"QuantizeLinear", "DequantizeLinear"})
"""Two nodes of three of an int8 file, which runtimes make part of the layers: they have no names of their own."""
_LOWEST = "lowest_float"
_FREE_TEXT = ("doc_string", "metadata_props")


def compact(model: onnx.ModelProto, ends: Mapping[str, str] | None = None) -> onnx.ModelProto:
    """Compact a model in place and return it; inputs and outputs keep their names or get those of ``ends``. Deterministic.

    Constants get short names; those of `techniques.network.TABLE` keep it as their prefix.
    """
    _global_pooling(model.graph)
    _constants_to_initializers(model.graph)
    _unshare_biases(model.graph)
    _integer_biases(model.graph)
    _keep_float_layers(model.graph)
    _drop_unused(model.graph)
    _strip(model)
    _drop_defaults(model)
    _shorten_names(model.graph, ends or {})
    return model


def _initializers(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in graph.initializer}


def _constants_to_initializers(graph: onnx.GraphProto) -> None:
    kept = []
    for node in graph.node:
        tensor = next((a.t for a in node.attribute if a.name == "value" and a.type == onnx.AttributeProto.TENSOR), None)
        if node.op_type == "Constant" and tensor is not None:
            copy = graph.initializer.add()
            copy.CopyFrom(tensor)
            copy.name = node.output[0]
        else:
            kept.append(node)
    _set_nodes(graph, kept)


def _set_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    copies = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copies.append(copy)
    del graph.node[:]
    graph.node.extend(copies)


def _global_pooling(graph: onnx.GraphProto) -> None:
    """Write a mean over height and width as GlobalAveragePool, which runtimes know how to run on integers."""
    constants = _initializers(graph)
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in [*graph.value_info, *graph.input]}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes.append(node)
        if node.op_type != "ReduceMean" or len(node.input) < 2 or node.input[1] not in constants:
            continue
        axes = sorted(int(a) % 4 for a in numpy_helper.to_array(constants[node.input[1]]).reshape(-1))
        keep = next((a.i for a in node.attribute if a.name == "keepdims"), 1)
        if axes != [2, 3] or ranks.get(node.input[0]) != 4:
            continue
        pooled = node.output[0] if keep else f"{node.output[0]}_pooled"
        nodes[-1] = onnx.helper.make_node("GlobalAveragePool", [node.input[0]], [pooled], name=node.name)
        if not keep:
            nodes.append(onnx.helper.make_node("Flatten", [pooled], [node.output[0]], name=f"{node.name}_flatten", axis=1))
    _set_nodes(graph, nodes)


def _unshare_biases(graph: onnx.GraphProto) -> None:
    """Give every convolution and linear a bias of its own: runtimes do not fuse integer layers that share one."""
    constants = _initializers(graph)
    seen: Counter[str] = Counter()
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm") and len(node.input) > 2 and node.input[2] in constants:
            name = node.input[2]
            seen[name] += 1
            if seen[name] > 1:
                copy = graph.initializer.add()
                copy.CopyFrom(constants[name])
                copy.name = node.input[2] = f"{name}__copy{seen[name]}"


def _integer_biases(graph: onnx.GraphProto) -> None:
    """Store the biases of integer linears as int32 in units of input scale times weight scale (Jacob 2018, equation 11).

    A linear whose output stays float, as logits do, runs on integers only so; else its weights are dequantised in every run.
    """
    constants = _initializers(graph)
    scales = {n.output[0]: constants.get(n.input[1]) for n in graph.node if n.op_type == "DequantizeLinear"}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        inputs = [scales.get(name) for name in node.input[:2]]
        bias = constants.get(node.input[2]) if node.op_type == "Gemm" and len(node.input) > 2 else None
        if bias is not None and inputs[0] is not None and inputs[1] is not None:
            values = numpy_helper.to_array(bias)
            scale = np.broadcast_to(numpy_helper.to_array(inputs[0]) * numpy_helper.to_array(inputs[1]), values.shape)
            integers = np.round(values / scale)
            if np.abs(integers).max() < _INT32_LIMIT:
                name = f"{node.input[2]}_int32"
                graph.initializer.append(numpy_helper.from_array(integers.astype(np.int32), name))
                graph.initializer.append(numpy_helper.from_array(scale.astype(np.float32), f"{name}_scale"))
                node.input[2] = f"{name}_float"
                parts = [name, f"{name}_scale"]
                nodes.append(onnx.helper.make_node("DequantizeLinear", parts, [node.input[2]], name=node.input[2], axis=0))
        nodes.append(node)
    _set_nodes(graph, nodes)


def _keep_float_layers(graph: onnx.GraphProto) -> None:
    """Keep layers with float weights in float between integers.

    ONNX Runtime would quantise the weights of a layer that lies between DequantizeLinear and QuantizeLinear by itself, in its own
    way. A maximum with the lowest number, which changes nothing, stands between the layer and what rounds its output.
    """
    constants, made = _initializers(graph), {name: node for node in graph.node for name in node.output}
    outputs = {output.name for output in graph.output}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes.append(node)
        is_float = node.op_type in _LAYERS and node.input[1] in constants
        if not is_float or node.output[0] in outputs or not _from_integers(node.input[0], made):
            continue
        result, inner = node.output[0], f"{node.output[0]}__float"
        if _LOWEST not in constants:
            constants[_LOWEST] = graph.initializer.add()
            constants[_LOWEST].CopyFrom(numpy_helper.from_array(np.float32(np.finfo(np.float32).min), _LOWEST))
        node.output[0] = inner
        nodes.append(onnx.helper.make_node("Max", [inner, _LOWEST], [result], name=f"{node.name}_float"))
    _set_nodes(graph, nodes)


def _from_integers(name: str, made: Mapping[str, onnx.NodeProto]) -> bool:
    """Whether a value was an integer before operations that only move values (runtimes round behind or before these alike)."""
    node = made.get(name)
    while node is not None and node.op_type in _MOVES:
        node = made.get(node.input[0])
    return node is not None and node.op_type == "DequantizeLinear"


def _drop_unused(graph: onnx.GraphProto) -> None:
    needed = {output.name for output in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if any(name in needed for name in node.output):
            needed.update(node.input)
            kept.append(node)
    _set_nodes(graph, kept[::-1])
    for tensor in [t for t in graph.initializer if t.name not in needed]:
        graph.initializer.remove(tensor)


def _strip(model: onnx.ModelProto) -> None:
    for name in _FREE_TEXT:
        model.ClearField(name)
        model.graph.ClearField(name)
    del model.functions[:]
    del model.graph.value_info[:]
    del model.graph.quantization_annotation[:]
    model.graph.name = "network"
    model.producer_name, model.producer_version = "paretopress", ""
    for item in [*model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output]:
        for name in _FREE_TEXT:
            item.ClearField(name)
    used = {node.domain for node in model.graph.node}
    for opset in [o for o in model.opset_import if o.domain and o.domain not in used]:
        model.opset_import.remove(opset)


def _drop_defaults(model: onnx.ModelProto) -> None:
    """Attributes that say what a reader takes for granted where they are missing."""
    versions = {opset.domain: opset.version for opset in model.opset_import}
    for node in model.graph.node:
        if node.domain not in versions or not onnx.defs.has(node.op_type, versions[node.domain], node.domain):
            continue
        known = onnx.defs.get_schema(node.op_type, versions[node.domain], node.domain).attributes
        kept = [a for a in node.attribute if a.name not in known or not _is_default(a, known[a.name].default_value, node.op_type)]
        del node.attribute[:]
        node.attribute.extend(kept)


def _is_default(attribute: onnx.AttributeProto, default: onnx.AttributeProto, op_type: str) -> bool:
    """By the schema; of what slides over a map it has defaults in words only, for they depend on the number of axes."""
    value = onnx.helper.get_attribute_value(attribute)
    if op_type in _SLIDING and attribute.name in _SLIDING_DEFAULTS:
        return bool(set(value) <= {_SLIDING_DEFAULTS[attribute.name]})
    return bool(default.type and value == onnx.helper.get_attribute_value(default))


def _shorten_names(graph: onnx.GraphProto, ends: Mapping[str, str]) -> None:
    values = [*graph.input, *graph.output]
    names: dict[str, str] = {"": ""} | {value.name: ends.get(value.name, value.name) for value in values}
    fixed = set(names.values())
    for value in values:
        value.name = names[value.name]
    counts: defaultdict[str, int] = defaultdict(int)

    def short(prefix: str) -> str:
        while True:
            name = f"{prefix}{counts[prefix]}"
            counts[prefix] += 1
            if name not in fixed:
                return name

    for tensor in graph.initializer:
        new = names.get(tensor.name) or short(TABLE if TABLE in tensor.name else "w")
        names[tensor.name] = new
        tensor.name = new
    for node in graph.node:
        node.name = "" if node.op_type in _ROUNDING else short(node.op_type)
        for output in node.output:
            if output not in names:
                names[output] = short("t")
        node.input[:] = [names[name] for name in node.input]
        node.output[:] = [names[name] for name in node.output]
