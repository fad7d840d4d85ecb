"""Ended searches of which the tracker has not taken everything; the mark is a phase, so that it goes with its search."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, delete, select

from search.environment import SearchOutcome
from search.protocols import CandidateRecord
from search.spec import SearchSpec
from search.tracking.described import SearchOrigin
from search.tracking.ended import UNTRACKED
from service.store.database import Database
from service.store.records import candidates_of, origin_of
from service.store.schema import PhaseRow, SearchRow
from service.store.search_catalogue import ENDED
from service.store.specs import shown_spec


@dataclass(frozen=True)
class UntrackedSearch:
    """An ended search as the tracker should show it. ``outcome`` is None where it failed."""

    search_id: int
    name: str
    spec: SearchSpec
    origin: SearchOrigin
    outcome: SearchOutcome | None


class UntrackedSearches:
    """What is still to be sent."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def pending(self) -> list[UntrackedSearch]:
        """Oldest first."""
        with self._database.read() as session:
            return [_untracked(row) for row in session.scalars(pending(SearchRow).order_by(SearchRow.id))]

    def candidates(self, search_id: int) -> Sequence[CandidateRecord]:
        """All candidates of a search."""
        with self._database.read() as session:
            return candidates_of(session, search_id)

    def delivered(self, search_id: int) -> None:
        """The tracker has it all."""
        with self._database.write() as session:
            session.execute(delete(PhaseRow).filter_by(search_id=search_id, name=UNTRACKED))


def pending(columns: Any) -> Select[Any]:
    """A query of ended searches that wait to be sent."""
    marked = select(columns).join(PhaseRow, PhaseRow.search_id == SearchRow.id)
    return marked.where(PhaseRow.name == UNTRACKED, SearchRow.state.in_(ENDED))


def _untracked(row: SearchRow) -> UntrackedSearch:
    failed = row.state == "FAILED" or not row.outcome_json
    outcome = None if failed else SearchOutcome(**json.loads(row.outcome_json))
    return UntrackedSearch(row.id, row.name, shown_spec(row.spec_json), origin_of(row), outcome)
