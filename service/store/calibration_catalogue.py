"""What the API does to calibrations: queue, read, cancel."""

from __future__ import annotations

import time
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.errors import NotFoundError
from service.store import requests
from service.store.database import Database
from service.store.pages import Page, PageRequest
from service.store.schema import CalibrationRow
from service.targets.predictors import PredictorSummary

_METHOD = "calibrate_target"


@dataclass(frozen=True)
class NewCalibration:
    """A valid calibration about to be queued. ``name``, ``target`` are full resource names."""

    name: str
    project: str
    target: str
    budget_s: float


@dataclass(frozen=True)
class StoredCalibration:
    """A snapshot of a stored calibration. ``progress`` goes from 0 to 1; ``summary`` is set once it has succeeded."""

    name: str
    target: str
    budget_s: float
    state: str
    progress: float
    message: str
    summary: PredictorSummary | None
    create_time: float
    start_time: float | None
    end_time: float | None


class CalibrationCatalogue:
    """All calibrations."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, new: NewCalibration, request_id: str = "", digest: str = "") -> StoredCalibration:
        """Queue a calibration, together with the answer to its ``request_id``."""
        with self._database.write() as session:
            known = requests.recall(session, new.project, _METHOD, request_id, digest)
            if known is None:
                values = {"name": new.name, "target": new.target, "budget_s": new.budget_s}
                session.add(CalibrationRow(**values, state="QUEUED", message="waits for a worker", create_time=time.time()))
                requests.remember(session, new.project, _METHOD, request_id, digest, new.name)
        return self.get(known or new.name)

    def get(self, name: str) -> StoredCalibration:
        """One by name.

        Raises:
            NotFoundError: there is none.
        """
        with self._database.read() as session:
            return _stored(_find(session, name))

    def list(self, target: str, page: PageRequest) -> Page[StoredCalibration]:
        """A page of a target's, newest first."""
        with self._database.read() as session:
            query = select(CalibrationRow).filter_by(target=target).order_by(CalibrationRow.id.desc())
            if page.after_id is not None:
                query = query.where(CalibrationRow.id < page.after_id)
            rows = page.page(session.scalars(query.limit(page.size + 1)).all(), lambda row: row.id)
            return Page(tuple(_stored(row) for row in rows.items), rows.next_page_token)

    def cancel(self, name: str) -> StoredCalibration:
        """Ask for the end: at once while it waits, otherwise its worker does it. Cancelling what has ended changes nothing."""
        with self._database.write() as session:
            row = _find(session, name)
            if row.state == "QUEUED":
                row.state, row.end_time, row.message = "CANCELLED", time.time(), "cancelled before it began"
            elif row.state == "RUNNING":
                row.cancel_requested, row.message = True, "asked to stop"
        return self.get(name)


def _find(session: Session, name: str) -> CalibrationRow:
    row = session.scalar(select(CalibrationRow).filter_by(name=name))
    if row is None:
        raise NotFoundError(f"{name} does not exist")
    return row


def _stored(row: CalibrationRow) -> StoredCalibration:
    return StoredCalibration(
        name=row.name,
        target=row.target,
        budget_s=row.budget_s,
        state=row.state,
        progress=row.progress,
        message=row.message,
        summary=PredictorSummary.from_json(row.summary_json) if row.summary_json else None,
        create_time=row.create_time,
        start_time=row.start_time,
        end_time=row.end_time,
    )
