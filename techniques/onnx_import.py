"""Reads an ONNX file into a `Network`: refused or mapped node by node, then checked against ONNX Runtime's outputs.

The graph is first written in ATen calls (`techniques.onnx_operators`), then takes the same way as an exported program.
"""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import numpy_helper
from torch import Tensor, fx

from techniques import lift, network_checks
from techniques.errors import TechniqueError, UnsafeModelError, UnsupportedNetworkError
from techniques.network import Network
from techniques.onnx_graph import BATCH, KNOWN_CONSTANT_OPERATORS, GraphBuilder, UnsupportedOperatorError
from techniques.onnx_layout import NOTE, channels_last
from techniques.onnx_operators import OPERATORS

RELATIVE_TOLERANCE = 1e-4
"""Accepted difference from ONNX Runtime, whose kernels add up in another order."""
QUANTISED_TOLERANCE = 0.05
"""The same for files with quantisers: a value that lies between two steps is rounded up by one and down by the other, and is then
a whole step apart. ONNX Runtime's optimisations are off for these files: its integer kernels round in other places."""
_FREE_BATCH = 3
"""Images that a file with a free batch is tried with, and runs of one with a small batch of its own."""
_MAX_NAME = 256
_FINAL = frozenset({"Softmax", "LogSoftmax", "Sigmoid"})
_RESHAPES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"})


@dataclass(frozen=True)
class OnnxLimits:
    """Upper bounds on an uploaded ONNX file."""

    file_bytes: int = 2 * 1024**3
    nodes: int = 50_000
    tensors: int = 100_000
    tensor_elements: int = 2**31
    input_elements: int = 2**26


def from_onnx(path: Path | str, limits: OnnxLimits | None = None) -> Network:
    """Read, check, map and verify an ONNX file.

    Raises:
        UnsafeModelError: external data, foreign operators, or larger than the limits; nothing was loaded.
        UnsupportedNetworkError: an operator or input that cannot be mapped, or outputs that differ from ONNX Runtime's.
    """
    path, limits = Path(path), limits or OnnxLimits()
    if path.stat().st_size > limits.file_bytes:
        raise UnsafeModelError(f"{path.name}: {path.stat().st_size} bytes, at most {limits.file_bytes} are accepted")
    data = path.read_bytes()
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError:
        raise UnsafeModelError(f"{path.name}: not an ONNX file") from None
    check_model(model, limits)
    input_name, shape = _input(model.graph)
    output_name = model.graph.output[0].name
    batch = shape[0] or _FREE_BATCH
    network_checks.check_input_size((batch, *shape[1:]), limits.input_elements)
    last = channels_last(model.graph, input_name, shape[1:])
    size = (shape[3], shape[1], shape[2]) if last else shape[1:]
    graph_module = _build(model, input_name, size, last)
    runs = 1 if not shape[0] or shape[0] > _FREE_BATCH else _FREE_BATCH
    images = torch.randn(runs * batch, *size, generator=torch.Generator().manual_seed(0))
    kinds = {node.op_type for node in model.graph.node}
    integers = bool(kinds & {"QuantizeLinear", "DequantizeLinear"})
    as_written = images.permute(0, 2, 3, 1).contiguous() if last else images
    reference = _onnx_runtime_output(data, input_name, torch.split(as_written, batch), optimised=not integers)
    tolerance = QUANTISED_TOLERANCE if "QuantizeLinear" in kinds else RELATIVE_TOLERANCE
    network = lift.lift_graph(graph_module, size, BATCH, (images, reference), tolerance)
    tap = _final_input(model.graph)
    if tap:
        tapped = _with_output(data, tap)
        logits = _onnx_runtime_output(tapped, input_name, torch.split(as_written, batch), optimised=not integers)
        network_checks.check_logits(network, images, logits, tolerance)
    notes = (*network.erased, NOTE) if last else network.erased
    return replace(network, input_name=input_name, output_name=output_name, erased=notes)


def check_model(model: onnx.ModelProto, limits: OnnxLimits) -> None:
    """Refuse what must not be loaded, before any tensor is read.

    Raises:
        UnsafeModelError: external data, too many nodes or too large tensors.
        UnsupportedNetworkError: operators of other domains, model functions, control flow, operators without a mapping.
    """
    graph = model.graph
    if not all(isinstance(name, str) for name in _names(graph)):
        raise UnsafeModelError("a name in the graph is no text in UTF-8")
    if len(graph.node) > limits.nodes or len(graph.initializer) > limits.tensors:
        found = f"{len(graph.node)} nodes and {len(graph.initializer)} tensors"
        raise UnsafeModelError(f"{found}; at most {limits.nodes} and {limits.tensors} are accepted")
    if model.functions or graph.sparse_initializer:
        raise UnsupportedNetworkError("model-local functions and sparse tensors are not supported; export a plain graph")
    for tensor in graph.initializer:
        _check_tensor(f"initializer {tensor.name!r}", tensor, limits)
    for index, node in enumerate(graph.node):
        where = f"node {node.name or index!r} ({node.op_type})"
        if node.domain not in ("", "ai.onnx"):
            raise UnsupportedNetworkError(f"{where}: operators of domain {node.domain!r} are not supported")
        if node.op_type not in OPERATORS and node.op_type not in KNOWN_CONSTANT_OPERATORS:
            raise UnsupportedNetworkError(f"{where}: operator {node.op_type} is not supported{_advice(node.op_type)}")
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs:
                raise UnsupportedNetworkError(f"{where}: control flow is not supported")
            if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
                raise UnsupportedNetworkError(f"{where}: sparse tensors are not supported; export a plain graph")
            for tensor in [attribute.t, *attribute.tensors] if attribute.HasField("t") or attribute.tensors else []:
                _check_tensor(f"{where}, attribute {attribute.name!r}", tensor, limits)


def _advice(op_type: str) -> str:
    if op_type.startswith("QLinear") or op_type in ("ConvInteger", "MatMulInteger"):
        return "; quantise the model in the format QDQ (QuantizeLinear and DequantizeLinear around float operators)"
    return ""


def _names(graph: onnx.GraphProto) -> Iterator[Any]:
    """Every name; protobuf gives those that are no text as bytes."""
    for value in [*graph.input, *graph.output, *graph.initializer]:
        yield value.name
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)


def _check_tensor(where: str, tensor: onnx.TensorProto, limits: OnnxLimits) -> None:
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise UnsafeModelError(f"{where}: external data is not accepted; save the model as one file")
    elements = math.prod(tensor.dims)
    if min(tensor.dims, default=0) < 0 or elements > limits.tensor_elements:
        raise UnsafeModelError(f"{where}: {elements} elements, at most {limits.tensor_elements} are accepted")


def _input(graph: onnx.GraphProto) -> tuple[str, tuple[int, int, int, int]]:
    """Name and shape of the image input; a free batch is 0."""
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1 or len(graph.output) != 1:
        names = [v.name for v in inputs], [v.name for v in graph.output]
        raise UnsupportedNetworkError(f"inputs {names[0]} and outputs {names[1]}: exactly one of each is supported")
    kind = inputs[0].type.tensor_type
    dims = [d.dim_value if d.HasField("dim_value") else 0 for d in kind.shape.dim]
    if kind.elem_type != onnx.TensorProto.FLOAT or len(dims) != 4:
        known = kind.elem_type in onnx.TensorProto.DataType.values()
        got = onnx.TensorProto.DataType.Name(kind.elem_type) if known else f"of unknown type {kind.elem_type}"
        raise UnsupportedNetworkError(
            f"input {inputs[0].name!r} is {got} {dims}; FLOAT (batch, channels, height, width) is supported"
        )
    if min(dims[1:]) < 1 or dims[0] < 0:
        raise UnsupportedNetworkError(f"input {inputs[0].name!r} is {dims}: export it with fixed channels, height and width")
    for name in (inputs[0].name, graph.output[0].name):
        if not 1 <= len(name) <= _MAX_NAME or not name.isprintable() or " " in name:
            raise UnsupportedNetworkError(f"name {name[:80]!r}: inputs and outputs need 1 to {_MAX_NAME} visible characters")
    return inputs[0].name, (dims[0], dims[1], dims[2], dims[3])


def _build(model: onnx.ModelProto, input_name: str, size: tuple[int, int, int], last: bool) -> fx.GraphModule:
    """Map every node; values that depend on weights and shapes only are computed at once.

    Args:
        size: ``(channels, height, width)``.
        last: whether the file's own input has its channels last; then they are moved there first.
    """
    opset = {o.domain: o.version for o in model.opset_import}.get("", 1)
    dim = _input(model.graph)[1][0]
    read = frozenset(name for node in model.graph.node for name in node.input) | {one.name for one in model.graph.output}
    builder = GraphBuilder(opset, OPERATORS, dim or None, read)
    for tensor in model.graph.initializer:
        builder.values[tensor.name] = _array(tensor)
    image = builder.placeholder(_identifier(input_name), size)
    builder.values[input_name] = builder.call(torch.ops.aten.permute.default, image, [0, 2, 3, 1]) if last else image
    for index, node in enumerate(model.graph.node):
        where = f"node {node.name or index!r} ({node.op_type})"
        try:
            builder.add(node)
        except UnsupportedOperatorError as error:
            raise UnsupportedNetworkError(f"{where}: {error}") from error
        except TechniqueError:
            raise
        except Exception as error:  # a malformed node: wrong attribute types, missing inputs, shapes that do not fit
            raise UnsupportedNetworkError(f"{where}: {type(error).__name__}: {str(error)[:200]}") from error
    output = builder.values.get(model.graph.output[0].name)
    if not isinstance(output, fx.Node):
        raise UnsupportedNetworkError(f"output {model.graph.output[0].name!r} does not depend on the input")
    builder.graph.output(output)
    return fx.GraphModule(builder.root, builder.graph)


def _array(tensor: onnx.TensorProto) -> np.ndarray[Any, Any]:
    try:
        return np.array(numpy_helper.to_array(tensor))
    except (ValueError, TypeError, KeyError, OverflowError) as error:  # KeyError: a type that does not exist
        raise UnsafeModelError(f"initializer {tensor.name[:120]!r}: {type(error).__name__}: {str(error)[:120]}") from None


def _identifier(name: str) -> str:
    plain = re.sub(r"\W", "_", name, flags=re.ASCII)
    return plain if plain.isidentifier() and not keyword.iskeyword(plain) else f"input_{plain}"


def _final_input(graph: onnx.GraphProto) -> str:
    """Name of what goes into the softmax or sigmoid that ends the graph; empty where something else does."""
    made_by = {name: node for node in graph.node for name in node.output}
    node = made_by.get(graph.output[0].name)
    while node is not None and node.op_type in _RESHAPES:
        node = made_by.get(node.input[0])
    return node.input[0] if node is not None and node.op_type in _FINAL and node.input[0] in made_by else ""


def _with_output(data: bytes, name: str) -> bytes:
    """The file with one of its values as its first output."""
    model = onnx.load_model_from_string(data)
    model.graph.output.insert(0, onnx.ValueInfoProto(name=name))
    tapped: bytes = model.SerializeToString()
    return tapped


def _onnx_runtime_output(data: bytes, input_name: str, batches: Sequence[Tensor], optimised: bool) -> Tensor:
    """What the file answers, batch by batch: one with a fixed batch says nothing of others, but the network takes any."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        return torch.cat([torch.from_numpy(session.run(None, {input_name: images.numpy()})[0]) for images in batches])
    except Exception as error:  # onnxruntime raises types of its own that share no base
        raise UnsupportedNetworkError(f"ONNX Runtime refuses the file: {str(error)[:300]}") from error
