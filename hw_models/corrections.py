"""Trees on top of a first guess of kernel times, a set per precision; learned and used alike whatever the guess is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from hw_models.kernels import Kernel, TimedKernel
from hw_models.residual import FEATURE_NAMES, MANY, Residual, TreeParameters

_PRECISIONS = ("fp32", "int8")


class FirstGuess(Protocol):
    """What is corrected."""

    def knows(self, kernel: Kernel) -> bool:
        """Whether such kernels were measured; others are left as guessed."""
        ...

    def base_ns(self, kernels: Sequence[Kernel]) -> list[float]:
        """The guess, each above 0."""
        ...

    def features(self, kernel: Kernel, base_ns: float) -> tuple[float, ...]:
        """What the trees split on."""
        ...


def corrected_ns(guess: FirstGuess, trees: Mapping[str, Residual], kernels: Sequence[Kernel]) -> list[float]:
    """The guess, times what the trees of each kernel's precision say."""
    times = guess.base_ns(kernels)
    for precision, residual in trees.items():
        chosen = [i for i, kernel in enumerate(kernels) if kernel.precision == precision and guess.knows(kernel)]
        if chosen:
            factors = residual.factors([guess.features(kernels[i], times[i]) for i in chosen])
            for i, factor in zip(chosen, factors, strict=True):
                times[i] *= float(factor)
    return times


def fit_corrections(
    guess: FirstGuess,
    networks: Sequence[Sequence[TimedKernel]],
    names: Sequence[str] = FEATURE_NAMES,
    parameters: TreeParameters = MANY,
) -> dict[str, Residual]:
    """Learn from profiled networks; no trees for a precision of which too little was measured.

    A kernel counts by the root of its share of its network's time: long kernels decide a latency, short ones are many.
    """
    timed = [(one, one.us / sum(other.us for other in network)) for network in networks for one in network if one.us > 0]
    trees: dict[str, Residual] = {}
    for precision in _PRECISIONS:
        rows = [(one, share) for one, share in timed if one.kernel.precision == precision and guess.knows(one.kernel)]
        if not rows:
            continue
        base = guess.base_ns([one.kernel for one, _ in rows])
        features = np.array([guess.features(one.kernel, ns) for (one, _), ns in zip(rows, base, strict=True)], float)
        ratios = np.log([one.us * 1000 / ns for (one, _), ns in zip(rows, base, strict=True)])
        fitted = Residual.fit(features, ratios, np.sqrt([share for _, share in rows]), names, parameters)
        if fitted is not None:
            trees[precision] = fitted
    return trees
