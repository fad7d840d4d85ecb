"""From a policy and the sensitivities to a recipe per layer that fits the budget by prediction.

Greedy: of all moves, the one that brings the price closest to its aims per unit of expected loss is made first, as in
AMC's resource-constrained action space (He 2018, section 3.3) and NetAdapt's one-layer-at-a-time steps (Yang 2018, section 3),
but with a cost per technique that the sampler chooses. Savings do not add up, so the whole recipe is priced again whenever
the sum of single savings says that the aims are met, and moves are added until they really are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from search.attempts import attempt
from search.errors import OptionSkippedError
from search.moves import Move
from search.pricing import Price
from search.sensitivity import Sensitivity
from search.space import Policy
from search.spec import Budget
from techniques.recipe import Recipe

MAX_PRICINGS = 12
_LOSS_FLOOR = 1e-3
MakeRecipe = Callable[[Sequence[Move], Policy], Recipe]


@dataclass(frozen=True)
class Allocation:
    """A recipe with its predicted price; ``fits`` says whether every aim was reached."""

    recipe: Recipe
    price: Price
    moves: tuple[Move, ...]
    fits: bool


def aims_of(budget: Budget, original: Price, tightness: float) -> dict[str, float]:
    """What the recipe should cost: each limit times ``tightness``; without a latency limit, a share of the original's."""
    aims: dict[str, float] = {}
    aims["latency_ms"] = budget.latency_ms * tightness if budget.latency_ms else original.latency.value * tightness**4
    if budget.size_bytes:
        aims[budget.size_name] = budget.size_bytes * tightness
    if budget.macs:
        aims["macs"] = budget.macs * tightness
    return aims


def allocate(
    policy: Policy,
    aims: Mapping[str, float],
    sensitivity: Sensitivity,
    make_recipe: MakeRecipe,
    price: Callable[[Recipe], Price],
    should_stop: Callable[[], bool] = lambda: False,
) -> Allocation:
    """Combine moves until every aim is met or no move helps.

    Args:
        aims: named price -> what it should be at most.
        make_recipe: the recipe of some moves under a policy.
        price: the predicted price of a recipe (memoised).

    Raises:
        OptionSkippedError: even without moves the policy's recipe cannot be made or priced on this network.
        SearchCancelledError: ``should_stop`` said so.
    """

    def priced(moves: Sequence[Move]) -> tuple[Recipe, Price]:
        made = make_recipe(moves, policy)
        return made, price(made)

    chosen: dict[tuple[str, str], Move] = {}
    rejected: set[str] = set()
    recipe, current = attempt("a recipe without moves", lambda: priced(()), should_stop)
    for _ in range(MAX_PRICINGS):
        planned = _planned(chosen, rejected, current, aims, sensitivity, policy)
        if planned == chosen:
            break
        try:
            recipe_now, price_now = attempt("a recipe", partial(priced, tuple(planned.values())), should_stop)
        except OptionSkippedError:
            # Two moves of the plan do not go together; the last one is left out from here on.
            rejected.add(list(planned.values())[-1].move_id)
            continue
        if _total_excess(price_now, aims) >= _total_excess(current, aims):
            rejected |= {m.move_id for place, m in planned.items() if chosen.get(place) != m}
            continue
        chosen, recipe, current = planned, recipe_now, price_now
    return Allocation(recipe, current, tuple(chosen.values()), not _excess(current.named(), aims))


def _planned(
    chosen: Mapping[tuple[str, str], Move],
    rejected: set[str],
    current: Price,
    aims: Mapping[str, float],
    sensitivity: Sensitivity,
    policy: Policy,
) -> dict[tuple[str, str], Move]:
    """Add moves as if savings added up until the aims would be met; the caller asks for the true price."""
    costs = {"block": policy.depth_cost, "prune": policy.width_cost, "rank": policy.rank_cost}
    plan, estimate = dict(chosen), dict(current.named())
    tried = set(rejected)
    while (excess := _excess(estimate, aims)) and len(tried) < len(sensitivity.moves):
        gains = {
            move: _gain(move, plan, excess, sensitivity, policy) / (costs[move.kind] * _added_loss(move, plan, sensitivity))
            for move in sensitivity.moves
            if move.move_id not in tried and _is_new(move, plan)
        }
        best = max(gains, key=lambda move: gains[move], default=None)
        if best is None or gains[best] <= 0:
            break
        tried.add(best.move_id)
        for name, saved in _saved(best, plan, sensitivity, policy).items():
            estimate[name] -= saved
        plan = _with(plan, best)
    return plan


def _with(chosen: Mapping[tuple[str, str], Move], move: Move) -> dict[tuple[str, str], Move]:
    """Add a move: a stronger one replaces the weaker at its place, and a removed block takes the moves inside it along."""
    kept = dict(chosen)
    if move.kind == "block":
        gone = set(move.layers)
        kept = {place: m for place, m in kept.items() if m.kind == "block" or m.layers[0] not in gone}
    kept[(move.kind, move.name)] = move
    return kept


def _is_new(move: Move, chosen: Mapping[tuple[str, str], Move]) -> bool:
    present = chosen.get((move.kind, move.name))
    if present is not None and present.strength >= move.strength:
        return False
    removed = {layer for m in chosen.values() if m.kind == "block" for layer in m.layers}
    return move.kind == "block" or move.layers[0] not in removed


def _added_loss(move: Move, chosen: Mapping[tuple[str, str], Move], sensitivity: Sensitivity) -> float:
    present = chosen.get((move.kind, move.name))
    before = sensitivity.loss[present.move_id] if present else 0.0
    return max(sensitivity.loss[move.move_id] - before, 0.0) + _LOSS_FLOOR


def _saved(move: Move, chosen: Mapping[tuple[str, str], Move], sensitivity: Sensitivity, policy: Policy) -> dict[str, float]:
    """What the move saves alone, beyond the weaker move that it replaces."""
    saved = sensitivity.saved[policy.precision]
    present = chosen.get((move.kind, move.name))
    already = saved[present.move_id] if present else {}
    return {name: value - already.get(name, 0.0) for name, value in saved[move.move_id].items()}


def _gain(
    move: Move,
    chosen: Mapping[tuple[str, str], Move],
    excess: Mapping[str, float],
    sensitivity: Sensitivity,
    policy: Policy,
) -> float:
    """How much of the excess over the aims the move takes away, each aim's excess counting as one."""
    saved = _saved(move, chosen, sensitivity, policy)
    return sum(min(max(saved.get(name, 0.0), 0.0), over) / over for name, over in excess.items())


def _excess(named: Mapping[str, float], aims: Mapping[str, float]) -> dict[str, float]:
    return {name: named[name] - aim for name, aim in aims.items() if named[name] > aim}


def _total_excess(price: Price, aims: Mapping[str, float]) -> float:
    return sum(excess / aims[name] for name, excess in _excess(price.named(), aims).items())
