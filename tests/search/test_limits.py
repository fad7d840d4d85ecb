"""Limits stand once: what breaks them, what can hold them, and what may be named."""

from __future__ import annotations

import doctest
import math
from dataclasses import replace

import pytest

from search import limits
from search.limit_kinds import KINDS
from search.limits import DropLimit, Limit, broken_limits, limits_of, relative_excess, upper_drop_points
from search.pricing import Price
from search.protocols import Measurement
from search.spec import Budget
from tests.search.records import candidate


def test_examples() -> None:
    assert doctest.testmod(limits).failed == 0


@pytest.mark.parametrize("confidence", [0.0, 0.01, 0.3, 0.5])
def test_a_low_confidence_never_loosens_the_limit(confidence: float) -> None:
    record = candidate(1, 2.0, 1.0)
    assert broken_limits(record, Budget(max_accuracy_drop_points=1.0, confidence=confidence)) == {
        "max_accuracy_drop_points": pytest.approx(1.0)
    }


def test_a_bound_rises_with_the_confidence_and_is_never_below_the_estimate() -> None:
    drop = (1.0, 0.2, 1.6)  # its middle is below the estimate
    bounds = [upper_drop_points(drop, confidence) for confidence in (0.0, 0.5, 0.6, 0.9, 0.975, 0.999)]
    assert bounds == sorted(bounds)
    assert bounds[0] == 1.0
    assert bounds[4] == pytest.approx(1.6)


def test_a_wide_prediction_is_held_by_its_low_end() -> None:
    price = Price(Measurement(10.0, "predicted", 20.0), 3.3, 30.0, 100, 100, 400, 500)
    assert not Limit("latency_ms", 0.8).can_hold(price)
    assert Limit("latency_ms", 3.4).can_hold(price)


def test_a_missing_measurement_breaks_its_limit_by_infinity() -> None:
    record = replace(candidate(1, 0.0, 1.0), measurements={})
    assert broken_limits(record, Budget(limits={"parameters": 5.0})) == {"parameters": math.inf}


def test_excesses_of_different_units_are_compared_as_shares() -> None:
    budget = Budget(latency_ms=2.0, max_accuracy_drop_points=0.5, limits={"download_size_bytes": 1000.0})
    assert {limit.name for limit in limits_of(budget)} == {"latency_ms", "download_size_bytes", "max_accuracy_drop_points"}
    assert relative_excess({"latency_ms": 1.0, "download_size_bytes": 100.0}, budget) == pytest.approx(0.5)
    assert DropLimit(0.5).relative(2.0) == 2.0, "of one point at least"


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({"peak_memory": 5.0}, "nothing that can be limited"),
        ({"latency_ms": 5.0}, "limited twice"),
        ({"macs": -1.0}, "above 0"),
        ({"macs": math.inf}, "finite"),
        ({"download_size_bytes": 5.0}, "is the unit right"),
    ],
)
def test_what_cannot_be_a_limit_is_refused(named: dict[str, float], words: str) -> None:
    (found,) = Budget(latency_ms=1.0, limits=named).violations()
    assert words in found.description
    assert found.field == f"budget.limits[{next(iter(named))}]"


def test_one_limit_of_any_kind_is_a_budget() -> None:
    assert all(Budget(limits={name: 1e6}).violations() == [] for name in KINDS)
    assert Budget().violations()
