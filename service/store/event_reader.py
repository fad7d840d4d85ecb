"""What watchers read: how far searches have come, and their events by number."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sqlalchemy import Row, select

from service.errors import NotFoundError
from service.store.database import Database
from service.store.schema import EventRow, SearchRow
from service.store.search_catalogue import ENDED, StoredEvent

_HEAD = (SearchRow.id, SearchRow.last_sequence, SearchRow.state)
_EVENT = (EventRow.sequence, EventRow.kind, EventRow.message, EventRow.payload_json, EventRow.time)


@dataclass(frozen=True)
class SearchHead:
    """How far a search has come: the number of its last event, and whether more can follow."""

    search_id: int
    last_sequence: int
    has_ended: bool


class EventReader:
    """Reads columns instead of rows: this is asked ten times a second for every search that somebody watches."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def head(self, name: str) -> SearchHead:
        """One search by name.

        Raises:
            NotFoundError: there is none.
        """
        with self._database.read() as session:
            row = session.execute(select(*_HEAD).where(SearchRow.name == name)).one_or_none()
        if row is None:
            raise NotFoundError(f"{name} does not exist")
        return _head(row)

    def heads(self, search_ids: Collection[int]) -> Mapping[int, SearchHead]:
        """Those of them that still exist, in one query."""
        with self._database.read() as session:
            rows = session.execute(select(*_HEAD).where(SearchRow.id.in_(search_ids))).all()
        return {row.id: _head(row) for row in rows}

    def after(self, search_id: int, sequence: int, limit: int) -> tuple[StoredEvent, ...]:
        """At most ``limit`` events behind a number, in order; none where the search was deleted."""
        query = select(*_EVENT).where(EventRow.search_id == search_id, EventRow.sequence > sequence)
        with self._database.read() as session:
            rows = session.execute(query.order_by(EventRow.sequence).limit(limit)).all()
        return tuple(StoredEvent(r.sequence, r.kind, r.message, json.loads(r.payload_json), r.time) for r in rows)


def _head(row: Row[int, int, str]) -> SearchHead:
    return SearchHead(row[0], row[1], row[2] in ENDED)
