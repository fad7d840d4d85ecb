"""Budgets that no network made of this original can meet: seen from prices alone, before anything is measured or trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from search.allocation import MakeRecipe
from search.attempts import attempt
from search.errors import OptionSkippedError
from search.limits import priced_limits
from search.pricing import Price
from search.space import Policy
from search.spec import Budget
from techniques.option import Axis, Option
from techniques.recipe import Recipe


@dataclass(frozen=True)
class Reach:
    """The lowest price of each kind; a network that has all of them at once need not exist."""

    lowest: Mapping[str, float]

    def broken(self, budget: Budget) -> dict[str, float]:
        """Each limit that is out of reach, with the lowest price that can be made."""
        known = [(limit, self.lowest[limit.name]) for limit in priced_limits(budget) if limit.name in self.lowest]
        return {limit.name: lowest for limit, lowest in known if limit.is_out_of_reach(lowest)}

    def sentence(self, budget: Budget) -> str:
        """What to tell of limits that are out of reach; empty where there are none."""
        limits, broken = {limit.name: limit.most for limit in priced_limits(budget)}, self.broken(budget)
        words = [f"{name} {limits[name]:.6g}, where at least {low:.4g} is predicted" for name, low in broken.items()]
        if not words:
            return ""
        return (
            f"no network that can be made of this one comes near the budget ({'; '.join(words)} with all that is allowed "
            "at its strongest), so none was trained. Loosen it, allow more techniques, or start from a smaller network"
        )


def find_reach(
    options: Sequence[Option],
    policies: Sequence[Policy],
    make_recipe: MakeRecipe,
    price: Callable[[Recipe], Price],
    should_stop: Callable[[], bool],
) -> Reach:
    """Price the strongest options together, axis by axis, under each policy.

    Raises:
        SearchCancelledError: ``should_stop`` said so.
    """
    lowest: dict[str, float] = {}
    for policy in policies:
        for chosen in _strongest(options):

            def priced(chosen: Sequence[Option] = chosen, policy: Policy = policy) -> Price:
                return price(make_recipe(chosen, policy))

            try:
                found = attempt("the strongest options", priced, should_stop)
            except OptionSkippedError:
                continue
            for name, value in found.optimistic().items():
                lowest[name] = min(value, lowest.get(name, value))
    return Reach(lowest)


def _strongest(options: Sequence[Option]) -> Iterator[list[Option]]:
    """The strongest option in every slot of some axes; one that removes layers takes those inside them along."""
    for axes in _together(tuple(dict.fromkeys(option.axis for option in options))):
        chosen = {o.slot: o for o in sorted(options, key=lambda o: o.strength) if o.axis in axes}
        gone = {layer for o in chosen.values() if o.removes for layer in o.layers}
        yield [o for o in chosen.values() if o.removes or o.layers[0] not in gone]


def _together(axes: tuple[Axis, ...]) -> Iterator[tuple[Axis, ...]]:
    """All axes, all but one, each alone and none: an option may cost time where others leave little (a rank of few channels)."""
    found = [axes, *(tuple(a for a in axes if a != one) for one in axes), *((one,) for one in axes), ()]
    yield from dict.fromkeys(found)
