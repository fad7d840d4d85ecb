"""Which random networks are worth measuring next: those whose kernels are still priced badly, or were hardly seen."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from hw_models.as_run import kernels_as_run
from hw_models.graph import OperatorGraph
from hw_models.kernel_times import KernelTimes
from hw_models.kernels import Kernel, TimedKernel, kernels
from hw_models.roofline import fit_roofline
from hw_models.targets import Target
from paretopress.runtime.kit.networks import KitNetwork
from paretopress.runtime.kit.samples import KitSample

UNSEEN_ERROR = 0.5
"""Relative error that is taken of a cell of the space where nothing was measured."""
_PRIOR_KERNELS = 2

Cell = tuple[str, int, int]


def cell_of(kernel: Kernel) -> Cell:
    """A kernel's place in the space: signature, size of its work and number of its channels, in factors of four."""
    work = kernel.macs + kernel.bytes_in + kernel.bytes_out
    return (kernel.signature, int(math.log(work + 1, 4)), int(math.log(kernel.geometry[1] + 1, 4)))


def choose(pool: Sequence[KitNetwork], seen: Sequence[KitSample], target: Target, count: int) -> list[KitNetwork]:
    """The ``count`` networks of the pool that promise most: the expected error of their kernels, weighted by their time."""
    if len(pool) <= count:
        return list(pool)
    errors, times = _errors_by_cell(seen, target)
    scores = [_score(kernels(_graph(network), target), errors, times) for network in pool]
    order = sorted(range(len(pool)), key=lambda i: -scores[i])
    return [pool[i] for i in sorted(order[:count])]


def cover(pool: Sequence[KitNetwork], target: Target, count: int) -> list[KitNetwork]:
    """The ``count`` networks that together reach most places of the space, each place counting less the more often it is seen."""
    runs = [Counter(cell_of(kernel) for kernel in kernels(_graph(network), target)) for network in pool]
    seen: Counter[Cell] = Counter()
    chosen: list[int] = []
    while len(chosen) < min(count, len(pool)):
        gains = {i: _gain(run, seen) for i, run in enumerate(runs) if i not in chosen}
        chosen.append(max(gains, key=gains.__getitem__))
        seen.update(runs[chosen[-1]])
    return [pool[i] for i in chosen]


def _gain(run: Counter[Cell], seen: Counter[Cell]) -> float:
    return sum(math.sqrt(seen[cell] + count) - math.sqrt(seen[cell]) for cell, count in run.items())


def _score(run: Sequence[Kernel], errors: dict[Cell, list[float]], times: KernelTimes) -> float:
    ms = times.ms(run)
    expected = [_expected_error(errors.get(cell_of(kernel), [])) for kernel in run]
    return float(np.dot(expected, ms) / sum(ms))


def _expected_error(seen: Sequence[float]) -> float:
    """Mean of what was seen, with a few imagined kernels of a large error: few measurements are doubted."""
    return (sum(seen) + _PRIOR_KERNELS * UNSEEN_ERROR) / (len(seen) + _PRIOR_KERNELS) / math.sqrt(1 + len(seen) / 20)


def _errors_by_cell(seen: Sequence[KitSample], target: Target) -> tuple[dict[Cell, list[float]], KernelTimes]:
    timed: list[TimedKernel] = [one for s in seen for one in kernels_as_run(_graph(s.network), s.nodes, target)]
    times = KernelTimes(target.threads, fit_roofline(timed, target.threads))
    errors: dict[Cell, list[float]] = defaultdict(list)
    for one, ms in zip(timed, times.ms([t.kernel for t in timed]), strict=True):
        if one.us > 0:
            errors[cell_of(one.kernel)].append(min(abs(math.log(one.us / 1000 / ms)), 1.0))
    return errors, times


def _graph(network: KitNetwork) -> OperatorGraph:
    return OperatorGraph.from_operators(network.operators, network.input_shape)
