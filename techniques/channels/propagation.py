"""Sends labels of channels through a network, node by node.

What the graph does to data it does to labels: an operation that moves data is *executed* on the labels, so that its index map
is exact by construction. Worked example, ``relu(conv_a(x)).chunk(2, 1)`` whose halves are multiplied (a gated unit), ``conv_a``
with four outputs:

1. ``conv_a`` makes atoms 1 2 3 4; ReLU keeps them.
2. The halves carry the labels (1 2) and (3 4): the slices were taken of the labels.
3. The product joins what meets at a position, 1 with 3 and 2 with 4: two classes, {1 3} and {2 4}.
4. A linear layer behind it notes that its inputs 0 and 1 go with these classes.

Removing class {1 3} then means: outputs 0 and 2 of ``conv_a`` and input 0 of the linear layer go, the halves have one channel.
The idea of a class is DepGraph's coupled group (Fang et al. 2023, section 3.1); no rule says how an operation maps indices.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, fx

from techniques.channels.atoms import Atoms, Ids
from techniques.channels.values import Value
from techniques.errors import FAILURES
from techniques.network import Network
from techniques.network_checks import place
from techniques.shapes import Shape, propagate

BATCH = 2
MAX_PARAMETER_ATOMS = 2**22
AxisKind = Literal["in", "out", "norm"]
AdaptorKind = Literal["gather", "scatter", "mean", "amax"]


@dataclass(frozen=True)
class Adaptor:
    """What has to be put beside a node once channels are gone.

    Attributes:
        kind: ``gather`` picks the kept positions of an operand that has them all; ``scatter`` puts zeros back in; ``mean`` divides
            by the number of channels that there were; ``amax`` remembers that a removed channel was zero.
        operand: position in the node's arguments.
        dim: of that operand.
        atoms: labels along it.
    """

    node: str
    kind: AdaptorKind
    operand: int
    dim: int
    atoms: Ids


@dataclass
class Propagation:
    """State of one walk: what every node yields, and what was noted on the way."""

    network: Network
    atoms: Atoms = field(default_factory=Atoms)
    values: dict[fx.Node, Any] = field(default_factory=dict)
    axes: dict[tuple[str, AxisKind], Ids] = field(default_factory=dict)
    parameters: dict[str, Ids] = field(default_factory=dict)
    producers: dict[str, Ids] = field(default_factory=dict)
    adaptors: list[Adaptor] = field(default_factory=list)
    shapes: dict[fx.Node, Any] = field(default_factory=dict)
    """What every node yields, once a node is met that no rule follows."""

    def run(self) -> None:
        """Walk through the graph once; what an operation does not tell stays whole, with the operation as the reason."""
        from techniques.channels.function_rules import call_function
        from techniques.channels.module_rules import call_module

        modules = dict(self.network.graph.named_modules())
        for node in self.network.graph.graph.nodes:
            if node.op == "placeholder":
                self.values[node] = Value.always((BATCH, *self.network.input_shape))
            elif node.op == "get_attr":
                self.values[node] = self._attribute(str(node.target))
            elif node.op == "output":
                self.fix(node.all_input_nodes, "is the network's output")
            elif node.op == "call_module":
                self.values[node] = self._followed(node, lambda n: call_module(self, n, modules[str(n.target)]))
            else:
                self.values[node] = self._followed(node, lambda n: call_function(self, n))

    def _followed(self, node: fx.Node, rule: Callable[[fx.Node], Any]) -> Any:
        """What the rule yields; where it fails, nothing that the node reads may go, with that as the reason."""
        try:
            return rule(node)
        except FAILURES as error:
            first = str(error).splitlines()[0] if str(error) else ""
            return self.always(node, f"could not be followed ({type(error).__name__}: {first})")

    def of(self, item: Any) -> Any:
        """Arguments with values in the place of nodes."""
        return fx.node.map_arg(item, self.values.__getitem__)

    def fix(self, nodes: list[fx.Node], reason: str) -> None:
        """Every channel that these nodes carry stays."""
        for node in nodes:
            for value in _values(self.values[node]):
                self.atoms.fix(value.ids(), reason)

    def always(self, node: fx.Node, reason: str) -> Any:
        """The node's result as positions that always stay, after fixing all that it reads."""
        self.fix(node.all_input_nodes, f"{place(node)} {reason}")
        if not self.shapes:
            self.shapes.update(propagate(self.network, BATCH))
        return _stand_in(self.shapes[node])

    def note(self, module: str, kind: AxisKind, ids: Ids) -> None:
        """A module's axis goes with these labels; a second call joins its own to the first's."""
        known = self.axes.setdefault((module, kind), ids)
        if known is not ids:
            self.meet(known, ids, f"layer {module!r} is called twice, once with channels that always stay")

    def meet(self, first: Ids, second: Ids, reason: str) -> None:
        """Join position by position; what meets a position that always stays does so too."""
        self.atoms.join(first, second)
        self.atoms.fix(first[second <= 0], reason)
        self.atoms.fix(second[first <= 0], reason)

    def unified(self, value: Value, dim: int, reason: str) -> Ids:
        """One label per index along ``dim``: all that it meets are joined."""
        slices = value.slices(dim)
        if slices.shape[1] > 1:
            first = np.broadcast_to(slices.max(axis=1, keepdims=True), slices.shape)
            self.meet(first, slices, reason)
        return np.asarray(slices.max(axis=1)) if slices.shape[1] else np.zeros(value.shape[dim], np.int64)

    def _attribute(self, path: str) -> Any:
        tensor: Any = self.network.graph
        for part in path.split("."):
            tensor = getattr(tensor, part)
        if not isinstance(tensor, Tensor):
            return tensor
        if not tensor.is_floating_point():
            return getattr(tensor, "values_of_meta", tensor)
        if tensor.numel() > MAX_PARAMETER_ATOMS:
            return Value.always(tuple(tensor.shape))
        if path not in self.parameters:
            self.parameters[path] = self.atoms.new(tensor.numel()).reshape(tuple(tensor.shape))
        ids = torch.from_numpy(self.parameters[path].astype(np.float64))
        return Value(tuple(tensor.shape), ids, True)


def on_meta(state: Propagation, node: fx.Node) -> Any:
    """What a function yields, computed on meta tensors."""

    def tensor(value: Any) -> Any:
        if isinstance(value, Value):
            return torch.empty(value.shape, dtype=value.dtype, device="meta")
        if isinstance(value, Tensor):
            return value.to("meta")
        if isinstance(value, list | tuple):
            return type(value)(tensor(v) for v in value)
        return value

    args, kwargs = tensor(state.of(node.args)), {k: tensor(v) for k, v in state.of(node.kwargs).items()}
    with torch.no_grad():
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        if node.op == "call_module":
            module = state.network.graph.get_submodule(str(node.target))
            held = {k: v.to("meta") for k, v in [*module.named_parameters(), *module.named_buffers()]}
            return torch.func.functional_call(module, held, args, kwargs)
        return node.target(*args, **kwargs)  # type: ignore[operator]


def _stand_in(result: Any) -> Any:
    if isinstance(result, Shape):
        return Value.always(tuple(result), result.dtype)
    if isinstance(result, list | tuple):
        return [_stand_in(item) for item in result]
    return result


def _values(item: Any) -> list[Value]:
    if isinstance(item, Value):
        return [item]
    if isinstance(item, list | tuple):
        return [value for part in item for value in _values(part)]
    return []


PYTHON_OPERATORS = frozenset({operator.add, operator.sub, operator.mul, operator.floordiv, operator.truediv, operator.mod})
