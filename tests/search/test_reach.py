"""Limits that nothing made of the original can meet are told before anything is trained."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from search import job
from search.job import run_search
from search.limit_kinds import KINDS
from search.protocols import BASELINE
from search.reach import Reach, find_reach
from search.sensitivity import Sensitivity
from search.setup import prepare
from search.space import NONE, Policy
from search.spec import Budget, SearchSpec
from search.survey import reach_of
from techniques.errors import ConfigError
from techniques.recipe import Recipe
from tests.search.priced_options import OPTIONS, made_price, made_recipe
from tests.search.small_search import small_search

AS_IT_IS = [Policy()]


def _lowest(**limits: float) -> str:
    reach = find_reach(OPTIONS, AS_IT_IS, made_recipe, made_price, lambda: False)
    return reach.sentence(Budget(**limits))  # type: ignore[arg-type]


def test_the_strongest_options_together_are_the_lowest_price() -> None:
    reach = find_reach(OPTIONS, AS_IT_IS, made_recipe, made_price, lambda: False)
    assert reach.lowest["latency_ms"] == pytest.approx(1 - 0.8 * (0.3 + 0.25))


def test_what_may_be_within_reach_is_searched_for() -> None:
    assert not _lowest(latency_ms=0.56 / KINDS["latency_ms"].doubt + 0.01)
    assert not _lowest(max_accuracy_drop_points=1.0)


def test_what_is_far_below_the_lowest_price_is_told_with_it() -> None:
    words = _lowest(latency_ms=0.3, macs=10)
    assert "latency_ms 0.3, where at least 0.56 is predicted" in words
    assert "macs 10, where at least 100" in words


def test_options_that_do_not_go_together_hide_no_others() -> None:
    def refusing(options, policy):  # type: ignore[no-untyped-def]
        if any(option.removes for option in options):
            raise ConfigError("no")
        return made_recipe(options, policy)

    reach = find_reach(OPTIONS, AS_IT_IS, refusing, made_price, lambda: False)
    assert reach.lowest["latency_ms"] == pytest.approx(1 - 0.8 * (0.1 + 0.25))
    assert not find_reach(OPTIONS, [], made_recipe, made_price, lambda: False).broken(Budget(macs=1))


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
    assert set(outcome.broken_limits) == {"onnx_size_bytes"}, "the original loses no accuracy against itself"
    report = json.loads(small.environment.blobs.get_bytes(outcome.report_sha256 or ""), parse_constant=pytest.fail)
    assert (report["feasible"], report["front"], report["candidates_evaluated"]) == (False, [], 0)
    assert report["nearest"]["candidate"] == BASELINE


@pytest.mark.parametrize("budget", [Budget(latency_ms=0.00001, max_accuracy_drop_points=1.0), Budget(size_bytes=20, macs=10)])
def test_what_no_network_takes_is_refused_at_once(budget: Budget) -> None:
    (found,) = SearchSpec("m", "d", "t", budget, preference="balanced").violations()
    assert "below what any network takes" in found.description
    assert "unit" in found.description


def test_no_recipe_is_the_original() -> None:
    assert (
        find_reach((), AS_IT_IS, made_recipe, made_price, lambda: False).lowest["latency_ms"] == made_price(Recipe()).latency.value
    )


def test_what_a_container_packs_to_is_doubted_more_than_a_file() -> None:
    reach = Reach({"download_size_bytes": 1000.0, "onnx_size_bytes": 1000.0})
    assert not reach.broken(Budget(size_bytes=600, size_name="download_size_bytes"))
    assert reach.broken(Budget(size_bytes=400, size_name="download_size_bytes"))
    assert reach.broken(Budget(size_bytes=600))


def test_an_original_that_meets_the_limit_keeps_it_in_reach(tmp_path: Path) -> None:
    """The predictor may have been calibrated on a busy machine: what was measured counts."""
    small = small_search(tmp_path)
    setup = prepare(replace(small.spec, budget=Budget(latency_ms=1000.0)), small.environment)
    reach = Reach({"latency_ms": 1e9, "onnx_size_bytes": 1e9})
    assert job._out_of_reach(setup, reach, small.store) == ""
    tight = replace(setup, spec=replace(setup.spec, budget=Budget(latency_ms=1000.0, size_bytes=150)))
    assert "onnx_size_bytes" in job._out_of_reach(tight, reach, small.store)
    fast = Reach({"latency_ms": 1e9, "onnx_size_bytes": 1.0})
    assert job._out_of_reach(tight, fast, small.store) == "", "the limit that is out of reach is not the one that is broken"


def test_what_the_time_does_not_hold_says_nothing_of_reach(tmp_path: Path) -> None:
    small = small_search(tmp_path)
    setup = prepare(small.spec, small.environment)
    assert reach_of(setup, Sensitivity((), {}, {NONE: {}}), small.environment, time.monotonic() - 1.0).lowest == {}
