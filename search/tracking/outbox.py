"""What still has to reach the tracker. A tracker that is away delays the log, never the search."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from search.errors import SearchError
from search.protocols import CandidateRecord
from search.tracking.base import EndState, Tracker, TrackingRefusedError

_LOG = logging.getLogger(__name__)
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 300.0


class Outbox:
    """Sends in order; what fails stays queued for a later send. After a restart the driver queues all candidates again,
    which the tracker's look-up by tag makes harmless (contract 6).

    After a failure nothing is tried for a while, longer after each further one: whoever waits for a connection that does not
    come is the search.
    """

    def __init__(self, tracker: Tracker, search_name: str) -> None:
        self._tracker, self._search_name = tracker, search_name
        self._queue: list[Callable[[], object]] = []
        self._pause_s, self._try_at = FIRST_PAUSE_S, 0.0

    @property
    def behind(self) -> int:
        """How many entries wait."""
        return len(self._queue)

    def start(self, parameters: Mapping[str, str]) -> None:
        """The parent run."""
        self._send(lambda: self._tracker.start_search(self._search_name, parameters))

    def candidate(self, record: CandidateRecord) -> None:
        """A candidate's run, new or changed."""
        self._send(lambda: self._tracker.log_candidate(self._search_name, record))

    def artifact(self, candidate_id: str | None, path: Path, name: str) -> None:
        """A file of a candidate, or of the search."""
        self._send(lambda: self._tracker.log_artifact(self._search_name, candidate_id, path, name))

    def end(self, metrics: Mapping[str, float], state: EndState) -> int:
        """The parent run's end, tried at once; returns how many entries could not be delivered."""
        self._queue.append(lambda: self._tracker.end_search(self._search_name, metrics, state))
        self._deliver()
        return self.behind

    def _send(self, entry: Callable[[], object]) -> None:
        self._queue.append(entry)
        if time.monotonic() >= self._try_at:
            self._deliver()

    def _deliver(self) -> None:
        while self._queue:
            try:
                self._queue[0]()
            except TrackingRefusedError as error:
                _LOG.warning("an entry of %s is not tracked: %s", self._search_name, error)
            except SearchError as error:
                _LOG.warning("tracking of %s is behind by %d entries: %s", self._search_name, self.behind, error)
                self._try_at = time.monotonic() + self._pause_s
                self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
                return
            self._queue.pop(0)
            self._pause_s = FIRST_PAUSE_S
