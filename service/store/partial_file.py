"""The bytes of an upload so far: appended in blocks, hashed on the way, on the disk before anybody relies on them."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.errors import StoreUnavailableError, UploadConflictError

ALIGNMENT_BYTES = 4096
"""What position, length and address of a block must be multiples of to go past the page cache."""
_READ_BYTES = 1 << 20
_DIRECT = getattr(os, "O_DIRECT", 0)


class PartialFile:
    """Blocks: appended by one thread at a time, and hashed by one. A resumed file is read once: its digest goes on from there.

    Aligned blocks go straight to the disk where the system can do that: filling the page cache with them takes more of the
    processors than all the rest of an upload but its digest, and the memory of everything else. Other blocks take the usual way.

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
            self._direct = _open_direct(path)

    @property
    def sha256(self) -> str:
        """Of everything that was hashed so far, hexadecimal."""
        return self._hash.hexdigest()

    def append(self, block: bytes | memoryview) -> None:
        """Write behind what is there."""
        rest = memoryview(block)
        with _typed():
            while rest:
                written = self._write(rest)
                self.size_bytes += written
                rest = rest[written:]

    def hash(self, block: bytes | memoryview) -> None:
        """Let the digest go on: what is appended must be hashed as well, by whatever thread."""
        self._hash.update(block)

    def sync(self) -> None:
        """Return once the disk has it all."""
        with _typed():
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Let go of the file; it stays."""
        self._file.close()
        self._close_direct()

    def _write(self, rest: memoryview) -> int:
        if self._direct is not None and not (self.size_bytes % ALIGNMENT_BYTES or len(rest) % ALIGNMENT_BYTES):
            try:
                return os.pwrite(self._direct, rest, self.size_bytes)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._close_direct()  # the file system wants them aligned otherwise
        return os.pwrite(self._file.fileno(), rest, self.size_bytes)

    def _close_direct(self) -> None:
        if self._direct is not None:
            os.close(self._direct)
        self._direct = None

    def _hash_existing(self) -> None:
        while block := self._file.read(_READ_BYTES):
            self._hash.update(block)


def _open_direct(path: Path) -> int | None:
    try:
        return os.open(path, os.O_WRONLY | _DIRECT) if _DIRECT else None
    except OSError:  # not every file system can
        return None


@contextmanager
def _typed() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # The path says where the data lie; that is for the log.
        raise StoreUnavailableError(f"the server cannot keep the upload ({error.strerror}); resume it later") from error
