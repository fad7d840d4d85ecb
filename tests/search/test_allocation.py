from __future__ import annotations

from collections.abc import Sequence

import pytest

from search.allocation import aims_of, allocate
from search.moves import Move
from search.pricing import Price
from search.protocols import Measurement
from search.space import Policy
from search.spec import Budget
from techniques.errors import ConfigError
from techniques.recipe import Recipe
from tests.search.priced_moves import SENSITIVITY, made_price, made_recipe


def _allocate(aim_ms: float, policy: Policy) -> list[str]:
    allocation = allocate(policy, {"latency_ms": aim_ms}, SENSITIVITY, made_recipe, made_price)
    assert allocation.fits == (allocation.price.latency.value <= aim_ms)
    return sorted(m.move_id for m in allocation.moves)


def test_nothing_is_done_when_the_original_fits() -> None:
    assert _allocate(1.0, Policy(precision="fp32")) == []


def test_the_cheapest_loss_per_saving_is_taken_first() -> None:
    assert _allocate(0.95, Policy(precision="fp32")) == ["prune:b2.conv1:0.25"]


def test_a_low_cost_of_depth_removes_the_block_and_the_moves_inside_it() -> None:
    moves = _allocate(0.6, Policy(precision="fp32", depth_cost=0.1))
    assert "block:b1:1" in moves
    assert "prune:b1.conv1:0.5" not in moves


def test_an_aim_out_of_reach_takes_all_that_helps_and_says_so() -> None:
    allocation = allocate(Policy(precision="fp32"), {"latency_ms": 0.01}, SENSITIVITY, made_recipe, made_price)
    assert not allocation.fits
    assert sorted(m.move_id for m in allocation.moves) == ["block:b1:1", "prune:b2.conv1:0.5"]


def test_moves_that_do_not_go_together_are_left_out() -> None:
    def refusing(moves: Sequence[Move], policy: Policy) -> Recipe:
        if any(m.kind == "block" for m in moves):
            raise ConfigError("no")
        return made_recipe(moves, policy)

    allocation = allocate(Policy(precision="fp32"), {"latency_ms": 0.01}, SENSITIVITY, refusing, made_price)
    assert sorted(m.move_id for m in allocation.moves) == ["prune:b1.conv1:0.5", "prune:b2.conv1:0.5"]


def test_aims_are_shares_of_the_limits() -> None:
    original = Price(Measurement(2.0, "predicted"), 2.0, 2.0, 100, 100, 400, 500)
    aims = aims_of(Budget(latency_ms=1.0, size_bytes=300, macs=50), original, 0.9)
    assert aims == {"latency_ms": pytest.approx(0.9), "onnx_size_bytes": pytest.approx(270), "macs": pytest.approx(45)}
    assert aims_of(Budget(max_accuracy_drop_points=1.0), original, 0.9)["latency_ms"] == pytest.approx(2.0 * 0.9**4)
