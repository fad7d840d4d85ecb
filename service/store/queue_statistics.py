"""How full the queue is and how far the searches in it have come, in a handful of grouped queries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Row, func, select

from search.protocols import BASELINE
from service.store.database import Database
from service.store.records import candidate_from_json
from service.store.schema import CalibrationRow, CandidateRow, ScheduleRow, ScheduleRunRow, SearchRow
from service.store.untracked import pending


@dataclass(frozen=True)
class QueueStatistics:
    """Counts by state; ``rungs`` counts the candidates of running searches by the rung that they have reached.

    Attributes:
        oldest_queued_s: for so long the oldest search in the queue has waited.
        untracked: ended searches that the tracker does not have whole.
        schedules_late_s: for so long the oldest due time has been due without a run.
    """

    searches: Mapping[str, int] = field(default_factory=dict)
    candidates: Mapping[str, int] = field(default_factory=dict)
    calibrations: Mapping[str, int] = field(default_factory=dict)
    rungs: Mapping[str, int] = field(default_factory=dict)
    oldest_queued_s: float = 0.0
    schedule_runs: Mapping[str, int] = field(default_factory=dict)
    schedules_late_s: float = 0.0
    untracked: int = 0


class StatisticsReader:
    """Reads them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(self, now: float) -> QueueStatistics:
        """The counts of one moment; ``now`` is in seconds since the epoch."""
        running = select(SearchRow.id).where(SearchRow.state == "RUNNING")
        with self._database.read() as session:
            searches = session.execute(select(SearchRow.state, func.count()).group_by(SearchRow.state)).all()
            calibrations = session.execute(select(CalibrationRow.state, func.count()).group_by(CalibrationRow.state)).all()
            trials = CandidateRow.candidate_id != BASELINE
            candidates = session.execute(select(CandidateRow.state, func.count()).where(trials).group_by(CandidateRow.state)).all()
            records = session.scalars(select(CandidateRow.record_json).where(trials, CandidateRow.search_id.in_(running))).all()
            oldest = session.scalar(select(func.min(SearchRow.create_time)).where(SearchRow.state == "QUEUED"))
            runs = session.execute(select(ScheduleRunRow.state, func.count()).group_by(ScheduleRunRow.state)).all()
            untracked = session.scalar(pending(func.count(SearchRow.id)))
            due = session.scalar(select(func.min(ScheduleRow.next_run_time)))
        return QueueStatistics(
            searches=_counts(searches),
            candidates=_counts(candidates),
            calibrations=_counts(calibrations),
            rungs=Counter(str(candidate_from_json(text).rung) for text in records),
            oldest_queued_s=max(0.0, now - oldest) if oldest is not None else 0.0,
            schedule_runs=_counts(runs),
            schedules_late_s=max(0.0, now - due) if due is not None else 0.0,
            untracked=untracked or 0,
        )


def _counts(rows: Sequence[Row[str, int]]) -> dict[str, int]:
    return {row[0]: row[1] for row in rows}
