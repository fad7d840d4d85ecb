"""The bytes of an upload so far: appended in blocks, hashed on the way, on the disk before anybody relies on them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from service.errors import StoreUnavailableError, UploadConflictError

_READ_BYTES = 1 << 20


class PartialFile:
    """Blocks: appended by one thread at a time, and hashed by one. A resumed file is read once: its digest goes on from there.

    Args:
        offset: where the next byte goes; what lies behind it is dropped.

    Raises:
        UploadConflictError: the file is shorter.
        StoreUnavailableError: it cannot be written, as for every method.
    """

    def __init__(self, path: Path, offset: int) -> None:
        self._hash = hashlib.sha256()
        self.size_bytes = offset
        size = path.stat().st_size if path.exists() else 0
        if size < offset:
            raise UploadConflictError(f"offset {offset} is not the committed size {size}; resume there")
        with _typed():
            self._file = path.open("r+b" if path.exists() else "w+b", buffering=0)
            self._file.truncate(offset)
            self._hash_existing()

    @property
    def sha256(self) -> str:
        """Of everything that was hashed so far, hexadecimal."""
        return self._hash.hexdigest()

    def append(self, chunks: Sequence[bytes | memoryview]) -> None:
        """Write behind what is there."""
        with _typed():
            for chunk in chunks:  # not all at once: that takes Linux several times as long
                rest = memoryview(chunk)
                while rest:
                    rest = rest[self._file.write(rest) :]
                self.size_bytes += len(chunk)

    def hash(self, chunks: Sequence[bytes | memoryview]) -> None:
        """Let the digest go on: what is appended must be hashed as well, by whatever thread."""
        for chunk in chunks:
            self._hash.update(chunk)

    def sync(self) -> None:
        """Return once the disk has it all."""
        with _typed():
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Let go of the file; it stays."""
        self._file.close()

    def _hash_existing(self) -> None:
        while block := self._file.read(_READ_BYTES):
            self._hash.update(block)


@contextmanager
def _typed() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # The path says where the data lie; that is for the log.
        raise StoreUnavailableError(f"the server cannot keep the upload ({error.strerror}); resume it later") from error
