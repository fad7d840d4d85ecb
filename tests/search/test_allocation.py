from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from search.allocation import allocate
from search.pricing import Price
from search.protocols import Measurement
from search.sensitivity import Sensitivity
from search.space import NONE, Policy
from techniques.errors import ConfigError
from techniques.option import Option
from techniques.recipe import Recipe
from tests.search.priced_options import (
    BLOCK,
    INSIDE,
    MANY_SENSITIVITY,
    MILD,
    OPTIONS,
    SENSITIVITY,
    STRONG,
    made_price,
    made_recipe,
)  # fmt: skip


def _allocate(aim_ms: float, policy: Policy, fits: bool | None = None) -> list[str]:
    allocation = allocate(policy, {"latency_ms": aim_ms}, SENSITIVITY, made_recipe, made_price)
    assert allocation.fits == (allocation.price.latency.value <= aim_ms if fits is None else fits)
    return sorted(option.option_id for option in allocation.options)


def test_nothing_is_done_when_the_original_fits() -> None:
    assert _allocate(1.0, Policy()) == []


def test_the_cheapest_loss_per_saving_is_taken_first() -> None:
    assert _allocate(0.95, Policy()) == [MILD]


def test_the_worked_example() -> None:
    """Of the module's docstring."""
    assert _allocate(0.85, Policy()) == [INSIDE, MILD]
    assert made_price(made_recipe([OPTIONS[1], OPTIONS[2]], Policy())).latency.value == pytest.approx(0.84)
    assert _allocate(0.85, Policy({"cost.depth": 0.1})) == [BLOCK], "the quarter was made first and is not needed any more"


def test_what_saves_nothing_beside_the_others_is_not_made() -> None:
    """Alone each of two would save the most per loss; the second has nothing left to save, which an estimate would not see."""

    def overlapping(recipe: Recipe) -> Price:
        taken = {step.config["id"] for step in recipe.steps}
        saved = 0.1 * bool(taken & {INSIDE, MILD}) + 0.3 * (BLOCK in taken)
        return Price(Measurement(1 - saved, "predicted"), 1 - saved, 1 - saved, 100, 100, 400, 500)

    allocation = allocate(Policy(), {"latency_ms": 0.85}, SENSITIVITY, made_recipe, overlapping)
    assert [option.option_id for option in allocation.options] == [BLOCK]
    assert allocation.fits


def test_a_network_of_many_places_is_summed_up_behind_so_many_prices(monkeypatch: pytest.MonkeyPatch) -> None:
    priced = 0

    def counted(recipe: Recipe) -> Price:
        nonlocal priced
        priced += 1
        return made_price(recipe)

    monkeypatch.setattr("search.allocation.MAX_PRICINGS", 3)
    allocation = allocate(Policy(), {"latency_ms": 0.5}, MANY_SENSITIVITY, made_recipe, counted)
    assert allocation.fits
    assert len(allocation.options) > 4
    assert priced < 20, "31 without that end"


def test_an_option_that_raises_another_price_is_not_made_for_what_little_it_saves() -> None:
    """A low rank saves bytes and costs time, as on a CPU; its loss is small."""
    good = tuple(Option("structured_pruning", "width", f"g{n}", 0.5, (f"g{n}",)) for n in range(40))
    traps = tuple(Option("low_rank", "rank", f"t{n}", 0.5, (f"t{n}",)) for n in range(10))
    saved = {one.option_id: {"latency_ms": 0.012, "onnx_size_bytes": 12.0} for one in good}
    saved |= {one.option_id: {"latency_ms": -0.018, "onnx_size_bytes": 20.0} for one in traps}
    loss = {one.option_id: 0.1 + n / 1000 for n, one in enumerate(good)} | {one.option_id: 0.02 for one in traps}

    def priced(recipe: Recipe) -> Price:
        ms, size = (sum(saved[step.config["id"]][name] for step in recipe.steps) for name in ("latency_ms", "onnx_size_bytes"))
        return Price(Measurement(1 - ms, "predicted"), 1 - ms, 1 - ms, 100, 100, 400, round(1000 - size))

    sensitivity = Sensitivity((*good, *traps), loss, {NONE: saved})
    allocation = allocate(Policy(), {"latency_ms": 0.6, "onnx_size_bytes": 600.0}, sensitivity, made_recipe, priced)
    assert allocation.fits
    assert sum(loss[option.option_id] for option in allocation.options) < 4.0, "the good ones alone lose 3.96"


def test_aims_out_of_reach_are_no_reason_for_what_does_not_help() -> None:
    def overlapping(recipe: Recipe) -> Price:
        taken = {step.config["id"] for step in recipe.steps}
        saved = 0.1 * (MILD in taken and BLOCK not in taken) + 0.3 * (BLOCK in taken)
        return Price(Measurement(1 - saved, "predicted"), 1 - saved, 1 - saved, 100, 100, 400, 500)

    allocation = allocate(Policy(), {"latency_ms": 0.5}, SENSITIVITY, made_recipe, overlapping)
    assert not allocation.fits
    assert [option.option_id for option in allocation.options] == [BLOCK]


def test_the_price_of_a_format_alone_is_met_by_it() -> None:
    """Aims are made of shares, and shares of prices: they come back with another last digit."""
    assert _allocate(math.nextafter(1.0, 0.0), Policy(), fits=True) == []


def test_an_option_that_another_one_needs_stays() -> None:
    def together(options: Sequence[Option], policy: Policy) -> Recipe:
        if {option.option_id for option in options} == {INSIDE}:
            raise ConfigError("not without the other")
        return made_recipe(options, policy)

    def enough(recipe: Recipe) -> Price:
        taken = {step.config["id"] for step in recipe.steps}
        saved = 0.1 * (MILD in taken) + 0.1 * (INSIDE in taken)
        saved = 0.2 if INSIDE in taken else saved
        return Price(Measurement(1 - saved, "predicted"), 1 - saved, 1 - saved, 100, 100, 400, 500)

    allocation = allocate(Policy(), {"latency_ms": 0.85}, SENSITIVITY, together, enough)
    assert [option.option_id for option in allocation.options] == [MILD, INSIDE]


def test_a_low_cost_of_depth_removes_the_block_and_the_options_inside_it() -> None:
    chosen = _allocate(0.6, Policy({"cost.depth": 0.1}))
    assert BLOCK in chosen
    assert INSIDE not in chosen


def test_an_aim_out_of_reach_takes_all_that_helps_and_says_so() -> None:
    allocation = allocate(Policy(), {"latency_ms": 0.01}, SENSITIVITY, made_recipe, made_price)
    assert not allocation.fits
    assert sorted(option.option_id for option in allocation.options) == [BLOCK, STRONG]


def test_options_that_do_not_go_together_are_left_out() -> None:
    def refusing(options: Sequence[Option], policy: Policy) -> Recipe:
        if any(option.removes for option in options):
            raise ConfigError("no")
        return made_recipe(options, policy)

    allocation = allocate(Policy(), {"latency_ms": 0.01}, SENSITIVITY, refusing, made_price)
    assert sorted(option.option_id for option in allocation.options) == [INSIDE, STRONG]
