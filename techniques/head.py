"""What a network's output means: a row of classes, a single decision, or plain values, and which activation ends it.

Training, importance and sensitivity work on *logits*: what goes into a softmax or sigmoid that ends the network. A file keeps
its activation; its outputs become logits by the activation's inverse. Logits of one image are a row:

======== ====================================== ===========================================================
task     the network decides                    row
======== ====================================== ===========================================================
classes  one of several classes                 one logit per class; of a single logit ``z``, ``(0, z)``
labels   yes or no for each label               one logit per label, yes above 0
values   nothing: maps, regressions             the outputs themselves (of large ones, `MAX_VALUES` fixed places)
======== ====================================== ===========================================================

``(0, z)`` has the softmax ``(1 - sigmoid(z), sigmoid(z))``: cross entropy on it *is* binary cross entropy, also at a temperature,
and its argmax decides at 0. So a single logit is two classes wherever losses and metrics are concerned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from techniques.bounds import bounds_of, is_share, operation, within
from techniques.effort import FLOAT32
from techniques.network import Network
from techniques.shapes import node_shapes
from techniques.training.device import forward

Task = Literal["classes", "labels", "values"]
Activation = Literal["none", "softmax", "log_softmax", "sigmoid"]

MAX_VALUES = 2048
"""Values of an image's output that are compared: places of a large map that are drawn once, the same for every image."""
_TINY = 1e-38
_CLOSEST = 2.0**-24
"""Nearest that a float32 sigmoid comes to 1 without being 1."""
FINAL_ACTIVATIONS: Mapping[str, Activation] = {
    "softmax": "softmax",
    "_softmax": "softmax",
    "log_softmax": "log_softmax",
    "_log_softmax": "log_softmax",
    "sigmoid": "sigmoid",
}
_MODULES: dict[type[nn.Module], Activation] = {nn.Softmax: "softmax", nn.LogSoftmax: "log_softmax", nn.Sigmoid: "sigmoid"}
_RESHAPES = frozenset(
    {
        "flatten",
        "view",
        "reshape",
        "_unsafe_view",
        "squeeze",
        "unsqueeze",
        "contiguous",
        "clone",
        "alias",
        "detach",
        "_to_copy",
        "to",
    }
)
_PICKS = frozenset({"select", "slice", "narrow"})


@dataclass(frozen=True)
class Head:
    """The end of a network.

    Attributes:
        shape: of one image's output; empty for one number per image.
        activation: what ends the network, reshapes left aside. A map's is none: its values are taken as they are.
    """

    shape: tuple[int, ...]
    activation: Activation = "none"

    @property
    def outputs(self) -> int:
        """Numbers per image."""
        return math.prod(self.shape)

    @property
    def is_row(self) -> bool:
        """Whether an image's outputs are one row: the network gives ``(n,)``, ``(n, c)``, ``(n, c, 1, 1)`` or ``(n, 1, 1, c)``."""
        return self.outputs in (*self.shape[:1], *self.shape[-1:], 1) and self.outputs > 0

    @property
    def classes(self) -> int:
        """How many classes can be told apart: 2 by a single logit, 0 by what is no row."""
        if not self.is_row:
            return 0
        return 2 if self.outputs == 1 else self.outputs


def find_head(network: Network) -> Head:
    """Shape and activation of a network's output, read off its graph."""
    node, shapes = _final_activation(network), node_shapes(network)
    head = Head(tuple(shapes[_output(network).name][1:]))
    if head.outputs == 1 and _is_one_of_two(network):
        return Head(head.shape, "sigmoid")
    if node is None and head.is_row and within(bounds_of(network.graph, _output(network))):
        # Heads joined, clipped or averaged probabilities: those of labels are decided at 0.5 each.
        return Head(head.shape, _joined_activation(network))
    if node is None or not head.is_row:
        return head
    return Head(head.shape, _activation_of(network, node))


def training_logits(network: Network, task: Task, dtype: str = FLOAT32) -> Callable[[Tensor], Tensor]:
    """The network up to its final activation: images to logits ``(n, columns)`` as the table above says, always float32.

    The network computes in ``dtype``, see `techniques.training.device.forward`. Layers are shared with it: gradients reach them,
    and their training and evaluation behaviour is the network's.
    """
    head = find_head(network)
    node = _final_activation(network) if head.is_row else None
    if node is None:
        return lambda images: logits_of(forward(network, images, dtype), head, task)
    module = _up_to(network, node)
    return lambda images: _rows(forward(module, images, dtype), head, task)


def final_rows(network: Network, images: Tensor) -> Tensor | None:
    """All numbers that go into the final activation, ``(n, numbers)``; None where no single one ends the graph."""
    node = _final_activation(network)
    if node is None:
        return None
    rows: Tensor = _up_to(network, node)(images).flatten(1)
    return rows


def final_input(graph: fx.Graph) -> fx.Node | None:
    """Of a graph of ATen calls: what goes into the softmax or sigmoid that ends it; None where something else does."""
    node: Any = next(n for n in reversed(graph.nodes) if n.op == "output").args[0]
    while isinstance(node, list | tuple | dict) and node:
        node = next(iter(node.values())) if isinstance(node, dict) else node[0]
    while isinstance(node, fx.Node) and operation(node) in _RESHAPES:
        node = _data_input(node)
    return _data_input(node) if isinstance(node, fx.Node) and operation(node) in FINAL_ACTIVATIONS else None


def _up_to(network: Network, node: fx.Node) -> fx.GraphModule:
    """The network up to a node's input, around the same layers."""
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for original in network.graph.graph.nodes:
        if original is node:
            break
        copies[original] = graph.node_copy(original, copies.__getitem__)
    graph.output(copies[_data_input(node)])
    return fx.GraphModule(network.graph, graph)


def logits_of(outputs: Tensor, head: Head, task: Task) -> Tensor:
    """Logits ``(n, columns)`` of what a network or its file gives; for ``values`` the outputs themselves."""
    if task == "values":
        return _rows(outputs, head, task)
    if head.activation == "softmax":
        outputs = outputs.clamp(min=_TINY).log()
    elif head.activation == "sigmoid":
        outputs = torch.logit(outputs.clamp(_TINY, 1 - _CLOSEST))
    return _rows(outputs, head, task)


def _rows(values: Tensor, head: Head, task: Task) -> Tensor:
    rows = values.reshape(len(values), -1)
    if task == "values":
        places = _places(head.outputs)
        return rows if places is None else rows[:, places]
    return torch.cat([torch.zeros_like(rows), rows], 1) if head.outputs == 1 and task == "classes" else rows


def _places(outputs: int) -> Tensor | None:
    if outputs <= MAX_VALUES:
        return None
    return torch.randperm(outputs, generator=torch.Generator().manual_seed(outputs))[:MAX_VALUES].sort().values


def _output(network: Network) -> fx.Node:
    output = next(node for node in reversed(network.graph.graph.nodes) if node.op == "output")
    result = output.args[0]
    if not isinstance(result, fx.Node):
        raise TypeError(f"the graph returns a {type(result).__name__}, not one tensor")
    return result


def _final_activation(network: Network) -> fx.Node | None:
    """The softmax or sigmoid that ends the graph, seen through what only reshapes; None if another operation does."""
    node = _behind_reshapes(network, _output(network))
    activation = _activation_of(network, node)
    return node if activation == "sigmoid" or (activation != "none" and _spans_classes(network, node)) else None


def _joined_activation(network: Network) -> Activation:
    """Of probabilities that several operations have made: a softmax's where softmaxes over all classes come last on every way to
    the output, a sigmoid's where none does; of anything else nothing is known."""
    waiting, seen, found, shapes = [_output(network)], set[fx.Node](), set[str](), node_shapes(network)
    whole = math.prod(shapes[waiting[0].name][1:])
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            written_out = _written_out(network, node)
            kind = written_out or _activation_of(network, node)
            spans = bool(written_out) or (kind == "softmax" and _spans_classes(network, node))
            is_part = kind == "softmax" and not (spans and math.prod(shapes[node.name][1:]) == whole)
            found.add("part" if is_part else kind)
            waiting += node.all_input_nodes if kind == "none" else ()
    if found & {"softmax", "part", "log_softmax"}:
        return "softmax" if not found & {"part", "log_softmax", "sigmoid"} else "none"
    return "sigmoid"


def _written_out(network: Network, node: fx.Node) -> Activation | None:
    """``exp`` of a log-softmax, or values over their sum over all classes: a softmax of the values' logarithms."""
    if operation(node) == "exp":
        source = _behind_reshapes(network, _data_input(node))
        return "softmax" if _activation_of(network, source) == "log_softmax" and _spans_classes(network, source) else None
    if not is_share(node):
        return None
    shape, over = (node_shapes(network)[one.name] for one in (node, node.args[1]) if isinstance(one, fx.Node))
    return "softmax" if math.prod(over[1:]) == 1 and len(over) == len(shape) else None


def _is_one_of_two(network: Network) -> bool:
    """Whether the one output is picked from a softmax over two classes: a probability as a sigmoid's, of their difference."""
    node = _behind_reshapes(network, _output(network))
    while operation(node) in _PICKS:
        node = _behind_reshapes(network, _data_input(node))
    return _activation_of(network, node) == "softmax" and _spans_classes(network, node) and node_shapes(network)[node.name][1] == 2


def _behind_reshapes(network: Network, node: fx.Node) -> fx.Node:
    while _only_reshapes(network, node):
        node = _data_input(node)
    return node


def _only_reshapes(network: Network, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(network.graph.get_submodule(str(node.target)), nn.Flatten | nn.Identity | nn.Unflatten | nn.Dropout)
    if operation(node) in _PICKS:
        shapes = node_shapes(network)
        return math.prod(shapes[node.name]) == math.prod(shapes[_data_input(node).name])
    return operation(node) in _RESHAPES


def _activation_of(network: Network, node: fx.Node) -> Activation:
    if node.op == "call_module":
        return _MODULES.get(type(network.graph.get_submodule(str(node.target))), "none")
    return FINAL_ACTIVATIONS.get(operation(node), "none")


def _spans_classes(network: Network, node: fx.Node) -> bool:
    """Whether a softmax runs over all of an image's outputs: one over a part of them tells several things at once."""
    shape = node_shapes(network)[node.name]
    dim: Any = network.graph.get_submodule(str(node.target)).dim if node.op == "call_module" else _argument(node, 1, "dim")
    return isinstance(dim, int) and dim % len(shape) != 0 and shape[dim] == math.prod(shape[1:])


def _argument(node: fx.Node, position: int, name: str) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name)


def _data_input(node: fx.Node) -> fx.Node:
    source = node.args[0] if node.args else next(iter(node.kwargs.values()))
    if not isinstance(source, fx.Node):
        raise TypeError(f"node {node.name} ({node.target}) reads no tensor first")
    return source
