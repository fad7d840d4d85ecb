"""Where an exported file and its network part: values inside of both, side by side.

Integer files: the file's QuantizeLinear nodes are the network's quantisers, in order; equal ones of one value, which the exporter
merges, are one node. Their outputs in the runtime are put in place
of the simulation's, one by one, so that each layer is judged on the very inputs that the runtime gave it (worked example: a wrapped
bias in layer 2 moves everything behind it; only layer 2's own output differs from the simulation on the same inputs).

Float files: layers are found in the file by their weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper
from onnxruntime import InferenceSession
from torch import Tensor, fx, nn

from paretopress.runtime.session import input_spec, open_session
from techniques.export_rewrites import exact_operations
from techniques.folding import fold_batch_norms
from techniques.network import Network
from techniques.quantization.layers import ActivationQuantizer

MOST_STEPS = 2.0
"""A runtime rounds at most twice where the simulation rounds once (a sum after its inputs were brought to one scale)."""
RARE = 1e-4
"""Share of a value's elements that may lie further off: float32 sums of thousands of products end beside an edge."""
OUTPUT_ERROR = 0.01
"""Of the outputs' scale, given the last quantised values: the last layer's bias in whole steps is the largest part of it."""
_FLOAT_LAYER_ERROR = 1e-4
Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Deviation:
    """One place where file and network part.

    Attributes:
        node: the graph's node whose value differs.
        layers: the layers that make this value or, where none does, those that read it.
        amount: how much, in words.
    """

    node: str
    layers: tuple[str, ...]
    amount: str

    def describe(self) -> str:
        """For a message."""
        return f"at {self.node} (layers {', '.join(self.layers) or 'none'}): {self.amount}"


@dataclass(frozen=True)
class Compared:
    """All deviations of an integer file and the number of elements that were compared; 0 where its nodes could not be matched."""

    deviations: tuple[Deviation, ...]
    values: int


def integer_deviations(network: Network, data: bytes, images: Tensor, threads: int, optimization: str) -> Compared:
    """Compare every quantised value, and the outputs, on the runtime's own inputs to each."""
    model = onnx.load_from_string(data)
    pairs = _quantizer_outputs(network, model)
    if not pairs:
        return Compared((), 0)
    tapped = _with_outputs(model, [(name, _integer_type(model, name)) for name in dict.fromkeys(pairs.values())])
    forced = _Forced(network.graph)
    session = open_session(tapped, threads, optimization)
    for image in torch.split(images, 1):
        values = _run(session, image)
        with torch.no_grad():
            forced.compare(image, {node: values[name] for node, name in pairs.items()}, values[network.output_name])
    return Compared(forced.deviations(), forced.compared)


def first_float_deviation(network: Network, data: bytes, image: Tensor, threads: int, optimization: str) -> Deviation | None:
    """The first layer, in execution order, whose output differs; None where no layer's does (what differs lies behind them)."""
    folded = exact_operations(fold_batch_norms(network)).rebuilt()
    model = onnx.load_from_string(data)
    pairs = _layer_outputs(folded, model)
    tapped = _with_outputs(model, [(name, onnx.TensorProto.FLOAT) for name in pairs.values()])
    found = _run(open_session(tapped, threads, optimization), image)
    values = _Values(folded.graph, pairs)
    with torch.no_grad():
        values.run(image)
    for node, expected in values.kept.items():
        scale = max(float(expected.abs().max()), 1e-6)
        error = float((torch.from_numpy(found[pairs[node.name]]) - expected).abs().max()) / scale
        if not error <= _FLOAT_LAYER_ERROR:
            return Deviation(node.name, (str(node.target),), f"{error:.2g} of its scale, by the layer or by what feeds it")
    last = list(values.kept)[-1:] if values.kept else []
    return Deviation("the outputs", tuple(str(node.target) for node in last), "in what follows the last layer") if last else None


def _quantizer_outputs(network: Network, model: onnx.ModelProto) -> dict[str, str]:
    """Graph node of each quantiser to the ONNX value that it writes; empty where they do not correspond."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    quantizers = [(n, m) for n, m in network.module_calls() if isinstance(m, ActivationQuantizer)]
    written = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    calls = [call for call, _ in quantizers]
    firsts_of = dict(zip(calls, calls, strict=True)) if len(written) == len(quantizers) else _equal_nodes(network)
    merged = [firsts_of[call] for call in calls]
    firsts = list(dict.fromkeys(merged))
    if len(written) != len(firsts):
        return {}
    writes = dict(zip(firsts, written, strict=True))
    for (_, module), first in zip(quantizers, merged, strict=True):
        node = writes[first]
        if node.input[1] not in constants or float(numpy_helper.to_array(constants[node.input[1]]).reshape(())) != module.scale:
            return {}
    return {call.name: writes[first].output[0] for (call, _), first in zip(quantizers, merged, strict=True)}


def _equal_nodes(network: Network) -> dict[fx.Node, fx.Node]:
    """Each node to the first one that computes the same of the same values: what the exporter makes one of."""
    modules, first, seen = dict(network.graph.named_modules()), dict[fx.Node, fx.Node](), dict[tuple[str, ...], fx.Node]()
    for node in network.graph.graph.nodes:
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        what = module.extra_repr() + repr(module.scale) if isinstance(module, ActivationQuantizer) else str(node.target)
        arguments = fx.node.map_arg((node.args, node.kwargs), first.__getitem__)
        first[node] = seen.setdefault((node.op, what, repr(arguments)), node)
    return first


def _integer_type(model: onnx.ModelProto, value: str) -> int:
    """Element type of what a QuantizeLinear writes: its zero point's."""
    node = next(node for node in model.graph.node if value in node.output)
    zero_point = next((t for t in model.graph.initializer if len(node.input) > 2 and t.name == node.input[2]), None)
    return int(zero_point.data_type) if zero_point is not None else int(onnx.TensorProto.UINT8)


def _layer_outputs(network: Network, model: onnx.ModelProto) -> dict[str, str]:
    """Graph node of each layer to its output in the file, by equal weights; equal layers in the order of their calls."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    free = [n for n in model.graph.node if n.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul") and n.input[1] in constants]
    pairs: dict[str, str] = {}
    for call, module in network.module_calls():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, Tensor):
            continue
        wanted = weight.detach().numpy()
        for node in free:
            stored = constants[node.input[1]]
            if stored.shape == wanted.shape and np.array_equal(stored, wanted):
                break
            if stored.ndim == 2 and stored.T.shape == wanted.shape and np.array_equal(stored.T, wanted):
                break
        else:
            continue
        free.remove(node)
        pairs[call.name] = node.output[0]
    return pairs


def _with_outputs(model: onnx.ModelProto, values: Sequence[tuple[str, int]]) -> bytes:
    have = {output.name for output in model.graph.output}
    for name, kind in values:
        if name not in have:
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
    return bytes(model.SerializeToString())


def _run(session: InferenceSession, image: Tensor) -> Arrays:
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {input_spec(session).name: image.numpy()}), strict=True))


class _Values(fx.Interpreter):
    """Keeps the values of the named nodes."""

    def __init__(self, graph: fx.GraphModule, nodes: Mapping[str, str]) -> None:
        super().__init__(graph)
        self._nodes = nodes
        self.kept: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self._nodes:
            self.kept[n] = value
        return value


class _Forced(fx.Interpreter):
    """Runs the simulation with the runtime's integers in place of its own, and counts the elements that lie too far apart."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self._integers: Arrays = {}
        self._worst: dict[fx.Node, float] = {}
        self._wrong: dict[fx.Node, int] = {}
        self._seen: dict[fx.Node, int] = {}
        self._nodes = tuple(graph.graph.nodes)
        self._output_error = 0.0
        self.compared = 0

    def compare(self, image: Tensor, integers: Arrays, outputs: npt.NDArray[Any]) -> None:
        """Run one image, given each quantiser's integers and the outputs in the runtime."""
        self._integers = integers
        expected = self.run(image).numpy()
        scale = max(float(np.abs(expected).max()), 1e-6)
        self._output_error = max(self._output_error, float(np.abs(outputs - expected).max()) / scale)

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name not in self._integers:
            return value
        module = self.submodules[str(n.target)]
        assert isinstance(module, ActivationQuantizer)
        real = (torch.from_numpy(self._integers[n.name].astype(np.float32)) - module.zero_point) * module.scale
        steps = (value - real).abs() / module.scale
        self.compared += steps.numel()
        self._seen[n] = self._seen.get(n, 0) + steps.numel()
        self._wrong[n] = self._wrong.get(n, 0) + int((steps > MOST_STEPS + 0.01).sum())
        self._worst[n] = max(self._worst.get(n, 0.0), float(steps.max()))
        return real

    def deviations(self) -> tuple[Deviation, ...]:
        """The quantisers whose values lie too far apart, in execution order."""
        found = []
        for node, seen in self._seen.items():
            if self._wrong[node] > RARE * seen:
                amount = f"{self._wrong[node] / seen:.2%} of it, up to {self._worst[node]:.0f} steps"
                found.append(Deviation(node.all_input_nodes[0].name, self._layers_at(node), amount))
        if not self._output_error <= OUTPUT_ERROR:
            output = next(n for n in self._nodes if n.op == "output")
            found.append(Deviation("the outputs", self._layers_at(output), f"{self._output_error:.2g} of their scale"))
        return tuple(found)

    def _layers_at(self, node: fx.Node) -> tuple[str, ...]:
        """The layers between the quantisers before a node and itself; where there are none, those that read it next."""
        return self._reached(node, lambda n: n.all_input_nodes) or self._reached(node, lambda n: list(n.users))

    def _reached(self, node: fx.Node, neighbours: Callable[[fx.Node], Sequence[fx.Node]]) -> tuple[str, ...]:
        found, seen, waiting = dict[str, None](), set[fx.Node](), list(neighbours(node))
        while waiting:
            each = waiting.pop()
            module = self.submodules.get(str(each.target)) if each.op == "call_module" else None
            if isinstance(module, nn.Conv2d | nn.Linear):
                found[str(each.target)] = None
            elif each not in seen and not isinstance(module, ActivationQuantizer):
                waiting.extend(neighbours(each))
            seen.add(each)
        return tuple(found)
