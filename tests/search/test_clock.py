"""The wall time covers all the lives of a search, and the trials leave enough of it for the finals."""

from __future__ import annotations

import time

import pytest

from paretopress.runtime.measure import LIMIT_S
from search.clock import PHASE, Clock, ClockedStore
from search.finals_time import FinalsTime
from search.protocols import Progress
from tests.search.memory import MemoryStore


def test_what_an_earlier_worker_has_spent_counts() -> None:
    store = MemoryStore()
    first = Clock(store, 100.0, time.monotonic() - 30.0)
    assert first.left_s == pytest.approx(70.0, abs=0.5)
    ClockedStore(store, first).note()
    later = Clock(store, 100.0, time.monotonic() - 5.0)
    assert later.spent_s == pytest.approx(35.0, abs=0.5)
    assert later.ends_at - time.monotonic() == pytest.approx(65.0, abs=0.5)


def test_it_is_noted_whenever_a_stop_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    store, now = MemoryStore(), 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    clocked = ClockedStore(store, Clock(store, 100.0, now))
    clocked.show(Progress("search", "trial 2 of 9", "c0001", 1, 3, 0.5, 2.0))
    now += 1.5
    assert not clocked.should_stop()
    assert store.phase(PHASE) is None
    now += 1.0
    assert not clocked.should_stop()
    noted = store.phase(PHASE) or {}
    assert (noted["spent_s"], noted["limit_s"]) == (2.5, 100.0)
    assert Progress(**noted["progress"]) == Progress("search", "trial 2 of 9", "c0001", 1, 3, 0.5, 2.0)


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
