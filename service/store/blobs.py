"""Content-addressed bytes on any fsspec file system; a local folder by default."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from service.errors import StoreUnavailableError
from service.settings import Settings
from service.store.blob_cache import BlobCache
from service.store.deadline import Probe

_LOG = logging.getLogger("paretopress.store")
MIB = 1 << 20
DEFAULT_CACHE_BYTES = 20 << 30
_YOUNG_S = 1800.0
"""A blob that is put again is made young again, unless it is younger than this."""
_WHOLE_OBJECTS = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "memory"})
"""Stores where an object appears whole or not at all; elsewhere a file is written beside its place and renamed."""
_S3_OPTIONS: dict[str, Any] = {
    "use_listings_cache": False,
    "config_kwargs": {"connect_timeout": 5, "read_timeout": 30, "retries": {"max_attempts": 4, "mode": "standard"}},
}
_S3_PARTS: dict[str, Any] = {"chunksize": 8 * MIB, "max_concurrency": 2}


@dataclass(frozen=True)
class BlobFacts:
    """A stored blob. ``modified`` is seconds since the epoch, by the store's clock."""

    digest: str
    size_bytes: int
    modified: float


class FsspecBlobStore:
    """A `search.protocols.BlobStore`: ``{root}/{first two digits}/{sha256}``. Picklable; any process may use it.

    A blob appears whole or not at all. Whatever reads or writes raises StoreUnavailableError when the store does not answer.

    Args:
        url: an fsspec URL or a local path. Keys and endpoint of an S3 store are taken from the usual variables
            (``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_ENDPOINT_URL``, ``AWS_PROFILE`` ...).
        cache_dir: where `local_path` copies blobs of a remote store to.
        cache_bytes: how large that folder may grow; see `BlobCache`.
    """

    def __init__(self, url: str, cache_dir: Path | None = None, cache_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        self.url = url
        self.cache_dir = cache_dir or Path(tempfile.gettempdir()) / "paretopress-blobs"
        self.cache_bytes = cache_bytes

    def __reduce__(self) -> tuple[type[FsspecBlobStore], tuple[str, Path, int]]:
        return FsspecBlobStore, (self.url, self.cache_dir, self.cache_bytes)

    def put_bytes(self, data: bytes) -> str:
        """Store and return the sha256, hexadecimal."""
        digest = hashlib.sha256(data).hexdigest()
        with self._typed():
            if not self._made_young(digest):
                self._write(digest, lambda place: self._filesystem.pipe_file(place, data))
        return digest

    def put_file(self, path: Path) -> str:
        """Store a file's bytes without reading them all at once."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        options = _S3_PARTS if self._is_s3 else {}
        with self._typed():
            if not self._made_young(digest):
                self._write(digest, lambda place: self._filesystem.put_file(str(path), place, **options))
        return digest

    def get_bytes(self, digest: str) -> bytes:
        """All bytes of a blob.

        Raises:
            KeyError: no such blob.
        """
        with self._typed(), self._known(digest):
            data: bytes = self._filesystem.cat_file(self._place(digest))
            return data

    def local_path(self, digest: str) -> Path:
        """A readable local file with the blob's bytes (copied into the cache, and checked, if the store is remote).

        Raises:
            KeyError: no such blob.
        """
        with self._typed(), self._known(digest):
            place = self._place(digest)
            if not self._is_local:
                cache = BlobCache(self.cache_dir, self.cache_bytes)
                return cache.path(digest, lambda copy: self._filesystem.get_file(place, str(copy)))
            if not self._filesystem.exists(place):
                raise FileNotFoundError(place)
            return Path(place)

    def exists(self, digest: str) -> bool:
        """Whether the blob is there."""
        with self._typed():
            return bool(self._filesystem.exists(self._place(digest)))

    def delete(self, digest: str, older_than: float | None = None) -> bool:
        """Remove a blob; returns whether it was removed.

        Args:
            older_than: leave it if it was written, or put again, at this time or later (seconds since the epoch).
        """
        with self._typed(), contextlib.suppress(FileNotFoundError), self._deleting():
            place = self._place(digest)
            modified = self._modified(self._filesystem.info(place))
            if older_than is None or modified < older_than:
                self._filesystem.rm_file(place)
                return True
        return False

    def iterate(self) -> Iterator[BlobFacts]:
        """All blobs, in no certain order; one folder's list at a time is in memory."""
        for shard in self._listed(self._root):
            if shard["type"] == "directory":
                for entry in self._listed(shard["name"]):
                    name = str(entry["name"]).rpartition("/")[2]
                    if _is_digest(name):
                        yield BlobFacts(name, int(entry["size"] or 0), self._modified(entry))

    def remove_leftovers(self, older_than: float) -> int:
        """Remove half-written files that processes left behind when they were killed; returns how many."""
        removed = 0
        if self._is_local:
            for path in Path(self._root).glob("[0-9a-f][0-9a-f]/*.tmp"):
                with contextlib.suppress(FileNotFoundError):
                    if path.stat().st_mtime < older_than:
                        path.unlink()
                        removed += 1
        return removed

    def probe(self, timeout_s: float = 5.0) -> None:
        """Return if the store takes, gives and forgets a few bytes.

        Raises:
            StoreUnavailableError: not within ``timeout_s``.
        """
        self._probe.ask(timeout_s)

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        options = _S3_OPTIONS if self.url.startswith(("s3:", "s3a:")) else {}
        filesystem, root = fsspec.core.url_to_fs(self.url, **options)
        return filesystem, root.rstrip("/")

    @property
    def _filesystem(self) -> Any:
        return self._opened[0]

    @property
    def _root(self) -> str:
        return self._opened[1]

    @property
    def _is_local(self) -> bool:
        return isinstance(self._filesystem, LocalFileSystem)

    @property
    def _is_s3(self) -> bool:
        return "s3" in self._protocols

    @property
    def _has_whole_objects(self) -> bool:
        return not self._protocols.isdisjoint(_WHOLE_OBJECTS)

    @property
    def _protocols(self) -> frozenset[str]:
        protocol = self._filesystem.protocol
        return frozenset({protocol} if isinstance(protocol, str) else protocol)

    @cached_property
    def _probe(self) -> Probe:
        return Probe("the blob store", self._try_out)

    def _try_out(self) -> None:
        place, text = f"{self._root}/probe-{secrets.token_hex(8)}", b"paretopress"
        if not self._has_whole_objects:
            self._filesystem.makedirs(self._root, exist_ok=True)
        try:
            self._filesystem.pipe_file(place, text)
            if self._filesystem.cat_file(place) != text:
                raise OSError(f"{place} does not hold what was written")
        finally:
            with contextlib.suppress(FileNotFoundError):
                self._filesystem.rm_file(place)

    def _place(self, digest: str) -> str:
        if not _is_digest(digest):
            raise KeyError(f"not a sha256: {digest!r}")
        return f"{self._root}/{digest[:2]}/{digest}"

    def _listed(self, place: str) -> list[dict[str, Any]]:
        with self._typed():
            try:
                entries: list[dict[str, Any]] = self._filesystem.ls(place, detail=True)
            except FileNotFoundError:
                return []
            return entries

    def _write(self, digest: str, write: Any) -> None:
        place = self._place(digest)
        if self._has_whole_objects:
            write(place)
            return
        self._filesystem.makedirs(place.rpartition("/")[0], exist_ok=True)
        temporary = f"{place}.{secrets.token_hex(4)}.tmp"
        try:
            write(temporary)
            self._publish(temporary, place)
        except BaseException:
            with contextlib.suppress(Exception):
                self._filesystem.rm_file(temporary)
            raise

    def _publish(self, temporary: str, place: str) -> None:
        if self._is_local:
            _sync(temporary)
            os.replace(temporary, place)
            _sync(os.path.dirname(place))
        else:
            self._filesystem.mv(temporary, place)

    def _made_young(self, digest: str) -> bool:
        """Whether the blob is there and too young for any collection; otherwise it is to be written."""
        place = self._place(digest)
        try:
            if self._is_local:
                with self._locked(fcntl.LOCK_SH):
                    os.utime(place)
                return True
            return self._modified(self._filesystem.info(place)) > time.time() - _YOUNG_S
        except FileNotFoundError:
            return False

    @contextlib.contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        with open(f"{self._root}/.lock", "a") as file:
            fcntl.flock(file, kind)
            yield

    def _deleting(self) -> contextlib.AbstractContextManager[None]:
        """No blob of a local store is made young between the look at its age and its end. In an object store that gap is
        one round trip; there, only a blob of a day ago that is put again in that very moment could be lost.
        """
        return self._locked(fcntl.LOCK_EX) if self._is_local else contextlib.nullcontext()

    def _modified(self, entry: dict[str, Any]) -> float:
        for key in ("mtime", "LastModified", "last_modified", "updated", "created"):
            value = entry.get(key)
            if isinstance(value, datetime):
                return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
            if isinstance(value, int | float):
                return float(value)
        modified: datetime = self._filesystem.modified(entry["name"])
        return modified.timestamp()

    @contextlib.contextmanager
    def _known(self, digest: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise KeyError(f"no blob {digest}") from None

    @contextlib.contextmanager
    def _typed(self) -> Iterator[None]:
        try:
            yield
        except (KeyError, StoreUnavailableError):
            raise
        except Exception as error:
            if self._is_local and not isinstance(error, OSError):
                raise
            _LOG.warning("the blob store does not answer: %s", error)
            raise StoreUnavailableError("the blob store does not answer; try again in a moment") from error


def blob_store(settings: Settings) -> FsspecBlobStore:
    """The store that the settings name; one folder of copies per data directory."""
    return FsspecBlobStore(settings.resolved_blob_url, settings.data_dir.absolute() / "blob-cache", settings.blob_cache_bytes)


def _is_digest(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
