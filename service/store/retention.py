"""What is deleted, and when; never what something still refers to.

- Searches that ended ``searches_s`` ago, with their candidates and events.
- Answers to requests with a ``request_id``, and finished uploads' rows, after ``requests_s``.
- Runs of schedules after ``runs_s``, but for the newest of each schedule and those that still wait for something.
- Unfinished uploads that nobody touched for a week.
- Work folders of searches that were deleted.
- Blobs that no row speaks of and that were written, or written again, ``blob_grace_s`` ago.

A blob is written before the row that speaks of it. It is safe in between because writing makes it young, also if it was there
before. And what no row speaks of is looked up twice, ``recheck_s`` apart: a request that had read a row just before it was deleted
has ended by then.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import ColumnElement, delete, func, or_, select

from service.resources import work_folder_name
from service.store.blobs import BlobFacts, FsspecBlobStore
from service.store.database import Database
from service.store.references import referenced_digests
from service.store.schedule_runs import RESOLVING, WAITING
from service.store.schema import RequestRow, ScheduleRunRow, SearchRow, UploadRow
from service.store.search_catalogue import ENDED
from service.store.upload_store import UploadStore

DAY_S = 24 * 3600.0
_REQUESTS_AT_ONCE = 1000


@dataclass(frozen=True)
class RetentionPolicy:
    """Ages in seconds; None keeps for ever."""

    searches_s: float | None = None
    requests_s: float | None = 30 * DAY_S
    runs_s: float | None = 90 * DAY_S
    blob_grace_s: float = DAY_S
    recheck_s: float = 60.0


@dataclass(frozen=True)
class Collected:
    """How much was deleted, or would be."""

    searches: int = 0
    requests: int = 0
    runs: int = 0
    uploads: int = 0
    work_folders: int = 0
    blobs: int = 0
    blob_bytes: int = 0

    def __str__(self) -> str:
        size = f"{self.blob_bytes / 1e6:,.1f} MB"
        rows = f"{self.searches} searches, {self.requests} answers, {self.runs} scheduled runs, {self.uploads} uploads"
        return f"{rows}, {self.work_folders} work folders, {self.blobs} blobs ({size})"


class Collector:
    """Carries the policy out. Several may run at once: each deletes only what is still there.

    Args:
        uploads: this machine's unfinished uploads.
        work_dir: this machine's checkpoints, a folder per search.
        wait: waits some seconds between the two looks at a blob; returns True when it should give up instead.
    """

    def __init__(
        self,
        database: Database,
        blobs: FsspecBlobStore,
        uploads: UploadStore,
        work_dir: Path,
        policy: RetentionPolicy,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._uploads = uploads
        self._work_dir = work_dir
        self._policy = policy
        self._wait = wait or threading.Event().wait

    def collect(self, dry_run: bool = False, now: float | None = None) -> Collected:
        """Delete what is due; with ``dry_run`` only count it (blobs of searches that would go are not counted)."""
        now = time.time() if now is None else now
        searches = self._searches(now, dry_run)
        requests = self._requests(now, dry_run)
        runs = self._runs(now, dry_run)
        uploads = self._uploads.stale_count(now) if dry_run else self._uploads.remove_stale(now)
        folders = self._work_folders(dry_run)
        blobs = self._blobs_to_go(now, dry_run)
        if not dry_run:
            self._blobs.remove_leftovers(now - self._policy.blob_grace_s)
        return Collected(searches, requests, runs, uploads, folders, len(blobs), sum(blob.size_bytes for blob in blobs))

    def _searches(self, now: float, dry_run: bool) -> int:
        if self._policy.searches_s is None:
            return 0
        due = (SearchRow.state.in_(ENDED), SearchRow.end_time < now - self._policy.searches_s)
        with self._database.read() as session:
            ids = session.scalars(select(SearchRow.id).where(*due).order_by(SearchRow.id)).all()
        if dry_run:
            return len(ids)
        # One transaction each: a search has thousands of rows, and other writers wait.
        return sum(self._delete_search(search_id, due) for search_id in ids)

    def _delete_search(self, search_id: int, due: Sequence[ColumnElement[bool]]) -> int:
        with self._database.write() as session:
            # It may have been extended since it was looked for.
            return int(session.execute(delete(SearchRow).where(SearchRow.id == search_id, *due)).rowcount)  # type: ignore[attr-defined]

    def _requests(self, now: float, dry_run: bool) -> int:
        if self._policy.requests_s is None:
            return 0
        limit = now - self._policy.requests_s
        finished = (UploadRow.update_time < limit, UploadRow.resource != "")
        if dry_run:
            with self._database.read() as session:
                answers = session.scalar(select(func.count()).select_from(RequestRow).where(RequestRow.create_time < limit)) or 0
                return answers + (session.scalar(select(func.count()).select_from(UploadRow).where(*finished)) or 0)
        removed, some = 0, _REQUESTS_AT_ONCE
        while some == _REQUESTS_AT_ONCE:
            with self._database.write() as session:
                old = select(RequestRow.id).where(RequestRow.create_time < limit).limit(_REQUESTS_AT_ONCE)
                some = int(session.execute(delete(RequestRow).where(RequestRow.id.in_(old))).rowcount)  # type: ignore[attr-defined]
            removed += some
        with self._database.write() as session:
            removed += int(session.execute(delete(UploadRow).where(*finished)).rowcount)  # type: ignore[attr-defined]
        return removed

    def _runs(self, now: float, dry_run: bool) -> int:
        if self._policy.runs_s is None:
            return 0
        newest = select(func.max(ScheduleRunRow.id)).group_by(ScheduleRunRow.schedule_id)
        waits = or_(ScheduleRunRow.state == RESOLVING, ScheduleRunRow.registration == WAITING)
        due = (ScheduleRunRow.create_time < now - self._policy.runs_s, ScheduleRunRow.id.not_in(newest), ~waits)
        if dry_run:
            with self._database.read() as session:
                return session.scalar(select(func.count()).select_from(ScheduleRunRow).where(*due)) or 0
        with self._database.write() as session:
            return int(session.execute(delete(ScheduleRunRow).where(*due)).rowcount)  # type: ignore[attr-defined]

    def _work_folders(self, dry_run: bool) -> int:
        # Listed first: a search has a row before it has a folder.
        folders = list(self._work_dir.glob("projects-*-searches-*"))
        if not folders:
            return 0
        with self._database.read() as session:
            known = {work_folder_name(name) for name in session.scalars(select(SearchRow.name))}
        unknown = [folder for folder in folders if folder.name not in known]
        for folder in unknown if not dry_run else ():
            shutil.rmtree(folder, ignore_errors=True)
        return len(unknown)

    def _blobs_to_go(self, now: float, dry_run: bool) -> list[BlobFacts]:
        limit = now - self._policy.blob_grace_s
        old = {blob.digest: blob for blob in self._blobs.iterate() if blob.modified < limit}
        doomed = self._unreferenced(old)
        if dry_run or not doomed or self._wait(self._policy.recheck_s):
            return list(doomed.values()) if dry_run else []
        return [blob for blob in self._unreferenced(doomed).values() if self._blobs.delete(blob.digest, older_than=limit)]

    def _unreferenced(self, blobs: dict[str, BlobFacts]) -> dict[str, BlobFacts]:
        if not blobs:
            return {}
        with self._database.read() as session:
            referenced = referenced_digests(session)
        return {digest: blob for digest, blob in blobs.items() if digest not in referenced}
