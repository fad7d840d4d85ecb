"""How fast the workers' machine works, as the searches before have measured it."""

from __future__ import annotations

import json

from sqlalchemy import select

from search.pace import PHASE, Pace
from service.store.database import Database
from service.store.input_store import StoredInput
from service.store.schema import PhaseRow, SearchRow

_NEWEST = select(PhaseRow.value_json).join(SearchRow, PhaseRow.search_id == SearchRow.id).where(PhaseRow.name == PHASE)
_NEWEST = _NEWEST.order_by(SearchRow.id.desc()).limit(1)


class Paces:
    """Measured by the searches of a project, the newest first: those of others are none of its business."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, model: StoredInput) -> Pace | None:
        """By the newest search of a model, or else ``scaled`` from the newest of any other; None before any."""
        own, others = _NEWEST.where(SearchRow.model == model.name), _NEWEST.where(SearchRow.project == model.project)
        with self._database.read() as session:
            mine = _read(session.execute(own).scalar())
            other = mine or _read(session.execute(others).scalar())
        return mine or (other and other.scaled(model.model.macs))


def _read(text: str | None) -> Pace | None:
    return Pace.read(json.loads(text)) if text else None
