"""Budgets that no network made of this original can meet: seen from prices alone, before anything is measured or trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from search.allocation import MakeRecipe
from search.attempts import attempt
from search.errors import OptionSkippedError
from search.moves import Kind, Move
from search.pricing import Price
from search.space import Policy
from search.spec import Budget
from techniques.recipe import Recipe

DOUBT = {"latency_ms": 1.5, "download_size_bytes": 2.0}
OTHER_DOUBT = 1.1
"""A limit counts as out of reach where even the lowest price, divided by this, is above it. Latencies are taken at the optimistic
end of their interval; sizes of files are estimates within some percent, and how well a container packs is not known."""
_TOGETHER: tuple[tuple[Kind, ...], ...] = (
    ("block", "prune", "rank"),
    ("block", "prune"),
    ("prune", "rank"),
    ("prune",),
    ("rank",),
    (),
)
"""Kinds of moves that are priced together: a rank may cost time where few channels are left."""


@dataclass(frozen=True)
class Reach:
    """The lowest price of each kind; a network that has all of them at once need not exist."""

    lowest: Mapping[str, float]

    def broken(self, budget: Budget) -> dict[str, float]:
        """Each limit that is out of reach, with the lowest price that can be made."""
        known = {name: lowest for name, lowest in self.lowest.items() if name in _limits(budget)}
        return {name: low for name, low in known.items() if low / DOUBT.get(name, OTHER_DOUBT) > _limits(budget)[name]}

    def sentence(self, budget: Budget) -> str:
        """What to tell of limits that are out of reach; empty where there are none."""
        limits, broken = _limits(budget), self.broken(budget)
        words = [f"{name} {limits[name]:.6g}, where at least {low:.4g} is predicted" for name, low in broken.items()]
        if not words:
            return ""
        return (
            f"no network that can be made of this one comes near the budget ({'; '.join(words)} with all that is allowed "
            "at its strongest), so none was trained. Loosen it, allow more techniques, or start from a smaller network"
        )


def _limits(budget: Budget) -> dict[str, float]:
    limits = {"latency_ms": budget.latency_ms, budget.size_name: budget.size_bytes, "macs": budget.macs}
    return {name: limit for name, limit in limits.items() if limit is not None}


def find_reach(
    moves: Sequence[Move],
    policies: Sequence[Policy],
    make_recipe: MakeRecipe,
    price: Callable[[Recipe], Price],
    should_stop: Callable[[], bool],
) -> Reach:
    """Price the strongest moves together, kind by kind, under each policy.

    Raises:
        SearchCancelledError: ``should_stop`` said so.
    """
    lowest: dict[str, float] = {}
    for policy in policies:
        for chosen in _strongest(moves):

            def priced(chosen: Sequence[Move] = chosen, policy: Policy = policy) -> Price:
                return price(make_recipe(chosen, policy))

            try:
                found = attempt("the strongest moves", priced, should_stop)
            except OptionSkippedError:
                continue
            for name, value in {**found.named(), "latency_ms": found.latency_low_ms}.items():
                lowest[name] = min(value, lowest.get(name, value))
    return Reach(lowest)


def _strongest(moves: Sequence[Move]) -> Iterator[list[Move]]:
    """The strongest move at every place of some kinds; a removed block takes those inside it along."""
    for kinds in _TOGETHER:
        places: dict[tuple[str, str], Move] = {}
        for move in sorted((m for m in moves if m.kind in kinds), key=lambda m: m.strength):
            places[(move.kind, move.name)] = move
        gone = {layer for m in places.values() if m.kind == "block" for layer in m.layers}
        yield [m for m in places.values() if m.kind == "block" or m.layers[0] not in gone]
