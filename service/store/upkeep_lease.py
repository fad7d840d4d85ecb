"""Recurring work that one server alone should do: a lease by name, kept in the store."""

from __future__ import annotations

import time

from service.store.database import Database
from service.store.schema import UpkeepRow
from service.store.search_queue import owner_is_dead


class UpkeepLease:
    """Whose turn it is. A holder that dies is followed by another.

    Args:
        name: what is done.
        owner: who asks; see `service.store.search_queue.process_identity`.
        every_s: how long to leave the work alone once it was done.
        lease_s: how long it takes at most.
    """

    def __init__(self, database: Database, name: str, owner: str, every_s: float, lease_s: float) -> None:
        self._database = database
        self._name = name
        self._owner = owner
        self._every_s = every_s
        self._lease_s = lease_s

    def take(self, now: float | None = None) -> bool:
        """Whether the work is due and now ours."""
        now = time.time() if now is None else now
        with self._database.write() as session:
            row = session.get(UpkeepRow, self._name)
            if row is None:
                session.add(row := UpkeepRow(name=self._name, owner="", lease_expires=0.0, last_end=0.0))
            held = row.owner not in ("", self._owner) and row.lease_expires > now and not owner_is_dead(row.owner)
            if held or row.last_end + self._every_s > now:
                return False
            row.owner, row.lease_expires = self._owner, now + self._lease_s
            return True

    def done(self, now: float | None = None) -> None:
        """Note that it was done."""
        with self._database.write() as session:
            row = session.get(UpkeepRow, self._name)
            if row is not None and row.owner == self._owner:
                row.owner, row.lease_expires, row.last_end = "", 0.0, time.time() if now is None else now
