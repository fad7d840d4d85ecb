"""Limits that nothing made of the original can meet are told before anything is trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from search import job
from search.job import run_search
from search.protocols import BASELINE
from search.reach import DOUBT, find_reach
from search.space import Policy
from search.spec import Budget, SearchSpec
from techniques.errors import ConfigError
from techniques.recipe import Recipe
from tests.search.priced_moves import MOVES, made_price, made_recipe
from tests.search.small_search import small_search

FP32 = [Policy(precision="fp32")]


def _lowest(**limits: float) -> str:
    reach = find_reach(MOVES, FP32, made_recipe, made_price, lambda: False)
    return reach.sentence(Budget(**limits))  # type: ignore[arg-type]


def test_the_strongest_moves_together_are_the_lowest_price() -> None:
    reach = find_reach(MOVES, FP32, made_recipe, made_price, lambda: False)
    assert reach.lowest["latency_ms"] == pytest.approx(1 - 0.8 * (0.3 + 0.25))


def test_what_may_be_within_reach_is_searched_for() -> None:
    assert not _lowest(latency_ms=0.56 / DOUBT["latency_ms"] + 0.01)
    assert not _lowest(max_accuracy_drop_points=1.0)


def test_what_is_far_below_the_lowest_price_is_told_with_it() -> None:
    words = _lowest(latency_ms=0.3, macs=10)
    assert "latency_ms 0.3, where at least 0.56 is predicted" in words
    assert "macs 10, where at least 100" in words


def test_moves_that_do_not_go_together_hide_no_others() -> None:
    def refusing(moves, policy):  # type: ignore[no-untyped-def]
        if any(m.kind == "block" for m in moves):
            raise ConfigError("no")
        return made_recipe(moves, policy)

    reach = find_reach(MOVES, FP32, refusing, made_price, lambda: False)
    assert reach.lowest["latency_ms"] == pytest.approx(1 - 0.8 * (0.1 + 0.25))
    assert not find_reach(MOVES, [], made_recipe, made_price, lambda: False).broken(Budget(macs=1))


def test_a_whole_search_ends_in_words_without_a_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_ray(*_: object) -> None:
        raise AssertionError("a trial was begun")

    monkeypatch.setattr(job, "ray_runtime", no_ray)
    small = small_search(tmp_path)
    spec = replace(small.spec, budget=Budget(size_bytes=150, max_accuracy_drop_points=50.0))
    outcome = run_search(spec, small.environment)
    assert outcome.state == "INFEASIBLE"
    assert "onnx_size_bytes 150, where at least" in outcome.message
    assert (outcome.nearest, outcome.best) == (BASELINE, None)
    assert outcome.broken_limits["onnx_size_bytes"] > 0
    report = json.loads(small.environment.blobs.get_bytes(outcome.report_sha256 or ""))
    assert (report["feasible"], report["front"], report["candidates_evaluated"]) == (False, [], 0)
    assert report["nearest"]["candidate"] == BASELINE


@pytest.mark.parametrize("budget", [Budget(latency_ms=0.00001, max_accuracy_drop_points=1.0), Budget(size_bytes=20, macs=10)])
def test_what_no_network_takes_is_refused_at_once(budget: Budget) -> None:
    (found,) = SearchSpec("m", "d", "t", budget, preference="balanced").violations()
    assert "below what any network takes" in found.description
    assert "unit" in found.description


def test_no_recipe_is_the_original() -> None:
    assert find_reach((), FP32, made_recipe, made_price, lambda: False).lowest["latency_ms"] == made_price(Recipe()).latency.value
