"""From kernels to a whole run: the profiler counts some time for every node that an unprofiled run does not spend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import lsq_linear

from hw_models.kernels import Kernel
from hw_models.layout import ACTIVATION_KINDS

GROUPS = ("blocked", "plain", "int8", "elementwise", "quantizer", "move")
"""Kernels that get a factor and an overhead of their own: convolutions and linears (blocked float, plain float, integer), sums and
activations, changes of precision, and all that only moves values."""
_PRIOR_NETWORKS = 18.0
"""How many networks the prior counts for: with a handful measured, factors and overheads cannot be told apart."""
_MAX_OVERHEAD_MS = 0.008
_OUTLIER = 0.1
_REWEIGHTINGS = 3


@dataclass(frozen=True)
class EndToEnd:
    """``latency = factors . sums - overheads_ms . counts + run_ms``.

    Attributes:
        factors: what the summed times of each of `GROUPS` are multiplied by; near 1.
        overheads_ms: what the profiler adds to each kernel of a group.
        run_ms: of a run before any kernel.
    """

    factors: tuple[float, ...] = (1.0,) * len(GROUPS)
    overheads_ms: tuple[float, ...] = (0.0,) * len(GROUPS)
    run_ms: float = 0.005

    def latency_ms(self, kernels: Sequence[Kernel], times_ms: Sequence[float]) -> float:
        """Of one run; at least a third of the kernels' sum, for overhead is never most of a time."""
        totals = np.asarray(sums(kernels, times_ms))
        times, counts = totals[: len(GROUPS)], totals[len(GROUPS) :]
        value = float(np.dot(self.factors, times) - np.dot(self.overheads_ms, counts)) + self.run_ms
        return max(value, float(times.sum()) / 3)


def sums(kernels: Sequence[Kernel], times_ms: Sequence[float]) -> tuple[float, ...]:
    """Milliseconds of each group, then the number of its kernels."""
    times, counts = [0.0] * len(GROUPS), [0.0] * len(GROUPS)
    for kernel, ms in zip(kernels, times_ms, strict=True):
        group = _group(kernel)
        times[group] += ms
        counts[group] += 1
    return (*times, *counts)


def _group(kernel: Kernel) -> int:
    if kernel.weight_bytes:
        return 2 if kernel.precision == "int8" else 0 if kernel.layout == "blocked" else 1
    if kernel.kind in _SUMS:
        return 3
    return 4 if kernel.kind in ("quantize", "dequantize") else 5


_SUMS = ACTIVATION_KINDS | {"add", "elementwise"}


PROFILER_MS = 0.0015
"""What the profiler adds to a kernel, as far as is known before anything was measured."""
_PRIOR = EndToEnd(overheads_ms=(PROFILER_MS,) * len(GROUPS))


def fit_end_to_end(rows: Sequence[tuple[float, ...]], latencies_ms: Sequence[float], prior: EndToEnd = _PRIOR) -> EndToEnd:
    """Fit to relative errors, drawn towards a prior.

    Args:
        rows: `sums` of every network, best of kernel times that were predicted by a fit that had not seen the network.
        prior: by default factors of 1 and overheads of 1.5 microseconds.
    """
    size = len(GROUPS)
    design = np.array([[*row[:size], *(-count for count in row[size:]), 1.0] for row in rows])
    latencies = np.asarray(latencies_ms)
    relative = design / latencies[:, None]
    goal_of_prior = np.array([*prior.factors, *prior.overheads_ms, prior.run_ms])
    strength = np.sqrt(_PRIOR_NETWORKS / len(rows) * (relative**2).sum(axis=0)) + 1e-9
    lower, upper = [0.5] * size + [0.0] * (size + 1), [2.0] * size + [_MAX_OVERHEAD_MS] * size + [1.0]
    weights, solution = np.ones(len(rows)), goal_of_prior
    for _ in range(_REWEIGHTINGS):
        matrix = np.concatenate([relative * weights[:, None], np.diag(strength)])
        goal = np.concatenate([weights, strength * goal_of_prior])
        scale = np.linalg.norm(matrix, axis=0)
        bounds = (np.array(lower) * scale, np.array(upper) * scale)
        solution = lsq_linear(matrix / scale, goal, bounds=bounds).x / scale
        error = np.abs(relative @ solution - 1)
        weights = np.sqrt(np.minimum(1.0, _OUTLIER / np.maximum(error, 1e-9)))
    return EndToEnd(
        tuple(float(f) for f in solution[:size]), tuple(float(o) for o in solution[size : 2 * size]), float(solution[-1])
    )
