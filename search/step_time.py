"""What one step of training takes on this machine: what every plan of a search is made from."""

from __future__ import annotations

import statistics
import time

import torch

from techniques.head import Task, training_logits
from techniques.network import Network
from techniques.training.device import CPU, placed_on

_STEPS, _ENOUGH_S = 3, 5.0


def training_step_s(network: Network, images: torch.Tensor, task: Task, device: str = CPU) -> float:
    """Seconds of one step of training on ``images`` ``(n, channels, height, width)``; a slow one is not repeated."""
    student = network.clone()
    student.graph.requires_grad_(True)
    student.train()
    taken: list[float] = []
    with placed_on(device, student), torch.enable_grad():
        logits = training_logits(student, task)
        while len(taken) < _STEPS and sum(taken) < _ENOUGH_S:
            began = time.perf_counter()
            loss = logits(images.to(device)).square().mean()
            loss.backward()  # type: ignore[no-untyped-call]
            loss.item()  # waits for the device
            taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:] or taken)
