"""Kernel times as non-negative combinations of counted work: a roofline whose ceilings are fitted, one set per kernel signature.

The coefficients are fitted end to end, on whole networks' latencies, so that a sum of kernels is an end-to-end latency and no
profiler's per-node overhead has to be taken off. Each is drawn softly towards what a neighbouring machine was found to need, at
this machine's speed; what no machine has measured is priced by a generic roofline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from hw_models.kernels import FEATURES, Kernel
from hw_models.targets import Precision

PRIOR_WEIGHT = 0.2
OUTLIER_RELATIVE_ERROR = 0.2
_REWEIGHTINGS = 3

_GENERIC_NS: dict[Precision, tuple[float, ...]] = {
    "fp32": (1500.0, 0.04, 0.05, 0.08, 0.1, 0.05),
    "int8": (2500.0, 0.025, 0.05, 0.15, 0.15, 0.05),
}
"""Nanoseconds per unit of each of `FEATURES` on one core with 8-wide vectors: about 25 GMAC/s in float32, 12 GB/s."""

_GENERIC_RUN_NS = 5000.0
_THREAD_EFFICIENCY = 0.8

Work = Mapping[str, npt.NDArray[np.float64]]
"""Summed features per kernel signature of one network."""


@dataclass(frozen=True)
class RooflineFit:
    """Nanoseconds per unit of each feature, by kernel signature, and what one run costs before any kernel."""

    coefficients_ns: Mapping[str, tuple[float, ...]]
    run_overhead_ns: float


def generic_coefficients_ns(precision: Precision, threads: int) -> tuple[float, ...]:
    """The roofline that stands for every kernel never measured; all but the cost of a node scales with threads."""
    return threaded(_GENERIC_NS[precision], threads)


def summed_work(kernels: Sequence[Kernel]) -> dict[str, npt.NDArray[np.float64]]:
    """Features of a network's kernels, summed per signature."""
    work: dict[str, npt.NDArray[np.float64]] = {}
    for kernel in kernels:
        features = np.asarray(kernel.features)
        known = work.get(kernel.signature)
        work[kernel.signature] = features if known is None else known + features
    return work


def threaded(coefficients_ns: Sequence[float], threads: int) -> tuple[float, ...]:
    """One thread's coefficients on several: all but the cost of a node scales."""
    speed = 1 + _THREAD_EFFICIENCY * (threads - 1)
    node, *rates = coefficients_ns
    return (node, *(rate / speed for rate in rates))


def fit_roofline(
    networks: Sequence[Work],
    latencies_ms: Sequence[float],
    threads: int,
    neighbour_ns: Mapping[str, Sequence[float]] | None = None,
) -> RooflineFit:
    """Fit all coefficients at once to the relative error of the networks' latencies.

    Solves ``min ||(X c - t) / t||^2 + prior`` with ``c >= 0``; networks that lie far off are weighted down and the fit repeated
    (Huber's weights), since a busy machine makes some latencies too long. The prior is ``neighbour_ns`` (one thread's
    coefficients of another machine, by signature), sped up or slowed down as a whole to match the median network.
    """
    signatures = sorted({signature for work in networks for signature in work})
    width = len(FEATURES)
    design = np.zeros((len(networks), len(signatures) * width + 1))
    design[:, -1] = 1.0
    for row, work in enumerate(networks):
        for signature, features in work.items():
            start = signatures.index(signature) * width
            design[row, start : start + width] = features
    times_ns = np.asarray(latencies_ms) * 1e6
    relative = design / times_ns[:, None]
    rows = [_prior_row(signature, threads, neighbour_ns or {}) for signature in signatures]
    prior = np.array([c for row in rows for c in row] + [_GENERIC_RUN_NS])
    solution = _solve(relative, prior / np.median(relative @ prior))
    fitted = {s: tuple(float(c) for c in solution[i * width : (i + 1) * width]) for i, s in enumerate(signatures)}
    return RooflineFit(fitted, float(solution[-1]))


def _solve(relative: npt.NDArray[np.float64], prior: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    # A prior row weighs a coefficient's deviation by the share of time that it would explain.
    share = PRIOR_WEIGHT * np.sqrt((relative**2).sum(axis=0))
    seen = share > 0
    prior_rows = np.diag(share[seen])
    weights = np.ones(len(relative))
    solution = np.zeros(relative.shape[1])
    for _ in range(_REWEIGHTINGS):
        rows = np.concatenate([relative[:, seen] * weights[:, None], prior_rows])
        goal = np.concatenate([weights, share[seen] * prior[seen]])
        scale = np.linalg.norm(rows, axis=0)
        solution[seen] = nnls(rows / scale, goal, maxiter=50 * rows.shape[1])[0] / scale
        error = np.abs(relative @ solution - 1)
        weights = np.sqrt(np.minimum(1.0, OUTLIER_RELATIVE_ERROR / np.maximum(error, 1e-9)))
    return solution


def _prior_row(signature: str, threads: int, neighbour_ns: Mapping[str, Sequence[float]]) -> tuple[float, ...]:
    known = neighbour_ns.get(signature)
    return threaded(known, threads) if known else generic_coefficients_ns(_precision(signature), threads)


def _precision(signature: str) -> Precision:
    return "int8" if signature.split(".")[-2] == "int8" else "fp32"
