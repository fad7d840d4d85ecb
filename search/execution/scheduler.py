"""Promotion between rungs, as a Ray Tune scheduler that lets the driver decide."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from search.execution.driver import DriverBound, TrialDriver
from search.execution.node_watch import NodeWatch
from search.execution.searcher import DriverSearcher
from search.execution.trial import TrialPlan

DIED = "the trial's process died; it may have run out of memory"


class RungScheduler(DriverBound, FIFOScheduler):  # type: ignore[misc]
    """First in, first out; after each rung the driver says whether the trial goes on.

    Args:
        searcher: hands out a trial once more whose process died.
        nodes: counts those that were lost: no trial fails for these.
    """

    def __init__(self, driver: TrialDriver, searcher: DriverSearcher, nodes: NodeWatch | None = None) -> None:
        super().__init__()
        self._driver = driver
        self._searcher = searcher
        self._nodes = nodes
        self._deaths: Counter[int] = Counter()
        self._remarks: set[str] = set()
        self._open: dict[int, TrialPlan] = {}

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """A trial is handed out."""
        plan = TrialPlan.of(trial.config)
        self._open[plan.number] = plan

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Report the rung and return the driver's decision."""
        plan = self._open.pop(TrialPlan.of(trial.config).number)
        if result["remark"] and result["remark"] not in self._remarks:
            self._remarks.add(result["remark"])
            self._driver.note(result["remark"], warning=True)
        if result["error"]:
            self._driver.failed(plan.number, result["rung"], result["error"])
            return str(TrialScheduler.STOP)
        if not self._driver.report(plan.number, result["rung"], json.loads(result["values"])):
            return str(TrialScheduler.STOP)
        self._open[plan.number] = replace(plan, rung=result["rung"] + 1)
        return str(TrialScheduler.CONTINUE)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """The actor itself died: with its node or killed by somebody, which says nothing about the candidate, or for the memory
        that it takes. It goes on once at the rung where it was; once more for every node that was lost meanwhile.
        """
        plan = self._open.pop(TrialPlan.of(trial.config).number, None)
        if plan is None:  # it had ended
            return
        self._deaths[plan.number] += 1
        if self._deaths[plan.number] > 1 + (self._nodes.lost if self._nodes else 0):
            self._driver.failed(plan.number, plan.rung, DIED)
            return
        self._searcher.again.append(plan)

    def take_back(self) -> None:
        """What Tune has not ended is handed out once more, at its rung: for a round that was stopped under it."""
        self._searcher.again += self._open.values()
        self._open.clear()
