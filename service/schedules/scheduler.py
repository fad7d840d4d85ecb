"""The thread of a server that starts what is due. Every server has one: the store decides who is first."""

from __future__ import annotations

import asyncio
import logging
import threading
import time

from service.errors import PreconditionError, StoreUnavailableError
from service.store.schedule_runs import ScheduleRuns
from service.store.schedule_store import ScheduleStore

_LOG = logging.getLogger("paretopress.scheduler")
LOOK_S = 1.0
"""At most so long between two looks: what another server has stored is seen."""
_END_S = 5.0


class Scheduler:
    """Looks at the store when something is due, and once a second."""

    def __init__(self, schedules: ScheduleStore, runs: ScheduleRuns) -> None:
        self._schedules = schedules
        self._runs = runs
        self._stopping = threading.Event()
        # Not one of the threads that answer calls: it must be on time however busy those are.
        self._thread = threading.Thread(target=self._work, name="scheduler", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    async def stop(self) -> None:
        """End; what is due goes to another server, or to the next one here."""
        self._stopping.set()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, _END_S)

    def run_due(self, now: float) -> int:
        """Start everything that is due by now; how many runs that were.

        Raises:
            StoreUnavailableError: the store does not answer; what has been started stays so.
        """
        count = 0
        while not self._stopping.is_set() and (numbers := self._schedules.due(now)):
            count += sum(self._fire(number, now) for number in numbers)
        return count

    def _fire(self, schedule_id: int, now: float) -> int:
        if self._stopping.is_set():
            return 0
        try:
            return self._runs.fire(schedule_id, now)
        except StoreUnavailableError:
            raise
        except PreconditionError as error:
            self._runs.give_up(schedule_id, now, str(error))
            return 0
        except Exception:
            _LOG.exception("schedule %d could not be run", schedule_id)
            self._runs.give_up(schedule_id, now, "something went wrong in the server; its log has the details")
            return 0

    def _work(self) -> None:
        pause_s = 0.0
        while not self._stopping.wait(pause_s):
            try:
                count = self.run_due(time.time())
                if count:
                    _LOG.info("started %d scheduled run(s)", count)
                next_due = self._schedules.next_due()
                pause_s = LOOK_S if next_due is None else min(max(next_due - time.time(), 0.0), LOOK_S)
            except StoreUnavailableError as error:
                _LOG.warning("what is due waits for the store: %s", error)
                pause_s = LOOK_S
            except Exception:
                _LOG.exception("looking for due schedules failed; it is tried again")
                pause_s = LOOK_S
