"""What a worker does to calibrations: claim with a lease, tell how far it is, let go, finish."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import exists, select, update
from sqlalchemy.orm import Session

from service.resources import TargetName
from service.store.database import Database
from service.store.schema import CalibrationRow
from service.store.search_queue import owner_is_dead
from service.targets.predictors import PredictorSummary

MAX_ATTEMPTS = 3
"""Workers that may die of one calibration before it is given up."""


@dataclass(frozen=True)
class ClaimedCalibration:
    """A calibration that this worker may run. ``target`` is the last part of the target's name."""

    calibration_id: int
    name: str
    target: str
    budget_s: float


class CalibrationQueue:
    """The queue as one worker sees it. A calibration whose worker is gone waits again, from its beginning: nothing half
    measured is kept. Writes of a worker that has lost its lease change nothing.
    """

    def __init__(self, database: Database, owner: str, lease_s: float) -> None:
        self._database = database
        self.owner = owner
        self._lease_s = lease_s

    def has_waiting(self) -> bool:
        """Whether some calibration waits for a worker."""
        with self._database.read() as session:
            return bool(session.scalar(select(exists().where(CalibrationRow.state == "QUEUED"))))

    def claim(self) -> ClaimedCalibration | None:
        """Take the oldest that waits, after those whose workers are gone were queued again."""
        now = time.time()
        with self._database.write() as session:
            _requeue_abandoned(session, now)
            query = select(CalibrationRow).filter_by(state="QUEUED").order_by(CalibrationRow.id).limit(1)
            row = session.scalar(query.with_for_update())
            if row is None:
                return None
            row.state, row.progress, row.message = "RUNNING", 0.0, "taken by a worker"
            row.start_time, row.attempts = now, row.attempts + 1
            row.lease_owner, row.lease_expires = self.owner, now + self._lease_s
            return ClaimedCalibration(row.id, row.name, TargetName.from_name(row.target).target, row.budget_s)

    def renew(self, calibration_id: int) -> bool:
        """Keep the lease; False when it is lost."""
        return self._update(calibration_id, lease_expires=time.time() + self._lease_s)

    def tell(self, calibration_id: int, progress: float, message: str) -> bool:
        """Store how far it is, 0 to 1; False when the lease is lost."""
        return self._update(calibration_id, progress=min(max(progress, 0.0), 1.0), message=message)

    def should_stop(self, calibration_id: int) -> bool:
        """Whether the user asked for the end, or the lease is lost."""
        with self._database.read() as session:
            row = session.get(CalibrationRow, calibration_id)
            return row is None or row.cancel_requested or row.lease_owner != self.owner

    def finish(self, calibration_id: int, summary: PredictorSummary, message: str) -> None:
        """Store that the target has a new predictor."""
        with self._owned(calibration_id) as row:
            if row is not None:
                row.summary_json, row.progress = summary.to_json(), 1.0
                _end(row, "SUCCEEDED", message)

    def fail(self, calibration_id: int, message: str) -> None:
        """Store that it could not be carried out."""
        with self._owned(calibration_id) as row:
            if row is not None:
                _end(row, "FAILED", message)

    def let_go(self, calibration_id: int) -> None:
        """Stop: CANCELLED if the user asked for it, else it waits for another worker."""
        with self._owned(calibration_id) as row:
            if row is not None:
                # It was told to end and did not die of this calibration: that attempt does not count.
                row.attempts -= 1
                _queue_again(row)

    @contextmanager
    def _owned(self, calibration_id: int) -> Iterator[CalibrationRow | None]:
        with self._database.write() as session:
            row = session.get(CalibrationRow, calibration_id)
            yield row if row is not None and row.lease_owner == self.owner else None

    def _update(self, calibration_id: int, **values: object) -> bool:
        with self._database.write() as session:
            mine = (CalibrationRow.id == calibration_id, CalibrationRow.lease_owner == self.owner)
            result = session.execute(update(CalibrationRow).where(*mine).values(**values))
            return bool(result.rowcount)  # type: ignore[attr-defined]


def _requeue_abandoned(session: Session, now: float) -> None:
    rows = session.scalars(select(CalibrationRow).filter_by(state="RUNNING").with_for_update()).all()
    for row in rows:
        if row.lease_expires < now or owner_is_dead(row.lease_owner):
            _queue_again(row)


def _queue_again(row: CalibrationRow) -> None:
    if row.cancel_requested:
        _end(row, "CANCELLED", "stopped")
    elif row.attempts >= MAX_ATTEMPTS:
        _end(row, "FAILED", f"{row.attempts} workers ended while they were at it; the worker's log may say why")
    else:
        row.state, row.progress, row.message = "QUEUED", 0.0, "its worker has ended; waits for another"
        row.lease_owner, row.lease_expires = "", 0.0


def _end(row: CalibrationRow, state: str, message: str) -> None:
    row.state, row.message, row.end_time = state, message, time.time()
    row.lease_owner, row.lease_expires, row.cancel_requested = "", 0.0, False
