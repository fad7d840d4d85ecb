"""Fifty policies over three networks make the recipes that they made when the search knew three kinds of moves by name."""

from __future__ import annotations

import json
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
from techniques.recipe import Recipe
from tests.search.golden.networks import loss_of, made
from tests.search.memory import MemoryStore

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden" / "recipes.json").read_text())
TECHNIQUES = ("input_resolution", "block_removal", "structured_pruning", "low_rank", "int8_quantization")


@pytest.mark.parametrize("name", GOLDEN)
def test_policies_make_the_recipes_that_they_made_before_options(name: str) -> None:
    network, context = made(name), TechniqueContext(channel_multiple=8)
    offered = collect_options(network, context, TECHNIQUES, Attempts(MemoryStore()))
    assert len(offered.local) == GOLDEN[name]["options"]
    pricer = Pricer(network, Predictor.uncalibrated(get_target("raspberry-pi-5")), 1, context)
    composition = Composition.of(network.to_meta(), context, offered.pinned, ("distillation",))
    untrained = Composition.of(network.to_meta(), context, offered.pinned)
    saved: dict[str, dict[str, dict[str, float]]] = {}
    for bits in (NONE, "int8_quantization:int8"):
        policy = Policy({"bits": bits})
        original = pricer.price(untrained.recipe((), policy)).named()
        prices = {option.option_id: pricer.price(untrained.recipe((option,), policy)).named() for option in offered.local}
        saved[bits] = {id_: {kind: original[kind] - value for kind, value in price.items()} for id_, price in prices.items()}
    losses = {option.option_id: loss_of(option.axis, option.place, option.strength) for option in offered.local}
    sensitivity = Sensitivity(offered.local, losses, saved, {}, offered.pinned)
    full = pricer.price(Recipe()).named()
    for case in GOLDEN[name]["cases"]:
        aims = {kind: share * full[kind] for kind, share in case["aims"].items()}
        allocation = allocate(Policy(case["policy"]), aims, sensitivity, composition.recipe, pricer.price)
        assert [[step.technique, dict(step.config)] for step in allocation.recipe.steps] == case["steps"]
        assert allocation.fits == case["fits"]
