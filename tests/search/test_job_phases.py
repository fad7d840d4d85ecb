"""What ends a search names its phase; a baseline that takes the whole wall time says so."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from search import job
from search.errors import BaselineError, SearchError, UnexpectedError
from search.job import run_search
from search.protocols import CandidateRecord
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
