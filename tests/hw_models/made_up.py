"""A machine that does not exist: profiles of random networks whose every kernel costs what a made-up rule says."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import numpy as np

from hw_models.fitting import graph_of
from hw_models.kernels import Kernel, TimedKernel, kernels
from hw_models.targets import get_target
from paretopress.runtime.kit.networks import KitNetwork
from paretopress.runtime.kit.samples import KitSample
from paretopress.runtime.kit.sampling import sample_networks

TARGET = get_target("cpu-ort-1t")
NODE_US, OVERHEAD_US, RUN_US = 3.0, 1.5, 6.0


def kernel_us(kernel: Kernel) -> float:
    """A roofline with a step: channels that are no multiple of 8 cost half as much again."""
    rate = 0.02 if kernel.precision == "int8" else 0.04
    work = rate * kernel.macs + 0.1 * (kernel.bytes_in + kernel.bytes_out) + 0.05 * kernel.weight_bytes
    step = 1.5 if kernel.macs and kernel.geometry[1] % 8 else 1.0
    return NODE_US + step * work / 1000


@functools.cache
def networks(count: int, seed: int = 1, precisions: tuple[str, ...] = ("fp32", "int8")) -> tuple[KitNetwork, ...]:
    """Random networks without their weights' bytes."""
    return tuple(replace(n, onnx_model=b"") for n in islice(sample_networks(precisions, seed), count))


def timed(network: KitNetwork, speed: float = 1.0) -> list[TimedKernel]:
    """What the profiler of the machine would have seen."""
    run = kernels(graph_of(KitSample(network)), TARGET)
    return [TimedKernel(kernel, (kernel_us(kernel) + OVERHEAD_US) / speed) for kernel in run]


def latency_ms(network: KitNetwork, speed: float = 1.0) -> float:
    """An unprofiled run."""
    run = kernels(graph_of(KitSample(network)), TARGET)
    return (sum(kernel_us(kernel) for kernel in run) + RUN_US) / 1000 / speed


def mean_error(predicted: Sequence[float], truth: Sequence[float]) -> float:
    """Mean relative error."""
    return float(np.mean([abs(p / t - 1) for p, t in zip(predicted, truth, strict=True)]))
