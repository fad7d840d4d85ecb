"""Kernel times of a target that resembles one already known: its model, corrected by what a few networks show here.

Two targets of one machine (other threads, other kernels of the runtime) share most of what decides a kernel's time. Scales by
signature catch that all kernels of a kind got slower; small trees catch where they did not do so evenly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hw_models.corrections import corrected_ns, fit_corrections
from hw_models.kernel_times import KernelTimes, PriceMemory
from hw_models.kernels import Kernel, TimedKernel
from hw_models.residual import FEATURE_NAMES, Residual, TreeParameters, residual_features
from hw_models.roofline import Coefficients, fit_roofline, roofline_ns

_DOUBT = 1.0
"""Kernels of a signature that count as much as the scale of all kernels."""
CORRECTION_NAMES = (*FEATURE_NAMES, "log_local")
_TREES = TreeParameters(rounds=300, leaves=8, min_kernels_in_leaf=8, l2=5.0)


@dataclass(frozen=True)
class TransferredTimes:
    """Milliseconds per kernel: a neighbour's, times scale, times correction.

    Attributes:
        scales: by signature.
        local_ns: a roofline of the few networks alone; how far it disagrees is one of the corrections' features.
        corrections: by precision; none where too little was measured.
    """

    neighbour: KernelTimes
    threads: int
    scales: Mapping[str, float]
    local_ns: Coefficients
    corrections: Mapping[str, Residual] = field(default_factory=dict)
    _memory: PriceMemory = field(default_factory=PriceMemory, repr=False, compare=False)

    @property
    def measured(self) -> bool:
        """Always: a transfer needs kernels of this target."""
        return True

    def knows(self, kernel: Kernel) -> bool:
        """Whether such kernels were measured, here or on the neighbour."""
        return self.neighbour.knows(kernel) or kernel.signature in self.local_ns

    def ms(self, kernels: Sequence[Kernel]) -> list[float]:
        """One time per kernel, each above 0."""
        return self._memory.ms(kernels, self._computed)

    def _computed(self, kernels: Sequence[Kernel]) -> list[float]:
        return [ns / 1e6 for ns in corrected_ns(self, self.corrections, kernels)]

    def scaled_ms(self, kernels: Sequence[Kernel]) -> list[float]:
        """Without corrections."""
        return [ms * self.scales.get(k.signature, 1.0) for k, ms in zip(kernels, self.neighbour.ms(kernels), strict=True)]

    def base_ns(self, kernels: Sequence[Kernel]) -> list[float]:
        """What is corrected."""
        return [1e6 * ms for ms in self.scaled_ms(kernels)]

    def features(self, kernel: Kernel, base_ns: float) -> tuple[float, ...]:
        """Of a correction, in the order of `CORRECTION_NAMES`."""
        seen_here = kernel.signature in self.local_ns
        local = math.log(roofline_ns(kernel, self.local_ns, self.threads) / base_ns) if seen_here else 0.0
        return (*residual_features(kernel, base_ns), local)


def transferred(neighbour: KernelTimes, networks: Sequence[Sequence[TimedKernel]], threads: int) -> TransferredTimes:
    """Correct a neighbouring target's times by what a few networks show here."""
    timed = [one for network in networks for one in network if one.us > 0]
    scaled = TransferredTimes(neighbour, threads, _scales(neighbour, timed), fit_roofline(timed, threads))
    corrections = fit_corrections(scaled, networks, CORRECTION_NAMES, _TREES)
    return TransferredTimes(neighbour, threads, scaled.scales, scaled.local_ns, corrections)


def _scales(neighbour: KernelTimes, timed: Sequence[TimedKernel]) -> dict[str, float]:
    """By signature: the weighted median of measured over predicted, drawn towards that of all kernels where little was seen."""
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
    return scales


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    cumulative = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(cumulative, cumulative[-1] / 2)])
