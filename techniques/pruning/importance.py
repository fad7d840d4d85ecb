"""Which classes of channels matter least: L2 norm of their weights, or the loss change by a first-order expansion."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from techniques.channels.channel_map import ChannelMap
from techniques.context import Batch, TechniqueContext
from techniques.errors import DataRequiredError
from techniques.head import Task, training_logits
from techniques.network import Network
from techniques.quantization.layers import without_rounding
from techniques.training.losses import label_loss, own_decision_loss

TAYLOR_IMAGES = 512
TAYLOR_BATCH = 32
TAYLOR_TEMPERATURE = 4.0
"""Softens the outputs: images that the network fits perfectly would otherwise carry no gradient."""


def class_scores(
    network: Network, known: ChannelMap, importance: Literal["l2", "taylor"], context: TechniqueContext
) -> npt.NDArray[np.float64]:
    """One score per class of channels ``(classes,)``; the lowest go first.

    Integers count as the numbers that they stand for. Meta networks get scores in no order: which channels go does
    not change the structure, but for shuffles, which deal them out.

    Raises:
        DataRequiredError: ``taylor`` on real weights without calibration images.
    """
    if network.is_meta:
        return np.random.default_rng(known.count).random(known.count)
    network = without_rounding(network)
    if importance == "taylor":
        return _taylor_scores(network, known, context)
    return _mean_over_axes(network, known, lambda weight: weight.detach().double().square())


def _mean_over_axes(network: Network, known: ChannelMap, measure: Callable[[Tensor], Tensor]) -> npt.NDArray[np.float64]:
    """Sum of a measure over all weights of a class in a layer, averaged over the layers that it touches."""
    total, count = np.zeros(known.count), np.zeros(known.count)
    modules = dict(network.graph.named_modules())
    for (name, kind), classes in known.axes.items():
        weight = getattr(modules.get(name), "weight", None)
        if weight is None:
            continue
        per_position = _per_position(modules[name], weight, kind, len(classes), measure)
        if per_position is not None:
            total += np.bincount(classes, per_position.numpy(), known.count)
            count[np.unique(classes)] += 1
    return np.asarray(total / np.maximum(count, 1))


def _per_position(module: nn.Module, weight: Tensor, kind: str, size: int, measure: Callable[[Tensor], Tensor]) -> Tensor | None:
    measured = measure(weight)
    transposed = isinstance(module, _ConvNd) and module.transposed
    first = (kind != "in") != transposed
    if first:
        return measured.flatten(1).sum(1) if measured.dim() > 1 else measured
    if measured.shape[1] == size:
        return measured.transpose(0, 1).flatten(1).sum(1)
    if measured.shape[1] == 1:
        return None  # depthwise: its outputs say the same
    parts = measured.chunk(size // measured.shape[1])
    return torch.cat([part.transpose(0, 1).flatten(1).sum(1) for part in parts])


def _taylor_scores(network: Network, known: ChannelMap, context: TechniqueContext) -> npt.NDArray[np.float64]:
    """First-order change of the loss (Molchanov et al. 2019, section 3.1): ``|gradient * weight|`` summed over a channel's weights.

    Squared and averaged over small batches, as over the whole set the gradients of a trained network cancel out.
    Without labels, the network's own decisions stand for them.
    """
    scores = np.zeros(known.count)
    logits = training_logits(network.eval(), context.task)
    network.graph.requires_grad_(True)
    for batch in _first_images(context):
        network.graph.zero_grad(set_to_none=True)
        with torch.enable_grad():
            _loss(logits(batch.images), batch, context.task).backward()  # type: ignore[no-untyped-call]
        scores += _mean_over_axes(network, known, _first_order) ** 2
    network.graph.zero_grad(set_to_none=True)
    return scores


def _first_order(weight: Tensor) -> Tensor:
    gradient = weight.grad if weight.grad is not None else torch.zeros_like(weight)
    return (weight.detach() * gradient).double().abs()


def _first_images(context: TechniqueContext) -> Iterator[Batch]:
    if context.calibration is None:
        raise DataRequiredError("structured_pruning: importance 'taylor' needs calibration images; use 'l2' without data")
    seen = 0
    for batch in context.calibration.batches(0, TAYLOR_BATCH):
        yield batch
        seen += len(batch.images)
        if seen >= TAYLOR_IMAGES:
            return


def _loss(logits: Tensor, batch: Batch, task: Task) -> Tensor:
    logits = logits if task == "values" else logits / TAYLOR_TEMPERATURE
    return own_decision_loss(logits, task) if batch.labels is None else label_loss(logits, batch.labels, task)
