"""The server's hourly collection of what may be deleted; one server of several does it."""

from __future__ import annotations

import asyncio
import logging
import threading

from service.errors import StoreUnavailableError
from service.settings import Settings
from service.store.blobs import FsspecBlobStore
from service.store.database import Database
from service.store.retention import DAY_S, Collected, Collector, RetentionPolicy
from service.store.search_queue import process_identity
from service.store.upkeep_lease import UpkeepLease
from service.store.upload_store import UploadStore

_LOG = logging.getLogger("paretopress.upkeep")
EVERY_S = 3600.0
_ASK_S = 300.0
_LEASE_S = 3600.0
_END_S = 5.0


def retention_policy(settings: Settings) -> RetentionPolicy:
    """What the settings say, in seconds."""
    return RetentionPolicy(
        searches_s=settings.retention_search_days * DAY_S or None,
        requests_s=settings.retention_request_days * DAY_S or None,
        runs_s=settings.retention_run_days * DAY_S or None,
        blob_grace_s=settings.blob_grace_hours * 3600.0,
    )


class Upkeep:
    """A thread beside the server; the first collection is made when the last one, by whichever server, is an hour old."""

    def __init__(self, settings: Settings, database: Database, blobs: FsspecBlobStore) -> None:
        self._stopping = threading.Event()
        self._uploads = UploadStore(database, settings.uploads_dir, settings.max_upload_bytes)
        self._lease = UpkeepLease(database, "collect", process_identity(), EVERY_S, _LEASE_S)
        stores = (database, blobs, self._uploads, settings.work_dir)
        self._collector = Collector(*stores, retention_policy(settings), self._stopping.wait)
        # Not one of the threads that answer calls: those are few, and this takes long.
        self._thread = threading.Thread(target=self._work, name="upkeep", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    async def stop(self) -> None:
        """End soon; what has been collected stays so."""
        self._stopping.set()
        await asyncio.to_thread(self._thread.join, _END_S)

    def collect_if_due(self) -> Collected | None:
        """Collect, if an hour has passed and no other server is at it."""
        try:
            self._uploads.remove_stale()
            if not self._lease.take():
                return None
            collected = self._collector.collect()
            self._lease.done()
        except StoreUnavailableError as error:
            _LOG.warning("nothing was collected: %s", error)
            return None
        _LOG.info("deleted %s", collected)
        return collected

    def _work(self) -> None:
        while not self._stopping.wait(_ASK_S):
            try:
                self.collect_if_due()
            except Exception:
                _LOG.exception("collecting failed; it is tried again in a while")
