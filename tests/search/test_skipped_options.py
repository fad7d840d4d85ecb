"""Techniques that raise, or never end, at places, options or prices: the search goes on without them, and says why."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hw_models.predictor import Predictor
from hw_models.targets import get_target
from search import moves, sensitivity, setup
from search.allocation import allocate
from search.attempts import STEP_LIMIT_S, Attempts
from search.errors import OptionSkippedError, SearchCancelledError
from search.moves import Move, PossibleMoves, possible_moves, recipe_of
from search.places import Places, find_places
from search.pricing import Pricer
from search.sensitivity import Sensitivity, measure_sensitivity
from search.space import Policy
from techniques.context import TechniqueContext
from techniques.lift import from_module
from techniques.network import Network
from techniques.quantization.static_int8 import Int8Quantization, Int8QuantizationConfig
from techniques.recipe import Recipe
from tests.search.memory import MemoryStore
from tests.search.priced_moves import SENSITIVITY, made_price, made_recipe
from tests.search.small_search import SIDE, TARGET, SmallResidual
from tests.techniques.digits import TensorSource

STRUCTURAL = ("block_removal", "structured_pruning", "low_rank")
CONTEXT = TechniqueContext()


def loops_for_ever(*_: object) -> Any:
    while True:
        pass


def raises(*_: object) -> Any:
    raise TypeError("'NoneType' object is not iterable")


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    return from_module(SmallResidual(), (1, SIDE, SIDE))


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal((8, 1, SIDE, SIDE), dtype=np.float32))


def _possible(network: Network) -> PossibleMoves:
    return possible_moves(network, CONTEXT, STRUCTURAL, Attempts(MemoryStore()))


def _measured(network: Network, images: Tensor, found: tuple[Move, ...], limit_s: float = 1.0) -> Sensitivity:
    pricer = Pricer(network, Predictor.uncalibrated(get_target(TARGET)), 1, CONTEXT)
    return measure_sensitivity(network, found, images, CONTEXT, pricer, Attempts(MemoryStore(), limit_s))


@pytest.mark.parametrize("broken", [raises, loops_for_ever], ids=lambda f: f.__name__)
def test_a_technique_whose_places_cannot_be_found_is_left_out(
    network: Network, monkeypatch: pytest.MonkeyPatch, broken: Any
) -> None:
    others = possible_moves(network, CONTEXT, ("block_removal", "low_rank"), Attempts(MemoryStore())).moves
    monkeypatch.setattr(moves, "offered_groups", broken)
    monkeypatch.setattr(moves, "PROOF_S", 0.0)
    possible = possible_moves(network, CONTEXT, STRUCTURAL, Attempts(MemoryStore(), 1.4))
    assert possible.moves == others
    assert possible.moves
    reason = "took more than 1 s and was stopped" if broken is loops_for_ever else "TypeError: 'NoneType' object is not iterable"
    assert possible.skipped == {"structured_pruning": reason}


@pytest.mark.parametrize("broken", [raises, loops_for_ever], ids=lambda f: f.__name__)
def test_a_move_that_breaks_while_its_loss_is_measured_is_left_out(
    network: Network, images: Tensor, monkeypatch: pytest.MonkeyPatch, broken: Any
) -> None:
    def breaks_at_the_stem(network: Network, recipe: Recipe, *rest: Any) -> Any:
        return broken() if "stem" in recipe.to_json() else network

    monkeypatch.setattr(sensitivity, "compress", breaks_at_the_stem)
    monkeypatch.setattr(sensitivity, "LOSS_FACTOR", 0)
    found = _possible(network).moves
    measured = _measured(network, images, found)
    left = {move.move_id for move in found} - {move.move_id for move in measured.moves}
    assert left
    assert left == set(measured.skipped)
    assert all("stem" in name for name in left)
    assert set(measured.loss) == {move.move_id for move in measured.moves}


def test_a_kind_that_hangs_again_and_again_is_not_tried_to_the_end(
    network: Network, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensitivity, "compress", loops_for_ever)
    monkeypatch.setattr(sensitivity, "LOSS_FACTOR", 0)
    many = tuple(Move("rank", "first", strength, ("first",)) for strength in (0.5, 0.6, 0.7, 0.75, 0.8))
    measured = _measured(network, images, many)
    assert measured.moves == ()
    assert [reason.startswith("took more") for reason in measured.skipped.values()] == [True, True, False, False, False]


def test_a_precision_that_the_network_does_not_take_is_left_out(
    network: Network, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def only_float(chosen: Any, policy: Policy, *rest: Any, **named: Any) -> Recipe:
        return raises() if policy.precision == "int8" else recipe_of(chosen, policy, *rest, **named)

    monkeypatch.setattr(sensitivity, "recipe_of", only_float)
    measured = _measured(network, images, _possible(network).moves, limit_s=60.0)
    assert set(measured.saved) == {"fp32"}
    assert measured.skipped["int8_quantization"].startswith("TypeError")
    assert measured.moves


def test_cancelling_is_seen_while_a_move_hangs(network: Network, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()

    def hangs(*_: object) -> None:
        store.stop = True
        loops_for_ever()

    monkeypatch.setattr(sensitivity, "compress", hangs)
    pricer = Pricer(network, Predictor.uncalibrated(get_target(TARGET)), 1, CONTEXT)
    begin = time.monotonic()
    with pytest.raises(SearchCancelledError):
        measure_sensitivity(network, _possible(network).moves, images, CONTEXT, pricer, Attempts(store))
    assert time.monotonic() - begin < 5


def test_moves_that_break_together_are_not_combined() -> None:
    def breaks_with_two(chosen: Any, policy: Policy) -> Recipe:
        return raises() if len(chosen) > 1 else made_recipe(chosen, policy)

    allocation = allocate(Policy(precision="fp32"), {"latency_ms": 0.01}, SENSITIVITY, breaks_with_two, made_price)
    assert len(allocation.moves) <= 1
    with pytest.raises(OptionSkippedError, match="TypeError"):
        allocate(Policy(precision="fp32"), {"latency_ms": 0.01}, SENSITIVITY, raises, made_price)


def test_what_is_left_alone_is_named_with_its_reason_and_its_share(network: Network) -> None:
    usable = Move("prune", "first", 0.5, ("first", "second"))
    skipped = {"rank:fc:0.5": "TypeError: no", "low_rank": "took more than 60 s and was stopped"}
    found = Sensitivity((usable,), {usable.move_id: 0.1}, {}, skipped)
    context = replace(CONTEXT, scopes=("first", "second", "fc"))
    places = find_places(network, context, found, {}, STRUCTURAL)
    assert (places.offered, places.total) == (2, 4)
    assert {one.place: one.reason for one in places.left_alone} == {
        "stem": "outside the scopes of the request",
        "fc": "TypeError: no",
    }
    inner, stem, head = 2 * 16 * 32 * 9, 16 * 9, 16 * 5
    assert places.macs_share == pytest.approx(inner * SIDE**2 / ((inner + stem) * SIDE**2 + head))
    assert places.parameters_share == pytest.approx((inner + 48) / (inner + 48 + stem + 16 + head + 5))
    assert places.sentence.startswith(
        "2 of 4 places are left alone, 98.5% of the MACs, 97.4% of the parameters can be made smaller."
    )
    assert "stem: outside the scopes of the request; fc: TypeError: no" in places.sentence
    assert Places.from_json(places.to_json()) == places


def test_integer_weights_are_parameters_of_their_places(network: Network) -> None:
    usable = Move("prune", "first", 0.5, ("first", "second"))
    found, context = Sensitivity((usable,), {}, {}), TechniqueContext(calibration=TensorSource(torch.randn(4, 1, SIDE, SIDE)))
    for layers in (["stem"], ["first", "fc"], "all"):
        quantized = Int8Quantization().apply(network, Int8QuantizationConfig(layers=layers, correct_bias=False), context)
        shares = [find_places(each, CONTEXT, found, {}, STRUCTURAL).parameters_share for each in (network, quantized)]
        assert shares[0] == pytest.approx(shares[1])


@pytest.mark.parametrize("skipped", [{}, {"structured_pruning": "took more than 180 s and was stopped"}], ids=["all", "one hangs"])
def test_places_have_the_time_of_their_proofs_and_none_for_what_hung_before(
    network: Network, monkeypatch: pytest.MonkeyPatch, skipped: dict[str, str]
) -> None:
    limits, store = list[float](), MemoryStore()

    def attempt(what: str, find: Callable[[], Places], should_stop: Any, limit_s: float = 60.0) -> Places:
        limits.append(limit_s)
        return find()

    monkeypatch.setattr(setup, "attempt", attempt)
    if skipped:
        monkeypatch.setitem(setup._REASONS, "structured_pruning", raises)
    told: Any = SimpleNamespace(original=SimpleNamespace(network=network), context=CONTEXT, techniques=STRUCTURAL)
    environment: Any = SimpleNamespace(store=store)
    setup.tell_places(told, Sensitivity((), {}, {}, skipped), environment)
    assert limits[0] >= len(setup._REASONS) * (STEP_LIMIT_S + moves.PROOF_S)
    assert store.phases["places"]["total"] == 4
    if skipped:
        assert "took more than 180 s" in store.phases["places"]["left_alone"][0]["reason"]
