"""What recipes aim at: shares of what the original costs, over the whole front. Limits stay constraints.

A loose limit says nothing of how small a network may become; a recipe that aims at the limit would leave it uncompressed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from search.limits import Limit, priced_limits
from search.pricing import Price
from search.spec import Budget, Preference
from techniques.parameters import FloatParameter

MARGIN, LEAST_MARGIN = 0.97, 0.8
"""Of a limit: room for what the prediction does not know."""
MOST_SHARE, LEAST_SHARE = 0.8, 0.08
"""Recipes between these shares of the original are worth a trial: above, training saves little; below, little is left."""
_MUCH_SAVED = 0.5
_TIGHT_POINTS, _LOOSE_POINTS = 2.0, 10.0
"""Drops of accuracy that allow little and much compression."""
SHARE = "share."


@dataclass(frozen=True)
class AimRange:
    """Shares of the original's price of one name that are worth aiming at.

    Attributes:
        low, high: above 0.
        first: that are tried first, the nearest to the original first.
        lead: where policies are tried first that lead with one axis.
        plain: where the policy is tried first that takes the whole network in no other format.
    """

    name: str
    low: float
    high: float
    first: tuple[float, ...]
    lead: float
    plain: float

    @property
    def parameter(self) -> FloatParameter:
        """The policy's number for it."""
        return FloatParameter(f"{SHARE}{self.name}", self.low, self.high, math.sqrt(self.low * self.high), log=True)

    @staticmethod
    def of(name: str, most: float, room: float, lowest: float, max_drop_points: float | None, free: float = 1.0) -> AimRange:
        """The range below what a limit allows.

        Args:
            most: share that the limit allows; 1 and more where there is none.
            room: of it, what is likely to be within it once it is measured.
            lowest: share that can be made.
            max_drop_points: that the budget allows: the less it is, the less there is to be looked for far below.
            free: share that is left where the whole network takes another format, with nothing else done to it: what aims above
                it asks for nothing more.
        """
        high = min(MOST_SHARE, MARGIN * most)
        plain = min(high, math.sqrt(room) * most)
        nearest = min(plain, max(free, lowest, LEAST_SHARE))
        # A tight limit leaves less room below it: what aims at half of the original may go down to a third, what aims at a fifth
        # not to a tenth.
        far = max(LEAST_SHARE, lowest, nearest * (0.9 - 0.55 * nearest))
        points = _LOOSE_POINTS if max_drop_points is None else max_drop_points
        depth = min(max((_LOOSE_POINTS - points) / (_LOOSE_POINTS - _TIGHT_POINTS), 0.0), 1.0)
        low = max(LEAST_SHARE, lowest, far * (0.3 + 0.5 * depth))
        far = min(far, nearest)
        middle = math.sqrt(nearest * far)
        return AimRange(name, min(low, 0.9 * high), high, (nearest, middle, far), middle, plain)


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
        plain_too: whether the network in its own format is worth a trial: not where a limit is below what another format,
            which saves much, takes alone: everything else would have to make up for that.
    """

    original: Mapping[str, float]
    ranges: tuple[AimRange, ...]
    limits: tuple[Limit, ...] = ()
    margin: float = MARGIN
    plain_too: bool = True

    @staticmethod
    def of(
        budget: Budget,
        preference: Preference,
        original: Mapping[str, float],
        lowest: Mapping[str, float] | None = None,
        margin: float = MARGIN,
        free: Mapping[str, float] | None = None,
    ) -> Aims:
        """Latency is aimed at, or the size where the smallest network is asked for, or both for a balance.

        Args:
            original: price of the original by name.
            lowest: the lowest prices that can be made, where they are known.
            margin: see `margin_of`.
            free: the lowest prices of the whole network in another format, where there are any.
        """
        limits = {limit.name: limit for limit in priced_limits(budget)}
        names = {"smallest": (budget.size_name,), "balanced": ("latency_ms", budget.size_name)}.get(preference, ("latency_ms",))
        saving = {name: value for name, value in (free or {}).items() if value < _MUCH_SAVED * original[name]}
        plain_too = all(limit.most >= saving.get(limit.name, 0.0) for limit in limits.values())
        ranges = []
        for name in names:
            limit = limits.get(name)
            room, most = _room(name, margin), limit.most / original[name] if limit else 1.0
            can_be_made = (lowest or {}).get(name, 0.0) / original[name]
            for_free = (free or {}).get(name, original[name]) / original[name]
            found = AimRange.of(name, most, room, can_be_made, budget.max_accuracy_drop_points, for_free)
            if not plain_too:
                found = replace(found, high=max(found.first[0], found.low / 0.9))  # who aims above it asks for nothing
            # What is to lose the least is looked for near the limit, in all ways.
            ranges.append(replace(found, lead=found.first[0]) if preference == "most_accurate" and most < 1 else found)
        return Aims(original, tuple(ranges), tuple(limits.values()), margin, plain_too)

    def at(self, shares: Mapping[str, float], tighter: float = 1.0) -> dict[str, float]:
        """Named price -> what a recipe should cost at most; what the original already meets is no aim.

        Args:
            shares: by the names of `ranges`; a missing one is the middle of its range.
            tighter: a factor on all shares.
        """
        varied = {one.name for one in self.ranges}
        aims = {
            limit.name: limit.most * (MARGIN if limit.name in varied else _room(limit.name, self.margin)) for limit in self.limits
        }
        for one in self.ranges:
            aim = shares.get(one.name, one.parameter.default) * tighter * self.original[one.name]
            aims[one.name] = min(aim, aims.get(one.name, aim))
        return {name: aim for name, aim in aims.items() if aim < self.original[name]}


def _room(name: str, margin: float) -> float:
    """What of a limit of that name may be aimed at; the margin is that of the latency."""
    return margin if name == "latency_ms" else MARGIN
