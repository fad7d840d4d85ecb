"""From a policy and the sensitivities to a recipe per layer that fits the budget by prediction.

Greedy: of all options, the one that brings the price closest to its aims per unit of expected loss is made first, as in
AMC's resource-constrained action space (He 2018, section 3.3) and NetAdapt's one-layer-at-a-time steps (Yang 2018, section 3),
but with a cost per axis that the sampler chooses. Savings do not add up: what an option saves beside those that are made already
is priced, but only where what it saves alone, or saved when it was last priced, might make it the best (lazily, Minoux 1978). At
the end, what brings the price no closer to the aims any more is taken back, the dearest first.

Worked example. The original takes 1 ms, 0.85 ms are aimed at, all costs are 1. What single options save, and the loss they add:

=====================================  ======  ====
option                                 ms      loss
=====================================  ======  ====
remove block b1                        0.30    0.50
prune half of b1.conv1 (inside b1)     0.10    0.10
prune a quarter of b2.conv1            0.10    0.02
prune half of b2.conv1                 0.25    0.20
=====================================  ======  ====

Priced, each of them and all together save four fifths of that.

1. The excess is 0.15 ms. Of it, per loss, they seem to take: the block all, 1 / 0.50 = 2; b1.conv1 two thirds, 6.7; a quarter of
   b2.conv1 two thirds, 33; half of it all, 5. The quarter of b2.conv1 is priced and saves 0.08, which is 27 per loss and still
   more than any other one may come to: it is made.
2. The excess is 0.07 ms. Half of b2.conv1 instead of the quarter seems to take all for 0.18 more, 5.6, b1.conv1 all for 0.10, 10.
   It is priced: it saves 0.08 here, too, and is made. The price is 0.84 ms, which is within the aim.
3. Without either of the two it would not be: nothing is taken back.

With a cost of 0.1 on the axis ``depth`` the block is at 20: it is made in the second step instead of b1.conv1, which lies inside
it, and the quarter of b2.conv1 is taken back, for the block alone is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from search.attempts import attempt
from search.errors import OptionSkippedError
from search.pricing import Price
from search.sensitivity import Sensitivity
from search.space import Policy
from techniques.option import Axis, Option
from techniques.recipe import Recipe

MAX_PRICINGS = 128
"""While options are added one by one; behind these, which networks with hundreds of places may need, savings count as alone."""
_MAX_SUMS, _MAX_TAKEN_BACK = 12, 32
_ROUNDING = 1e-9
"""An aim that is the price of a format alone is met by it."""
_LOSS_FLOOR = 1e-3
MakeRecipe = Callable[[Sequence[Option], Policy], Recipe]
Slot = tuple[Axis, str]


@dataclass(frozen=True)
class Allocation:
    """A recipe with its predicted price; ``fits`` says whether every aim was reached."""

    recipe: Recipe
    price: Price
    options: tuple[Option, ...]
    fits: bool


def allocate(
    policy: Policy,
    aims: Mapping[str, float],
    sensitivity: Sensitivity,
    make_recipe: MakeRecipe,
    price: Callable[[Recipe], Price],
    should_stop: Callable[[], bool] = lambda: False,
) -> Allocation:
    """Combine options until every aim is met or none helps.

    Args:
        aims: named price -> what it should be at most.
        make_recipe: the recipe of some options under a policy.
        price: the predicted price of a recipe (memoised).

    Raises:
        OptionSkippedError: even without options the policy's recipe cannot be made or priced on this network.
        SearchCancelledError: ``should_stop`` said so.
    """

    def drafted(chosen: Mapping[Slot, Option]) -> _Draft:
        recipe = make_recipe(tuple(chosen.values()), policy)
        return _Draft(chosen, recipe, price(recipe))

    allocator = _Allocator(policy, aims, sensitivity, lambda what, chosen: attempt(what, lambda: drafted(chosen), should_stop))
    draft = allocator.taken_back(allocator.summed_up(allocator.grown()))
    return Allocation(draft.recipe, draft.price, tuple(draft.chosen.values()), not _excess(draft.price.named(), aims))


@dataclass(frozen=True)
class _Draft:
    """Some options, their recipe and its price."""

    chosen: Mapping[Slot, Option]
    recipe: Recipe
    price: Price


class _Allocator:
    """One allocation: see the module.

    Args:
        draft: what it is for, and the options.
    """

    def __init__(
        self,
        policy: Policy,
        aims: Mapping[str, float],
        sensitivity: Sensitivity,
        draft: Callable[[str, Mapping[Slot, Option]], _Draft],
    ) -> None:
        self._policy, self._aims, self._sensitivity, self._draft = policy, aims, sensitivity, draft
        self._rejected: set[str] = set()
        self._last_saved: dict[tuple[Option, Option | None], Mapping[str, float]] = {}
        self._pricings = 0

    def grown(self) -> _Draft:
        """One option after the other, as long as one helps."""
        draft = self._draft("a recipe without options", {})
        while (better := self._better(draft)) is not None:
            draft = better
        return draft

    def _better(self, draft: _Draft) -> _Draft | None:
        """With the option that gains most per loss."""
        excess = _excess(draft.price.named(), self._aims)
        best, most = None, 0.0
        for likely, option in sorted(self._likely(draft, excess), key=lambda one: -one[0]):
            if likely <= most or self._pricings >= MAX_PRICINGS:
                break
            tried = self._tried(draft, option)
            if tried is None or self._over(tried) >= self._over(draft):
                continue
            gain = self._gain(option, draft, excess)
            if gain > most:
                best, most = tried, gain
        return best

    def _over(self, draft: _Draft) -> float:
        return _total_excess(draft.price, self._aims)

    def _usable(self, chosen: Mapping[Slot, Option], without: set[str]) -> Iterator[Option]:
        """Options that may be added, but for those of some ids."""
        for option in self._sensitivity.options:
            allowed = self._policy.allows(option.technique, option.axis) and option.option_id not in without
            if allowed and _is_new(option, chosen):
                yield option

    def _likely(self, draft: _Draft, excess: Mapping[str, float]) -> list[tuple[float, Option]]:
        """What options may gain per loss, each with its option; none once the aims are met."""
        usable = self._usable(draft.chosen, self._rejected) if excess else ()
        return [(self._gain(option, draft, excess), option) for option in usable]

    def _gain(self, option: Option, draft: _Draft, excess: Mapping[str, float]) -> float:
        """By what it saved when it was last priced in the place of the same option, or by what it saves alone."""
        saved = self._last_saved.get((option, draft.chosen.get(option.slot)))
        return self._per_loss(option, draft.chosen, excess, self._alone(option, draft.chosen) if saved is None else saved)

    def _per_loss(
        self, option: Option, chosen: Mapping[Slot, Option], excess: Mapping[str, float], saved: Mapping[str, float]
    ) -> float:
        return _share_of(excess, saved) / (self._policy.cost(option.axis) * _added_loss(option, chosen, self._sensitivity))

    def _alone(self, option: Option, chosen: Mapping[Slot, Option]) -> Mapping[str, float]:
        """What the option saves alone, beyond the one that it replaces."""
        saved = self._sensitivity.saved[self._policy.pinned("bits")]
        present = chosen.get(option.slot)
        already = saved[present.option_id] if present else {}
        return {name: value - already.get(name, 0.0) for name, value in saved[option.option_id].items()}

    def _tried(self, draft: _Draft, option: Option) -> _Draft | None:
        """Priced with it; None if it does not go with the others."""
        self._pricings += 1
        try:
            tried = self._draft("a recipe", _plus(draft.chosen, option))
        except OptionSkippedError:
            self._rejected.add(option.option_id)
            return None
        before, after = draft.price.named(), tried.price.named()
        self._last_saved[option, draft.chosen.get(option.slot)] = {name: before[name] - after[name] for name in self._aims}
        return tried

    def summed_up(self, draft: _Draft) -> _Draft:
        """What is still missing as if savings added up, priced again whenever their sum says that the aims are met."""
        for _ in range(_MAX_SUMS):
            planned = self._planned(draft)
            if planned == draft.chosen:
                break
            try:
                tried = self._draft("a recipe", planned)
            except OptionSkippedError:
                # Two options of the plan do not go together; the last one is left out from here on.
                self._rejected.add(list(planned.values())[-1].option_id)
                continue
            if self._over(tried) >= self._over(draft):
                self._rejected |= {one.option_id for slot, one in planned.items() if draft.chosen.get(slot) != one}
                continue
            draft = tried
        return draft

    def _planned(self, draft: _Draft) -> dict[Slot, Option]:
        """With options added as if savings added up until the aims would be met; the caller asks for the true price."""
        plan, estimate, tried = dict(draft.chosen), dict(draft.price.named()), set(self._rejected)
        while excess := _excess(estimate, self._aims):
            gains = {one: self._per_loss(one, plan, excess, self._alone(one, plan)) for one in self._usable(plan, tried)}
            best = max(gains, key=lambda one: gains[one], default=None)
            if best is None or gains[best] <= 0:
                break
            tried.add(best.option_id)
            for name, saved in self._alone(best, plan).items():
                estimate[name] -= saved
            plan = _plus(plan, best)
        return plan

    def taken_back(self, draft: _Draft) -> _Draft:
        """Without the options that bring the price no closer to the aims any more, the dearest tried first."""
        for option in sorted(draft.chosen.values(), key=self._cost, reverse=True)[:_MAX_TAKEN_BACK]:
            try:
                fewer = self._draft("a recipe", {slot: one for slot, one in draft.chosen.items() if one != option})
            except OptionSkippedError:
                continue  # another one needs it
            if self._over(fewer) <= self._over(draft):
                draft = fewer
        return draft

    def _cost(self, option: Option) -> float:
        return self._policy.cost(option.axis) * self._sensitivity.loss[option.option_id]


def _plus(chosen: Mapping[Slot, Option], option: Option) -> dict[Slot, Option]:
    """Add an option: it replaces what its slot had, and one that removes layers takes the options inside them along."""
    kept = dict(chosen)
    if option.removes:
        gone = set(option.layers)
        kept = {slot: other for slot, other in kept.items() if other.removes or other.layers[0] not in gone}
    kept[option.slot] = option
    return kept


def _is_new(option: Option, chosen: Mapping[Slot, Option]) -> bool:
    """Not chosen yet, nor something stronger by the same technique, and its layers are still there."""
    present = chosen.get(option.slot)
    if present is not None and present.technique == option.technique and present.strength >= option.strength:
        return False
    gone = {layer for other in chosen.values() if other.removes for layer in other.layers}
    return option.removes or option.layers[0] not in gone


def _added_loss(option: Option, chosen: Mapping[Slot, Option], sensitivity: Sensitivity) -> float:
    present = chosen.get(option.slot)
    before = sensitivity.loss[present.option_id] if present else 0.0
    return max(sensitivity.loss[option.option_id] - before, 0.0) + _LOSS_FLOOR


def _share_of(excess: Mapping[str, float], saved: Mapping[str, float]) -> float:
    """How much of the excess over the aims is taken away, each aim's excess counting as one; what rises counts against it."""
    return sum(min(saved.get(name, 0.0), over) / over for name, over in excess.items())


def _excess(named: Mapping[str, float], aims: Mapping[str, float]) -> dict[str, float]:
    return {name: named[name] - aim for name, aim in aims.items() if named[name] > (1 + _ROUNDING) * aim}


def _total_excess(price: Price, aims: Mapping[str, float]) -> float:
    return sum(excess / aims[name] for name, excess in _excess(price.named(), aims).items())
