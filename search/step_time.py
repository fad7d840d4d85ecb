"""What one step of training takes on this machine: what every plan of a search is made from."""

from __future__ import annotations

import statistics
import time

import torch

from techniques.effort import BFLOAT16, FLOAT32
from techniques.head import Task, training_logits
from techniques.network import Network
from techniques.training.device import CPU, forward, placed_on

_STEPS, _ENOUGH_S = 3, 5.0
_FEW = 8
"""A part of a batch tells whether a type is emulated here, and so many times slower."""
_WORTH = 1.2


def fastest_step(network: Network, images: torch.Tensor, task: Task, device: str = CPU) -> tuple[str, float]:
    """The type in which a step of training is fastest here, and its seconds.

    bfloat16 must be clearly faster than float32, for it rounds more: processors with instructions for it halve a step.
    """
    plain_s = training_step_s(network, images, task, device)
    few = images[: max(2, len(images) // _FEW)]
    try:
        if training_step_s(network, few, task, device, BFLOAT16, steps=2) > plain_s / 2:
            return FLOAT32, plain_s
        rounded_s = training_step_s(network, images, task, device, BFLOAT16)
    except RuntimeError:  # an operation that torch does not know in this type
        return FLOAT32, plain_s
    return (BFLOAT16, rounded_s) if _WORTH * rounded_s < plain_s else (FLOAT32, plain_s)


def training_step_s(
    network: Network, images: torch.Tensor, task: Task, device: str = CPU, dtype: str = FLOAT32, steps: int = _STEPS
) -> float:
    """Seconds of one step of training on ``images`` ``(n, channels, height, width)``; a slow one is not repeated."""
    student = network.clone()
    student.graph.requires_grad_(True)
    student.train()
    taken: list[float] = []
    with placed_on(device, student), torch.enable_grad():
        logits = training_logits(student, task)
        while len(taken) < steps and sum(taken) < _ENOUGH_S:
            began = time.perf_counter()
            loss = forward(logits, images.to(device), device, dtype).square().mean()
            loss.backward()  # type: ignore[no-untyped-call]
            loss.item()  # waits for the device
            taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:] or taken)
