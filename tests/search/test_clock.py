"""The wall time covers all the lives of a search, and the trials leave enough of it for the finals."""

from __future__ import annotations

import time

import pytest

from paretopress.runtime.rounds import LIMIT_S
from search.clock import PHASE, Clock, ClockedStore, StandingClock
from search.finals_time import FinalsTime
from search.protocols import Progress
from tests.search.memory import MemoryStore
from tests.waiting import wait_until


def test_what_an_earlier_worker_has_spent_counts() -> None:
    store = MemoryStore()
    first = Clock(store, 100.0, time.monotonic() - 30.0)
    assert first.left_s == pytest.approx(70.0, abs=0.5)
    ClockedStore(store, first).note()
    later = Clock(store, 100.0, time.monotonic() - 5.0)
    assert later.spent_s == pytest.approx(35.0, abs=0.5)
    assert later.ends_at - time.monotonic() == pytest.approx(65.0, abs=0.5)
    assert time.monotonic() - later.counts_from == pytest.approx(35.0, abs=0.5)


def test_what_is_no_time_of_the_search_is_shown_and_not_counted() -> None:
    store = MemoryStore()
    store.save_phase(PHASE, {"spent_s": 12.0})
    shown = ClockedStore(store, StandingClock(store, 100.0))
    shown.show(Progress("start", "calibrating cpu-ort-1t: 40%"))
    shown.note()
    noted = store.phase(PHASE) or {}
    assert (noted["spent_s"], noted["limit_s"], noted["progress"]["message"]) == (12.0, 100.0, "calibrating cpu-ort-1t: 40%")


def test_clock_and_progress_are_noted_whatever_the_search_waits_for() -> None:
    store = MemoryStore()
    clocked = ClockedStore(store, Clock(store, 100.0, time.monotonic() - 6.0))
    with clocked.noting(every_s=0.02):
        clocked.show(Progress("search", "trial 2 of 9", "c0001", 1, 3, 0.5, 2.0))
        assert wait_until(lambda: "candidate" in str(store.phase(PHASE)) and "c0001" in str(store.phase(PHASE)))
        clocked.show(Progress("report"))
    noted = store.phase(PHASE) or {}
    assert noted["spent_s"] == pytest.approx(6.0, abs=5)
    assert (noted["limit_s"], noted["progress"]["phase"]) == (100.0, "report"), "the last word is noted, too"


def test_a_store_that_is_away_ends_no_search_from_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    clocked, asked = ClockedStore(store, Clock(store, 100.0, time.monotonic())), []

    def away(name: str, value: object) -> None:
        asked.append(name)
        raise OSError("away")

    def work() -> None:
        with clocked.noting(every_s=0.01):
            monkeypatch.setattr(store, "save_phase", away)
            assert wait_until(lambda: len(asked) > 3), "it goes on trying"

    with pytest.raises(OSError, match="away"):
        work()


def test_the_finals_get_what_they_took_for_the_original() -> None:
    quick, slow = FinalsTime(file_s=2.0, latency_ms=0.1), FinalsTime(file_s=8.0, latency_ms=100.0, closing_s=20.0)
    assert 15.0 < quick.reserved_s(600.0) < 45.0
    assert slow.reserved_s(600.0) > 100.0
    assert slow.reserved_s(60.0) == 30.0
    assert FinalsTime(file_s=2.0).reserved_s(600.0) < quick.reserved_s(600.0), "a board elsewhere is not measured"


def test_measuring_ends_within_the_wall_time() -> None:
    times = FinalsTime(file_s=2.0, latency_ms=1.0, closing_s=10.0)
    assert times.measuring_limit_s(600.0) == LIMIT_S
    assert times.measuring_limit_s(40.0) == pytest.approx(27.0)
    assert times.measuring_limit_s(-5.0) > 0, "what is left is too little, and no answer is worse"
