"""The best, and the answer in a sentence."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from search.conclusion import Finals, best_of, message_of
from search.protocols import BASELINE, CandidateRecord, Measurement
from search.spec import Budget, Preference, SearchSpec


def record(name: str, ms: float, drop: float, spread: float = 0.01, size: int = 1000) -> CandidateRecord:
    drops = dict.fromkeys(("validation", "selection", "test"), (drop, drop - 0.1, drop + 0.1))
    latency = Measurement(ms, "measured", spread, 5)
    measurements = {"latency_ms": latency, "onnx_size_bytes": Measurement(size, "measured")}
    return CandidateRecord(name, 0, "{}", 1, 0, accuracy={"selection": 0.9}, drop_points=drops, measurements=measurements)


ORIGINAL = record(BASELINE, 2.0, 0.0)


def answer(
    budget: Budget, *finalists: CandidateRecord, original: CandidateRecord = ORIGINAL, preference: Preference = "fastest"
) -> str:
    spec = SearchSpec("m", "d", "cpu-ort-1t", budget, preference=preference)
    setup: Any = SimpleNamespace(spec=spec, latency_source="measured")
    finals = Finals(original, finalists, {})
    return message_of(best_of(finals, spec), None, {}, original, setup)


LOOSE = Budget(latency_ms=9.0, max_accuracy_drop_points=5.0)
TIGHT = Budget(latency_ms=1.5, max_accuracy_drop_points=5.0)


def test_an_original_that_meets_the_budget_is_the_answer_where_nothing_is_better() -> None:
    words = answer(LOOSE, record("c0001", 2.8, 1.0))
    assert words.startswith("the original meets the budget as it is (2.000 ms measured)")
    assert "0.7" not in words


def test_what_is_better_wins_and_the_original_is_told() -> None:
    words = answer(LOOSE, record("c0001", 1.0, 1.0))
    assert words == (
        "best c0001: 1.000 ms measured, 2.00x faster, test accuracy drop +1.00 points; the original meets this budget, too"
    )


@pytest.mark.parametrize(("preference", "best"), [("fastest", "c0001"), ("smallest", "c0001"), ("most_accurate", "the original")])
def test_the_original_competes_under_every_preference(preference: Preference, best: str) -> None:
    assert best in answer(LOOSE, record("c0001", 1.0, 1.0, size=10), preference=preference)


def test_an_original_beyond_the_budget_does_not_compete() -> None:
    assert (
        answer(TIGHT, record("c0001", 1.4, 1.0)) == "best c0001: 1.400 ms measured, 1.43x faster, test accuracy drop +1.00 points"
    )


def test_no_speed_up_is_claimed_from_an_original_that_did_not_settle() -> None:
    words = answer(LOOSE, record("c0001", 0.5, 0.1), original=record(BASELINE, 1.33, 0.0, spread=1.3))
    assert "faster" not in words.split("did not settle")[0]
    assert "1.330 ±1.3 ms" in words


def test_what_did_not_settle_is_named() -> None:
    words = answer(LOOSE, record("c0001", 0.5, 0.1, spread=0.2), original=record(BASELINE, 1.33, 0.0, spread=0.01))
    assert "1.330 ms before, but its 0.500 ±0.2 ms did not settle" in words


def test_an_answer_that_nothing_meets_says_that_latencies_are_predicted() -> None:
    setup: Any = SimpleNamespace(spec=None, latency_source="predicted, uncalibrated")
    words = message_of(None, record("c0003", 5.0, 0.1), {"latency_ms": 3.2}, record(BASELINE, 9.0, 0.0), setup)
    assert "no candidate meets the budget (latencies are predicted, uncalibrated)" in words
