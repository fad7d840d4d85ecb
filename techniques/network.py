"""The editable network: the one representation that every technique reads and returns (contract 1).

A `Network` wraps an ``fx.GraphModule`` whose convolutions, linears and norms are ordinary ``nn`` modules called from the
graph, so that any library which looks for modules works on it; every other operation is an ATen call. It has one float32
image input ``(batch, channels, height, width)`` and one output, mostly ``(batch, classes)``; the batch is always free.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx._lazy_graph_module import _make_graph_module, _use_lazy_graph_module

_INDEX_TYPES = (torch.int64, torch.int32, torch.bool)
TABLE = "operation_table"
"""Begins the names of constants that belong to the way of computing (divisors of a pool, weights of a resize) and are no parameters
of the network: buffers of the graph, and initialisers of an exported file."""


@dataclass(frozen=True)
class Network:
    """A convolutional classifier as an editable graph.

    Attributes:
        graph: called with a float32 tensor ``(batch, *input_shape)``, returns ``(batch, outputs)``.
        input_shape: ``(channels, height, width)`` that the graph expects.
        input_name: the input's name in the file it came from, kept through export.
        size_is_free: whether other heights and widths run too; if not, ``size_note`` says which node forbids it.
        size_note: the reason why the size is fixed, empty when it is free.
        is_classifier: whether an image's output is one row of logits or probabilities (`techniques.head`); any other network can be
            used label-free only.
        output_shape: of one image's output at ``input_shape``, without the batch: ``(n,)``, ``()`` or ``(c, h, w)``.
        erased: what the export that produced the file left out (stochastic depth, auxiliary heads), for the report.
    """

    graph: fx.GraphModule
    input_shape: tuple[int, int, int]
    input_name: str = "input"
    output_name: str = "logits"
    size_is_free: bool = True
    size_note: str = ""
    erased: tuple[str, ...] = field(default=())
    is_classifier: bool = True
    output_shape: tuple[int, ...] = ()

    def __call__(self, images: Tensor) -> Tensor:
        """Run the graph: ``(batch, channels, height, width)`` to ``(batch, outputs)``."""
        output: Tensor = self.graph(images)
        return output

    def clone(self) -> Network:
        """A copy to change: techniques never change their input. Meta networks share their (valueless) tensors with it."""
        return replace(self, graph=_copy_structure(self.graph) if self.is_meta else copy.deepcopy(self.graph))

    def with_own_modules(self) -> Network:
        """A copy of a meta network of which the modules may be changed, but not the graph: it is this one's."""
        assert self.is_meta, "real weights would be shared, and changed with the copy's"
        return replace(self, graph=_copy_module(self.graph, {}))

    def discard(self) -> None:
        """Give the weights' memory back now (graphs are cycles, collected late); the network cannot run any more."""
        for module in self.graph.modules():
            module._parameters.clear()
            module._buffers.clear()

    def to_meta(self) -> Network:
        """A copy on the meta device: shapes without values, for pricing a recipe in milliseconds.

        The copy is made without ever duplicating the weights' memory.
        """
        memo: dict[int, object] = {}
        for tensor in [*self.graph.parameters(), *self.graph.buffers()]:
            empty = torch.empty_like(tensor, device="meta")
            if tensor.dtype in _INDEX_TYPES and not tensor.is_meta:
                empty.values_of_meta = tensor.detach()  # type: ignore[attr-defined]  # which channels go follows from them
            memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
        return replace(self, graph=copy.deepcopy(self.graph, memo))

    @property
    def is_meta(self) -> bool:
        """Whether the weights are on the meta device (shapes only)."""
        return any(t.is_meta for t in chain(self.graph.parameters(), self.graph.buffers()))

    def train(self, mode: bool = True) -> Network:
        """Switch dropout and batch norm to training (or evaluation) behaviour, in place; returns itself."""
        self.graph.train(mode)
        return self

    def eval(self) -> Network:
        """Switch to evaluation behaviour, in place; returns itself."""
        return self.train(False)

    def example_input(self, batch: int = 2) -> Tensor:
        """A random input of the right shape, on meta where the network is."""
        device = "meta" if self.is_meta else "cpu"
        return torch.randn(batch, *self.input_shape, device=device)

    def parameter_count(self) -> int:
        """Stored weights of the network, integer ones included; shared ones count once."""
        integers = sum(b.numel() for name, b in self.graph.named_buffers() if name.rpartition(".")[2] == "weight")
        return sum(p.numel() for p in self.graph.parameters()) + integers

    def module_calls(self) -> Iterator[tuple[fx.Node, nn.Module]]:
        """The graph's calls of modules, in execution order."""
        for node in self.graph.graph.nodes:
            if node.op == "call_module":
                yield node, self.graph.get_submodule(node.target)

    def layers(self) -> dict[str, nn.Conv2d | nn.Linear]:
        """The layers that hold nearly all weights: convolutions and linears by qualified name, in execution order."""
        return {str(node.target): module for node, module in self.module_calls() if isinstance(module, nn.Conv2d | nn.Linear)}

    def rebuilt(self) -> Network:
        """The same network after its graph was edited: dead nodes and unused modules dropped, code regenerated."""
        self.graph.graph.eliminate_dead_code()
        if not self.is_meta:  # thousands of meta networks are priced; their code is generated when one is called
            self.graph.graph.lint()
        self.graph.delete_all_unused_submodules()
        self.graph.recompile()
        return self


def _copy_structure(source: fx.GraphModule) -> fx.GraphModule:
    """A graph module of its own modules and nodes around the same tensors; its code is generated when it is called."""
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in source.graph.nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    root, memo = nn.Module(), dict[int, object]()
    root._modules = {name: _copy_module(child, memo) for name, child in source._modules.items()}
    for kind in ("_parameters", "_buffers"):
        getattr(root, kind).update(getattr(source, kind))
    root.training = source.training
    with _use_lazy_graph_module(True):
        copied = _make_graph_module(root, graph)
    copied.training = source.training
    return copied


def _copy_module(module: Any, memo: dict[int, object]) -> Any:
    """A module or None. Attributes that are lists are copied once for all modules that share one (the parts of a split do)."""
    if module is None:
        return None
    result = object.__new__(module.__class__)  # a graph module's own way makes a class of its own, without code
    state = {key: copy.deepcopy(value, memo) if type(value) is list else value for key, value in module.__dict__.items()}
    for key in ("_parameters", "_buffers", "_non_persistent_buffers_set"):
        state[key] = state[key].copy()
    state["_modules"] = {name: _copy_module(child, memo) for name, child in module._modules.items()}
    result.__dict__ = state
    return result
