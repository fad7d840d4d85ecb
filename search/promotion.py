"""Who goes on to the next rung, and what the sampler is told of those that do not: by predicted cost and accuracy (contract 7)."""

from __future__ import annotations

import math

from search.effort_plan import FIRST_PEERS, PROMOTED_SHARE
from search.last_rung import recovery
from search.limits import drop_limit, priced_limits
from search.pareto import non_dominated_ranks
from search.pricing import Price
from search.protocols import RungReading
from search.spec import Budget


class Standings:
    """All candidates of a search at each rung that they reached."""

    def __init__(self, rungs: int, budget: Budget, original: Price) -> None:
        self._budget, self._original = budget, original
        self._drops: list[dict[int, float]] = [{} for _ in range(rungs)]
        self._prices: dict[int, Price] = {}

    def __bool__(self) -> bool:
        return bool(self._prices)

    def add(self, number: int, reading: RungReading, price: Price) -> None:
        """A candidate, the trial's number, was read at a rung."""
        self._drops[min(reading.rung, len(self._drops) - 1)][number] = reading.drop_points[0]
        self._prices[number] = price

    def is_promoted(self, number: int, rung: int) -> bool:
        """Successive halving: least over the accuracy limit first, then by non-dominated rank, then by drop.

        The rank is MO-ASHA's promotion (Schmucker 2021, section 3); the limit comes before it (constrained domination,
        Deb 2002, section VI-A), or the fastest networks would be trained however little of them is left. What is held to it is the
        drop that training is expected to leave: before any, all that is worth training is over the limit.
        The first few have nothing to be compared with and go on.
        """
        peers = self._drops[rung]
        if len(peers) <= FIRST_PEERS:
            return True
        ranks = dict(zip(peers, non_dominated_ranks([self._objectives(one, peers[one]) for one in peers]), strict=True))
        limit = drop_limit(self._budget)

        def key(one: int) -> tuple[float, ...]:
            return (max(self.expected_drop(one) - limit.most, 0.0) if limit else 0.0, ranks[one], peers[one])

        return number in sorted(peers, key=key)[: math.ceil(len(peers) * PROMOTED_SHARE)]

    def told(self, number: int) -> tuple[tuple[float, float, float], tuple[float, ...]]:
        """Objectives and constraints of a candidate for the sampler; constraints that are at most 0 are met.

        One that was not trained to the end is told with the drop that it would have come to, or the sampler would learn what
        training is left to do instead of what compression costs. Constraints are squashed into (-1, 1): Optuna adds them up, and
        points must not outweigh shares.
        """
        drop, price = self.expected_drop(number), self._prices[number]
        named = price.named()
        constraints = [named[limit.name] / limit.most - 1 for limit in priced_limits(self._budget)]
        limit = drop_limit(self._budget)
        if limit is not None:
            constraints.append(limit.relative(drop - limit.most))
        return self._objectives(number, drop), tuple(value / (1 + abs(value)) for value in constraints) or (0.0,)

    def _objectives(self, number: int, drop: float) -> tuple[float, float, float]:
        named, original = self._prices[number].named(), self._original.named()
        return drop, *(named[name] / original[name] for name in ("latency_ms", self._budget.size_name))  # type: ignore[return-value]

    def has_finished(self, number: int) -> bool:
        """Whether it was read at the last rung."""
        return number in self._drops[-1]

    def expected_drop(self, number: int) -> float:
        """Its drop at the last rung that it reached, times what training left of the drops of those that went all the way."""
        rung = max(index for index, drops in enumerate(self._drops) if number in drops)
        drop, last = self._drops[rung][number], self._drops[-1]
        before = {one: self._drops[rung][one] for one in last if self._drops[rung].get(one, 0.0) > 0}
        if drop <= 0 or rung + 1 == len(self._drops) or not before:
            return drop
        return drop * recovery(before, {one: last[one] for one in before})
