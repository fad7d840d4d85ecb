"""Four moves of a made-up network, what each loses and saves, and a price that needs no network."""

from __future__ import annotations

from collections.abc import Sequence

from search.moves import Move
from search.pricing import Price
from search.protocols import Measurement
from search.sensitivity import Sensitivity
from search.space import Policy
from techniques.recipe import Recipe, Step

MOVES = (
    Move("block", "b1", 1.0, ("b1.conv1", "b1.conv2")),
    Move("prune", "b1.conv1", 0.5, ("b1.conv1",)),
    Move("prune", "b2.conv1", 0.25, ("b2.conv1",)),
    Move("prune", "b2.conv1", 0.5, ("b2.conv1",)),
)
SAVED_MS = {"block:b1:1": 0.3, "prune:b1.conv1:0.5": 0.1, "prune:b2.conv1:0.25": 0.1, "prune:b2.conv1:0.5": 0.25}
LOSS = {"block:b1:1": 0.5, "prune:b1.conv1:0.5": 0.1, "prune:b2.conv1:0.25": 0.02, "prune:b2.conv1:0.5": 0.2}
SENSITIVITY = Sensitivity(MOVES, LOSS, {"fp32": {k: {"latency_ms": v} for k, v in SAVED_MS.items()}})


def made_recipe(moves: Sequence[Move], policy: Policy) -> Recipe:
    """One step per move, in a fixed order: the same moves are the same recipe."""
    return Recipe(tuple(Step(m.kind, {"id": m.move_id}) for m in sorted(moves, key=lambda m: m.move_id)))


def made_price(recipe: Recipe) -> Price:
    """The original takes 1 ms; savings add up only to four fifths, as on a real device."""
    latency = 1.0 - 0.8 * sum(SAVED_MS[s.config["id"]] for s in recipe.steps)
    return Price(Measurement(latency, "predicted"), latency, latency, 100, 100, 400, 500)
