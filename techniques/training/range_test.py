"""The peak of the learning rate, found by raising it step by step until training diverges (after Smith 2017, section 3.3).

Smith takes the rate at which the loss no longer falls. The loss of a compressed network that learns from its original hardly falls
within some steps, whatever the rate; where it begins to run away is seen on any network.
"""

from __future__ import annotations

import math

import torch

from techniques.context import ImageSource, TechniqueContext
from techniques.head import training_logits
from techniques.network import Network
from techniques.training.device import placed_on, random_devices
from techniques.training.loop import MOST_GAIN, Training, sgd, training_batches

STEPS = 24
LOWEST, HIGHEST = 1e-3, 0.5
_SMOOTHING = 0.7
_DIVERGED = 3.0
"""Times the least loss so far."""
SAFETY = 20.0
"""A peak that holds for some hundred steps lies so many times below the rate at which a few diverge; more steps bear more
(`techniques.training.loop.schedule`)."""


def peak_learning_rate(
    network: Network, data: ImageSource, training: Training, context: TechniqueContext, batch_size: int = 128
) -> float:
    """A peak for this network under these losses; the network is left as it was.

    The rate grows by the same factor from step to step; the losses are smoothed. The same network, data, losses and seed give the
    same peak (one machine, fixed threads).

    Raises:
        DataRequiredError: ``data`` has no usable batch.
        InterruptedTrainingError: ``context.interrupt`` said so.
    """
    student = network.clone()
    for regime in training.regimes:
        regime.begin(student)
    student.graph.requires_grad_(True)
    optimizer = sgd(student, training.optimizer)
    factor = (HIGHEST / LOWEST) ** (1 / (STEPS - 1))
    least, rate, smoothed, weight = math.inf, LOWEST, 0.0, 0.0
    student.train()
    logits = training_logits(student, context.task, context.training_dtype)
    with placed_on(context.device, student), torch.random.fork_rng(random_devices(context.device)), torch.enable_grad():
        torch.manual_seed(context.seed)
        for step, batch in training_batches(data, batch_size, STEPS, context):
            rate = LOWEST * factor**step
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = training.loss(student, logits(batch.images), batch)
            smoothed = _SMOOTHING * smoothed + (1 - _SMOOTHING) * loss.item()
            weight = _SMOOTHING * weight + 1 - _SMOOTHING
            mean = smoothed / weight
            if not math.isfinite(mean) or mean > _DIVERGED * least:
                break
            least = min(mean, least)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    # Where even small rates diverge, twice what a long last rung takes stays below them.
    return max(rate / SAFETY, min(LOWEST, rate / (2 * MOST_GAIN)))
