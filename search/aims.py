"""What recipes aim at: shares of what the original costs, over the whole front. Limits stay constraints.

A loose limit says nothing of how small a network may become; a recipe that aims at the limit would leave it uncompressed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from search.limits import Limit, priced_limits
from search.spec import Budget, Preference
from techniques.parameters import FloatParameter

MARGIN = 0.97
"""Of a limit: room for what the prediction does not know."""
MOST_SHARE, LEAST_SHARE = 0.8, 0.08
"""Recipes between these shares of the original are worth a trial: above, training saves little; below, little is left."""
_FIRST_SPAN = 0.45
SHARE = "share."


@dataclass(frozen=True)
class AimRange:
    """Shares of the original's price of one name that are worth aiming at: ``low`` to ``high``, both above 0."""

    name: str
    low: float
    high: float

    @property
    def parameter(self) -> FloatParameter:
        """The policy's number for it."""
        return FloatParameter(f"{SHARE}{self.name}", self.low, self.high, math.sqrt(self.low * self.high), log=True)

    def first(self) -> tuple[float, ...]:
        """Shares that are tried first: just within the limit, the far end, and between the two."""
        far = max(self.low, self.high * _FIRST_SPAN)
        return self.high, math.sqrt(self.high * far), far


@dataclass(frozen=True)
class Aims:
    """The aims of one search.

    Attributes:
        original: price of the original by name.
        ranges: what the policy decides on.
        limits: of the budget, on what is priced.
    """

    original: Mapping[str, float]
    ranges: tuple[AimRange, ...]
    limits: tuple[Limit, ...] = ()

    @staticmethod
    def of(
        budget: Budget, preference: Preference, original: Mapping[str, float], lowest: Mapping[str, float] | None = None
    ) -> Aims:
        """Latency is aimed at, or the size where the smallest network is asked for, or both for a balance.

        Args:
            original: price of the original by name.
            lowest: the lowest prices that can be made, where they are known.
        """
        limits = {limit.name: limit for limit in priced_limits(budget)}
        names = {"smallest": (budget.size_name,), "balanced": ("latency_ms", budget.size_name)}.get(preference, ("latency_ms",))
        ranges = []
        for name in names:
            limit = limits.get(name)
            high = min(MOST_SHARE, MARGIN * limit.most / original[name]) if limit else MOST_SHARE
            low = max(LEAST_SHARE, (lowest or {}).get(name, 0.0) / original[name])
            ranges.append(AimRange(name, min(low, 0.9 * high), high))
        return Aims(original, tuple(ranges), tuple(limits.values()))

    def at(self, shares: Mapping[str, float], tighter: float = 1.0) -> dict[str, float]:
        """Named price -> what a recipe should cost at most; what the original already meets is no aim.

        Args:
            shares: by the names of `ranges`; a missing one is the middle of its range.
            tighter: a factor on all shares.
        """
        aims = {limit.name: limit.most * MARGIN for limit in self.limits}
        for one in self.ranges:
            aim = shares.get(one.name, one.parameter.default) * tighter * self.original[one.name]
            aims[one.name] = min(aim, aims.get(one.name, aim))
        return {name: aim for name, aim in aims.items() if aim < self.original[name]}
