"""What one step of training takes on this machine: what every plan of a search is made from."""

from __future__ import annotations

import math
import statistics
import time

import torch
from torch import Tensor

from techniques.effort import BFLOAT16, FLOAT32
from techniques.head import Task, training_logits
from techniques.network import Network
from techniques.training.device import CPU, placed_on, random_devices

_STEPS, _ENOUGH_S = 3, 5.0
_FEW = 16
_WORTH = 1.2
_LEAST_NORM = 1e-12
_MOST_APART = 0.1
"""Of outputs and gradients in both types, relative to their norm; rounding to eight digits leaves about 0.02 in a deep network."""


def fastest_step(network: Network, images: Tensor, task: Task, device: str = CPU) -> tuple[str, float]:
    """The type in which a step of training is fastest here, and its seconds.

    bfloat16 rounds more than float32, so it must be clearly faster, which it is on processors with instructions for it, and give
    about the same outputs and gradients of this network.
    """
    plain_s = training_step_s(network, images, task, device)
    if not _has_bfloat16(device):
        return FLOAT32, plain_s
    try:
        (few_s, plain), (few_rounded_s, rounded) = (
            _steps(network, images[:_FEW], task, device, dtype, steps=2) for dtype in (FLOAT32, BFLOAT16)
        )
        if few_rounded_s > _WORTH * few_s or any(_apart(a, b) > _MOST_APART for a, b in zip(plain, rounded, strict=True)):
            return FLOAT32, plain_s
        rounded_s = training_step_s(network, images, task, device, BFLOAT16)
    except Exception:  # an operation that does not take the type, whatever it raises; a step in it is no must
        return FLOAT32, plain_s
    return (BFLOAT16, rounded_s) if _WORTH * rounded_s < plain_s else (FLOAT32, plain_s)


def training_step_s(network: Network, images: Tensor, task: Task, device: str = CPU, dtype: str = FLOAT32) -> float:
    """Seconds of one step of training on ``images`` ``(n, channels, height, width)``; a slow one is not repeated."""
    return _steps(network, images, task, device, dtype, _STEPS)[0]


def _has_bfloat16(device: str) -> bool:
    """Whether it is more than emulated by float32, which takes tens of times as long on processors without AVX-512."""
    if device == CPU:
        return torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def _steps(
    network: Network, images: Tensor, task: Task, device: str, dtype: str, steps: int
) -> tuple[float, tuple[Tensor, Tensor]]:
    """Median seconds but for the first one, and outputs and gradients of the first, each as one vector."""
    student = network.clone()
    student.graph.requires_grad_(True)
    student.train()
    taken: list[float] = []
    found: tuple[Tensor, Tensor] | None = None
    with placed_on(device, student), torch.random.fork_rng(random_devices(device)), torch.enable_grad():
        torch.manual_seed(0)
        logits = training_logits(student, task, dtype)
        while len(taken) < steps and sum(taken) < _ENOUGH_S:
            began = time.perf_counter()
            outputs = logits(images.to(device))
            loss = outputs.square().mean()
            loss.backward()  # type: ignore[no-untyped-call]
            loss.item()  # waits for the device
            taken.append(time.perf_counter() - began)
            if found is None:
                gradients = [one.grad.flatten() for one in student.graph.parameters() if one.grad is not None]
                found = outputs.detach().flatten().cpu(), torch.cat(gradients).cpu().clone()
    assert found is not None  # there is a first step
    return statistics.median(taken[1:] or taken), found


def _apart(a: Tensor, b: Tensor) -> float:
    """Relative to the first one; infinite where a number is none."""
    apart = float((a - b).norm() / a.norm().clamp(min=_LEAST_NORM))
    return apart if math.isfinite(apart) else math.inf
