"""Schedules as users know them: make, read, change, pause, delete; and what became of their due times."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.errors import AlreadyExistsError, EtagMismatchError, NotFoundError, PreconditionError, QuotaExceededError
from service.schedules.spec import ScheduleSpec
from service.store import requests
from service.store.database import Database
from service.store.pages import Page, PageRequest
from service.store.schema import ScheduleRow, ScheduleRunRow
from service.store.specs import read_schedule

_METHOD = "create_schedule"
MAX_SCHEDULES = 1000
"""Of one project. Who needs more due times writes them into one line."""


@dataclass(frozen=True)
class NewSchedule:
    """A valid schedule about to be stored."""

    name: str
    project: str
    spec: ScheduleSpec
    next_run_time: float | None


@dataclass(frozen=True)
class StoredRun:
    """A snapshot of what became of a due time. ``registration`` is empty where nothing is to be registered."""

    name: str
    due_time: float
    manual: bool
    state: str
    message: str
    search: str
    source_version: str
    registration: str
    registered_version: str
    registration_message: str
    create_time: float


@dataclass(frozen=True)
class StoredSchedule(NewSchedule):
    """A snapshot of a stored schedule."""

    paused: bool = False
    last_run: StoredRun | None = None
    revision: int = 1
    schedule_id: int = 0
    create_time: float = 0.0

    @property
    def etag(self) -> str:
        """Changes with what users change."""
        return f"{self.schedule_id}-{self.revision}"


class ScheduleStore:
    """All schedules."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, new: NewSchedule, request_id: str, digest: str) -> StoredSchedule:
        """Store one, together with the answer to its ``request_id``.

        Raises:
            AlreadyExistsError: the name is taken.
            QuotaExceededError: the project has too many.
        """
        try:
            with self._database.write() as session:
                known = requests.recall(session, new.project, _METHOD, request_id, digest)
                if known is None:
                    _check_count(session, new.project)
                    values = {"project": new.project, "name": new.name, "next_run_time": new.next_run_time}
                    session.add(ScheduleRow(**values, spec_json=new.spec.to_json(), create_time=time.time()))
                    requests.remember(session, new.project, _METHOD, request_id, digest, new.name)
        except IntegrityError:
            raise AlreadyExistsError(f"{new.name} exists; choose another id") from None
        return self.get(known or new.name)

    def recall(self, project: str, request_id: str, digest: str) -> StoredSchedule | None:
        """The answer that a request id got before."""
        with self._database.read() as session:
            name = requests.recall(session, project, _METHOD, request_id, digest)
        return self.get(name) if name else None

    def get(self, name: str) -> StoredSchedule:
        """One by name.

        Raises:
            NotFoundError: there is none.
        """
        with self._database.read() as session:
            row = find_schedule(session, name)
            return stored_schedule(row, _last_runs(session, [row]))

    def list(self, project: str, page: PageRequest) -> Page[StoredSchedule]:
        """A page, newest first."""
        with self._database.read() as session:
            query = select(ScheduleRow).filter_by(project=project).order_by(ScheduleRow.id.desc())
            if page.after_id is not None:
                query = query.where(ScheduleRow.id < page.after_id)
            rows = page.page(session.scalars(query.limit(page.size + 1)).all(), lambda row: row.id)
            last_runs = _last_runs(session, rows.items)
            readable = [row for row in rows.items if _is_readable(row)]
            return Page(tuple(stored_schedule(row, last_runs) for row in readable), rows.next_page_token)

    def update(self, name: str, spec: ScheduleSpec, expected: str, now: float) -> StoredSchedule:
        """Replace what a user says; it is due anew where its timing changed.

        Args:
            expected: etag of the schedule that the change was made to.

        Raises:
            EtagMismatchError: somebody else changed it meanwhile.
        """
        with self._database.write() as session:
            row = find_schedule(session, name, expected)
            if not row.paused and ScheduleSpec.from_json(row.spec_json).timing != spec.timing:
                row.next_run_time = spec.timing.next_after(now)
            row.spec_json, row.revision = spec.to_json(), row.revision + 1
        return self.get(name)

    def pause(self, name: str, etag: str = "") -> StoredSchedule:
        """Let it rest. Pausing it again changes nothing."""
        with self._database.write() as session:
            row = find_schedule(session, name, etag)
            if not row.paused:
                row.paused, row.next_run_time, row.revision = True, None, row.revision + 1
        return self.get(name)

    def resume(self, name: str, now: float, etag: str = "") -> StoredSchedule:
        """Go on with the next due time. Resuming what does not rest changes nothing."""
        with self._database.write() as session:
            row = find_schedule(session, name, etag)
            if row.paused:
                row.next_run_time = ScheduleSpec.from_json(row.spec_json).timing.next_after(now)
                row.paused, row.revision = False, row.revision + 1
        return self.get(name)

    def delete(self, name: str, etag: str = "") -> None:
        """Forget it and its runs; their searches stay."""
        with self._database.write() as session:
            row = find_schedule(session, name, etag)
            session.execute(delete(ScheduleRow).where(ScheduleRow.id == row.id))

    def runs(self, name: str, page: PageRequest) -> Page[StoredRun]:
        """A page of what became of its due times, newest first."""
        with self._database.read() as session:
            query = select(ScheduleRunRow).filter_by(schedule_id=find_schedule(session, name).id).order_by(ScheduleRunRow.id.desc())
            if page.after_id is not None:
                query = query.where(ScheduleRunRow.id < page.after_id)
            rows = page.page(session.scalars(query.limit(page.size + 1)).all(), lambda row: row.id)
            return Page(tuple(map(stored_run, rows.items)), rows.next_page_token)

    def due(self, now: float, limit: int = 100) -> Sequence[int]:
        """Numbers of schedules that are due, the longest first."""
        with self._database.read() as session:
            query = select(ScheduleRow.id).where(ScheduleRow.next_run_time <= now).order_by(ScheduleRow.next_run_time)
            return session.scalars(query.limit(limit)).all()

    def next_due(self) -> float | None:
        """When something is due next."""
        with self._database.read() as session:
            return session.scalar(select(func.min(ScheduleRow.next_run_time)))


def find_schedule(session: Session, name: str, etag: str = "") -> ScheduleRow:
    """The row of a schedule.

    Raises:
        NotFoundError: there is none.
        EtagMismatchError: it has changed.
    """
    row = session.scalar(select(ScheduleRow).filter_by(name=name))
    if row is None:
        raise NotFoundError(f"{name} does not exist")
    if etag and etag != f"{row.id}-{row.revision}":
        raise EtagMismatchError(f"{name} has changed since etag {etag!r}; get it again")
    return row


def stored_run(row: ScheduleRunRow) -> StoredRun:
    """A snapshot."""
    return StoredRun(**{name: getattr(row, name) for name in StoredRun.__dataclass_fields__})


def _is_readable(row: ScheduleRow) -> bool:
    """One that another version has stored is left out of lists: nothing of it can be shown. It can be got, which says why not."""
    try:
        read_schedule(row.spec_json)
    except PreconditionError:
        return False
    return True


def stored_schedule(row: ScheduleRow, last_runs: Mapping[int, StoredRun]) -> StoredSchedule:
    """A snapshot; ``last_runs`` by number of schedule."""
    return StoredSchedule(
        name=row.name,
        project=row.project,
        spec=read_schedule(row.spec_json),
        next_run_time=row.next_run_time,
        paused=row.paused,
        last_run=last_runs.get(row.id),
        revision=row.revision,
        schedule_id=row.id,
        create_time=row.create_time,
    )


def _check_count(session: Session, project: str) -> None:
    count = session.scalar(select(func.count()).select_from(ScheduleRow).where(ScheduleRow.project == project)) or 0
    if count >= MAX_SCHEDULES:
        words = f"projects/{project} has {count} schedules, and may have {MAX_SCHEDULES}"
        raise QuotaExceededError(f"project:{project}", f"{words}; delete those that are no longer needed")


def _last_runs(session: Session, rows: Sequence[ScheduleRow]) -> dict[int, StoredRun]:
    wanted = ScheduleRunRow.schedule_id.in_([row.id for row in rows])
    newest = select(func.max(ScheduleRunRow.id)).where(wanted).group_by(ScheduleRunRow.schedule_id)
    found = session.scalars(select(ScheduleRunRow).where(ScheduleRunRow.id.in_(newest)))
    return {row.schedule_id: stored_run(row) for row in found}
