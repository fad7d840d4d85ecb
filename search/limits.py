"""Limits stand once: what a budget can limit, and how a limit is read, aimed at, doubted and found broken.

Allocation, driver, front, report, requests and the command line read this list; a new limit is one more entry of
`search.limit_kinds.KINDS`, where a measurement (`CandidateRecord.measurements`) of its name exists, and a price (`Price.named`)
unless it is known of finalists only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal

from search.limit_kinds import KINDS
from search.protocols import CandidateRecord

if TYPE_CHECKING:
    from search.pricing import Price
    from search.spec import Budget

Split = Literal["validation", "selection"]
DROP = "max_accuracy_drop_points"
SAFE_SHARE = 0.85
"""Of the limit on the drop: what is just within it on one split is missed half of the time on another."""


@dataclass(frozen=True)
class Limit:
    """One hard limit of a budget on what is measured and priced.

    >>> Limit("macs", 1000).is_out_of_reach(1090), Limit("macs", 1000).is_out_of_reach(1110)
    (False, True)
    """

    name: str
    most: float

    @property
    def is_priced(self) -> bool:
        """Whether it is known before anything is measured."""
        return KINDS[self.name].priced

    def excess(self, record: CandidateRecord, split: Split) -> float:
        """By how much the candidate breaks it, in the limit's own unit; 0 where it is met.

        What is known of finalists only is not looked at before they are read. A measurement counts by its upper bound (contract 3).
        One that is missing breaks its limit by infinity: an unknown number never wins.
        """
        if not self.is_priced and split == "validation":
            return 0.0
        found = record.measurements.get(self.name)
        return math.inf if found is None else max(found.value + found.spread - self.most, 0.0)

    def relative(self, excess: float) -> float:
        """An excess as a share of the limit."""
        return excess / self.most

    def can_hold(self, price: Price) -> bool:
        """Whether even the optimistic end of a prediction is within it."""
        return price.optimistic()[self.name] / KINDS[self.name].packs <= self.most

    def is_out_of_reach(self, lowest: float) -> bool:
        """Whether nothing comes so low, where ``lowest`` is the lowest price that can be made, at its optimistic end."""
        return lowest / KINDS[self.name].doubt > self.most


@dataclass(frozen=True)
class DropLimit:
    """The limit on the drop of accuracy, in points.

    Attributes:
        confidence: 0 decides on the estimate, 0.95 on the one-sided upper bound.
    """

    most: float
    confidence: float = 0.0
    name: str = DROP

    def decided(self, record: CandidateRecord, split: Split) -> float | None:
        """The drop that is held against the limit."""
        drop = record.drop_points.get(split)
        return None if drop is None else upper_drop_points(drop, self.confidence)

    def excess(self, record: CandidateRecord, split: Split) -> float:
        """As `Limit.excess`."""
        drop = self.decided(record, split)
        return math.inf if drop is None else max(drop - self.most, 0.0)

    def relative(self, excess: float) -> float:
        """An excess as a share of the limit, or of one point where that is more."""
        return excess / max(self.most, 1.0)


def upper_drop_points(drop: tuple[float, float, float], confidence: float) -> float:
    """One-sided upper bound of a drop at a confidence; never below the estimate, which decides where no confidence is asked for.

    Args:
        drop: (estimate, low, high) with a two-sided 95% interval that is normal around its own middle, which need not be the
            estimate (`paired_drop_points`).

    >>> upper_drop_points((1.0, 0.0, 2.0), 0.975)
    2.0
    >>> upper_drop_points((1.0, 0.0, 2.0), 0.01)
    1.0
    """
    estimate, low, high = drop
    if confidence <= 0.5:
        return estimate
    normal = NormalDist()
    return max(estimate, (low + high) / 2 + (high - low) / 2 * normal.inv_cdf(confidence) / normal.inv_cdf(0.975))


def measured_limits(budget: Budget) -> tuple[Limit, ...]:
    """The limits of a budget on what is measured."""
    named = {"latency_ms": budget.latency_ms, budget.size_name: budget.size_bytes, "macs": budget.macs, **budget.limits}
    return tuple(Limit(name, float(most)) for name, most in named.items() if most is not None)


def priced_limits(budget: Budget) -> tuple[Limit, ...]:
    """Those of them that a price can be held against."""
    return tuple(limit for limit in measured_limits(budget) if limit.is_priced)


def drop_limit(budget: Budget) -> DropLimit | None:
    """The limit on accuracy, if there is one."""
    most = budget.max_accuracy_drop_points
    return None if most is None else DropLimit(most, budget.confidence)


def limits_of(budget: Budget) -> tuple[Limit | DropLimit, ...]:
    """All limits of a budget."""
    drop = drop_limit(budget)
    return (*measured_limits(budget), *([drop] if drop else []))


def broken_limits(record: CandidateRecord, budget: Budget, split: Split = "selection") -> dict[str, float]:
    """Each limit that the candidate breaks, with by how much, in the limit's own unit; empty means feasible."""
    excesses = {limit.name: limit.excess(record, split) for limit in limits_of(budget)}
    return {name: excess for name, excess in excesses.items() if excess > 0}


def relative_excess(broken: Mapping[str, float], budget: Budget) -> float:
    """The worst excess over a limit, relative to the limit; 0 when feasible."""
    by_name = {limit.name: limit for limit in limits_of(budget)}
    return max((by_name[name].relative(excess) for name, excess in broken.items()), default=0.0)
