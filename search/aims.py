"""What recipes aim at: shares of what the original costs, over the whole front. Limits stay constraints.

A loose limit says nothing of how small a network may become; a recipe that aims at the limit would leave it uncompressed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from search.limits import Limit, priced_limits
from search.pricing import Price
from search.spec import Budget, Preference
from techniques.parameters import FloatParameter

MARGIN, LEAST_MARGIN = 0.97, 0.8
"""Of a limit: room for what the prediction does not know."""
MOST_SHARE, LEAST_SHARE = 0.8, 0.08
"""Recipes between these shares of the original are worth a trial: above, training saves little; below, little is left."""
_BELOW_FIRST = 0.5
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
        """Shares that are tried first: just within the limit, a far end, and between the two.

        A tight limit leaves less room below it: what aims at half of the original may go down to a third, what aims at a fifth
        not to a tenth.
        """
        far = max(self.low, _far(self.high))
        return self.high, math.sqrt(self.high * far), far


def _far(high: float) -> float:
    return high * (0.9 - 0.55 * high)


def margin_of(original: Price, attached: bool) -> float:
    """What of a limit on the latency may be aimed at, so that what is decided by will be within it.

    On an attached target that is a measurement, which lies as often above the prediction as below: half of the interval is left
    as room. Elsewhere it is the prediction's own upper end.
    """
    room = original.latency.value / (original.latency.value + original.latency.spread)
    return room if not attached else min(max(math.sqrt(room), LEAST_MARGIN), MARGIN)


@dataclass(frozen=True)
class Aims:
    """The aims of one search.

    Attributes:
        original: price of the original by name.
        ranges: what the policy decides on.
        limits: of the budget, on what is priced.
        margin: of a limit on the latency, see `margin_of`.
    """

    original: Mapping[str, float]
    ranges: tuple[AimRange, ...]
    limits: tuple[Limit, ...] = ()
    margin: float = MARGIN

    @staticmethod
    def of(
        budget: Budget,
        preference: Preference,
        original: Mapping[str, float],
        lowest: Mapping[str, float] | None = None,
        margin: float = MARGIN,
    ) -> Aims:
        """Latency is aimed at, or the size where the smallest network is asked for, or both for a balance.

        Args:
            original: price of the original by name.
            lowest: the lowest prices that can be made, where they are known.
            margin: see `margin_of`.
        """
        limits = {limit.name: limit for limit in priced_limits(budget)}
        names = {"smallest": (budget.size_name,), "balanced": ("latency_ms", budget.size_name)}.get(preference, ("latency_ms",))
        ranges = []
        for name in names:
            limit = limits.get(name)
            room = margin if name == "latency_ms" else MARGIN
            high = min(MOST_SHARE, room * limit.most / original[name]) if limit else MOST_SHARE
            low = max(LEAST_SHARE, _BELOW_FIRST * _far(high), (lowest or {}).get(name, 0.0) / original[name])
            ranges.append(AimRange(name, min(low, 0.9 * high), high))
        return Aims(original, tuple(ranges), tuple(limits.values()), margin)

    def at(self, shares: Mapping[str, float], tighter: float = 1.0) -> dict[str, float]:
        """Named price -> what a recipe should cost at most; what the original already meets is no aim.

        Args:
            shares: by the names of `ranges`; a missing one is the middle of its range.
            tighter: a factor on all shares.
        """
        aims = {limit.name: limit.most * (self.margin if limit.name == "latency_ms" else MARGIN) for limit in self.limits}
        for one in self.ranges:
            aim = shares.get(one.name, one.parameter.default) * tighter * self.original[one.name]
            aims[one.name] = min(aim, aims.get(one.name, aim))
        return {name: aim for name, aim in aims.items() if aim < self.original[name]}
