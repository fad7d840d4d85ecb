"""Fifty policies over three networks: what they made when the search knew three kinds of moves by name, and added savings up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hw_models.catalogue import get_target
from hw_models.predictor import Predictor
from search.allocation import allocate
from search.attempts import Attempts
from search.composition import Composition
from search.options import collect_options
from search.pricing import Pricer
from search.sensitivity import Sensitivity
from search.space import NONE, Policy
from techniques.context import TechniqueContext
from techniques.option import Option
from techniques.recipe import Recipe
from tests.search.golden.networks import loss_of, made
from tests.search.memory import MemoryStore

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden" / "recipes.json").read_text())
TECHNIQUES = ("input_resolution", "block_removal", "structured_pruning", "low_rank", "int8_quantization")


class Case:
    """One of the golden networks, with all that an allocation over it needs."""

    def __init__(self, name: str) -> None:
        network, context = made(name), TechniqueContext(channel_multiple=8)
        offered = collect_options(network, context, TECHNIQUES, Attempts(MemoryStore()))
        self.pricer = Pricer(network, Predictor.uncalibrated(get_target("raspberry-pi-5")), 1, context)
        self.composition = Composition.of(self.pricer, context, offered.pinned, ("distillation",))
        untrained = Composition.of(self.pricer, context, offered.pinned)
        saved: dict[str, dict[str, dict[str, float]]] = {}
        for bits in (NONE, "int8_quantization:int8"):
            policy = Policy({"bits": bits})
            original = self.pricer.price(untrained.recipe((), policy)).named()
            prices = {one.option_id: self.pricer.price(untrained.recipe((one,), policy)).named() for one in offered.local}
            saved[bits] = {id_: {kind: original[kind] - value for kind, value in price.items()} for id_, price in prices.items()}
        losses = {one.option_id: loss_of(one.axis, one.place, one.strength) for one in offered.local}
        self.sensitivity = Sensitivity(offered.local, losses, saved, {}, offered.pinned)
        self.options = {one.option_id: one for one in offered.local}

    def cost(self, options: Sequence[Option], policy: Policy) -> float:
        """What the allocation keeps low."""
        return sum(policy.cost(one.axis) * self.sensitivity.loss[one.option_id] for one in options)


@pytest.fixture(scope="module", params=GOLDEN)
def case(request: pytest.FixtureRequest) -> tuple[Case, dict[str, Any]]:
    return Case(request.param), GOLDEN[request.param]


def test_options_make_the_recipes_that_moves_made(case: tuple[Case, dict[str, Any]]) -> None:
    """What was taken under each policy, and the recipe that it was, stood before the search knew options."""
    made_case, golden = case
    assert len(made_case.options) == golden["options"]
    for one in golden["cases"]:
        recipe = made_case.composition.recipe([made_case.options[id_] for id_ in one["options"]], Policy(one["policy"]))
        assert [[step.technique, dict(step.config)] for step in recipe.steps] == one["steps"]


def test_pricing_each_option_beside_the_others_costs_less(case: tuple[Case, dict[str, Any]]) -> None:
    """Then savings were taken to add up: the same aims are met, for less loss; of a few greed makes a little more."""
    made_case, golden = case
    full, costs = made_case.pricer.price(Recipe()).named(), []
    for one in golden["cases"][::5]:
        policy, before = Policy(one["policy"]), [made_case.options[id_] for id_ in one["options"]]
        aims = {kind: share * full[kind] for kind, share in one["aims"].items()}
        if one["fits"]:
            # Prices have become more exact since: an aim that is missed by today's was met as far as this.
            reached = made_case.pricer.price(made_case.composition.recipe(before, policy)).named()
            aims = {kind: max(aim, reached[kind]) for kind, aim in aims.items()}
        found = allocate(policy, aims, made_case.sensitivity, made_case.composition.recipe, made_case.pricer.price)
        assert found.fits >= one["fits"]
        if one["fits"]:
            costs.append((made_case.cost(found.options, policy), made_case.cost(before, policy)))
    now, then = zip(*costs, strict=True)
    assert sum(now) < 0.9 * sum(then)
    assert all(a <= 1.25 * b for a, b in costs)
