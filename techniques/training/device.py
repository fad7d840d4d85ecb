"""Training on an accelerator: the network goes there for its steps and comes back; what torch can repeat exactly, it does."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from techniques.effort import BFLOAT16
from techniques.network import Network

CPU = "cpu"


@contextmanager
def placed_on(device: str, network: Network) -> Iterator[None]:
    """The network's tensors on ``device``, such as ``cuda``; back on the CPU afterwards, whatever happened.

    Sums on a GPU are made in other orders than on a CPU, so weights differ in their last bits between the two, and not between two
    runs on the same GPU.
    """
    if device == CPU:
        yield
        return
    with _repeatable():
        network.graph.to(device)
        try:
            yield
        finally:
            network.graph.to(CPU)


def forward(function: Callable[[Tensor], Tensor], images: Tensor, dtype: str) -> Tensor:
    """Float32 outputs of a network, for training.

    In bfloat16 it is torch's autocast: convolutions and products in that type, the rest as torch finds safe. Weights, gradients and
    whatever follows the network stay float32 (Micikevicius et al. 2018, section 3.1), and the loss needs no scaling
    (Kalamkar et al. 2019).
    """
    if dtype != BFLOAT16:
        return function(images)
    with torch.autocast(images.device.type, torch.bfloat16):
        return function(images).float()


def random_devices(device: str) -> list[int]:
    """The accelerators whose random state a training changes, as `torch.random.fork_rng` takes them."""
    return [torch.cuda.current_device()] if torch.device(device).type == "cuda" and torch.cuda.is_available() else []


@contextmanager
def _repeatable() -> Iterator[None]:
    """Deterministic kernels where there are any (a missing one is warned of), and float32 that is float32."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used in the process
    before, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    warned, tf32 = torch.is_deterministic_algorithms_warn_only_enabled(), torch.backends.cudnn.allow_tf32
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
        torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = benchmark, tf32
