"""What differs between the file systems that blobs may lie in: how a file appears at once, how it gets a new age."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

MIB = 1 << 20
_YOUNG_S = 1800.0
"""A file of a remote store is written again, so that it is young, unless it is younger than this."""
_WHOLE_OBJECTS = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "memory"})
"""Stores where an object appears whole or not at all; elsewhere a file is written beside its place and renamed."""
_S3_OPTIONS: dict[str, Any] = {
    "use_listings_cache": False,
    "config_kwargs": {"connect_timeout": 5, "read_timeout": 30, "retries": {"max_attempts": 4, "mode": "standard"}},
}
_S3_PARTS: dict[str, Any] = {"chunksize": 8 * MIB, "max_concurrency": 2}


@dataclass(frozen=True)
class BlobFilesystem:
    """An fsspec file system and a folder in it. Errors are fsspec's own; what is not there is a FileNotFoundError."""

    files: Any
    root: str

    @staticmethod
    def open(url: str) -> BlobFilesystem:
        """By URL or local path; nothing is asked of the store yet.

        Raises:
            ImportError, ValueError: the library for it is missing, or there is no such kind.
        """
        options = _S3_OPTIONS if url.startswith(("s3:", "s3a:")) else {}
        files, root = fsspec.core.url_to_fs(url, **options)
        return BlobFilesystem(files, root.rstrip("/"))

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine."""
        return isinstance(self.files, LocalFileSystem)

    @property
    def has_whole_objects(self) -> bool:
        """Whether what is half written cannot be seen anyway."""
        return not self._protocols.isdisjoint(_WHOLE_OBJECTS)

    @property
    def _protocols(self) -> frozenset[str]:
        protocol = self.files.protocol
        return frozenset({protocol} if isinstance(protocol, str) else protocol)

    def write(self, place: str, data: bytes) -> None:
        """Bytes, at once."""
        self._publish(place, lambda path: self.files.pipe_file(path, data))

    def upload(self, place: str, source: Path) -> None:
        """A local file, at once, and in parts where it could be large for memory."""
        options = _S3_PARTS if "s3" in self._protocols else {}
        self._publish(place, lambda path: self.files.put_file(str(source), path, **options))

    def make_young(self, place: str) -> bool:
        """Whether the file is there and young from now on; otherwise it is to be written."""
        try:
            if self.is_local:
                with self._locked(fcntl.LOCK_SH):
                    os.utime(place)
                return True
            return self.modified(self.files.info(place)) > time.time() - _YOUNG_S
        except FileNotFoundError:
            return False

    def delete(self, place: str, older_than: float | None) -> bool:
        """Remove a file unless it was written or made young at ``older_than`` or later; whether it was.

        Nothing comes between the look at the age and the end in a local folder. In an object store that gap is one round trip;
        there, a file of a day ago that is put again in that very moment could be lost.
        """
        with self._locked(fcntl.LOCK_EX) if self.is_local else contextlib.nullcontext():
            modified = self.modified(self.files.info(place))
            if older_than is not None and modified >= older_than:
                return False
            self.files.rm_file(place)
            return True

    def listed(self, folder: str) -> list[dict[str, Any]]:
        """Entries of a folder as fsspec describes them; none if there is no such folder."""
        try:
            entries: list[dict[str, Any]] = self.files.ls(folder, detail=True)
        except FileNotFoundError:
            return []
        return entries

    def modified(self, entry: dict[str, Any]) -> float:
        """When an entry was written, in seconds since the epoch by the store's clock."""
        for key in ("mtime", "LastModified", "last_modified", "updated", "created"):
            value = entry.get(key)
            if isinstance(value, datetime):
                return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
            if isinstance(value, int | float):
                return float(value)
        modified: datetime = self.files.modified(entry["name"])
        return modified.timestamp()

    def remove_leftovers(self, older_than: float) -> int:
        """Remove half-written local files that killed processes left behind; returns how many."""
        removed = 0
        for path in Path(self.root).glob("[0-9a-f][0-9a-f]/*.tmp") if self.is_local else ():
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < older_than:
                    path.unlink()
                    removed += 1
        return removed

    def try_out(self) -> None:
        """Write, read and remove a few bytes."""
        place, text = f"{self.root}/probe-{secrets.token_hex(8)}", b"paretopress"
        if not self.has_whole_objects:
            self.files.makedirs(self.root, exist_ok=True)
        try:
            self.files.pipe_file(place, text)
            if self.files.cat_file(place) != text:
                raise OSError(f"{place} does not hold what was written")
        finally:
            with contextlib.suppress(FileNotFoundError):
                self.files.rm_file(place)

    def _publish(self, place: str, write: Callable[[str], object]) -> None:
        if self.has_whole_objects:
            write(place)
            return
        folder = place.rpartition("/")[0]
        self.files.makedirs(folder, exist_ok=True)
        temporary = f"{place}.{secrets.token_hex(4)}.tmp"
        try:
            write(temporary)
            if self.is_local:
                _sync(temporary)
                os.replace(temporary, place)
                _sync(folder)
            else:
                self.files.mv(temporary, place)
        except BaseException:
            with contextlib.suppress(Exception):
                self.files.rm_file(temporary)
            raise

    @contextlib.contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        with open(f"{self.root}/.lock", "a") as file:
            fcntl.flock(file, kind)
            yield


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
