"""How fast the workers' machine works, as the searches before have measured it."""

from __future__ import annotations

import json
from dataclasses import replace

from sqlalchemy import select

from search.pace import PHASE, Pace
from service.store.database import Database
from service.store.schema import PhaseRow, SearchRow

_NEWEST = select(PhaseRow.value_json).join(SearchRow, PhaseRow.search_id == SearchRow.id).where(PhaseRow.name == PHASE)
_NEWEST = _NEWEST.order_by(SearchRow.id.desc()).limit(1)


class Paces:
    """Measured by searches, the newest first."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, model: str) -> Pace | None:
        """By the newest search of a model (its resource name), or else ``scaled`` from the newest of any other; None before any."""
        with self._database.read() as session:
            own = session.execute(_NEWEST.where(SearchRow.model == model)).scalar()
            other = None if own else session.execute(_NEWEST).scalar()
        found = own or other
        try:
            pace = Pace.from_json(json.loads(found)) if found else None
        except TypeError:  # another version's
            return None
        return pace if own or pace is None else replace(pace, source="scaled")
