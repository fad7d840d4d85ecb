"""A worker's calibrations: those asked for, one that a search needs, and its machine's when there is nothing else to do."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

from hw_models.errors import HardwareModelError
from hw_models.targets import Target, get_target
from search.attempts import unexpected
from service.errors import ServiceError, StoreUnavailableError
from service.settings import Settings
from service.store.calibration_queue import CalibrationQueue, ClaimedCalibration
from service.store.database import Database
from service.store.search_queue import SearchQueue
from service.targets.predictors import IDLE_TARGETS, PredictorFiles, PredictorSummary
from service.workers.leases import kept_lease

_LOG = logging.getLogger("paretopress.worker")
ASK_AGAIN_S = 0.5
"""The store is written and asked at most this often while networks are measured."""
_AFTER_FAILURE_S = 120.0

ShouldStop = Callable[[], bool]
Progress = Callable[[float, str], None]


class Calibrate(Protocol):
    """Measures a target; see `service.worker.Tools.calibrate`."""

    def __call__(self, target: Target, budget_s: float, should_stop: ShouldStop, progress: Progress) -> str:
        """A predictor's JSON text; InterruptedError where ``should_stop`` said so."""
        ...


class Calibrator:
    """What a worker does to the predictors of its machine.

    Args:
        stopping: whether the worker itself has been told to end.
    """

    def __init__(self, settings: Settings, database: Database, calibrate: Calibrate, owner: str, stopping: ShouldStop) -> None:
        self._settings = settings
        self._calibrate = calibrate
        self._stopping = stopping
        self._queue = CalibrationQueue(database, owner, settings.lease_s)
        self._searches = SearchQueue(database, owner, settings.lease_s)
        self._idle_not_before = 0.0
        self.predictors = PredictorFiles(settings.targets_dir)

    def run_next(self) -> bool:
        """Run one calibration, if one waits."""
        claimed = self._queue.claim()
        if claimed is None:
            return False
        _LOG.info("running %s", claimed.name)
        with kept_lease(lambda: self._queue.renew(claimed.calibration_id), self._settings.lease_s):
            self._run(claimed)
        _LOG.info("done with %s", claimed.name)
        return True

    def measure(
        self, target: str, budget_s: float, should_stop: ShouldStop, progress: Progress = lambda fraction, message: None
    ) -> None:
        """Calibrate a target; its old predictor is replaced at the very end, or not at all.

        Raises:
            InterruptedError: ``should_stop`` said so.
            HardwareModelError: it cannot be calibrated.
        """
        text = self._calibrate(get_target(target), budget_s, should_stop, progress)
        self.predictors.write(target, text)

    def run_idle(self) -> None:
        """Calibrate one of this machine's usual targets that has no predictor, unless something else comes to wait."""
        missing = [name for name in IDLE_TARGETS if not self.predictors.exists(name)]
        if not missing or time.monotonic() < self._idle_not_before:
            return
        target, budget_s = missing[0], self._settings.calibration_s
        _LOG.info("calibrating %s for %.0f s", target, budget_s)
        try:
            self.measure(target, budget_s, AtMostTwiceASecond(lambda: self._stopping() or self._is_wanted_elsewhere(target)))
            _LOG.info("calibrated %s; `paretopress targets calibrate %s` takes longer and predicts better", target, target)
        except InterruptedError as error:
            _LOG.info("%s", error)
        except Exception as error:
            _LOG.warning("calibrating %s failed: %s", target, error, exc_info=not isinstance(error, HardwareModelError))
            self._idle_not_before = time.monotonic() + _AFTER_FAILURE_S

    def _is_wanted_elsewhere(self, target: str) -> bool:
        """Whether something waits that does not need this very calibration first."""
        return self._queue.has_waiting() or any(name != target for name in self._searches.waiting_targets())

    def _run(self, claimed: ClaimedCalibration) -> None:
        number = claimed.calibration_id
        try:
            summary = self._measured(claimed)
        except (InterruptedError, StoreUnavailableError):
            self._queue.let_go(number)
        except (HardwareModelError, ServiceError) as error:
            _LOG.warning("%s failed: %s", claimed.name, error)
            self._give_up(number, str(error))
        except Exception as error:
            _LOG.exception("%s failed", claimed.name)
            self._give_up(number, unexpected("calibrating", error))
        else:
            self._queue.finish(number, summary, _in_words(summary))

    def _measured(self, claimed: ClaimedCalibration) -> PredictorSummary:
        number = claimed.calibration_id
        should_stop = AtMostTwiceASecond(lambda: self._stopping() or self._queue.should_stop(number))
        target = get_target(claimed.target)
        text = self._calibrate(target, claimed.budget_s, should_stop, _Teller(self._queue, number))
        if self._queue.should_stop(number):
            raise InterruptedError(f"{claimed.name} was cancelled, or another worker has it")
        return self.predictors.write(target.name, text)

    def _give_up(self, number: int, message: str) -> None:
        """A failure while this worker ends is no failure of the calibration."""
        if self._stopping():
            self._queue.let_go(number)
        else:
            self._queue.fail(number, message)


class AtMostTwiceASecond:
    """A question that is asked again only after half a second; once it is answered with yes, that stays."""

    def __init__(self, ask: ShouldStop) -> None:
        self._ask = ask
        self._asked_at = float("-inf")
        self._answer = False

    def __call__(self) -> bool:
        """The answer, at most half a second old."""
        if not self._answer and time.monotonic() - self._asked_at >= ASK_AGAIN_S:
            self._answer, self._asked_at = self._ask(), time.monotonic()
        return self._answer


class _Teller:
    """Writes progress to the store, at most twice a second; it never goes back."""

    def __init__(self, queue: CalibrationQueue, calibration_id: int) -> None:
        self._queue = queue
        self._calibration_id = calibration_id
        self._told_at = float("-inf")
        self._furthest = 0.0

    def __call__(self, fraction: float, message: str) -> None:
        self._furthest = max(self._furthest, fraction)
        if time.monotonic() - self._told_at >= ASK_AGAIN_S:
            self._told_at = time.monotonic()
            self._queue.tell(self._calibration_id, self._furthest, message)


def _in_words(summary: PredictorSummary) -> str:
    error = "" if summary.mean_error_percent is None else f", mean error {summary.mean_error_percent:.1f}%"
    return f"{summary.networks} networks in {summary.duration_s:.0f} s{error}"
