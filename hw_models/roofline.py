"""Kernel times as non-negative combinations of counted work: a roofline whose ceilings are fitted, one set per kernel signature.

The coefficients are fitted to relative errors of profiled kernels. Each is drawn softly towards a generic machine at this
machine's speed, so that a signature seen a few times is priced sensibly; what was never seen is priced by the generic one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from hw_models.kernels import Kernel, TimedKernel
from hw_models.targets import Peaks, Precision

PRIOR_WEIGHT = 0.5
OUTLIER_RELATIVE_ERROR = 0.3
MIN_KERNELS = 3
_REWEIGHTINGS = 3
_PROFILER_RESOLUTION_NS = 500.0

_GENERIC_NS: dict[Precision, tuple[float, ...]] = {
    "fp32": (1500.0, 0.04, 0.05, 0.08, 0.1, 0.05, 0.08),
    "int8": (2500.0, 0.025, 0.05, 0.15, 0.15, 0.05, 0.08),
}
"""Nanoseconds per unit of each of `FEATURES` on one core with 8-wide vectors: about 25 GMAC/s in float32, 12 GB/s."""

_THREAD_EFFICIENCY = 0.8

Coefficients = Mapping[str, tuple[float, ...]]
"""Nanoseconds per unit of each of `FEATURES`, by kernel signature."""


def generic_coefficients_ns(precision: Precision, threads: int) -> tuple[float, ...]:
    """The roofline that stands for every kernel never measured; all but the cost of a node scales with threads."""
    node, *rates = _GENERIC_NS[precision]
    speed = 1 + _THREAD_EFFICIENCY * (threads - 1)
    return (node, *(rate / speed for rate in rates))


def roofline_ns(kernel: Kernel, coefficients_ns: Coefficients, threads: int) -> float:
    """Nanoseconds of a kernel; never 0: an unknown signature is priced by the generic machine."""
    row = coefficients_ns.get(kernel.signature) or generic_coefficients_ns(kernel.precision, threads)
    return max(sum(c * f for c, f in zip(row, kernel.features, strict=True)), 1.0)


def peak_ns(kernel: Kernel, peaks: Peaks) -> float:
    """Nanoseconds by the textbook roofline (Williams 2009): bound by arithmetic or by memory, whichever takes longer."""
    rate = peaks.int8_gmacs if kernel.precision == "int8" and peaks.int8_gmacs else peaks.fp32_gmacs
    moved = kernel.bytes_in + kernel.bytes_out + kernel.weight_bytes
    return 1000 * peaks.per_kernel_us + max(kernel.macs / rate, moved / peaks.bandwidth_gb_s)


def fit_roofline(timed: Sequence[TimedKernel], threads: int) -> dict[str, tuple[float, ...]]:
    """Coefficients of every signature seen at least three times.

    Solves ``min ||(X c - t) / t||^2 + prior`` with ``c >= 0`` per signature; kernels that lie far off are weighted down and the
    fit repeated (Huber's weights), since a busy machine makes some times too long.
    """
    by_signature: dict[str, list[TimedKernel]] = {}
    for one in timed:
        by_signature.setdefault(one.kernel.signature, []).append(one)
    return {
        signature: _solve(
            np.array([one.kernel.features for one in group], float),
            np.array([one.us * 1000 for one in group]),
            np.array(generic_coefficients_ns(group[0].kernel.precision, threads)),
        )
        for signature, group in sorted(by_signature.items())
        if len(group) >= MIN_KERNELS
    }


def _solve(work: npt.NDArray[np.float64], times_ns: npt.NDArray[np.float64], generic: npt.NDArray[np.float64]) -> tuple[float, ...]:
    # Times are whole microseconds: half of one more on both sides keeps the shortest kernels from ruling the fit.
    relative = work / (times_ns[:, None] + _PROFILER_RESOLUTION_NS)
    prior = generic / np.median(relative @ generic)
    share = PRIOR_WEIGHT * np.sqrt((relative**2).mean(axis=0))
    seen = share > 0
    weights, solution = np.ones(len(relative)), np.zeros(relative.shape[1])
    for _ in range(_REWEIGHTINGS):
        rows = np.concatenate([relative[:, seen] * weights[:, None], np.diag(share[seen])])
        goal = np.concatenate([weights, share[seen] * prior[seen]])
        scale = np.linalg.norm(rows, axis=0)
        solution[seen] = nnls(rows / scale, goal, maxiter=50 * rows.shape[1])[0] / scale
        error = np.abs(relative @ solution - 1)
        weights = np.sqrt(np.minimum(1.0, OUTLIER_RELATIVE_ERROR / np.maximum(error, 1e-9)))
    return tuple(float(c) for c in solution)
