"""Times of single kernels on a target: roofline times residual, remembered by what decides a kernel's price."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from hw_models.corrections import corrected_ns, fit_corrections
from hw_models.kernels import Kernel, TimedKernel
from hw_models.residual import Residual, residual_features
from hw_models.roofline import Coefficients, fit_roofline, peak_ns, roofline_ns
from hw_models.targets import Peaks

MEMORY = 200_000
"""Prices kept before the memory is emptied."""


class PriceMemory:
    """Prices by what decides them: a search asks for the same kernels thousands of times."""

    def __init__(self) -> None:
        self._prices: dict[tuple[object, ...], float] = {}

    def ms(self, kernels: Sequence[Kernel], compute: Callable[[Sequence[Kernel]], list[float]]) -> list[float]:
        """One price per kernel; ``compute`` is asked for new ones only."""
        new = {kernel.key: kernel for kernel in kernels if kernel.key not in self._prices}
        if new:
            if len(self._prices) > MEMORY:
                self._prices.clear()
                return self.ms(kernels, compute)
            self._prices.update(zip(new, compute(list(new.values())), strict=True))
        return [self._prices[kernel.key] for kernel in kernels]


@dataclass(frozen=True)
class KernelTimes:
    """Milliseconds per kernel.

    Attributes:
        residuals: by precision; none where too little was measured.
        peaks: of a target known from its data sheet only; instead of all the others.
    """

    threads: int
    coefficients_ns: Coefficients = field(default_factory=dict)
    residuals: Mapping[str, Residual] = field(default_factory=dict)
    peaks: Peaks | None = None
    _memory: PriceMemory = field(default_factory=PriceMemory, repr=False, compare=False)

    @property
    def measured(self) -> bool:
        """Whether any kernel was measured."""
        return bool(self.coefficients_ns)

    def knows(self, kernel: Kernel) -> bool:
        """Whether such kernels were measured; a reshape moves nothing and needs no measuring."""
        return kernel.signature in self.coefficients_ns

    def ms(self, kernels: Sequence[Kernel]) -> list[float]:
        """One time per kernel, each above 0."""
        return self._memory.ms(kernels, self._computed)

    def _computed(self, kernels: Sequence[Kernel]) -> list[float]:
        if self.peaks is not None:
            return [peak_ns(kernel, self.peaks) / 1e6 for kernel in kernels]
        return [ns / 1e6 for ns in corrected_ns(self, self.residuals, kernels)]

    def base_ns(self, kernels: Sequence[Kernel]) -> list[float]:
        """The rooflines alone."""
        return [roofline_ns(kernel, self.coefficients_ns, self.threads) for kernel in kernels]

    def features(self, kernel: Kernel, base_ns: float) -> tuple[float, ...]:
        """What the residuals split on."""
        return residual_features(kernel, base_ns)


def fit_kernel_times(networks: Sequence[Sequence[TimedKernel]], threads: int) -> KernelTimes:
    """Learn from profiled networks."""
    rooflines = KernelTimes(threads, fit_roofline([one for network in networks for one in network], threads))
    return KernelTimes(threads, rooflines.coefficients_ns, fit_corrections(rooflines, networks))
