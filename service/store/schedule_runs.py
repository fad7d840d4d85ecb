"""Due times become runs, and runs become searches: each in the one transaction that also moves the schedule on (ADR 0007)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Protocol

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.errors import PreconditionError, QuotaExceededError
from service.resources import ScheduleName, SearchName, new_id
from service.schedules.due import DuePlan, plan_due
from service.schedules.spec import ScheduleSpec, SearchTemplate
from service.store import requests
from service.store.database import Database
from service.store.quotas import LIVE, NO_QUOTAS, Quotas
from service.store.schedule_store import StoredRun, find_schedule, stored_run
from service.store.schema import ScheduleRow, ScheduleRunRow, SearchRow
from service.store.search_catalogue import NewSearch, cancel_search, queue_search
from service.store.specs import read_schedule

_METHOD = "run_schedule"
RESOLVING, CREATED, UNCHANGED, SKIPPED, FAILED = "RESOLVING", "SEARCH_CREATED", "UNCHANGED", "SKIPPED", "FAILED"
"""States of a run."""
WAITING, DONE, NOTHING, REFUSED = "WAITING", "DONE", "NOTHING", "FAILED"
"""States of its registration, where one is asked for."""
_LONGEST_ID_PART = 40


class MakeSearch(Protocol):
    """See `service.schedules.maker.SearchMaker.make`."""

    def __call__(self, template: SearchTemplate, project: str, name: str, model_name: str) -> NewSearch:
        """A search that can be queued; PreconditionError where none can."""
        ...


class ScheduleRuns:
    """Starts runs. Several servers may do so at once: whoever gets the lock of writers finds out whether a run is still due."""

    def __init__(self, database: Database, make_search: MakeSearch, quotas: Quotas = NO_QUOTAS) -> None:
        self._database = database
        self._make_search = make_search
        self._quotas = quotas

    def fire(self, schedule_id: int, now: float) -> int:
        """Run what is due, and move the schedule on; how many runs there are more. None if another server was first."""
        with self._database.write() as session:
            row = session.get(ScheduleRow, schedule_id)
            if row is None or row.next_run_time is None or row.next_run_time > now:
                return 0
            spec = read_schedule(row.spec_json)
            plan = plan_due(spec.timing, row.next_run_time, now)
            done = _done(session, row.id, row.next_run_time)
            if plan.missed is not None and plan.missed not in done:
                _add(session, row, plan.missed, SKIPPED, "missed: no server was there, and it is too late now")
            runs = [due for due in plan.runs if due not in done]
            for due in runs:
                self._run(session, row, spec, due, _words_on_misfires(plan, due))
            row.next_run_time = plan.next_run_time
            return len(runs)

    def give_up(self, schedule_id: int, now: float, message: str) -> None:
        """Note that what is due could not be run for a reason that will not go away, and move the schedule on."""
        with self._database.write() as session:
            row = session.get(ScheduleRow, schedule_id)
            if row is not None and row.next_run_time is not None and row.next_run_time <= now:
                if row.next_run_time not in _done(session, row.id, row.next_run_time):
                    _add(session, row, row.next_run_time, FAILED, message)
                try:
                    row.next_run_time = read_schedule(row.spec_json).timing.next_after(now)
                except PreconditionError:
                    row.next_run_time, row.paused = None, True  # nobody knows when it would be due

    def run_now(self, name: str, request_id: str, digest: str) -> StoredRun:
        """Run a schedule whatever its due times; where due times would be left out, this run is queued.

        Raises:
            NotFoundError: there is no such schedule, or the answer to the ``request_id`` has gone with it.
        """
        project = ScheduleName.from_name(name).project
        with self._database.write() as session:
            known = requests.recall(session, project, _METHOD, request_id, digest)
            row = find_schedule(session, name)
            if known is None:
                spec = ScheduleSpec.from_json(row.spec_json)
                known = self._run(session, row, spec, time.time(), "", manual=True).name
                requests.remember(session, project, _METHOD, request_id, digest, known)
            found = session.scalar(select(ScheduleRunRow).filter_by(name=known))
            if found is None:
                raise PreconditionError(f"{known} was deleted with its schedule; take a new request_id")
            return stored_run(found)

    def _run(
        self, session: Session, row: ScheduleRow, spec: ScheduleSpec, due: float, words: str, manual: bool = False
    ) -> ScheduleRunRow:
        searches = _live_searches(session, row.id)
        resolving = session.scalars(select(ScheduleRunRow).filter_by(schedule_id=row.id, state=RESOLVING)).all()
        if spec.overlap_policy == "skip" and not manual and (searches or resolving):
            earlier = searches[0].name if searches else resolving[0].name
            return _add(session, row, due, SKIPPED, f"{earlier} had not ended")
        if spec.overlap_policy == "cancel_previous":
            for search in searches:
                cancel_search(session, search)
            for run in resolving:
                run.state, run.message, run.lease_owner, run.lease_expires = SKIPPED, "the next run came before it", "", 0.0
        run = _add(session, row, due, RESOLVING, words or "waits for a worker that fetches the model", manual)
        if spec.template.reference is None:
            create_search(session, run, row, spec, self._make_search, self._quotas, spec.template.model)
            run.message = "; ".join(filter(None, (words, run.message)))
        return run


def create_search(
    session: Session,
    run: ScheduleRunRow,
    schedule: ScheduleRow,
    spec: ScheduleSpec,
    make: MakeSearch,
    quotas: Quotas,
    model_name: str,
) -> None:
    """Queue a run's search, or note on the run why that cannot be."""
    run.lease_owner, run.lease_expires, run.message = "", 0.0, ""
    try:
        new = make(spec.template, schedule.project, _free_search_name(session, schedule, run), model_name)
        queue_search(session, new, quotas)
    except (PreconditionError, QuotaExceededError) as error:
        run.state, run.message = FAILED, str(error)
        return
    run.state, run.search = CREATED, new.name
    if spec.register_as is not None:
        run.registration, run.registration_message = WAITING, "waits for the end of the search"


def _done(session: Session, schedule_id: int, since: float) -> frozenset[float]:
    """Due times that have a run: where the clocks of two servers differ, one may come twice."""
    query = select(ScheduleRunRow.due_time).where(ScheduleRunRow.schedule_id == schedule_id, ScheduleRunRow.due_time >= since)
    return frozenset(session.scalars(query))


def _words_on_misfires(plan: DuePlan, due: float) -> str:
    if not plan.covered or due != plan.runs[-1]:
        return ""
    return f"stands for {plan.covered} earlier due time{'s' if plan.covered > 1 else ''} as well, when no server was there"


def _live_searches(session: Session, schedule_id: int) -> Sequence[SearchRow]:
    ours = select(ScheduleRunRow.search).where(ScheduleRunRow.schedule_id == schedule_id, ScheduleRunRow.search != "")
    query = select(SearchRow).where(SearchRow.state.in_(LIVE), SearchRow.name.in_(ours))
    return session.scalars(query.order_by(SearchRow.id)).all()


def _add(session: Session, row: ScheduleRow, due: float, state: str, message: str, manual: bool = False) -> ScheduleRunRow:
    run_id = datetime.fromtimestamp(due, UTC).strftime("%Y%m%d-%H%M%S-%f" if manual else "%Y%m%d-%H%M%S")
    values = {"schedule_id": row.id, "due_time": due, "name": f"{row.name}/runs/{run_id}", "manual": manual}
    run = ScheduleRunRow(**values, state=state, message=message, create_time=time.time())
    session.add(run)
    session.flush()
    return run


def _free_search_name(session: Session, schedule: ScheduleRow, run: ScheduleRunRow) -> str:
    """Tells schedule and due time; a user may have taken it, or a deleted schedule of the same name."""
    schedule_id = ScheduleName.from_name(schedule.name).schedule[:_LONGEST_ID_PART]
    name = SearchName(schedule.project, f"{schedule_id}-{run.name.rpartition('/')[2]}").name
    taken = session.scalar(select(SearchRow.id).filter_by(name=name)) is not None
    return SearchName(schedule.project, new_id("s")).name if taken else name
