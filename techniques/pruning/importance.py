"""Which channels of a group matter least: L2 norm of their weights, or the loss change by a first-order expansion."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
import torch_pruning as tp
from torch import Tensor
from torch.nn import functional

from techniques.context import Batch, TechniqueContext
from techniques.errors import DataRequiredError
from techniques.network import Network

TAYLOR_IMAGES = 512
TAYLOR_BATCH = 32
TAYLOR_TEMPERATURE = 4.0
"""Softens the outputs: images that the network fits perfectly would otherwise carry no gradient."""


def channel_scores(
    network: Network, groups: Mapping[str, Any], importance: Literal["l2", "taylor"], context: TechniqueContext
) -> dict[str, Tensor]:
    """One score per root channel and group ``(channels,)``; the lowest go first.

    Meta networks get equal scores: which channels go does not change the structure.

    Raises:
        DataRequiredError: ``taylor`` on real weights without calibration images, or without labels and teacher logits.
    """
    if network.is_meta:
        return {name: torch.zeros(len(group[0].idxs)) for name, group in groups.items()}
    if importance == "taylor":
        return _taylor_scores(network, groups, context)
    norm = tp.importance.GroupMagnitudeImportance(p=2)
    return {name: norm(group) for name, group in groups.items()}


def _taylor_scores(network: Network, groups: Mapping[str, Any], context: TechniqueContext) -> dict[str, Tensor]:
    """First-order change of the loss (Molchanov et al. 2019, section 3.1): ``|gradient * weight|`` summed over a channel's weights.

    Squared and averaged over small batches, as over the whole set the gradients of a trained network cancel out.
    """
    taylor = tp.importance.GroupTaylorImportance(normalizer=None)
    scores = {name: torch.zeros(len(group[0].idxs)) for name, group in groups.items()}
    network.eval()
    for batch in _first_images(context):
        network.graph.zero_grad(set_to_none=True)
        with torch.enable_grad():
            _loss(network(batch.images), batch).backward()  # type: ignore[no-untyped-call]
        for name, group in groups.items():
            scores[name] += taylor(group) ** 2
    network.graph.zero_grad(set_to_none=True)
    return scores


def _first_images(context: TechniqueContext) -> Iterator[Batch]:
    if context.calibration is None:
        raise DataRequiredError("structured_pruning: importance 'taylor' needs calibration images; use 'l2' without data")
    seen = 0
    for batch in context.calibration.batches(0, TAYLOR_BATCH):
        yield batch
        seen += len(batch.images)
        if seen >= TAYLOR_IMAGES:
            return


def _loss(logits: Tensor, batch: Batch) -> Tensor:
    logits = logits / TAYLOR_TEMPERATURE
    if batch.labels is not None:
        return functional.cross_entropy(logits, batch.labels)
    if batch.teacher_logits is not None:
        return functional.cross_entropy(logits, (batch.teacher_logits / TAYLOR_TEMPERATURE).softmax(1))
    raise DataRequiredError("structured_pruning: importance 'taylor' needs labels or the original's logits on calibration images")
