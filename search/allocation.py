"""From a policy and the sensitivities to a recipe per layer that fits the budget by prediction.

Greedy: of all options, the one that brings the price closest to its aims per unit of expected loss is made first, as in
AMC's resource-constrained action space (He 2018, section 3.3) and NetAdapt's one-layer-at-a-time steps (Yang 2018, section 3),
but with a cost per axis that the sampler chooses. Savings do not add up, so the whole recipe is priced again whenever
the sum of single savings says that the aims are met, and options are added until they really are.

Worked example. The original takes 1 ms, 0.85 ms are aimed at, all costs are 1. What single options save, and the loss they add:

=====================================  ======  ====
option                                 ms      loss
=====================================  ======  ====
remove block b1                        0.30    0.50
prune half of b1.conv1 (inside b1)     0.10    0.10
prune a quarter of b2.conv1            0.10    0.02
prune half of b2.conv1                 0.25    0.20
=====================================  ======  ====

1. The excess is 0.15 ms. Of it, per loss: the block takes all, 1 / 0.50 = 2; b1.conv1 two thirds, 6.7; a quarter of b2.conv1 two
   thirds, 33; half of it all, 5. A quarter of b2.conv1 is planned.
2. The excess is 0.05 ms as far as savings add up. Half of b2.conv1 instead of the quarter would take all for 0.18 more, 5.6;
   b1.conv1 takes all for 0.10, 10, and is planned. Nothing is left, so the recipe of both is priced.
3. Savings do not add up: the price is 0.84 ms instead of 0.80, which still is within the aim. Had it been 0.87, the plan would go
   on from that price with what is left; had it not fallen, what was added would be rejected.

With a cost of 0.1 on the axis ``depth`` the block is at 20: it is taken in the second step instead of b1.conv1, which lies inside
it. With 0.05 it is taken first, and alone is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from search.attempts import attempt
from search.errors import OptionSkippedError
from search.pricing import Price
from search.sensitivity import Sensitivity
from search.space import Policy
from techniques.option import Axis, Option
from techniques.recipe import Recipe

MAX_PRICINGS = 12
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

    def priced(options: Sequence[Option]) -> tuple[Recipe, Price]:
        made = make_recipe(options, policy)
        return made, price(made)

    chosen: dict[Slot, Option] = {}
    rejected: set[str] = set()
    recipe, current = attempt("a recipe without options", lambda: priced(()), should_stop)
    for _ in range(MAX_PRICINGS):
        planned = _planned(chosen, rejected, current, aims, sensitivity, policy)
        if planned == chosen:
            break
        try:
            recipe_now, price_now = attempt("a recipe", partial(priced, tuple(planned.values())), should_stop)
        except OptionSkippedError:
            # Two options of the plan do not go together; the last one is left out from here on.
            rejected.add(list(planned.values())[-1].option_id)
            continue
        if _total_excess(price_now, aims) >= _total_excess(current, aims):
            rejected |= {option.option_id for slot, option in planned.items() if chosen.get(slot) != option}
            continue
        chosen, recipe, current = planned, recipe_now, price_now
    return Allocation(recipe, current, tuple(chosen.values()), not _excess(current.named(), aims))


def _planned(
    chosen: Mapping[Slot, Option],
    rejected: set[str],
    current: Price,
    aims: Mapping[str, float],
    sensitivity: Sensitivity,
    policy: Policy,
) -> dict[Slot, Option]:
    """Add options as if savings added up until the aims would be met; the caller asks for the true price."""
    plan, estimate = dict(chosen), dict(current.named())
    tried = set(rejected)
    allowed = [option for option in sensitivity.options if policy.allows(option.technique, option.axis)]
    while (excess := _excess(estimate, aims)) and len(tried) < len(sensitivity.options):
        gains = {
            option: _gain(option, plan, excess, sensitivity, policy)
            / (policy.cost(option.axis) * _added_loss(option, plan, sensitivity))
            for option in allowed
            if option.option_id not in tried and _is_new(option, plan)
        }
        best = max(gains, key=lambda option: gains[option], default=None)
        if best is None or gains[best] <= 0:
            break
        tried.add(best.option_id)
        for name, saved in _saved(best, plan, sensitivity, policy).items():
            estimate[name] -= saved
        plan = _with(plan, best)
    return plan


def _with(chosen: Mapping[Slot, Option], option: Option) -> dict[Slot, Option]:
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


def _saved(option: Option, chosen: Mapping[Slot, Option], sensitivity: Sensitivity, policy: Policy) -> dict[str, float]:
    """What the option saves alone, beyond the one that it replaces."""
    saved = sensitivity.saved[policy.pinned("bits")]
    present = chosen.get(option.slot)
    already = saved[present.option_id] if present else {}
    return {name: value - already.get(name, 0.0) for name, value in saved[option.option_id].items()}


def _gain(
    option: Option,
    chosen: Mapping[Slot, Option],
    excess: Mapping[str, float],
    sensitivity: Sensitivity,
    policy: Policy,
) -> float:
    """How much of the excess over the aims the option takes away, each aim's excess counting as one."""
    saved = _saved(option, chosen, sensitivity, policy)
    return sum(min(max(saved.get(name, 0.0), 0.0), over) / over for name, over in excess.items())


def _excess(named: Mapping[str, float], aims: Mapping[str, float]) -> dict[str, float]:
    return {name: named[name] - aim for name, aim in aims.items() if named[name] > aim}


def _total_excess(price: Price, aims: Mapping[str, float]) -> float:
    return sum(excess / aims[name] for name, excess in _excess(price.named(), aims).items())
