"""Options of made-up networks, what each loses and saves, and a price that needs no network."""

from __future__ import annotations

from collections.abc import Sequence

from search.pricing import Price
from search.protocols import Measurement
from search.sensitivity import Sensitivity
from search.space import NONE, Policy
from techniques.option import Option
from techniques.recipe import Recipe, Step

OPTIONS = (
    Option("block_removal", "depth", "b1", 1.0, ("b1.conv1", "b1.conv2"), removes=True),
    Option("structured_pruning", "width", "b1.conv1", 0.5, ("b1.conv1",)),
    Option("structured_pruning", "width", "b2.conv1", 0.25, ("b2.conv1",)),
    Option("structured_pruning", "width", "b2.conv1", 0.5, ("b2.conv1",), level=1),
)
BLOCK, INSIDE, MILD, STRONG = (option.option_id for option in OPTIONS)
SAVED_MS = {BLOCK: 0.3, INSIDE: 0.1, MILD: 0.1, STRONG: 0.25}
LOSS = {BLOCK: 0.5, INSIDE: 0.1, MILD: 0.02, STRONG: 0.2}
SENSITIVITY = Sensitivity(OPTIONS, LOSS, {NONE: {k: {"latency_ms": v} for k, v in SAVED_MS.items()}})

LAYERS = tuple(f"layer{number}" for number in range(8))
MANY = tuple(
    Option("structured_pruning", "width", name, ratio, (name,), level) for name in LAYERS for level, ratio in enumerate((0.25, 0.5))
)
SAVED_MS |= {o.option_id: 0.16 * o.strength * (1 + LAYERS.index(o.place) % 3 / 4) for o in MANY}
MANY_SENSITIVITY = Sensitivity(
    MANY,
    {o.option_id: o.strength**2 * (1 + LAYERS.index(o.place)) / 8 for o in MANY},
    {NONE: {o.option_id: {"latency_ms": SAVED_MS[o.option_id]} for o in MANY}},
)
"""Of a network with eight layers: enough for some dozens of different recipes."""


def made_recipe(options: Sequence[Option], policy: Policy) -> Recipe:
    """One step per option, in a fixed order: the same options are the same recipe."""
    return Recipe(tuple(Step(o.technique, {"id": o.option_id}) for o in sorted(options, key=lambda o: o.option_id)))


def made_price(recipe: Recipe) -> Price:
    """The original takes 1 ms; savings add up only to four fifths, as on a real device."""
    latency = 1.0 - 0.8 * sum(SAVED_MS[s.config["id"]] for s in recipe.steps)
    return Price(Measurement(latency, "predicted"), latency, latency, 100, 100, 400, 500)
