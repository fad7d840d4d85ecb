"""Promotion between rungs, as a Ray Tune scheduler that lets the driver decide."""

from __future__ import annotations

import json
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from search.execution.driver import DriverBound, TrialDriver
from search.execution.searcher import DriverSearcher
from search.execution.trial import TrialPlan

DIED = "the trial's process died; it may have run out of memory"


class RungScheduler(DriverBound, FIFOScheduler):  # type: ignore[misc]
    """First in, first out; after each rung the driver says whether the trial goes on.

    Args:
        searcher: hands out a trial once more whose process died before it said anything.
    """

    def __init__(self, driver: TrialDriver, searcher: DriverSearcher) -> None:
        super().__init__()
        self._driver = driver
        self._searcher = searcher
        self._died: set[int] = set()

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Report the rung and return the driver's decision."""
        number = TrialPlan.of(trial.config).number
        if result["error"]:
            self._driver.failed(number, result["rung"], result["error"])
            return str(TrialScheduler.STOP)
        goes_on = self._driver.report(number, result["rung"], json.loads(result["values"]))
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """The actor itself died: killed by somebody, which says nothing about the candidate, or for the memory that it takes."""
        plan, rung = TrialPlan.of(trial.config), int((trial.last_result or {}).get("rung", -1)) + 1
        if rung or plan.number in self._died:
            self._driver.failed(plan.number, rung, DIED)
            return
        self._died.add(plan.number)
        self._searcher.again.append(plan)
