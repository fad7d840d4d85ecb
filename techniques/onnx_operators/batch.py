"""Frees the batch that an exporter has written into a file.

Where a file has a batch of its own, sizes and constants hold it as a plain number. A reshape keeps the order of the elements: what
lies before the batch says which axis it becomes part of. A constant of one entry stands for every image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import fx

from techniques.onnx_graph import BATCH, GraphBuilder
from techniques.onnx_operators.arguments import aten, shape


def freed_sizes(b: GraphBuilder, x: fx.Node, sizes: list[int]) -> tuple[list[int], dict[int, int]]:
    """The sizes of a reshape with the free batch in them, and what lies before the batch inside of its axis (see ``inner``).

    Sizes stay as they are where the file leaves the batch free, and where no axis can take it.
    """
    given = shape(x)
    holding = [axis for axis, size in enumerate(given) if size and size % BATCH == 0]
    if b.file_batch is None or len(holding) != 1 or not sizes or any(s and s % BATCH == 0 for s in sizes):
        return sizes, {}
    elements = math.prod(given) // BATCH * b.file_batch
    known = math.prod(size for size in sizes if size != -1)
    full = [elements // known if size == -1 and known else size for size in sizes]
    before = math.prod(given[: holding[0]]) * inner(x).get(given[holding[0]], 1)
    places = _places(full, before, b.file_batch) if math.prod(full) == elements else []
    if not places:
        return sizes, {}
    axis, part = _likely(places, full, b.file_batch)
    free = full[axis] // b.file_batch * BATCH
    return [*sizes[:axis], free, *sizes[axis + 1 :]], {free: part} if part > 1 else {}


def inner(x: fx.Node) -> dict[int, int]:
    """For sizes that hold the batch and something that counts slower than it: how much that is. Handed on from call to call."""
    found: dict[int, int] = x.meta.get("inner", {})
    return found


def _places(sizes: list[int], before: int, file_batch: int) -> list[tuple[int, int]]:
    """Axes that can hold the batch behind ``before`` elements, with what of these lies in the same axis."""
    found, passed = [], 1
    for axis, size in enumerate(sizes):
        part = before // passed if passed and before % passed == 0 else 0
        if part and size % (part * file_batch) == 0:
            found.append((axis, part))
        passed *= size
    return found


def _likely(places: list[tuple[int, int]], sizes: list[int], file_batch: int) -> tuple[int, int]:
    """An axis that is the batch and nothing else; else the last one that is not the features. A wrong guess is refused later,
    when images alone and in a batch are compared."""
    alone = [place for place in places if sizes[place[0]] == file_batch and place[1] == 1]
    inside = [place for place in places if place[0] < len(sizes) - 1]
    return alone[0] if alone else inside[-1] if inside else places[0]


def for_all_images(b: GraphBuilder, values: Sequence[Any], but: int | None = None) -> list[fx.Node]:
    """Values as nodes; where one has a batch, those with a single entry there are repeated for every image.

    Args:
        but: the axis along which they need not have the same size.
    """
    nodes = [b.node(value) for value in values]
    rank = max(len(shape(node)) for node in nodes)
    held = [axis for axis in range(rank) if axis != but and any(_holds(node, axis) for node in nodes)]
    return [_repeated(b, node, held) for node in nodes]


def _holds(node: fx.Node, axis: int) -> bool:
    sizes = shape(node)
    return axis < len(sizes) and sizes[axis] > 0 and sizes[axis] % BATCH == 0


def _repeated(b: GraphBuilder, node: fx.Node, held: list[int]) -> fx.Node:
    sizes = list(shape(node))
    missing = [axis for axis in held if axis < len(sizes) and sizes[axis] == 1]
    if not missing or b.file_batch != 1:
        return node
    return b.call(aten.expand.default, node, [b.sizes([BATCH, 0])[0] if a in missing else -1 for a in range(len(sizes))])
