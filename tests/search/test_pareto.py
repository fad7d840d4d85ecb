from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.limits import broken_limits
from search.pareto import choose_finalists, dominates, front, nearest, non_dominated_ranks, pick
from search.spec import Budget, SearchSpec
from tests.search.records import candidate

BUDGET = Budget(latency_ms=1.0, max_accuracy_drop_points=1.0)


def test_a_latency_whose_upper_bound_is_over_the_limit_is_not_feasible() -> None:
    assert broken_limits(candidate(1, 0.5, 0.98, spread_ms=0.05), BUDGET) == {"latency_ms": pytest.approx(0.03)}
    assert broken_limits(candidate(1, 0.5, 0.94, spread_ms=0.05), BUDGET) == {}


def test_a_missing_measurement_breaks_its_limit() -> None:
    record = dataclasses.replace(candidate(1, 0.5, 0.5), measurements={})
    assert broken_limits(record, BUDGET) == {"latency_ms": float("inf")}


def test_confidence_decides_on_the_one_sided_bound() -> None:
    record = candidate(1, 0.8, 0.5, drop_half_width=0.3)
    assert broken_limits(record, BUDGET) == {}
    strict = dataclasses.replace(BUDGET, confidence=0.95)
    assert broken_limits(record, strict)["max_accuracy_drop_points"] == pytest.approx(0.8 + 0.3 * 1.645 / 1.96 - 1.0, abs=1e-3)


def test_the_front_is_what_nothing_dominates_and_is_sorted_by_speed() -> None:
    records = [candidate(1, 0.2, 0.9), candidate(2, 0.5, 0.5), candidate(3, 0.6, 0.6), candidate(4, 3.0, 0.1)]
    assert [r.candidate_id for r in front(records, BUDGET)] == ["c0002", "c0001"]


@dataclasses.dataclass(frozen=True)
class PreferenceCase:
    preference: str
    expected: str


@pytest.mark.parametrize(
    "case",
    [PreferenceCase("fastest", "c0002"), PreferenceCase("smallest", "c0003"), PreferenceCase("most_accurate", "c0001")],
    ids=lambda case: case.preference,
)
def test_the_preference_picks_the_best(case: PreferenceCase) -> None:
    records = [candidate(1, 0.1, 0.9, 900), candidate(2, 0.9, 0.3, 900), candidate(3, 0.5, 0.8, 300)]
    best = pick(records, BUDGET, case.preference)  # type: ignore[arg-type]
    assert best is not None
    assert best.candidate_id == case.expected


def test_nothing_feasible_has_no_best_but_a_nearest() -> None:
    records = [candidate(1, 0.1, 5.0), candidate(2, 1.2, 1.1), candidate(3, 9.0, 0.2)]
    assert pick(records, BUDGET, "fastest") is None
    closest = nearest(records, BUDGET)
    assert closest is not None
    assert closest.candidate_id == "c0002"


def test_failed_candidates_are_never_chosen() -> None:
    failed = dataclasses.replace(candidate(1, 0.0, 0.1), state="failed")
    assert pick([failed], BUDGET, "fastest") is None
    assert nearest([failed], BUDGET) is None


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=20))
def test_ranks_order_every_domination(points: list[tuple[int, int, int]]) -> None:
    ranks = non_dominated_ranks(points)
    assert min(ranks) == 0
    for a, rank_a in zip(points, ranks, strict=True):
        for b, rank_b in zip(points, ranks, strict=True):
            if dominates(a, b):
                assert rank_a < rank_b


def test_the_files_that_are_wanted_most_are_made_first() -> None:
    """Seen in a demo: the time ended behind three files of the fastest, which were just within the limit, and broke it."""
    points = [(0.95, 0.30), (0.0, 0.38), (0.6, 0.36), (3.0, 0.2), (0.7, 0.5)]
    records = [candidate(1 + n, drop, ms, split="validation") for n, (drop, ms) in enumerate(points)]

    def order(preference: str) -> list[str]:
        spec = SearchSpec("m", "d", "t", BUDGET, preference=preference)  # type: ignore[arg-type]
        return [record.candidate_id for record in choose_finalists(records, spec)]

    assert order("most_accurate") == ["c0002", "c0003", "c0005", "c0001", "c0004"]
    assert order("fastest") == ["c0003", "c0002", "c0005", "c0001", "c0004"], "what is just within the limit may be wrong"


def test_a_front_that_is_cut_off_has_its_ends() -> None:
    """Seen in a demo: five of eight files were made, all within a fifth of the latency; two were on the front."""
    points = [(0.1, 0.243), (0.2, 0.205), (0.3, 0.194), (0.4, 0.19), (0.8, 0.157)]
    records = [candidate(1 + n, drop, ms, split="validation") for n, (drop, ms) in enumerate(points)]
    spec = SearchSpec("m", "d", "t", BUDGET, preference="most_accurate")
    order = [record.candidate_id for record in choose_finalists(records, spec)]
    assert order == ["c0001", "c0002", "c0005", "c0004", "c0003"]
    unlimited = dataclasses.replace(spec, budget=Budget())
    order = [record.candidate_id for record in choose_finalists(records, unlimited)]
    assert order == [f"c000{n}" for n in range(1, 6)], "nothing says what is lost"
