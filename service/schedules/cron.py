"""Cron lines: when something is due, in a time zone, by the rules of Debian's cron (ADR 0007)."""

from __future__ import annotations

import functools
import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from cronsim import CronSim, CronSimError

from search.errors import FieldViolation

MAX_LENGTH = 200
_FIELDS = 5
_ANY_TRANSITION_S = 4 * 3600.0
"""A clock that was put back is itself again after this time; no zone has ever moved it by more than two hours."""
_WELL_BEFORE_S = 24 * 3600.0


@dataclass(frozen=True)
class CronLine:
    """A valid line of five fields and the zone that it is read in."""

    line: str
    time_zone: str

    def violations(self) -> list[FieldViolation]:
        """What makes this no line, or no zone, or one that is never due."""
        found: list[FieldViolation] = []
        if self.time_zone not in _zones():
            found.append(FieldViolation("time_zone", f"must be an IANA zone such as Europe/Berlin, got {self.time_zone[:100]!r}"))
        problem = self._problem()
        if problem:
            found.append(FieldViolation("cron", f"{problem}, got {self.line[:MAX_LENGTH]!r}"))
        elif not found and self.after(datetime.now(UTC).timestamp()) is None:
            found.append(FieldViolation("cron", f"{self.line!r} is never due: there is no such day"))
        return found

    def after(self, moment: float) -> float | None:
        """The first due time behind a moment, in seconds since the epoch; None if there is none within fifty years."""
        return next(self.all_after(moment), None)

    def all_after(self, moment: float) -> Iterator[float]:
        """Every due time behind a moment, in order. The answer does not depend on when it is asked for."""
        zone = zoneinfo.ZoneInfo(self.time_zone)
        start = datetime.fromtimestamp(moment, zone)
        if datetime.fromtimestamp(moment - _ANY_TRANSITION_S, zone).utcoffset() != start.utcoffset():
            # Asked within an hour that the clock strikes twice, the library may answer with what has been.
            start = datetime.fromtimestamp(moment - _WELL_BEFORE_S, zone)
        last = moment
        try:
            for due in CronSim(self.line, start):
                if due.timestamp() > last:
                    last = due.timestamp()
                    yield last
        except OverflowError:  # the end of the calendar
            return

    def _problem(self) -> str:
        count = len(self.line.split())
        if len(self.line) > MAX_LENGTH:
            return f"must have at most {MAX_LENGTH} characters"
        if count != _FIELDS:
            return f"must have five fields (minute, hour, day of month, month, day of week), not {count}"
        try:
            CronSim(self.line, datetime.now(UTC))
        except CronSimError as error:
            return f"is no cron line ({error})"
        return ""


@functools.cache
def _zones() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones())
