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
from search import options, sensitivity, survey
from search.allocation import allocate
from search.attempts import STEP_LIMIT_S, Attempts
from search.composition import Composition
from search.errors import OptionSkippedError, SearchCancelledError
from search.options import Offered, collect_options
from search.places import Places, find_places
from search.pricing import Pricer
from search.sensitivity import Sensitivity, measure_sensitivity
from search.space import NONE, Policy
from techniques.context import TechniqueContext
from techniques.lift import from_module
from techniques.network import Network
from techniques.option import NETWORK, Option
from techniques.pruning import structured
from techniques.pruning.structured import StructuredPruning
from techniques.quantization.static_int8 import Int8Quantization, Int8QuantizationConfig
from techniques.recipe import Recipe
from tests.search.memory import MemoryStore
from tests.search.priced_options import SENSITIVITY, made_price, made_recipe
from tests.search.small_search import SIDE, TARGET, SmallResidual
from tests.techniques.digits import TensorSource

STRUCTURAL = ("block_removal", "structured_pruning", "low_rank")
INT8 = Option("int8_quantization", "bits", NETWORK, 0.75, ("first",), label="int8")
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


def _offered(network: Network) -> Offered:
    return collect_options(network, CONTEXT, STRUCTURAL, Attempts(MemoryStore()))


def _measured(network: Network, images: Tensor, found: Offered, limit_s: float = 1.0) -> Sensitivity:
    pricer = Pricer(network, Predictor.uncalibrated(get_target(TARGET)), 1, CONTEXT)
    return measure_sensitivity(network, found, images, CONTEXT, pricer, Attempts(MemoryStore(), limit_s))


@pytest.mark.parametrize("broken", [raises, loops_for_ever], ids=lambda f: f.__name__)
def test_a_technique_whose_places_cannot_be_found_is_left_out(
    network: Network, monkeypatch: pytest.MonkeyPatch, broken: Any
) -> None:
    others = collect_options(network, CONTEXT, ("block_removal", "low_rank"), Attempts(MemoryStore())).options
    monkeypatch.setattr(structured, "offered_groups", broken)
    monkeypatch.setattr(options, "PROOF_S", 0.0)
    offered = collect_options(network, CONTEXT, STRUCTURAL, Attempts(MemoryStore(), 1.4))
    assert offered.options == others
    assert offered.options
    reason = "took more than 1 s and was stopped" if broken is loops_for_ever else "TypeError: 'NoneType' object is not iterable"
    assert offered.skipped == {"structured_pruning": reason}


@pytest.mark.parametrize("broken", [raises, loops_for_ever], ids=lambda f: f.__name__)
def test_an_option_that_breaks_while_its_loss_is_measured_is_left_out(
    network: Network, images: Tensor, monkeypatch: pytest.MonkeyPatch, broken: Any
) -> None:
    def breaks_at_the_stem(network: Network, recipe: Recipe, *rest: Any) -> Any:
        return broken() if "stem" in recipe.to_json() else network

    monkeypatch.setattr(sensitivity, "compress", breaks_at_the_stem)
    monkeypatch.setattr(sensitivity, "LOSS_FACTOR", 0)
    found = _offered(network)
    measured = _measured(network, images, found)
    left = {one.option_id for one in found.options} - {one.option_id for one in measured.options}
    assert left
    assert left == set(measured.skipped)
    assert all("stem" in name for name in left)
    assert set(measured.loss) == {one.option_id for one in measured.options}


def test_a_technique_that_hangs_again_and_again_is_not_tried_to_the_end(
    network: Network, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensitivity, "compress", loops_for_ever)
    monkeypatch.setattr(sensitivity, "LOSS_FACTOR", 0)
    many = tuple(Option("low_rank", "rank", "first", strength, ("first",)) for strength in (0.5, 0.6, 0.7, 0.75, 0.8))
    measured = _measured(network, images, Offered(many))
    assert measured.options == ()
    assert [reason.startswith("took more") for reason in measured.skipped.values()] == [True, True, False, False, False]


def test_a_format_that_the_network_does_not_take_is_left_out(
    network: Network, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Composition.recipe

    def only_float(self: Composition, chosen: Any, policy: Policy) -> Recipe:
        return raises() if policy.pinned("bits") == INT8.option_id else made(self, chosen, policy)

    monkeypatch.setattr(Composition, "recipe", only_float)
    found = Offered((*_offered(network).options, INT8))
    measured = _measured(network, images, found, limit_s=60.0)
    assert set(measured.saved) == {NONE}
    assert measured.skipped[INT8.option_id].startswith("TypeError")
    assert measured.options
    assert measured.pinned == ()


def test_cancelling_is_seen_while_an_option_hangs(network: Network, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()

    def hangs(*_: object) -> None:
        store.stop = True
        loops_for_ever()

    monkeypatch.setattr(sensitivity, "compress", hangs)
    pricer = Pricer(network, Predictor.uncalibrated(get_target(TARGET)), 1, CONTEXT)
    begin = time.monotonic()
    with pytest.raises(SearchCancelledError):
        measure_sensitivity(network, _offered(network), images, CONTEXT, pricer, Attempts(store))
    assert time.monotonic() - begin < 5


def test_options_that_break_together_are_not_combined() -> None:
    def breaks_with_two(chosen: Any, policy: Policy) -> Recipe:
        return raises() if len(chosen) > 1 else made_recipe(chosen, policy)

    allocation = allocate(Policy(), {"latency_ms": 0.01}, SENSITIVITY, breaks_with_two, made_price)
    assert len(allocation.options) <= 1
    with pytest.raises(OptionSkippedError, match="TypeError"):
        allocate(Policy(), {"latency_ms": 0.01}, SENSITIVITY, raises, made_price)


def test_what_is_left_alone_is_named_with_its_reason_and_its_share(network: Network) -> None:
    usable = Option("structured_pruning", "width", "first", 0.5, ("first", "second"))
    skipped = {"low_rank:fc:0.5": "TypeError: no", "low_rank": "took more than 60 s and was stopped"}
    found = Sensitivity((usable,), {usable.option_id: 0.1}, {}, skipped)
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
    usable = Option("structured_pruning", "width", "first", 0.5, ("first", "second"))
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

    monkeypatch.setattr(survey, "attempt", attempt)
    if skipped:
        monkeypatch.setattr(StructuredPruning, "left_alone", raises)
    told: Any = SimpleNamespace(original=SimpleNamespace(network=network), context=CONTEXT, techniques=STRUCTURAL)
    environment: Any = SimpleNamespace(store=store)
    survey.tell_places(told, Sensitivity((), {}, {}, skipped), environment)
    assert limits[0] >= (len(STRUCTURAL) - len(skipped)) * (STEP_LIMIT_S + options.PROOF_S)
    assert store.phases["places"]["total"] == 4
    if skipped:
        assert "took more than 180 s" in store.phases["places"]["left_alone"][0]["reason"]
