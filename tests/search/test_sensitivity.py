"""In which order options are measured, and what loss those take that the time did not hold."""

from __future__ import annotations

import pytest

from search.sensitivity import Sensitivity, estimated_loss, in_turns
from search.space import NONE
from techniques.option import Option


def _prune(place: str, ratio: float) -> Option:
    return Option("structured_pruning", "width", place, ratio, (place,), level=int(ratio > 0.25))


def _rank(place: str, strength: float) -> Option:
    return Option("low_rank", "rank", place, strength, (place,), level=int(strength > 0.5))


A, A2, B, B2, R, R2 = _prune("a", 0.25), _prune("a", 0.5), _prune("b", 0.25), _prune("b", 0.5), _rank("a", 0.5), _rank("a", 0.75)


def test_techniques_take_turns_and_mild_options_come_first() -> None:
    assert in_turns([A, A2, B, B2, R, R2]) == [A, R, B, R2, A2, B2]


def test_a_measured_loss_is_itself() -> None:
    assert estimated_loss(A, {A: 0.3}) == 0.3


def test_a_stronger_option_loses_more_than_the_milder_one_at_its_place() -> None:
    assert estimated_loss(A2, {A: 0.1, B: 9.0}) == pytest.approx(0.4)
    assert estimated_loss(A, {A2: 0.2}) == 0.2, "no more than the stronger one"


def test_an_unknown_place_is_not_preferred() -> None:
    measured = {_prune(name, 0.25): loss for name, loss in zip("cdef", (0.1, 0.2, 0.3, 0.4), strict=True)}
    assert estimated_loss(A, measured) == 0.4
    assert estimated_loss(A2, measured) == pytest.approx(1.6), "at full strength"
    assert estimated_loss(R, measured) == pytest.approx(1.6), "by other techniques, where nothing is known of its own"
    assert estimated_loss(R, {}) == 1.0


def test_what_the_whole_network_costs_in_the_best_of_its_formats() -> None:
    original = {"latency_ms": 2.0, "onnx_size_bytes": 1000.0}
    whole = {"a:int8": {"latency_ms": 1.0}, "b:int4": {"latency_ms": -0.5, "onnx_size_bytes": 800.0}, "c:half": {"latency_ms": 1.9}}
    saved: dict[str, dict[str, dict[str, float]]] = {NONE: {}, "a:int8": {}, "b:int4": {}}
    found = Sensitivity((), {}, saved, whole=whole)
    assert found.in_formats(original) == {"latency_ms": 1.0, "onnx_size_bytes": 200.0}, "a smaller image is no format"
    assert Sensitivity((), {}, {NONE: {}}).in_formats(original) == original
