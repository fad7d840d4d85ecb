"""What a project may use in all, checked in the very transaction that would use more; 0 means as much as there is."""

from __future__ import annotations

import time
from dataclasses import dataclass

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from service.errors import QuotaExceededError
from service.store.schema import InputRow, SearchRow, UploadRow
from service.store.specs import shown_spec

LIVE = ("QUEUED", "RUNNING")
_DAY_S = 24 * 3600.0


@dataclass(frozen=True)
class Quotas:
    """The share of each project.

    Attributes:
        stored_bytes: uploaded files of models and datasets, and the announced sizes of unfinished uploads.
        concurrent_searches: searches that wait or run.
        trial_hours: hours of searching within 24 hours. A search that waits or runs counts with its whole ``max_wall_time``,
            one that has ended in the last 24 hours with the time that it took.
    """

    stored_bytes: int = 0
    concurrent_searches: int = 0
    trial_hours: float = 0.0

    def check_bytes(self, session: Session, project: str, more_bytes: int) -> None:
        """Refuse a file that would not fit; call it before its row is added.

        Raises:
            QuotaExceededError: with what there is and what would be.
        """
        if not self.stored_bytes or not more_bytes:
            return
        inputs = select(func.coalesce(func.sum(InputRow.size_bytes), 0)).where(InputRow.project == project)
        uploads = select(func.coalesce(func.sum(UploadRow.size_bytes), 0))
        unfinished = uploads.where(UploadRow.project == project, UploadRow.resource == "")
        used = int(session.scalar(inputs) or 0) + int(session.scalar(unfinished) or 0)
        if used + more_bytes > self.stored_bytes:
            words = f"projects/{project} stores {used:,} of its {self.stored_bytes:,} bytes, and this file has {more_bytes:,}"
            raise QuotaExceededError(f"project:{project}", f"{words}; delete models or datasets that are no longer needed")

    def check_search(self, session: Session, project: str, wall_time_s: float, changed: str = "") -> None:
        """Refuse a search that would be one too many; call it before its row is added or queued again.

        Args:
            wall_time_s: the most that it may take.
            changed: name of the stored search, if it is one that is queued again.

        Raises:
            QuotaExceededError: with what there is and what would be.
        """
        if not self.concurrent_searches and not self.trial_hours:
            return
        recent = or_(SearchRow.state.in_(LIVE), SearchRow.end_time > time.time() - _DAY_S)
        rows = session.scalars(select(SearchRow).where(SearchRow.project == project, SearchRow.name != changed, recent)).all()
        live = sum(row.state in LIVE for row in rows)
        if self.concurrent_searches and live >= self.concurrent_searches:
            words = f"projects/{project} has {live} searches that wait or run, and may have {self.concurrent_searches}"
            raise QuotaExceededError(f"project:{project}", f"{words}; wait until one has ended, or cancel one")
        hours = sum(map(_seconds, rows)) / 3600
        if self.trial_hours and hours + wall_time_s / 3600 > self.trial_hours:
            words = f"projects/{project} has {hours:.2f} of its {self.trial_hours:g} trial hours in 24 hours in use"
            asked = f"and this search asks for up to {wall_time_s / 3600:.2f} more"
            raise QuotaExceededError(f"project:{project}", f"{words}, {asked}; lower max_wall_time or wait")


NO_QUOTAS = Quotas()


def _seconds(row: SearchRow) -> float:
    most_s = shown_spec(row.spec_json).effort.max_wall_time_s
    if row.state in LIVE:
        return most_s
    took_s = (row.end_time or 0.0) - row.start_time if row.start_time is not None else 0.0
    return min(max(took_s, 0.0), most_s)
