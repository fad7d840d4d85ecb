"""Local copies of a remote store's blobs."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_LOG = logging.getLogger("paretopress.store")
IN_USE_S = 48 * 3600.0
"""Files that were used this recently stay even if the cache is too large: a search may come back to them by their path."""
_ATTEMPTS = 2


@dataclass(frozen=True)
class BlobCache:
    """A folder of blobs by digest, shared by the processes of a machine. Above ``max_bytes`` the longest unused ones go.

    A copy appears whole and with the right digest, or not at all.
    """

    folder: Path
    max_bytes: int

    def path(self, digest: str, fetch: Callable[[Path], None]) -> Path:
        """A blob's file; ``fetch`` writes it if it is not there yet.

        Raises:
            FileNotFoundError: ``fetch`` says so.
            OSError: what was fetched is not the blob, twice.
        """
        place = self.folder / digest
        with contextlib.suppress(FileNotFoundError):
            os.utime(place)
            return place
        self.folder.mkdir(parents=True, exist_ok=True)
        for _ in range(_ATTEMPTS):
            if self._fetched(digest, fetch):
                self.shrink(keep=digest)
                return place
            _LOG.warning("what the blob store gave as %s has another digest", digest)
        raise OSError(f"the blob store's copy of {digest} is damaged")

    def _fetched(self, digest: str, fetch: Callable[[Path], None]) -> bool:
        temporary = self.folder / f"{digest}.{secrets.token_hex(4)}"
        try:
            fetch(temporary)
            with temporary.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    return False
            os.replace(temporary, self.folder / digest)
            return True
        finally:
            temporary.unlink(missing_ok=True)

    def shrink(self, keep: str = "", now: float | None = None) -> None:
        """Drop the longest unused files until the rest is small enough."""
        used_before = (time.time() if now is None else now) - IN_USE_S
        found = []
        for entry in os.scandir(self.folder):
            with contextlib.suppress(FileNotFoundError):
                facts = entry.stat()
                # A search opens the file itself, which the kernel notes once a day.
                found.append((max(facts.st_mtime, facts.st_atime), facts.st_size, entry.path))
        excess = sum(size for _, size, _ in found) - self.max_bytes
        for used, size, path in sorted(found):
            if excess <= 0 or used >= used_before:
                break
            if os.path.basename(path) != keep:
                Path(path).unlink(missing_ok=True)
                excess -= size
