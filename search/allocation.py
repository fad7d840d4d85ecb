"""From a policy and the sensitivities to a recipe per layer that fits the budget by prediction.

Greedy: of all moves, the one that brings the price closest to its aims per unit of expected loss is made first, as in
AMC's resource-constrained action space (He 2018, section 3.3) and NetAdapt's one-layer-at-a-time steps (Yang 2018, section 3),
but with a cost per technique that the sampler chooses. The price of the whole recipe is asked again after every move,
since savings do not add up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from search.moves import Move
from search.pricing import Price
from search.sensitivity import Sensitivity
from search.space import Policy
from search.spec import Budget
from techniques.errors import TechniqueError
from techniques.recipe import Recipe

MAX_MOVES = 64
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
    policy: Policy, aims: Mapping[str, float], sensitivity: Sensitivity, make_recipe: MakeRecipe, price: Callable[[Recipe], Price]
) -> Allocation:
    """Combine moves until every aim is met or no move helps.

    Args:
        aims: named price -> what it should be at most.
        make_recipe: the recipe of some moves under a policy.
        price: the predicted price of a recipe (memoised).
    """
    costs = {"block": policy.depth_cost, "prune": policy.width_cost, "rank": policy.rank_cost}
    chosen: dict[tuple[str, str], Move] = {}
    rejected: set[str] = set()
    recipe = make_recipe((), policy)
    current = price(recipe)
    for _ in range(MAX_MOVES):
        if not _excess(current, aims):
            break
        best = max(
            (m for m in sensitivity.moves if m.move_id not in rejected and _is_new(m, chosen)),
            key=lambda m: (
                _gain(m, chosen, current, aims, sensitivity, policy) / (costs[m.kind] * _added_loss(m, chosen, sensitivity))
            ),
            default=None,
        )
        if best is None:
            break
        rejected.add(best.move_id)
        trial = _with(chosen, best)
        try:
            new_recipe = make_recipe(tuple(trial.values()), policy)
            new_price = price(new_recipe)
        except TechniqueError:
            continue
        if _total_excess(new_price, aims) < _total_excess(current, aims):
            chosen, recipe, current = trial, new_recipe, new_price
    return Allocation(recipe, current, tuple(chosen.values()), not _excess(current, aims))


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


def _gain(
    move: Move,
    chosen: Mapping[tuple[str, str], Move],
    current: Price,
    aims: Mapping[str, float],
    sensitivity: Sensitivity,
    policy: Policy,
) -> float:
    """How much of the excess over the aims the move takes away, in relative terms, as if savings added up."""
    saved = sensitivity.saved[policy.precision][move.move_id]
    present = chosen.get((move.kind, move.name))
    already = sensitivity.saved[policy.precision][present.move_id] if present else {}
    total = 0.0
    for name, excess in _excess(current, aims).items():
        total += min(max(saved.get(name, 0.0) - already.get(name, 0.0), 0.0), excess) / excess
    return total


def _excess(price: Price, aims: Mapping[str, float]) -> dict[str, float]:
    return {name: price.named()[name] - aim for name, aim in aims.items() if price.named()[name] > aim}


def _total_excess(price: Price, aims: Mapping[str, float]) -> float:
    return sum(excess / aims[name] for name, excess in _excess(price, aims).items())
