"""What a worker does to runs: fetch the model that a registry reference means, register the result. One lease each."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Select, and_, or_, select, update
from sqlalchemy.orm import Session

from service.errors import PreconditionError
from service.schedules.spec import ScheduleSpec
from service.store.database import Database
from service.store.quotas import NO_QUOTAS, Quotas
from service.store.schedule_runs import (
    DONE,
    FAILED,
    NOTHING,
    REFUSED,
    RESOLVING,
    UNCHANGED,
    WAITING,
    MakeSearch,
    create_search,
)
from service.store.schema import ScheduleRow, ScheduleRunRow, SearchRow
from service.store.search_catalogue import ENDED
from service.store.search_queue import owner_is_dead
from service.store.specs import read_schedule

MAX_ATTEMPTS = 5
PAUSE_S = 30.0
"""Before a registry that was away is asked again; once more for each attempt."""


@dataclass(frozen=True)
class ClaimedRun:
    """A run that this worker may work at.

    Attributes:
        work: ``resolve`` the template's reference, or ``register`` the best candidate of ``search``.
        last_version: of the registry, what was searched last; empty before.
        search_state: empty where the search was deleted.
    """

    run_id: int
    name: str
    project: str
    work: Literal["resolve", "register"]
    spec: ScheduleSpec
    last_version: str
    search: str
    search_state: str
    attempts: int


class ScheduleJobs:
    """The queue of such work as one worker sees it. Writes of a worker that has lost its lease change nothing."""

    def __init__(self, database: Database, owner: str, lease_s: float, make_search: MakeSearch, quotas: Quotas = NO_QUOTAS) -> None:
        self._database = database
        self.owner = owner
        self._lease_s = lease_s
        self._make_search = make_search
        self._quotas = quotas

    def claim(self) -> ClaimedRun | None:
        """Take the oldest run that waits, or whose worker is gone."""
        with self._database.read() as session:
            if session.scalar(_waiting().limit(1)) is None:
                return None
        now = time.time()
        with self._database.write() as session:
            for run in session.scalars(_waiting()).all():
                if not (run.lease_expires < now or owner_is_dead(run.lease_owner)):
                    continue
                try:
                    claimed = _claimed(session, run)
                except PreconditionError as error:  # others wait behind it
                    _fail(run, str(error))
                    continue
                run.lease_owner, run.lease_expires, run.attempts = self.owner, now + self._lease_s, claimed.attempts
                return claimed
            return None

    def renew(self, run_id: int) -> bool:
        """Keep the lease; False when it is lost."""
        with self._database.write() as session:
            mine = (ScheduleRunRow.id == run_id, ScheduleRunRow.lease_owner == self.owner)
            result = session.execute(update(ScheduleRunRow).where(*mine).values(lease_expires=time.time() + self._lease_s))
            return bool(result.rowcount)  # type: ignore[attr-defined]

    def create_search(self, run_id: int, model_name: str, version: str) -> None:
        """Queue the search of a model that was fetched; the version counts as searched."""
        with self._owned(run_id) as (session, run):
            if run is not None:
                schedule = session.get_one(ScheduleRow, run.schedule_id)
                spec = ScheduleSpec.from_json(schedule.spec_json)
                create_search(session, run, schedule, spec, self._make_search, self._quotas, model_name)
                run.source_version, run.attempts = version, 0
                if run.search:
                    schedule.source_version = version

    def unchanged(self, run_id: int, version: str) -> None:
        """The registry still has what was searched last."""
        with self._owned(run_id) as (_, run):
            if run is not None:
                run.state, run.source_version, run.message = UNCHANGED, version, f"{version} was searched before"

    def registered(self, run_id: int, version: str, message: str) -> None:
        """The result is in the registry."""
        with self._owned(run_id) as (_, run):
            if run is not None:
                run.registration, run.registered_version, run.registration_message = DONE, version, message

    def nothing_to_register(self, run_id: int, message: str) -> None:
        """There is no result."""
        with self._owned(run_id) as (_, run):
            if run is not None:
                run.registration, run.registration_message = NOTHING, message

    def fail(self, run_id: int, message: str) -> None:
        """It cannot be done."""
        with self._owned(run_id) as (_, run):
            if run is not None:
                _fail(run, message)

    def try_again(self, run_id: int, message: str) -> None:
        """It could not be done now; after a few attempts, it cannot be done."""
        with self._owned(run_id) as (_, run):
            if run is not None and run.attempts >= MAX_ATTEMPTS:
                _fail(run, f"{message}; tried {run.attempts} times")
            elif run is not None:
                _say(run, f"{message}; is tried again")
                run.lease_expires = time.time() + PAUSE_S * run.attempts

    def let_go(self, run_id: int) -> None:
        """Another worker takes it at once; this attempt does not count."""
        with self._owned(run_id) as (_, run):
            if run is not None:
                run.attempts -= 1

    @contextmanager
    def _owned(self, run_id: int) -> Iterator[tuple[Session, ScheduleRunRow | None]]:
        """The run, if its lease is ours; let go of afterwards."""
        with self._database.write() as session:
            run = session.get(ScheduleRunRow, run_id)
            if run is None or run.lease_owner != self.owner:
                yield session, None
                return
            run.lease_owner, run.lease_expires = "", 0.0
            yield session, run


def _waiting() -> Select[ScheduleRunRow]:
    ended = or_(SearchRow.state.in_(ENDED), SearchRow.id.is_(None))
    to_register = and_(ScheduleRunRow.registration == WAITING, ended)
    query = select(ScheduleRunRow).outerjoin(SearchRow, SearchRow.name == ScheduleRunRow.search)
    return query.where(or_(ScheduleRunRow.state == RESOLVING, to_register)).order_by(ScheduleRunRow.id)


def _claimed(session: Session, run: ScheduleRunRow) -> ClaimedRun:
    schedule = session.get_one(ScheduleRow, run.schedule_id)
    state = session.scalar(select(SearchRow.state).filter_by(name=run.search)) if run.search else None
    return ClaimedRun(
        run_id=run.id,
        name=run.name,
        project=schedule.project,
        work="resolve" if run.state == RESOLVING else "register",
        spec=read_schedule(schedule.spec_json),
        last_version=schedule.source_version,
        search=run.search,
        search_state=state or "",
        attempts=run.attempts + 1,
    )


def _say(run: ScheduleRunRow, message: str) -> None:
    if run.state == RESOLVING:
        run.message = message
    else:
        run.registration_message = message


def _fail(run: ScheduleRunRow, message: str) -> None:
    _say(run, message)
    if run.state == RESOLVING:
        run.state = FAILED
    else:
        run.registration = REFUSED
