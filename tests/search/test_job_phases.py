"""What ends a search names its phase; a baseline that takes the whole wall time says so."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from search import job
from search.errors import BaselineError, ClusterError, SearchError, UnexpectedError
from search.job import run_search
from search.protocols import BASELINE, CandidateRecord
from search.spec import Effort
from tests.search.memory import MemoryStore
from tests.search.small_search import small_search


def test_an_error_that_nobody_has_thought_of_names_phase_and_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare(*_: object) -> Any:
        raise IndexError("list index out of range\nand a second line")

    monkeypatch.setattr(job, "prepare", prepare)
    small = small_search(tmp_path)
    with pytest.raises(UnexpectedError) as caught:
        run_search(small.spec, small.environment)
    assert str(caught.value).startswith("baseline: IndexError; ")
    assert "list index" not in str(caught.value)


def test_an_error_that_is_raised_on_purpose_speaks_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare(*_: object) -> Any:
        raise BaselineError("near chance")

    monkeypatch.setattr(job, "prepare", prepare)
    small = small_search(tmp_path)
    with pytest.raises(BaselineError, match=r"^near chance$"):
        run_search(small.spec, small.environment)


def test_a_baseline_ends_at_the_wall_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare(*_: object) -> Any:
        while True:
            pass

    monkeypatch.setattr(job, "prepare", prepare)
    small = small_search(tmp_path, wall_time_s=0.5)
    with pytest.raises(SearchError, match="was up before the first candidate"):
        run_search(small.spec, small.environment)


def test_a_search_cancelled_in_its_baseline_is_cancelled_within_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = small_search(tmp_path)

    def prepare(*_: object) -> Any:
        small.store.stop = True
        while True:
            pass

    monkeypatch.setattr(job, "prepare", prepare)
    begin = time.monotonic()
    outcome = run_search(small.spec, small.environment)
    assert outcome.state == "CANCELLED"
    assert time.monotonic() - begin < 5


def test_candidates_are_answered_with_when_the_time_is_up_in_another_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by a reviewer: a search that had an answer and was extended by no time became FAILED."""
    small = small_search(tmp_path, wall_time_s=600.0)
    small.store.save_phase("clock", {"spent_s": 600.5})
    clock = job.Clock(small.store, 600.0, time.monotonic())
    with pytest.raises(SearchError, match="was up before the first candidate"):
        job._in_time(lambda: time.sleep(2.0), small.spec, small.store, clock)  # type: ignore[arg-type, return-value]
    for number in range(2):
        small.store.save_candidate(CandidateRecord(f"c{number:04d}", number, "{}", 0, 0))
    prepared: Any = object()
    assert job._in_time(lambda: prepared, small.spec, small.store, clock) is prepared


def _candidate(state: Any) -> CandidateRecord:
    return CandidateRecord(f"c-{state}", 0, "{}", 0, 0, state=state)


def _run_trials_in_a_full_cluster(monkeypatch: pytest.MonkeyPatch, store: MemoryStore) -> None:
    def full(*_: object) -> None:
        raise ClusterError("trials have waited for a node")

    monkeypatch.setattr(job, "run_trials", full)
    setup: Any = SimpleNamespace(evaluator=None, runner=None, spec=SimpleNamespace(effort=Effort(max_trials=5)))
    job._run_trials(None, setup, store)  # type: ignore[arg-type]


def test_candidates_that_were_found_before_a_cluster_was_full_go_on_to_the_finals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by review: ten finished candidates were thrown away, since others took the cluster for a while."""
    store = MemoryStore()
    for record in (CandidateRecord(BASELINE, -1, "{}", 0, 0), _candidate("evaluated"), _candidate("failed")):
        store.save_candidate(record)
    _run_trials_in_a_full_cluster(monkeypatch, store)
    words = "trials have waited for a node. No more trials: the search ends with 1 of 5 candidates"
    assert [(event.kind, event.message) for event in store.events] == [("warning", words)]


def test_a_cluster_that_is_full_from_the_beginning_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    for record in (CandidateRecord(BASELINE, -1, "{}", 0, 0), _candidate("failed")):
        store.save_candidate(record)
    with pytest.raises(ClusterError, match="trials have waited"):
        _run_trials_in_a_full_cluster(monkeypatch, store)
