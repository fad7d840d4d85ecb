"""What watchers read: how far searches have come, and their events by number."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sqlalchemy import bindparam, select

from service.errors import NotFoundError
from service.store.database import AnyRow, Database
from service.store.schema import EventRow, SearchRow
from service.store.search_catalogue import ENDED, StoredEvent

_HEAD = (SearchRow.id, SearchRow.last_sequence, SearchRow.state)
_HEAD_OF = select(*_HEAD).where(SearchRow.name == bindparam("name"))
_HEADS_OF = select(*_HEAD).where(SearchRow.id.in_(bindparam("search_ids", expanding=True)))
_EVENT = (EventRow.sequence, EventRow.kind, EventRow.message, EventRow.payload_json, EventRow.time)

_EVENTS_AFTER = (
    select(*_EVENT)
    .where(EventRow.search_id == bindparam("search_id"), EventRow.sequence > bindparam("sequence"))
    .order_by(EventRow.sequence)
    .limit(bindparam("most"))
)


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
        rows = self._database.rows(_HEAD_OF, name=name)
        if not rows:
            raise NotFoundError(f"{name} does not exist")
        return _head(rows[0])

    def heads(self, search_ids: Collection[int]) -> Mapping[int, SearchHead]:
        """Those of them that still exist, in one query."""
        return {row.id: _head(row) for row in self._database.rows(_HEADS_OF, search_ids=tuple(search_ids))}

    def after(self, search_id: int, sequence: int, limit: int) -> tuple[StoredEvent, ...]:
        """At most ``limit`` events behind a number, in order; none where the search was deleted."""
        rows = self._database.rows(_EVENTS_AFTER, search_id=search_id, sequence=sequence, most=limit)
        return tuple(StoredEvent(r.sequence, r.kind, r.message, json.loads(r.payload_json), r.time) for r in rows)


def _head(row: AnyRow) -> SearchHead:
    return SearchHead(row[0], row[1], row[2] in ENDED)
