"""Whatever a technique does to the process that tries it, the search goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest

from search.attempts import PHASE, Attempts, attempt, reason_of, supervised, unexpected
from search.errors import OptionSkippedError, RuntimeLostError, SearchCancelledError, TimeLimitError
from techniques.errors import ConfigError
from tests.search.memory import MemoryStore


def loops_for_ever() -> None:
    while True:
        pass


def loops_and_swallows() -> None:
    """As `techniques.shapes.propagate` does, which names the node of whatever was raised."""
    while True:
        try:
            for _ in range(1000):
                pass
        except Exception:
            continue


def takes_a_nap_at_a_time() -> None:
    while True:
        time.sleep(0.01)


@dataclass(frozen=True)
class Raised:
    id: str
    error: Exception
    reason: str


RAISED = (
    Raised("on purpose", ConfigError("stem: 3 channels"), "stem: 3 channels"),
    Raised("ours", TypeError("unsupported operand\nand more"), "TypeError: unsupported operand"),
    Raised("nothing to say", AssertionError(), "AssertionError"),
    Raised("memory", MemoryError("cannot allocate"), "MemoryError: cannot allocate"),
)


@pytest.mark.parametrize("case", RAISED, ids=lambda case: case.id)
def test_whatever_is_raised_becomes_a_reason(case: Raised) -> None:
    def fail() -> None:
        raise case.error

    with pytest.raises(OptionSkippedError) as caught:
        attempt("it", fail)
    assert str(caught.value) == case.reason == reason_of(case.error)


def test_an_unexpected_error_is_told_without_its_details() -> None:
    error = OSError("cannot read /srv/secret/blobs/ab/cd.bin of postgresql://user:hush@host/db for ../x")
    told = unexpected("finalists", error)
    assert told.startswith("finalists: OSError; ")
    assert not {word for word in str(error).split() if len(word) > 3} & set(told.split())
    assert "the worker's log" in told


@pytest.mark.parametrize("error", [RuntimeLostError("Ray went away"), SearchCancelledError("stop")], ids=lambda e: type(e).__name__)
def test_what_comes_from_outside_is_no_fault_of_an_option(error: Exception) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        attempt("it", fail)


@pytest.mark.parametrize("function", [loops_for_ever, loops_and_swallows, takes_a_nap_at_a_time], ids=lambda f: f.__name__)
def test_what_does_not_end_is_ended(function: Callable[[], None]) -> None:
    begin = time.monotonic()
    with pytest.raises(TimeLimitError, match="took more than 0 s and was stopped"):
        attempt("it", function, limit_s=0.2)
    assert time.monotonic() - begin < 2
    assert attempt("another", lambda: 7, limit_s=0.2) == 7


def test_a_search_that_is_to_stop_ends_what_runs_in_whatever_thread() -> None:
    told: list[BaseException] = []

    def work() -> None:
        try:
            supervised(loops_for_ever, lambda: True, 60.0)
        except SearchCancelledError as error:
            told.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(5)
    assert len(told) == 1


def test_each_of_two_that_stand_in_one_another_takes_its_own_interruptions() -> None:
    def inner() -> str:
        with pytest.raises(TimeLimitError):
            supervised(loops_for_ever, lambda: False, 0.2)
        return "went on"

    assert supervised(inner, lambda: False, 60.0) == "went on"

    def outer() -> None:
        supervised(loops_for_ever, lambda: False, 60.0)

    with pytest.raises(TimeLimitError, match="0 s"):
        supervised(outer, lambda: False, 0.2)


def test_thousands_that_end_in_time_leave_no_thread_and_no_interruption() -> None:
    assert [attempt("it", partial(int, i), limit_s=5.0) for i in range(500)] == list(range(500))
    time.sleep(0.05)
    assert not [thread for thread in threading.enumerate() if thread.name == "watch"]


def test_an_interruption_that_comes_as_the_function_ends_does_no_harm() -> None:
    ended = late = 0
    for _ in range(60):
        try:
            attempt("it", lambda: time.sleep(0.012), limit_s=0.012)
            ended += 1
        except TimeLimitError:
            late += 1
    assert ended + late == 60


def test_what_two_processes_died_of_is_not_tried_by_the_third() -> None:
    def kills_the_process() -> None:
        raise SystemExit

    store = MemoryStore()
    for _ in range(2):
        with pytest.raises(SystemExit):
            Attempts(store).attempt("rank:fc:0.5", kills_the_process)
    third = Attempts(store)
    with pytest.raises(OptionSkippedError, match="2 processes died while it was tried"):
        third.attempt("rank:fc:0.5", lambda: 1)
    assert third.attempt("rank:fc:0.75", lambda: 1) == 1
    third.done()
    assert Attempts(store).attempt("rank:fc:0.75", lambda: 1) == 1
    assert store.phases[PHASE]["died"] == {"rank:fc:0.5": 2}


def test_what_has_ended_is_not_blamed_for_a_later_death() -> None:
    def fails() -> None:
        raise ConfigError("no")

    store = MemoryStore()
    for _ in range(3):
        attempts = Attempts(store)
        attempts.attempt("export of c0001", lambda: 1)
        with pytest.raises(OptionSkippedError, match=r"^no$"):
            attempts.attempt("export of c0002", fails)
        assert store.phases[PHASE] == {"trying": "", "died": {}}  # and here the worker is killed
    assert Attempts(store).attempt("export of c0001", lambda: 1) == 1


def test_a_worker_that_is_told_to_end_blames_nothing() -> None:
    store = MemoryStore()
    store.stop = True
    with pytest.raises(SearchCancelledError):
        Attempts(store).attempt("prune:stem:0.5", loops_for_ever)
    assert store.phases[PHASE] == {"trying": "", "died": {}}
