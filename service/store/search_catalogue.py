"""What the API does to searches: create, read, cancel, extend, delete; and to what they found."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import bindparam, delete, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from search.clock import PHASE as CLOCK
from search.plan import SearchPlan
from search.planning import PHASE as PLAN
from search.protocols import BASELINE, CandidateRecord, Event
from search.spec import SearchSpec
from service.errors import AlreadyExistsError, EtagMismatchError, NotFoundError, PreconditionError
from service.store import requests
from service.store.database import AnyRow, Database
from service.store.events import append_events
from service.store.pages import Page, PageRequest
from service.store.quotas import NO_QUOTAS, Quotas
from service.store.records import candidate_from_json, candidates_of
from service.store.schema import CandidateRow, EventRow, PhaseRow, SearchRow
from service.store.search_queue import ended_by_cancelling, worker_is_gone
from service.store.specs import read_spec, shown_spec

TRACE_PHASE = "trace"
"""Name of the phase whose result is the context of the trace in which the search was queued."""
_CANDIDATES = select(func.count()).where(CandidateRow.search_id == SearchRow.id, CandidateRow.candidate_id != BASELINE)
_STORED = select(*SearchRow.__table__.c, _CANDIDATES.scalar_subquery().label("candidate_count"))
"""Searches with the number of their candidates, the original apart."""
_PHASE = select(PhaseRow.value_json).where(PhaseRow.search_id == SearchRow.id)
_CLOCK, _PLAN = (_PHASE.where(PhaseRow.name == name).scalar_subquery() for name in (CLOCK, PLAN))
_GET = _STORED.add_columns(_CLOCK.label("clock_json"), _PLAN.label("plan_json")).where(SearchRow.name == bindparam("name"))
_LIST = (
    _STORED.where(SearchRow.project == bindparam("project"), SearchRow.id < bindparam("before"))
    .order_by(SearchRow.id.desc())
    .limit(bindparam("most"))
)
_BEHIND_ALL = (1 << 63) - 1
ENDED = frozenset({"SUCCEEDED", "INFEASIBLE", "FAILED", "CANCELLED"})


@dataclass(frozen=True)
class NewSearch:
    """A valid search about to be queued; ``model``, ``dataset`` are resource names; its worker continues ``trace``."""

    name: str
    project: str
    display_name: str
    model: str
    dataset: str
    spec: SearchSpec
    estimated_duration_s: float
    dataset_notes: tuple[str, ...] = ()
    trace: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StoredSearch(NewSearch):
    """A snapshot of a stored search.

    Attributes:
        outcome: the last `search.environment.SearchOutcome` as JSON, empty before.
        clock: what `search.clock` noted last, of a single search that was asked for; empty before and in lists.
        plan: as the worker planned it last, likewise; of one that is only checked, as it is expected.
    """

    search_id: int = 0
    state: str = "QUEUED"
    state_message: str = ""
    candidate_count: int = 0
    last_sequence: int = 0
    revision: int = 1
    create_time: float = 0.0
    start_time: float | None = None
    end_time: float | None = None
    outcome: Mapping[str, Any] = field(default_factory=dict)
    clock: Mapping[str, Any] = field(default_factory=dict)
    plan: SearchPlan | None = None

    @property
    def etag(self) -> str:
        """Changes with the state and the request."""
        return f"{self.search_id}-{self.revision}"

    @property
    def has_ended(self) -> bool:
        """Whether no worker will touch it any more."""
        return self.state in ENDED


@dataclass(frozen=True)
class StoredEvent:
    """An event with its number."""

    sequence: int
    kind: str
    message: str
    payload: Mapping[str, Any]
    time: float


class SearchCatalogue:
    """All searches."""

    def __init__(self, database: Database, quotas: Quotas = NO_QUOTAS) -> None:
        self._database = database
        self._quotas = quotas

    def create(self, new: NewSearch, request_id: str, digest: str) -> StoredSearch:
        """Queue a search, together with the answer to its ``request_id``.

        Raises:
            AlreadyExistsError: the name is taken.
            QuotaExceededError: it would be more than the project may have.
        """
        try:
            with self._database.write() as session:
                known = requests.recall(session, new.project, "create_search", request_id, digest)
                if known is None:
                    queue_search(session, new, self._quotas)
                    requests.remember(session, new.project, "create_search", request_id, digest, new.name)
        except IntegrityError:
            raise AlreadyExistsError(f"{new.name} exists; choose another id") from None
        return self.get(known or new.name)

    def recall(self, project: str, request_id: str, digest: str) -> StoredSearch | None:
        """The answer that a request id got before."""
        with self._database.read() as session:
            name = requests.recall(session, project, "create_search", request_id, digest)
        return self.get(name) if name else None

    def get(self, name: str) -> StoredSearch:
        """One by name.

        Raises:
            NotFoundError: there is none.
        """
        rows = self._database.rows(_GET, name=name)
        if not rows:
            raise NotFoundError(f"{name} does not exist")
        return _stored(rows[0])

    def list(self, project: str, page: PageRequest) -> Page[StoredSearch]:
        """A page, newest first."""
        before = _BEHIND_ALL if page.after_id is None else page.after_id
        rows = self._database.rows(_LIST, project=project, before=before, most=page.size + 1)
        found = page.page(rows, lambda row: int(row.id))
        return Page(tuple(map(_stored, found.items)), found.next_page_token)

    def cancel(self, name: str, etag: str = "") -> StoredSearch:
        """Ask for the end: at once while it waits, otherwise its worker does it. Cancelling what has ended changes nothing."""
        with self._database.write() as session:
            cancel_search(session, _find(session, name, etag))
        return self.get(name)

    def extend(self, name: str, trials: int, wall_time_s: float, etag: str, request_id: str, digest: str) -> StoredSearch:
        """Queue an ended search again with more effort.

        Raises:
            PreconditionError: it has not ended.
            InvalidSpecError: the effort would exceed the limits.
            QuotaExceededError: it would be more than the project may have.
        """
        with self._database.write() as session:
            row = _find(session, name)
            if requests.recall(session, row.project, "extend_search", request_id, digest) is None:
                _check_etag(row, etag)
                if row.state not in ENDED:
                    raise PreconditionError(f"{name} is {row.state}; only a search that has ended can be extended")
                spec = read_spec(row.spec_json)
                effort = replace(
                    spec.effort,
                    max_trials=spec.effort.max_trials + trials,
                    max_wall_time_s=spec.effort.max_wall_time_s + wall_time_s,
                )
                self._quotas.check_search(session, row.project, effort.max_wall_time_s, changed=name)
                row.spec_json = replace(spec, effort=effort).validated().to_json()
                row.state, row.state_message, row.end_time = "QUEUED", f"{trials} more trials", None
                row.cancel_requested, row.revision, row.attempts = False, row.revision + 1, 0
                # It is of what was asked for before; the worker that takes the search makes another.
                session.execute(delete(PhaseRow).where(PhaseRow.search_id == row.id, PhaseRow.name == PLAN))
                append_events(session, row.id, [Event("state", row.state_message, {"state": "QUEUED"})])
                requests.remember(session, row.project, "extend_search", request_id, digest, name)
        return self.get(name)

    def delete(self, name: str, etag: str = "") -> None:
        """Forget a search and its candidates.

        Raises:
            PreconditionError: it has not ended.
        """
        with self._database.write() as session:
            row = _find(session, name, etag)
            if row.state not in ENDED:
                raise PreconditionError(f"{name} is {row.state}; cancel it first")
            session.execute(delete(SearchRow).where(SearchRow.id == row.id))

    def events_after(self, name: str, sequence: int, limit: int = 500) -> tuple[StoredEvent, ...]:
        """Events behind a number, in order."""
        with self._database.read() as session:
            search_id = _find(session, name).id
            query = select(EventRow).where(EventRow.search_id == search_id, EventRow.sequence > sequence)
            rows = session.scalars(query.order_by(EventRow.sequence).limit(limit)).all()
            return tuple(StoredEvent(r.sequence, r.kind, r.message, json.loads(r.payload_json), r.time) for r in rows)

    def candidates(self, name: str) -> Sequence[CandidateRecord]:
        """All candidates of a search, by trial number."""
        with self._database.read() as session:
            return candidates_of(session, _find(session, name).id)

    def candidate(self, search_name: str, candidate_id: str) -> CandidateRecord:
        """One candidate.

        Raises:
            NotFoundError: there is none of that id.
        """
        with self._database.read() as session:
            row = session.get(CandidateRow, (_find(session, search_name).id, candidate_id))
            if row is None:
                raise NotFoundError(f"{search_name}/candidates/{candidate_id} does not exist")
            return candidate_from_json(row.record_json)


def queue_search(session: Session, new: NewSearch, quotas: Quotas) -> None:
    """Queue a search within a write transaction.

    Raises:
        QuotaExceededError: it would be more than the project may have.
    """
    quotas.check_search(session, new.project, new.spec.effort.max_wall_time_s)
    session.add(row := _row(new))
    session.flush()
    append_events(session, row.id, [Event("state", "queued", {"state": "QUEUED"})])
    if new.trace:
        session.add(PhaseRow(search_id=row.id, name=TRACE_PHASE, value_json=json.dumps(dict(new.trace))))


def cancel_search(session: Session, row: SearchRow) -> None:
    """Ask for a search's end within a write transaction: at once while nobody works on it, otherwise its worker does it."""
    if row.state == "QUEUED":
        row.state, row.end_time, row.state_message = "CANCELLED", time.time(), "cancelled before it began"
        row.revision += 1
        append_events(session, row.id, [Event("state", row.state_message, {"state": "CANCELLED"})])
    elif row.state == "RUNNING" and not row.cancel_requested:
        row.cancel_requested, row.revision, row.state_message = True, row.revision + 1, "asked to stop"
        if worker_is_gone(row, time.time()):
            ended_by_cancelling(session, row)


def _find(session: Session, name: str, etag: str = "") -> SearchRow:
    row = session.scalar(select(SearchRow).filter_by(name=name))
    if row is None:
        raise NotFoundError(f"{name} does not exist")
    _check_etag(row, etag)
    return row


def _check_etag(row: SearchRow, etag: str) -> None:
    if etag and etag != f"{row.id}-{row.revision}":
        raise EtagMismatchError(f"{row.name} has changed since etag {etag!r}; get it again")


def _row(new: NewSearch) -> SearchRow:
    return SearchRow(
        project=new.project,
        name=new.name,
        display_name=new.display_name,
        model=new.model,
        dataset=new.dataset,
        dataset_notes_json=json.dumps(new.dataset_notes),
        spec_json=new.spec.to_json(),
        estimated_duration_s=new.estimated_duration_s,
        state="QUEUED",
        state_message="",
        outcome_json="",
        lease_owner="",
        create_time=time.time(),
    )


def _plan(text: str | None) -> SearchPlan | None:
    try:
        return SearchPlan.read(json.loads(text)) if text else None
    except ValueError:  # no JSON
        return None


def _stored(row: AnyRow) -> StoredSearch:
    return StoredSearch(
        name=row.name,
        project=row.project,
        display_name=row.display_name,
        model=row.model,
        dataset=row.dataset,
        spec=shown_spec(row.spec_json),
        estimated_duration_s=row.estimated_duration_s,
        dataset_notes=tuple(json.loads(row.dataset_notes_json)),
        search_id=row.id,
        state=row.state,
        state_message=row.state_message,
        candidate_count=row.candidate_count,
        last_sequence=row.last_sequence,
        revision=row.revision,
        create_time=row.create_time,
        start_time=row.start_time,
        end_time=row.end_time,
        outcome=json.loads(row.outcome_json) if row.outcome_json else {},
        clock=json.loads(getattr(row, "clock_json", None) or "{}"),
        plan=_plan(getattr(row, "plan_json", None)),
    )
