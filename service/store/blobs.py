"""Content-addressed bytes on any fsspec file system; a local folder by default."""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem


class FsspecBlobStore:
    """A `search.protocols.BlobStore`: ``{root}/{first two digits}/{sha256}``. Picklable; any process may use it.

    A blob appears whole or not at all: it is written beside its place and renamed (object stores put whole objects anyway).

    Args:
        url: an fsspec URL or a local path.
        cache_dir: where `local_path` copies blobs of a remote store to.
    """

    def __init__(self, url: str, cache_dir: Path | None = None) -> None:
        self.url = url
        self.cache_dir = cache_dir or Path(tempfile.gettempdir()) / "paretopress-blobs"

    def __reduce__(self) -> tuple[type[FsspecBlobStore], tuple[str, Path]]:
        return FsspecBlobStore, (self.url, self.cache_dir)

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        filesystem, root = fsspec.core.url_to_fs(self.url)
        return filesystem, root

    def put_bytes(self, data: bytes) -> str:
        """Store and return the sha256, hexadecimal."""
        digest = hashlib.sha256(data).hexdigest()
        if not self.exists(digest):
            filesystem, place = self._opened[0], self._place(digest)
            temporary = self._temporary(place)
            filesystem.pipe_file(temporary, data)
            self._publish(temporary, place)
        return digest

    def put_file(self, path: Path) -> str:
        """Store a file's bytes without reading them all at once."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if not self.exists(digest):
            filesystem, place = self._opened[0], self._place(digest)
            temporary = self._temporary(place)
            filesystem.put_file(str(path), temporary)
            self._publish(temporary, place)
        return digest

    def get_bytes(self, digest: str) -> bytes:
        """All bytes of a blob.

        Raises:
            KeyError: no such blob.
        """
        try:
            data: bytes = self._opened[0].cat_file(self._place(digest))
        except FileNotFoundError:
            raise KeyError(f"no blob {digest}") from None
        return data

    def local_path(self, digest: str) -> Path:
        """A readable local file with the blob's bytes (copied into the cache if the store is remote).

        Raises:
            KeyError: no such blob.
        """
        filesystem, place = self._opened[0], self._place(digest)
        if not self.exists(digest):
            raise KeyError(f"no blob {digest}")
        if isinstance(filesystem, LocalFileSystem):
            return Path(place)
        cached = self.cache_dir / digest
        if not cached.exists():
            self.cache_dir.mkdir(parents=True, exist_ok=True)
            temporary = cached.with_suffix(f".{secrets.token_hex(4)}")
            filesystem.get_file(place, str(temporary))
            os.replace(temporary, cached)
        return cached

    def exists(self, digest: str) -> bool:
        """Whether the blob is there."""
        return bool(self._opened[0].exists(self._place(digest)))

    def _place(self, digest: str) -> str:
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise KeyError(f"not a sha256: {digest!r}")
        return f"{self._opened[1]}/{digest[:2]}/{digest}"

    def _temporary(self, place: str) -> str:
        filesystem = self._opened[0]
        filesystem.makedirs(place.rpartition("/")[0], exist_ok=True)
        return f"{place}.{secrets.token_hex(4)}.tmp"

    def _publish(self, temporary: str, place: str) -> None:
        filesystem = self._opened[0]
        if isinstance(filesystem, LocalFileSystem):
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, place)
        else:
            filesystem.mv(temporary, place)
