"""What ended searches could not deliver to the tracker is sent once it answers: a worker asks between two pieces of work."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from search.protocols import BlobStore
from search.tracking.base import Tracker
from search.tracking.described import search_parameters
from search.tracking.ended import log_ended
from search.tracking.outbox import Outbox
from service.errors import StoreUnavailableError
from service.store.database import Database
from service.store.untracked import UntrackedSearch, UntrackedSearches
from service.store.upkeep_lease import UpkeepLease

_LOG = logging.getLogger("paretopress.worker")
_LEASE_S = 600.0


class LateTracking:
    """One worker of several sends, so that no run is made twice.

    Args:
        owner: as in leases.
        tracker: made when it is first needed, since MLflow takes seconds.
        stopping: whether the worker itself has been told to end.
        every_s: how long to leave the tracker alone after it was tried.
    """

    def __init__(
        self,
        database: Database,
        owner: str,
        tracker: Callable[[], Tracker],
        blobs: BlobStore,
        stopping: Callable[[], bool],
        every_s: float,
    ) -> None:
        self._untracked = UntrackedSearches(database)
        self._lease = UpkeepLease(database, "tracking", owner, every_s, _LEASE_S)
        self._tracker, self._blobs, self._stopping, self._every_s = tracker, blobs, stopping, every_s
        self._ask_at = 0.0
        self._hopeless: set[int] = set()

    def run_next(self) -> bool:
        """Send what waits, if it is time; returns whether anything was delivered."""
        now = time.monotonic()
        if now < self._ask_at:
            return False
        self._ask_at = now + self._every_s
        waiting = [search for search in self._untracked.pending() if search.search_id not in self._hopeless]
        if not waiting or not self._lease.take():
            return False
        try:
            return self._send(waiting)
        finally:
            self._lease.done()

    def _send(self, waiting: list[UntrackedSearch]) -> bool:
        delivered = 0
        for search in waiting:
            # The first one that is not taken says that the tracker is away; the others would only wait for it as well.
            if self._stopping() or not self._sent(search):
                break
            delivered += 1
        return delivered > 0

    def _sent(self, search: UntrackedSearch) -> bool:
        outbox = Outbox(self._tracker(), search.name)
        try:
            outbox.start(search_parameters(search.spec, search.origin))
            if outbox.behind:
                return False  # away: nothing has to be fetched for it, and it need not be waited for again
            left = log_ended(outbox, self._untracked.candidates(search.search_id), self._blobs, search.outcome)
        except StoreUnavailableError:
            raise
        except Exception:
            _LOG.exception("%s cannot be tracked; it is left to the next worker that starts", search.name)
            self._hopeless.add(search.search_id)
            return True
        if left:
            return False
        self._untracked.delivered(search.search_id)
        _LOG.info("%s is tracked now", search.name)
        return True
