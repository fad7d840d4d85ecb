"""What a worker does to searches: claim with a lease, keep it, let go, finish."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from sqlalchemy import and_, delete, or_, select, update
from sqlalchemy.orm import Session

from search.environment import SearchOutcome
from search.protocols import Event
from search.spec import SearchSpec
from search.tracking.described import SearchOrigin
from search.tracking.ended import UNTRACKED
from service.errors import PreconditionError
from service.store.database import Database
from service.store.events import append_events
from service.store.records import origin_of
from service.store.schema import PhaseRow, ProcessGroupRow, SearchRow
from service.store.search_store import boot_id
from service.store.specs import read_spec, shown_spec

MAX_ATTEMPTS, MIN_TROUBLE_S = 10, 1800.0
"""A search is given up when so many workers have taken it without finding anything new, over so long: what kills processes for
some minutes, such as a machine that is being repaired, is no fault of the search."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
"""Between two attempts, twice as long after each; the second one comes at once."""


@dataclass(frozen=True)
class ClaimedSearch:
    """A search that this worker may run. ``process_groups`` are its predecessor's, still to be ended."""

    search_id: int
    name: str
    spec: SearchSpec
    dataset_notes: tuple[str, ...]
    process_groups: tuple[int, ...]
    resumed: bool
    origin: SearchOrigin


def process_identity() -> str:
    """``host|boot|pid|start time``: tells whether a lease's owner still lives."""
    return f"{socket.gethostname()}|{boot_id()}|{os.getpid()}|{_start_time(os.getpid())}"


def owner_is_dead(owner: str) -> bool:
    """Whether the owner ran on this machine and is no more; elsewhere only the lease's end tells."""
    parts = owner.split("|")
    if len(parts) != 4 or parts[0] != socket.gethostname():
        return False
    return parts[1] != boot_id() or _start_time(int(parts[2])) != parts[3]


def _start_time(pid: int) -> str:
    try:
        # Field 22; the command name before it may hold spaces and brackets.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


class SearchQueue:
    """The queue as one worker sees it."""

    def __init__(self, database: Database, owner: str, lease_s: float) -> None:
        self._database = database
        self.owner = owner
        self._lease_s = lease_s

    def claim(self) -> ClaimedSearch | None:
        """Take the oldest search that waits, or whose worker is gone; the state is stored before anybody hears of it.

        A search that somebody has cancelled is never taken again: where its worker is gone, it ends here.
        """
        now = time.time()
        with self._database.write() as session:
            waiting = or_(SearchRow.state == "QUEUED", SearchRow.state == "RUNNING")
            rows = session.scalars(select(SearchRow).where(waiting).order_by(SearchRow.id).with_for_update()).all()
            free = [r for r in rows if r.state == "QUEUED" or (worker_is_gone(r, now) and not _pauses(r, now))]
            alive = [r for r in free if not ended_by_cancelling(session, r)]
            readable = ((r, spec) for r in alive if not _given_up(session, r, now) if (spec := _read_spec(session, r)) is not None)
            row, spec = next(readable, (None, None))
            if row is None or spec is None:
                return None
            resumed = row.start_time is not None
            row.state, row.lease_owner, row.lease_expires = "RUNNING", self.owner, now + self._lease_s
            row.start_time, row.end_time = row.start_time or now, None
            row.state_message, row.revision = "", row.revision + 1
            if not row.attempts:
                row.attempts_since = now
            row.attempts += 1
            append_events(session, row.id, [_state_event("RUNNING", "resumed by a worker" if resumed else "taken by a worker")])
            boot = boot_id()
            groups = session.scalars(select(ProcessGroupRow.pgid).filter_by(search_id=row.id, boot_id=boot)).all()
            notes = tuple(json.loads(row.dataset_notes_json))
            return ClaimedSearch(row.id, row.name, spec, notes, tuple(groups), resumed, origin_of(row))

    def waiting_targets(self) -> frozenset[str]:
        """Targets of the searches that wait for a worker, or have lost theirs."""
        lost = and_(SearchRow.state == "RUNNING", SearchRow.lease_expires < time.time())
        with self._database.read() as session:
            specs = session.scalars(select(SearchRow.spec_json).where(or_(SearchRow.state == "QUEUED", lost))).all()
            return frozenset(shown_spec(text).target for text in specs)

    def forget_process_groups(self, search_id: int) -> None:
        """The groups have been ended."""
        with self._database.write() as session:
            session.execute(delete(ProcessGroupRow).filter_by(search_id=search_id))

    def abandoned_groups(self) -> dict[int, tuple[int, ...]]:
        """Process groups in this boot, by search, of searches that ended after their worker had died; to be ended and forgotten."""
        found: dict[int, tuple[int, ...]] = {}
        query = select(ProcessGroupRow).join(SearchRow, SearchRow.id == ProcessGroupRow.search_id)
        with self._database.read() as session:
            for row in session.scalars(query.where(ProcessGroupRow.boot_id == boot_id(), SearchRow.end_time.is_not(None))):
                found[row.search_id] = (*found.get(row.search_id, ()), row.pgid)
        return found

    def process_groups(self, search_id: int) -> tuple[int, ...]:
        """Groups that the search has recorded in this boot."""
        with self._database.read() as session:
            return tuple(session.scalars(select(ProcessGroupRow.pgid).filter_by(search_id=search_id, boot_id=boot_id())).all())

    def renew(self, search_id: int) -> bool:
        """Keep the lease; False when it is lost."""
        with self._database.write() as session:
            statement = update(SearchRow).where(SearchRow.id == search_id, SearchRow.lease_owner == self.owner)
            result = session.execute(statement.values(lease_expires=time.time() + self._lease_s))
            return bool(result.rowcount)  # type: ignore[attr-defined]

    def release(self, search_id: int) -> None:
        """Let go of a search because the worker ends; it stays RUNNING and the next one takes it at once."""
        with self._owned(search_id) as (_, row):
            if row is not None:
                # The worker did not die of this search: that attempt does not count.
                row.lease_owner, row.lease_expires, row.attempts = "", 0.0, max(row.attempts - 1, 0)

    def release_after(self, search_id: int, trouble: str) -> None:
        """Let go of a search that could not go on; it is taken again after a pause, but not for ever (`MAX_ATTEMPTS`)."""
        with self._owned(search_id) as (_, row):
            if row is not None:
                pause_s = min(FIRST_PAUSE_S * 2.0 ** min(row.attempts - 1, 10), LONGEST_PAUSE_S) if row.attempts > 1 else 0.0
                row.lease_owner, row.lease_expires, row.state_message = "", time.time() + pause_s, trouble

    def cancel_was_requested(self, search_id: int) -> bool:
        """Whether the user asked for the end."""
        with self._database.read() as session:
            row = session.get(SearchRow, search_id)
            return row is None or row.cancel_requested

    def finish(self, search_id: int, outcome: SearchOutcome) -> None:
        """Store how the search ended, then (in the same transaction) announce it."""
        with self._owned(search_id) as (session, row):
            if row is not None:
                row.outcome_json = json.dumps(asdict(outcome), sort_keys=True, default=str)
                _forget_groups(session, row)
                _end(session, row, outcome.state, outcome.message)

    def fail(self, search_id: int, message: str) -> None:
        """Store that the search could not be carried out; the tracker is told later."""
        with self._owned(search_id) as (session, row):
            if row is not None:
                _forget_groups(session, row)
                _end_untracked(session, row, "FAILED", message)

    @contextmanager
    def _owned(self, search_id: int) -> Iterator[tuple[Session, SearchRow | None]]:
        with self._database.write() as session:
            row = session.get(SearchRow, search_id)
            yield session, row if row is not None and row.lease_owner == self.owner else None


def worker_is_gone(row: SearchRow, now: float) -> bool:
    """Whether nobody works on a search that runs: its lease is over or given back, or its worker has died."""
    return not row.lease_owner or row.lease_expires < now or owner_is_dead(row.lease_owner)


def _pauses(row: SearchRow, now: float) -> bool:
    """Whether a search that could not go on is left alone for a while: what was away then is away still."""
    return not row.lease_owner and row.lease_expires > now


def ended_by_cancelling(session: Session, row: SearchRow) -> bool:
    """End a search that was cancelled and that no worker has; whether it was one."""
    if row.cancel_requested:
        _end_untracked(session, row, "CANCELLED", "cancelled on request; finished candidates are kept")
        return True
    return False


def _read_spec(session: Session, row: SearchRow) -> SearchSpec | None:
    """What the search was asked to do; one that this version cannot read ends here, with the reason: others wait behind it."""
    try:
        return read_spec(row.spec_json)
    except PreconditionError as error:
        _end_untracked(session, row, "FAILED", str(error))
        return None


def _forget_groups(session: Session, row: SearchRow) -> None:
    """The search's worker lives and has ended what it had started: nobody else has to."""
    session.execute(delete(ProcessGroupRow).filter_by(search_id=row.id))


def _given_up(session: Session, row: SearchRow, now: float) -> bool:
    """End a search that workers take again and again and die of before they find anything new: others wait behind it."""
    trouble_s = now - row.attempts_since
    if row.attempts < MAX_ATTEMPTS or trouble_s < MIN_TROUBLE_S:
        return False
    last = row.state_message or "the last one's process died; it may have run out of memory"
    many = f"{row.attempts} workers in {trouble_s / 60:.0f} minutes ended before they had found anything new"
    message = f"{many}: {last}. The worker's log may say more; extend the search to go on from here"
    _end_untracked(session, row, "FAILED", message)
    return True


def _end_untracked(session: Session, row: SearchRow, state: str, message: str) -> None:
    """For the search, which could not tell the tracker how it ended; see `service.workers.late_tracking`."""
    session.merge(PhaseRow(search_id=row.id, name=UNTRACKED, value_json="{}"))
    _end(session, row, state, message)


def _end(session: Session, row: SearchRow, state: str, message: str) -> None:
    row.state, row.state_message, row.end_time = state, message, time.time()
    row.lease_owner, row.lease_expires, row.cancel_requested = "", 0.0, False
    row.revision += 1
    append_events(session, row.id, [_state_event(state, message)])


def _state_event(state: str, message: str) -> Event:
    return Event("state", message, {"state": state})
