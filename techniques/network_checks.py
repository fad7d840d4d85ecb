"""What is checked before a network is accepted: same outputs, any batch, other sizes, and what was refused says where."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from techniques.errors import UnsupportedNetworkError
from techniques.head import final_input, final_rows, find_head
from techniques.network import Network

BATCHES = (1, 2, 7)
RELATIVE_TOLERANCE = 1e-5
_ALONE_TOLERANCE, _ALONE_TOLERANCE_QUANTIZED = 1e-4, 0.05
"""Kernels of another batch size round differently, and behind a quantiser a rounding error is a whole step."""


_UNCHECKED = re.compile(r"aten\.(_unsafe_)?(index|gather|scatter|take|embedding|put|masked)")
"""On shapes alone nobody sees whether indices lie within what they pick from."""


def check_input_size(shape: tuple[int, ...], most: int) -> None:
    """Refuse an input that is empty or too large to run once.

    Raises:
        UnsupportedNetworkError: with the size and the limit.
    """
    elements = math.prod(shape)
    if not 0 < elements <= most or min(shape) < 1:
        raise UnsupportedNetworkError(f"an input of shape {shape} has {elements:,} elements; 1 to {most:,} are accepted")


class _NamingInterpreter(fx.Interpreter):
    """Runs a graph and remembers which node was running."""

    current: fx.Node | None = None

    def run_node(self, n: fx.Node) -> Any:
        self.current = n
        return super().run_node(n)


def place(node: fx.Node | None) -> str:
    """Where a node stands: its name, its operation and the module of the original that it came from."""
    if node is None:
        return "the graph"
    stack = node.meta.get("nn_module_stack") or {}
    path = next((str(entry[0]) for entry in reversed(list(stack.values())) if entry[0]), "")
    return f"node {node.name!r} ({node.target})" + (f" in module {path!r}" if path else "")


@contextlib.contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """Run something in a training mode: statistics that move are put back, and the random numbers are the same each time."""
    before = [(buffer, buffer.detach().clone()) for buffer in module.buffers() if not buffer.is_meta]
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)


def relative_error(output: Tensor, reference: Tensor) -> float:
    """Largest difference over the scale of the reference."""
    scale = float(reference.abs().max()) or 1.0
    return float((output - reference).abs().max()) / scale


def run(module: fx.GraphModule, images: Tensor) -> Any:
    """Run a graph without gradients, on a copy of the images; its statistics are put back.

    Raises:
        UnsupportedNetworkError: it does not run; the message names the node.
    """
    interpreter = _NamingInterpreter(module, garbage_collect_values=True)
    try:
        with torch.no_grad(), unchanged(module):
            return interpreter.run(images.clone())
    except Exception as error:
        first_line = str(error).strip().partition("\n")[0]
        raise UnsupportedNetworkError(f"{place(interpreter.current)}: {first_line}") from error


def _run(network: Network, images: Tensor) -> Tensor:
    output = run(network.graph, images)
    if not isinstance(output, Tensor):
        raise UnsupportedNetworkError(f"the output is a {type(output).__name__}, not one tensor")
    return output


def with_shape_facts(network: Network) -> Network:
    """The network with its size and output facts, after checking on shapes alone (meta tensors) that the batch is free.

    Raises:
        UnsupportedNetworkError: a batch size is baked in; the message names the node.
    """
    meta = network.to_meta()
    expected = _checked_batches(meta)
    note = _size_note(meta, expected)
    if not note and not network.is_meta and any(_UNCHECKED.search(str(node.target)) for node in network.graph.graph.nodes):
        note = _size_note(network, expected)
    found = replace(network, size_is_free=not note, size_note=note, output_shape=expected[1:])
    return replace(found, is_classifier=find_head(found).is_row)


def _checked_batches(meta: Network) -> tuple[int, ...]:
    """Run every batch of `BATCHES`; returns the output's shape at batch 2."""
    shapes: dict[int, tuple[int, ...]] = {}
    for batch in BATCHES:
        try:
            shapes[batch] = tuple(_run(meta, torch.empty(batch, *meta.input_shape, device="meta")).shape)
        except UnsupportedNetworkError as error:
            raise UnsupportedNetworkError(f"batch {batch} does not run: {error}") from error
        if shapes[batch][:1] != (batch,):
            raise UnsupportedNetworkError(f"batch {batch} gives an output of shape {shapes[batch]}: the batch is not kept")
    return shapes[2]


def _size_note(network: Network, expected: tuple[int, ...]) -> str:
    """Why 1.5 times or half the height and width do not run; empty when they do."""
    channels, height, width = network.input_shape
    for factor in (1.5, 0.5):
        size = (max(1, round(height * factor)), max(1, round(width * factor)))
        try:
            shape = tuple(_run(network, torch.zeros(2, channels, *size, device="meta" if network.is_meta else None)).shape)
        except UnsupportedNetworkError as error:
            return f"{size[0]}x{size[1]}: {error}"
        if shape != expected:
            return f"{size[0]}x{size[1]} gives an output of shape {shape}, not {expected}"
    return ""


class _Remembering(fx.Interpreter):
    """Keeps the value of every node."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.values[n] = super().run_node(n)
        return self.values[n]


def _first_mixing(network: Network, images: Tensor, tolerance: float) -> str:
    """The first node whose value for an image depends on the others."""
    batch, single = _Remembering(network.graph), _Remembering(network.graph)
    with torch.no_grad(), unchanged(network.graph):
        batch.run(images.clone())
        single.run(images[:1].clone())
    for node, value in batch.values.items():
        alone = single.values[node]
        if node.op == "get_attr" or not isinstance(value, Tensor) or not value.is_floating_point():
            continue
        if value.shape[:1] == images.shape[:1] and alone.shape == value[:1].shape and relative_error(alone, value[:1]) > tolerance:
            return place(node)
    return "the network"


def _has_quantizers(network: Network) -> bool:
    nodes = network.graph.graph.nodes
    return any("quantize" in str(node.target) for node in nodes) or any(
        isinstance(getattr(module, "bits", None), int) for module in network.graph.modules()
    )


def check_outputs(
    network: Network,
    images: Tensor,
    reference: Tensor,
    tolerance: float = RELATIVE_TOLERANCE,
    training: Mapping[str, bool] | None = None,
) -> None:
    """Check that the lifted graph computes what the original computed, and each image on its own what it computed in a batch.

    Args:
        network: in evaluation mode, and left in it.
        training: which modules the original ran in training mode, by name; batch statistics and dropout count there.

    Raises:
        UnsupportedNetworkError: it does not.
    """
    if not reference.is_floating_point():
        raise UnsupportedNetworkError(
            f"the network's output is {reference.dtype}, a decision and not what it is decided by: remove the ArgMax, TopK or "
            "comparison that ends it and export the logits or probabilities"
        )
    for name, mode in (training or {}).items():
        network.graph.get_submodule(name).training = mode
    try:
        output = _run(network, images)
    finally:
        network.eval()
    if output.shape != reference.shape:
        raise UnsupportedNetworkError(f"the lifted graph returns {tuple(output.shape)}, the original {tuple(reference.shape)}")
    if not bool(torch.isfinite(reference).all()):
        raise UnsupportedNetworkError("the original's outputs are not finite numbers: look for NaN or infinity in its weights")
    batch = _run(network, images) if any((training or {}).values()) else output
    single = _run(network, images[:1])
    alone = _ALONE_TOLERANCE_QUANTIZED if _has_quantizers(network) else _ALONE_TOLERANCE
    if not relative_error(single, batch[:1]) <= max(tolerance, alone):
        where = _first_mixing(network, images, alone)
        raise UnsupportedNetworkError(f"{where}: an image alone gives another value than in a batch: the network mixes images")
    error = relative_error(output, reference)
    if not error <= tolerance:
        raise UnsupportedNetworkError(f"the lifted graph differs from the original by {error:.1e} of the output's scale")


class _Tapping(fx.Interpreter):
    """Keeps the value of one node."""

    def __init__(self, module: fx.GraphModule, node: fx.Node) -> None:
        super().__init__(module, garbage_collect_values=True)
        self._node = node
        self.value: Any = None

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n is self._node:
            self.value = value.detach().clone()
        return value


def before_activation(source: fx.GraphModule, images: Tensor) -> Tensor | None:
    """What goes into the softmax or sigmoid that ends a graph of ATen calls; None where nothing of the kind does."""
    node = final_input(source.graph)
    if node is None:
        return None
    tapping = _Tapping(source, node)
    with torch.no_grad(), unchanged(source):
        tapping.run(images.clone())
    return tapping.value if isinstance(tapping.value, Tensor) else None


def check_logits(network: Network, images: Tensor, reference: Tensor, tolerance: float = RELATIVE_TOLERANCE) -> None:
    """Check what goes into the final activation, too: behind a saturated one, outputs agree whatever came before it.

    Raises:
        UnsupportedNetworkError: it is not what went into the original's.
    """
    with torch.no_grad():
        rows = final_rows(network, images)
    if rows is None or rows.shape != reference.flatten(1).shape:
        return  # the activation was rewritten, or several share the output: the outputs themselves were compared
    error = relative_error(rows, reference.flatten(1))
    if not error <= tolerance:
        raise UnsupportedNetworkError(f"in front of the final activation the lifted graph differs by {error:.1e} of the scale")
