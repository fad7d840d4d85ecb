"""The audit log: who changed what, and who was turned away. One JSON object a line, one file a day, in the data directory.

A file, not a table: a flood of refused calls must not take the database's one write lock from those who work, lines can be
shipped away by any log collector, and whoever gets at the database cannot rewrite them. A line is handed to the operating
system before the call is answered; it survives the server, though not a power cut in the same second.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from service.access.rates import CallRate

_LOG = logging.getLogger("paretopress.audit")
_PATTERN = "audit-????-??-??.jsonl"
_REFUSALS_PER_S, _REFUSALS_BURST = 5.0, 500.0
"""Of one caller (all that are unknown count as one), so that a flood cannot fill the disk: at most about 150 MB a day."""


@dataclass(frozen=True)
class AuditEntry:
    """One call. Neither payloads nor secrets have a place here."""

    principal: str
    project: str
    method: str
    resource: str
    outcome: str
    reason: str
    request_id: str
    peer: str


class AuditLog:
    """Appends entries. For one thread; several servers may share a folder.

    Args:
        retention_days: files older than this are removed when a new day begins; 0 keeps them.
        clock: seconds since the epoch.
    """

    def __init__(self, folder: Path, retention_days: float, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._retention_days = retention_days
        self._clock = clock
        self._day: date | None = None
        self._file = -1
        self._refusals = CallRate(_REFUSALS_PER_S, _REFUSALS_BURST, clock)
        self._unrecorded = 0
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def record(self, entry: AuditEntry) -> None:
        """Append a change. A full disk does not stop the service; the log says it."""
        self._append(entry)

    def record_refusal(self, entry: AuditEntry) -> None:
        """Append a refusal; of one caller's flood only some, and how many were left out."""
        if self._refusals.wait_s(entry.principal):
            self._unrecorded += 1
            return
        self._append(entry)

    def close(self) -> None:
        """Let go of the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file, self._day = -1, None

    def _append(self, entry: AuditEntry) -> None:
        now = datetime.fromtimestamp(self._clock(), UTC)
        line = {"time": now.isoformat(timespec="milliseconds"), **asdict(entry)}
        if self._unrecorded:
            line["refusals_left_out"] = self._unrecorded
            self._unrecorded = 0
        try:
            if now.date() != self._day:
                self._begin(now.date())
            # One write of an append-only file: lines of several servers do not mix.
            os.write(self._file, json.dumps(line, separators=(",", ":")).encode() + b"\n")
        except OSError as error:
            _LOG.error("the audit log in %s cannot be written (%s); lost: %s", self._folder, error.strerror, line)

    def _begin(self, day: date) -> None:
        self.close()
        path = self._folder / f"audit-{day.isoformat()}.jsonl"
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._day = day
        if self._retention_days:
            oldest = f"audit-{(day - timedelta(days=self._retention_days)).isoformat()}.jsonl"
            for old in self._folder.glob(_PATTERN):
                if old.name < oldest:
                    old.unlink(missing_ok=True)
