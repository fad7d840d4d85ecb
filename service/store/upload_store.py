"""Uploads: how far each has come. The committed size is the length of its file, so that it can never claim too much."""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from sqlalchemy import ColumnElement, delete, func, select, update

from search.errors import FieldViolation
from service.errors import DigestMismatchError, InvalidRequestError, NotFoundError, TooLargeError, UploadConflictError
from service.store.database import Database
from service.store.input_store import InputKind
from service.store.quotas import NO_QUOTAS, Quotas
from service.store.schema import UploadRow

STALE_AFTER_S = 7 * 24 * 3600.0
_REMOVED = ".removed"


@dataclass(frozen=True)
class UploadSpec:
    """A file that a client announced."""

    project: str
    kind: InputKind
    upload_id: str
    size_bytes: int
    sha256: str

    def violations(self) -> list[FieldViolation]:
        """Every field that cannot be."""
        found: list[FieldViolation] = []
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", self.upload_id):
            found.append(FieldViolation("upload.upload_id", "must be 1 to 64 of A-Z a-z 0-9 _ -"))
        if self.size_bytes <= 0:
            found.append(FieldViolation("upload.size_bytes", f"must be above 0, got {self.size_bytes}"))
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            found.append(FieldViolation("upload.sha256", "must be 64 lower-case hexadecimal digits"))
        return found


@dataclass(frozen=True)
class UploadProgress:
    """How far an upload has come; ``resource`` is empty until it was accepted."""

    committed_size_bytes: int
    size_bytes: int
    resource: str


class UploadStore:
    """Partial files in a folder and their rows. One stream at a time may write an upload."""

    def __init__(self, database: Database, folder: Path, max_bytes: int, quotas: Quotas = NO_QUOTAS) -> None:
        self._database = database
        self._quotas = quotas
        self._folder = folder
        self._max_bytes = max_bytes
        self._writing: set[Path] = set()
        self._lock = Lock()
        self._remover = ThreadPoolExecutor(1, "upload-remover")
        folder.mkdir(parents=True, exist_ok=True)

    def begin(self, spec: UploadSpec, offset: int) -> UploadProgress:
        """Announce (or announce again) a file whose next bytes start at ``offset``.

        Raises:
            InvalidRequestError, TooLargeError: the announcement itself is wrong.
            QuotaExceededError: the project may not store so much.
            UploadConflictError: ``offset`` is not the committed size, or the upload was announced as another file.
        """
        if spec.violations():
            raise InvalidRequestError(spec.violations())
        if spec.size_bytes > self._max_bytes:
            raise TooLargeError(f"upload of {spec.size_bytes:,} bytes; this server takes at most {self._max_bytes:,}")
        self._announce(spec)
        progress = self.progress(spec.project, spec.kind, spec.upload_id)
        if offset != progress.committed_size_bytes and not (offset == 0 and not progress.resource):
            raise UploadConflictError(f"offset {offset} is not the committed size {progress.committed_size_bytes}; resume there")
        return progress

    def _announce(self, spec: UploadSpec) -> None:
        key = {"project": spec.project, "kind": spec.kind, "upload_id": spec.upload_id}
        with self._database.write() as session:
            row = session.scalar(select(UploadRow).filter_by(**key))
            if row is None:
                self._quotas.check_bytes(session, spec.project, spec.size_bytes)
                session.add(UploadRow(**key, size_bytes=spec.size_bytes, sha256=spec.sha256, resource="", update_time=time.time()))
            elif (row.size_bytes, row.sha256) != (spec.size_bytes, spec.sha256):
                raise UploadConflictError(f"upload {spec.upload_id!r} was announced as another file; take a new upload_id")
            else:
                row.update_time = time.time()

    def progress(self, project: str, kind: InputKind, upload_id: str) -> UploadProgress:
        """How far an upload has come.

        Raises:
            NotFoundError: no such upload.
        """
        with self._database.read() as session:
            row = session.scalar(select(UploadRow).filter_by(project=project, kind=kind, upload_id=upload_id))
            if row is None:
                raise NotFoundError(f"upload {upload_id!r} does not exist; begin it at offset 0")
            path = self.path(project, kind, upload_id)
            committed = row.size_bytes if row.resource else path.stat().st_size if path.exists() else 0
            return UploadProgress(committed, row.size_bytes, row.resource)

    def path(self, project: str, kind: InputKind, upload_id: str) -> Path:
        """Where the bytes so far lie."""
        return self._path(project, kind, upload_id)

    def _path(self, project: str, kind: str, upload_id: str) -> Path:
        digest = hashlib.sha256(f"{project}\0{kind}\0{upload_id}".encode()).hexdigest()
        return self._folder / digest

    @contextlib.contextmanager
    def writing(self, spec: UploadSpec) -> Iterator[Path]:
        """Hold the upload for one stream; gives the partial file's path.

        Raises:
            UploadConflictError: another stream holds it.
        """
        path = self.path(spec.project, spec.kind, spec.upload_id)
        with self._lock:
            if path in self._writing:
                raise UploadConflictError(f"another stream is writing upload {spec.upload_id!r}; wait for it to end")
            self._writing.add(path)
        try:
            yield path
        finally:
            with self._lock:
                self._writing.discard(path)

    def verify(self, spec: UploadSpec, path: Path, digest: str) -> None:
        """Check a file, whose sha256 is ``digest``, against what was announced; one with other bytes is discarded.

        Raises:
            UploadConflictError: bytes are missing; they can still be sent.
            DigestMismatchError: the bytes are not the announced ones.
        """
        size = path.stat().st_size if path.exists() else 0
        if size < spec.size_bytes:
            raise UploadConflictError(f"{size} of {spec.size_bytes} bytes have arrived; resume at offset {size}")
        if digest != spec.sha256:
            self._remove(path)
            raise DigestMismatchError(f"the received bytes have sha256 {digest}, announced was {spec.sha256}; send them again")

    def finish(self, spec: UploadSpec, resource: str) -> None:
        """Note what the upload became and let go of its file."""
        with self._database.write() as session:
            key = {"project": spec.project, "kind": spec.kind, "upload_id": spec.upload_id}
            session.execute(update(UploadRow).filter_by(**key).values(resource=resource, update_time=time.time()))
        self._remove(self.path(spec.project, spec.kind, spec.upload_id))

    def discard(self, spec: UploadSpec) -> None:
        """Forget an upload that was refused."""
        with self._database.write() as session:
            session.execute(delete(UploadRow).filter_by(project=spec.project, kind=spec.kind, upload_id=spec.upload_id))
        self._remove(self.path(spec.project, spec.kind, spec.upload_id))

    def _remove(self, path: Path) -> None:
        """Put a file out of the way now and drop it behind the caller's back: some file systems take a second per GiB."""
        doomed = path.with_name(f"{path.name}.{uuid.uuid4().hex}{_REMOVED}")
        with contextlib.suppress(FileNotFoundError):
            self._remover.submit(path.rename(doomed).unlink, missing_ok=True)

    def stale_count(self, now: float | None = None) -> int:
        """How many unfinished uploads nobody touched for a week."""
        with self._database.read() as session:
            return session.scalar(select(func.count()).select_from(UploadRow).where(*_stale(now))) or 0

    def remove_stale(self, now: float | None = None) -> int:
        """Drop unfinished uploads that nobody touched for a week, and files that belong to none; returns how many uploads."""
        removed = 0
        if self.stale_count(now):
            with self._database.write() as session:
                rows = session.scalars(select(UploadRow).where(*_stale(now))).all()
                for row in rows:
                    self._remove(self._path(row.project, row.kind, row.upload_id))
                    session.delete(row)
                removed = len(rows)
        self._remove_orphans((time.time() if now is None else now) - STALE_AFTER_S)
        return removed

    def _remove_orphans(self, older_than: float) -> None:
        """Another server may have dropped the row; only this one can drop the file."""

        def is_due(path: Path) -> bool:
            # The first: a server ended before its thread came to it.
            return path.suffix == _REMOVED or (path.is_file() and path.stat().st_mtime < older_than)

        due = [path for path in self._folder.iterdir() if is_due(path)]
        if not due:
            return
        with self._database.read() as session:
            rows = session.execute(select(UploadRow.project, UploadRow.kind, UploadRow.upload_id).where(UploadRow.resource == ""))
            wanted = {self._path(*row) for row in rows}
        for path in set(due) - wanted:
            path.unlink(missing_ok=True)


def _stale(now: float | None) -> tuple[ColumnElement[bool], ...]:
    limit = (time.time() if now is None else now) - STALE_AFTER_S
    return UploadRow.update_time < limit, UploadRow.resource == ""
