"""Times of single kernels on a target: roofline times residual, remembered by what decides a kernel's price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hw_models.kernels import Kernel, TimedKernel
from hw_models.residual import Residual, residual_features
from hw_models.roofline import Coefficients, fit_roofline, peak_ns, roofline_ns
from hw_models.targets import Peaks

MEMORY = 200_000
"""Prices kept before the memory is emptied."""


@dataclass(frozen=True)
class KernelTimes:
    """Milliseconds per kernel.

    Attributes:
        residuals: by precision; none where too little was measured.
        peaks: of a target known from its data sheet only; instead of all the others.
        scales: by signature; what a kernel's time is multiplied by when this machine was reached from a neighbour's model.
    """

    threads: int
    coefficients_ns: Coefficients = field(default_factory=dict)
    residuals: Mapping[str, Residual] = field(default_factory=dict)
    scales: Mapping[str, float] = field(default_factory=dict)
    peaks: Peaks | None = None
    _memory: dict[tuple[object, ...], float] = field(default_factory=dict, repr=False, compare=False)

    def knows(self, kernel: Kernel) -> bool:
        """Whether such kernels were measured; a reshape moves nothing and needs no measuring."""
        return kernel.signature in self.coefficients_ns

    def ms(self, kernels: Sequence[Kernel]) -> list[float]:
        """One time per kernel, each above 0."""
        new = {kernel.key: kernel for kernel in kernels if kernel.key not in self._memory}
        if new:
            if len(self._memory) > MEMORY:
                self._memory.clear()
                return self.ms(kernels)
            self._memory.update(zip(new, self._computed(list(new.values())), strict=True))
        return [self._memory[kernel.key] for kernel in kernels]

    def _computed(self, kernels: Sequence[Kernel]) -> list[float]:
        if self.peaks is not None:
            return [peak_ns(kernel, self.peaks) / 1e6 for kernel in kernels]
        times = [roofline_ns(kernel, self.coefficients_ns, self.threads) for kernel in kernels]
        for precision, residual in self.residuals.items():
            chosen = [i for i, kernel in enumerate(kernels) if kernel.precision == precision and self.knows(kernel)]
            if chosen:
                factors = residual.factors([residual_features(kernels[i], times[i]) for i in chosen])
                for i, factor in zip(chosen, factors, strict=True):
                    times[i] *= float(factor)
        return [ns * self.scales.get(kernel.signature, 1.0) / 1e6 for kernel, ns in zip(kernels, times, strict=True)]


def fit_kernel_times(networks: Sequence[Sequence[TimedKernel]], threads: int) -> KernelTimes:
    """Learn from profiled networks.

    A kernel counts by the root of its share of its network's time: long kernels decide a latency, short ones are many.
    """
    timed = [one for network in networks for one in network]
    coefficients = fit_roofline(timed, threads)
    shares = [one.us / max(sum(o.us for o in network), 1e-9) for network in networks for one in network]
    residuals: dict[str, Residual] = {}
    for precision in ("fp32", "int8"):
        rows = [
            (one, share)
            for one, share in zip(timed, shares, strict=True)
            if one.kernel.precision == precision and one.kernel.signature in coefficients and one.us > 0
        ]
        if not rows:
            continue
        base = [roofline_ns(one.kernel, coefficients, threads) for one, _ in rows]
        features = np.array([residual_features(one.kernel, ns) for (one, _), ns in zip(rows, base, strict=True)], float)
        ratios = np.log([one.us * 1000 / ns for (one, _), ns in zip(rows, base, strict=True)])
        fitted = Residual.fit(features, ratios, np.sqrt([share for _, share in rows]))
        if fitted is not None:
            residuals[precision] = fitted
    return KernelTimes(threads, coefficients, residuals)


def transferred(neighbour: KernelTimes, networks: Sequence[Sequence[TimedKernel]], threads: int) -> KernelTimes:
    """A neighbouring target's times, scaled by signature to what a few networks show here.

    A signature's scale is the weighted median of measured over predicted, drawn towards the scale of all kernels together where
    little was seen.
    """
    timed = [one for network in networks for one in network if one.us > 0]
    base = neighbour.ms([one.kernel for one in timed])
    ratios = np.array([one.us / 1000 / ms for one, ms in zip(timed, base, strict=True)])
    times = np.array([one.us for one in timed])
    overall = _weighted_median(ratios, times)
    scales = dict.fromkeys(neighbour.coefficients_ns, overall)
    for signature in {one.kernel.signature for one in timed}:
        own = np.array([one.kernel.signature == signature for one in timed])
        trust = own.sum() / (own.sum() + _DOUBT)
        local = _weighted_median(ratios[own], times[own])
        scales[signature] = float(np.exp(trust * np.log(local) + (1 - trust) * np.log(overall)))
    scales = {s: scale * neighbour.scales.get(s, 1.0) for s, scale in scales.items()}
    return KernelTimes(threads, neighbour.coefficients_ns, neighbour.residuals, scales)


_DOUBT = 4.0
"""Kernels of a signature that count as much as the scale of all kernels."""


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    cumulative = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(cumulative, cumulative[-1] / 2)])
