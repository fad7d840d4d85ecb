"""Promotion between rungs, as a Ray Tune scheduler that lets the driver decide."""

from __future__ import annotations

import json
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from search.execution.driver import DriverBound, TrialDriver
from search.execution.trial import PLAN


class RungScheduler(DriverBound, FIFOScheduler):  # type: ignore[misc]
    """First in, first out; after each rung the driver says whether the trial goes on."""

    def __init__(self, driver: TrialDriver) -> None:
        super().__init__()
        self._driver = driver

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Report the rung and return the driver's decision."""
        number = trial.config[PLAN]["number"]
        if result["error"]:
            self._driver.failed(number, result["rung"], result["error"])
            return str(TrialScheduler.STOP)
        goes_on = self._driver.report(number, result["rung"], json.loads(result["values"]))
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """The actor itself died (killed for memory, say)."""
        last = trial.last_result or {}
        rung = int(last.get("rung", -1)) + 1
        self._driver.failed(trial.config[PLAN]["number"], rung, "the trial's process died; it may have run out of memory")
