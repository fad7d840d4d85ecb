from __future__ import annotations

import math

import pytest

from search.errors import InvalidSpecError
from search.spec import Budget, Effort, SearchSpec


def test_every_bad_field_is_reported_at_once() -> None:
    budget = Budget(latency_ms=math.nan, size_bytes=-1, max_accuracy_drop_points=-2, batch_size=0, confidence=1.0)
    spec = SearchSpec(
        "m", "d", "cpu-ort-1t", budget, Effort(max_trials=0, max_wall_time_s=math.inf, seed=-1), expected_accuracy=1.5
    )
    with pytest.raises(InvalidSpecError) as caught:
        spec.validated()
    assert {v.field for v in caught.value.violations} == {
        "budget.latency_ms",
        "budget.size_bytes",
        "budget.max_accuracy_drop_points",
        "budget.batch_size",
        "budget.confidence",
        "effort.max_trials",
        "effort.max_wall_time_s",
        "effort.seed",
        "expected_accuracy",
    }


def test_a_budget_without_any_limit_is_refused() -> None:
    fields = [v.field for v in SearchSpec("m", "d", "t", Budget(), preference="balanced").violations()]
    assert fields == ["budget"]


def test_fastest_without_a_limit_on_accuracy_is_refused() -> None:
    fields = [v.field for v in SearchSpec("m", "d", "t", Budget(latency_ms=1.0)).violations()]
    assert fields == ["budget.max_accuracy_drop_points"]


def test_a_spec_survives_json() -> None:
    spec = SearchSpec("m", "d", "t", Budget(1.0, max_accuracy_drop_points=1.0), scopes=("blocks.*",), techniques=("low_rank",))
    assert SearchSpec.from_json(spec.to_json()) == spec
