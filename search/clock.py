"""The time of a search: what it has worked so far, over all the workers that it had, against its wall time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from search.protocols import CandidateRecord, CandidateStore, Event, Progress

PHASE = "clock"
NOTED_EVERY_S = 2.0
_LOG = logging.getLogger("paretopress.search")


class Clock:
    """Seconds of one search. What an earlier worker has noted counts; what passes while nobody works on it does not.

    Args:
        began: of `time.monotonic`: when this worker took the search.
    """

    def __init__(self, store: CandidateStore, limit_s: float, began: float) -> None:
        self._before_s = float((store.phase(PHASE) or {}).get("spent_s", 0.0))
        self._began, self.limit_s = began, limit_s

    @property
    def spent_s(self) -> float:
        """Worked so far."""
        return self._before_s + time.monotonic() - self._began

    @property
    def counts_from(self) -> float:
        """When the search would have begun, of `time.monotonic`, had this worker done all of it."""
        return self._began - self._before_s

    @property
    def left_s(self) -> float:
        """Until the wall time is up; negative behind it."""
        return self.limit_s - self.spent_s

    @property
    def ends_at(self) -> float:
        """When the wall time is up, of `time.monotonic`."""
        return time.monotonic() + self.left_s


class StandingClock(Clock):
    """While something is done for a search that is none of its time, or before anything of it is read."""

    def __init__(self, store: CandidateStore, limit_s: float) -> None:
        super().__init__(store, limit_s, began=0.0)

    @property
    def spent_s(self) -> float:
        """As an earlier worker has noted."""
        return self._before_s


class ClockedStore:
    """A `CandidateStore` that knows how long the search has worked and what it is at, and writes both down."""

    def __init__(self, store: CandidateStore, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._shown = Progress("start")

    @contextmanager
    def noting(self, every_s: float = NOTED_EVERY_S) -> Iterator[None]:
        """Note every few seconds while inside, whatever this thread waits for, and once more at the end."""
        over = threading.Event()

        def note_on() -> None:
            while not over.wait(every_s):
                try:
                    self.note()
                except Exception as error:  # a store that is away, or a lost lease: whoever works with it hears of it
                    _LOG.debug("the clock was not noted: %s", error)

        thread = threading.Thread(target=note_on, name="clock", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
        self.note()

    def should_stop(self) -> bool:
        """As the store says; may be asked from another thread."""
        return self._store.should_stop()

    def note(self) -> None:
        """Write down how long the search has worked, for whoever takes it over, and what it is at, for whoever looks."""
        spent = {"spent_s": self._clock.spent_s, "limit_s": self._clock.limit_s}
        self._store.save_phase(PHASE, {**spent, "noted": time.time(), "progress": asdict(self._shown)})

    def show(self, progress: Progress) -> None:
        """Kept, and noted with the clock."""
        self._shown = progress

    def save_candidate(self, record: CandidateRecord, events: Sequence[Event] = ()) -> None:
        """As the store does."""
        self._store.save_candidate(record, events)

    def candidates(self) -> Sequence[CandidateRecord]:
        """As the store does."""
        return self._store.candidates()

    def append(self, event: Event) -> None:
        """As the store does."""
        self._store.append(event)

    def save_phase(self, name: str, value: Mapping[str, Any]) -> None:
        """As the store does."""
        self._store.save_phase(name, value)

    def phase(self, name: str) -> Mapping[str, Any] | None:
        """As the store does."""
        return self._store.phase(name)

    def record_process_group(self, pgid: int) -> None:
        """As the store does."""
        self._store.record_process_group(pgid)
