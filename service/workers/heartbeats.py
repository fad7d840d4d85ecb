"""Whether workers live: each touches a file in the data directory, which it shares with its server, every few seconds.

Files, not rows: a worker that waits costs the store no writes. Workers elsewhere are seen by the leases of what they run.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from pathlib import Path

from sqlalchemy import select

from service.store.database import Database
from service.store.schema import SearchRow
from service.store.search_queue import owner_is_dead

BEAT_S = 3.0
SILENT_AFTER_S = 20.0
_FORGET_AFTER_S = 3600.0


class Heartbeat:
    """A worker's sign of life, from a thread of its own; ends with its block.

    Args:
        folder: `Settings.workers_dir`.
        owner: as in leases, see `service.store.search_queue.process_identity`.
    """

    def __init__(self, folder: Path, owner: str) -> None:
        self._path = folder / hashlib.sha256(owner.encode()).hexdigest()[:32]
        self._owner = owner
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._write()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._done.wait(BEAT_S):
            self._write()

    def _write(self) -> None:
        with contextlib.suppress(OSError):  # a full disk is told by others
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(self._owner)


class WorkerRegistry:
    """The living workers, as a server sees them."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder

    def living(self) -> frozenset[str]:
        """Their identities.

        Raises:
            StoreUnavailableError: the store does not answer.
        """
        with self._database.read() as session:
            running = select(SearchRow.lease_owner).where(SearchRow.state == "RUNNING", SearchRow.lease_expires > time.time())
            owners = set(session.scalars(running))
        return frozenset(owner for owner in owners | self._beating() if owner and not owner_is_dead(owner))

    def _beating(self) -> set[str]:
        now, found = time.time(), set()
        for path in self._folder.glob("*"):
            with contextlib.suppress(FileNotFoundError):
                silent_s = now - path.stat().st_mtime
                if silent_s < SILENT_AFTER_S:
                    found.add(path.read_text())
                elif silent_s > _FORGET_AFTER_S:
                    path.unlink()
        return found
