"""What a running search writes: `search.protocols.CandidateStore`, bound to one search and one lease."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from search.errors import OutsideError
from search.protocols import BASELINE, CandidateRecord, Event, Progress
from service.errors import ServiceError, StoreUnavailableError
from service.store.database import Database
from service.store.events import append_events
from service.store.records import candidate_to_json, candidates_of
from service.store.schema import CandidateRow, PhaseRow, ProcessGroupRow, SearchRow

STOP_CACHE_S = 0.4
_ATTEMPTS = 3


class LeaseLostError(ServiceError, OutsideError):
    """Another worker has taken the search over; this one must write nothing more."""


class SqlCandidateStore:
    """The truth about one search. Every write checks the lease in its own transaction.

    Args:
        stopping: asked as well by `should_stop`; true when the worker itself is told to end.
    """

    def __init__(self, database: Database, search_id: int, owner: str, stopping: Callable[[], bool] = lambda: False) -> None:
        self._database = database
        self._search_id = search_id
        self._owner = owner
        self._stopping = stopping
        self._stop_known_at = 0.0
        self._stop = False

    def save_candidate(self, record: CandidateRecord, events: Sequence[Event] = ()) -> None:
        """Insert or replace a candidate and append events, in one transaction."""
        key = {"search_id": self._search_id, "candidate_id": record.candidate_id}
        values = {"trial_number": record.trial_number, "state": record.state, "record_json": candidate_to_json(record)}
        found_new = record.candidate_id != BASELINE
        self._write(lambda session: session.merge(CandidateRow(**key, **values)), events, found_new)

    def candidates(self) -> Sequence[CandidateRecord]:
        """All candidates, by trial number."""
        with self._database.read() as session:
            return candidates_of(session, self._search_id)

    def append(self, event: Event) -> None:
        """Append an event."""
        self._write(lambda session: None, [event])

    def save_phase(self, name: str, value: Mapping[str, Any]) -> None:
        """Remember the result of a phase."""
        text = json.dumps(dict(value), sort_keys=True)
        self._write(lambda session: session.merge(PhaseRow(search_id=self._search_id, name=name, value_json=text)))

    def phase(self, name: str) -> Mapping[str, Any] | None:
        """What `save_phase` stored, or None."""
        with self._database.read() as session:
            row = session.get(PhaseRow, (self._search_id, name))
            value: Mapping[str, Any] | None = json.loads(row.value_json) if row else None
            return value

    def should_stop(self) -> bool:
        """Whether the search was cancelled, its lease lost, or the worker told to end; the store is asked twice a second."""
        if self._stopping():
            return True
        now = time.monotonic()
        if not self._stop and now - self._stop_known_at > STOP_CACHE_S:
            self._stop_known_at = now
            with self._database.read() as session:
                row = session.get(SearchRow, self._search_id)
                self._stop = row is None or row.cancel_requested or row.lease_owner != self._owner
        return self._stop

    def show(self, progress: Progress) -> None:
        """Nothing by itself: progress is written with the search's clock (`search.clock.ClockedStore`)."""

    def record_process_group(self, pgid: int) -> None:
        """Remember a process group, so that a restarted worker can end it."""
        row = {"search_id": self._search_id, "pgid": pgid, "boot_id": boot_id()}
        self._write(lambda session: session.add(ProcessGroupRow(**row)))

    def _write(self, change: Callable[[Session], object], events: Sequence[Event] = (), found_new: bool = False) -> None:
        """Change rows and append events in one transaction, exactly once: also if the connection breaks in the middle.

        Whether a commit that got no answer took place is told by the number of events: only the lease's owner appends any.
        """
        before: int | None = None
        for attempts_left in reversed(range(_ATTEMPTS)):
            try:
                with self._database.write() as session:
                    search = self._leased(session)
                    if before is not None and search.last_sequence > before:
                        return
                    before = search.last_sequence
                    if found_new:
                        search.attempts = 0
                    change(session)
                    append_events(session, self._search_id, events)
                return
            except StoreUnavailableError:
                if not attempts_left:
                    raise

    def _leased(self, session: Session) -> SearchRow:
        row = session.get(SearchRow, self._search_id)
        if row is None or row.lease_owner != self._owner:
            raise LeaseLostError("this worker's lease on the search has ended")
        return row


def boot_id() -> str:
    """Identity of this boot: process numbers of another one mean nothing."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else ""
