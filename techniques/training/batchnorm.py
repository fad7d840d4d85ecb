"""Batch norm recalibration: new running statistics for a network whose weights were cut, without any training."""

from __future__ import annotations

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from techniques.context import ImageSource
from techniques.network import Network


@torch.no_grad()
def recalibrate(network: Network, images: ImageSource, batches: int = 8, batch_size: int = 128) -> Network:
    """A copy whose batch norm statistics are the average over ``batches`` batches of images (Li et al. 2020, EagleEye, 3.4).

    A network without batch norm, or on meta, is returned as a copy.
    """
    result = network.clone().eval()
    norms = [m for m in result.graph.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms or result.is_meta:
        return result
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
        norm.train()
    for index, batch in enumerate(images.batches(0, batch_size)):
        # A last, smaller batch would weigh as much as a full one.
        if index == batches or (index > 0 and len(batch.images) < batch_size):
            break
        result(batch.images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return result.eval()
