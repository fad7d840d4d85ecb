"""Content-addressed bytes on any fsspec file system; a local folder by default."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from service.errors import StoreUnavailableError, StoreUrlError
from service.settings import Settings
from service.store.blob_cache import BlobCache
from service.store.blob_filesystem import BlobFilesystem
from service.store.deadline import Probe

_LOG = logging.getLogger("paretopress.store")
DEFAULT_CACHE_BYTES = 20 << 30


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

    @cached_property
    def filesystem(self) -> BlobFilesystem:
        """Where the blobs lie; opened at the first use.

        Raises:
            ImportError, ValueError: what fsspec says about a URL that it cannot open.
        """
        return BlobFilesystem.open(self.url)

    def put_bytes(self, data: bytes) -> str:
        """Store and return the sha256, hexadecimal."""
        digest = hashlib.sha256(data).hexdigest()
        with self._typed():
            place = self._place(digest)
            if not self.filesystem.make_young(place):
                self.filesystem.write(place, data)
        return digest

    def put_file(self, path: Path) -> str:
        """Store a file's bytes without reading them all at once."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        with self._typed():
            place = self._place(digest)
            if not self.filesystem.make_young(place):
                self.filesystem.upload(place, path)
        return digest

    def get_bytes(self, digest: str) -> bytes:
        """All bytes of a blob.

        Raises:
            KeyError: no such blob.
        """
        with self._typed(), _known(digest):
            data: bytes = self.filesystem.files.cat_file(self._place(digest))
            return data

    def local_path(self, digest: str) -> Path:
        """A readable local file with the blob's bytes (copied into the cache, and checked, if the store is remote).

        Raises:
            KeyError: no such blob.
        """
        with self._typed(), _known(digest):
            place, files = self._place(digest), self.filesystem.files
            if not self.filesystem.is_local:
                cache = BlobCache(self.cache_dir, self.cache_bytes)
                return cache.path(digest, lambda copy: files.get_file(place, str(copy)))
            if not files.exists(place):
                raise FileNotFoundError(place)
            return Path(place)

    def exists(self, digest: str) -> bool:
        """Whether the blob is there."""
        with self._typed():
            return bool(self.filesystem.files.exists(self._place(digest)))

    def delete(self, digest: str, older_than: float | None = None) -> bool:
        """Remove a blob; returns whether it was removed.

        Args:
            older_than: leave it if it was written, or put again, at this time or later (seconds since the epoch).
        """
        with self._typed(), contextlib.suppress(FileNotFoundError):
            return self.filesystem.delete(self._place(digest), older_than)
        return False

    def iterate(self) -> Iterator[BlobFacts]:
        """All blobs, in no certain order; one folder's list at a time is in memory."""
        with self._typed():
            filesystem = self.filesystem
            for shard in filesystem.listed(filesystem.root):
                for entry in filesystem.listed(shard["name"]) if shard["type"] == "directory" else ():
                    name = str(entry["name"]).rpartition("/")[2]
                    if _is_digest(name):
                        yield BlobFacts(name, int(entry["size"] or 0), filesystem.modified(entry))

    def remove_leftovers(self, older_than: float) -> int:
        """Remove half-written files that killed processes left behind; returns how many."""
        return self.filesystem.remove_leftovers(older_than)

    def probe(self, timeout_s: float = 5.0) -> None:
        """Return if the store takes, gives and forgets a few bytes.

        Raises:
            StoreUnavailableError: not within ``timeout_s``.
        """
        self._probe.ask(timeout_s)

    @cached_property
    def _probe(self) -> Probe:
        return Probe("the blob store", lambda: self.filesystem.try_out())

    def _place(self, digest: str) -> str:
        if not _is_digest(digest):
            raise KeyError(f"not a sha256: {digest!r}")
        return f"{self.filesystem.root}/{digest[:2]}/{digest}"

    @contextlib.contextmanager
    def _typed(self) -> Iterator[None]:
        try:
            yield
        except (KeyError, StoreUnavailableError):
            raise
        except Exception as error:
            if self.filesystem.is_local and not isinstance(error, OSError):
                raise
            _LOG.warning("the blob store does not answer: %s", error)
            raise StoreUnavailableError("the blob store does not answer; try again in a moment") from error


def blob_store(settings: Settings) -> FsspecBlobStore:
    """The store that the settings name; one folder of copies per data directory.

    Raises:
        StoreUrlError: no such kind of store, or the library for it is not installed.
    """
    store = FsspecBlobStore(settings.resolved_blob_url, settings.data_dir.absolute() / "blob-cache", settings.blob_cache_bytes)
    try:
        _ = store.filesystem
    except (ImportError, ValueError) as error:
        raise StoreUrlError(f"PARETOPRESS_BLOB_URL cannot be used: {error}") from error
    return store


@contextlib.contextmanager
def _known(digest: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise KeyError(f"no blob {digest}") from None


def _is_digest(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")
