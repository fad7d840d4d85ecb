"""What must hold in the store at every moment; for tests, benchmarks and ``python -m service.maintenance check``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from search.protocols import BASELINE
from service.store.schedule_runs import CREATED, DONE, FAILED, NOTHING, REFUSED, RESOLVING, SKIPPED, UNCHANGED, WAITING
from service.store.schema import (
    CalibrationRow,
    CandidateRow,
    EventRow,
    InputRow,
    PhaseRow,
    ProcessGroupRow,
    RequestRow,
    ScheduleRow,
    ScheduleRunRow,
    SearchRow,
    UploadRow,
)
from service.store.search_catalogue import ENDED

_RUN_STATES = frozenset({RESOLVING, CREATED, UNCHANGED, SKIPPED, FAILED})
_REGISTRATIONS = frozenset({"", WAITING, DONE, NOTHING, REFUSED})
_CALIBRATION_ENDED = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})


def violations(session: Session) -> list[str]:
    """A sentence for everything that contradicts itself; empty in a sound store. One snapshot: others may write meanwhile."""
    checks: tuple[Callable[[Session], Iterator[str]], ...] = (
        _events,
        _searches,
        _calibrations,
        _orphans,
        _trial_numbers,
        _requests,
        _inputs,
        _schedules,
    )
    return [sentence for check in checks for sentence in check(session)]


def _events(session: Session) -> Iterator[str]:
    """Numbered from 1 to the search's last number; count and ends say so, since a number cannot be there twice."""
    seen = select(
        EventRow.search_id,
        func.count().label("count"),
        func.min(EventRow.sequence).label("first"),
        func.max(EventRow.sequence).label("last"),
    ).group_by(EventRow.search_id)
    numbered = seen.subquery()
    query = select(SearchRow.name, SearchRow.last_sequence, numbered.c.count, numbered.c.first, numbered.c.last)
    for name, expected, count, first, last in session.execute(query.outerjoin(numbered, numbered.c.search_id == SearchRow.id)):
        if (count or 0, first or 0, last or 0) != (expected, min(1, expected), expected):
            yield f"{name}: {count or 0} events from {first or 0} to {last or 0}, should be 1 to {expected}"


def _searches(session: Session) -> Iterator[str]:
    candidates = set(session.execute(select(CandidateRow.search_id, CandidateRow.candidate_id)).tuples())
    for row in session.scalars(select(SearchRow)):
        yield from _state_problems(row.name, row.state, row.state in ENDED, row)
        if row.state not in ENDED | {"QUEUED", "RUNNING"}:
            yield f"{row.name}: unknown state {row.state!r}"
        outcome = json.loads(row.outcome_json) if row.outcome_json else {}
        if row.state == "SUCCEEDED" and (row.id, outcome.get("best")) not in candidates:
            yield f"{row.name}: SUCCEEDED, but its best {outcome.get('best')!r} is no candidate"
        if row.state in ENDED and outcome.get("state") == row.state:
            lost = [name for name in outcome.get("front", ()) if (row.id, name) not in candidates]
            if lost:
                yield f"{row.name}: {', '.join(lost)} of its front are no candidates"


def _calibrations(session: Session) -> Iterator[str]:
    for row in session.scalars(select(CalibrationRow)):
        yield from _state_problems(row.name, row.state, row.state in _CALIBRATION_ENDED, row)


def _state_problems(name: str, state: str, ended: bool, row: SearchRow | CalibrationRow) -> Iterator[str]:
    leased = bool(row.lease_owner) or row.lease_expires > 0
    if ended and (leased or row.end_time is None):
        yield f"{name}: {state} with {'a lease' if leased else 'no end time'}"
    if not ended and row.end_time is not None:
        yield f"{name}: {state} with an end time"
    if state == "QUEUED" and leased:
        yield f"{name}: QUEUED with a lease of {row.lease_owner!r}"
    pauses = isinstance(row, SearchRow) and not row.lease_owner
    half_leased = bool(row.lease_owner) != (row.lease_expires > 0) and not pauses
    if state == "RUNNING" and (row.start_time is None or half_leased):
        yield f"{name}: RUNNING with half a lease, or without a start"


def _orphans(session: Session) -> Iterator[str]:
    for table in (CandidateRow, EventRow, PhaseRow, ProcessGroupRow):
        orphans = select(func.count()).select_from(table).where(table.search_id.not_in(select(SearchRow.id)))
        count = session.scalar(orphans)
        if count:
            yield f"{table.__tablename__}: {count} rows of searches that do not exist"


def _trial_numbers(session: Session) -> Iterator[str]:
    key = (CandidateRow.search_id, CandidateRow.trial_number)
    query = select(*key, func.count()).where(CandidateRow.candidate_id != BASELINE).group_by(*key).having(func.count() > 1)
    for search_id, number, count in session.execute(query):
        yield f"search {search_id}: trial {number} stands for {count} candidates"


def _requests(session: Session) -> Iterator[str]:
    """Answers may have been deleted since; but they name a resource of their own project."""
    for project, method, request_id, resource in session.execute(
        select(RequestRow.project, RequestRow.method, RequestRow.request_id, RequestRow.resource)
    ):
        if not resource.startswith(f"projects/{project}/"):
            yield f"request {request_id!r} of {method} in {project}: its answer is {resource!r}"


def _inputs(session: Session) -> Iterator[str]:
    """Names lie in their projects, and an upload that was taken in says so by a name of its project."""
    for row in session.scalars(select(InputRow)):
        if not row.name.startswith(f"projects/{row.project}/{row.kind}s/"):
            yield f"{row.name}: stands as a {row.kind} of project {row.project}"
    for upload in session.scalars(select(UploadRow).where(UploadRow.resource != "")):
        if not upload.resource.startswith(f"projects/{upload.project}/{upload.kind}s/"):
            yield f"upload {upload.upload_id!r} of {upload.project}: became {upload.resource!r}"


def _schedules(session: Session) -> Iterator[str]:
    """A run stands for its due time and nothing else; a paused schedule is not due. Searches may have been deleted since."""
    for row in session.scalars(select(ScheduleRow)):
        if row.paused and row.next_run_time is not None:
            yield f"{row.name}: paused, but due"
    query = select(ScheduleRunRow, ScheduleRow.project).join(ScheduleRow, ScheduleRow.id == ScheduleRunRow.schedule_id)
    for run, project in session.execute(query):
        waits = run.state == RESOLVING or run.registration == WAITING
        if run.state not in _RUN_STATES or run.registration not in _REGISTRATIONS:
            yield f"{run.name}: unknown state {run.state!r}, registration {run.registration!r}"
        if run.lease_owner and not waits:
            yield f"{run.name}: {run.state} with a lease of {run.lease_owner!r}"
        if bool(run.search) != (run.state == CREATED) or (run.search and not run.search.startswith(f"projects/{project}/")):
            yield f"{run.name}: {run.state}, but its search is {run.search!r}"
