"""A Ray Tune searcher that asks the driver for trials. Optuna stays behind `search.sampler`."""

from __future__ import annotations

from typing import Any

from ray.tune.search import Searcher

from search.execution.driver import WAIT, DriverBound, TrialDriver
from search.execution.trial import TrialPlan


class DriverSearcher(DriverBound, Searcher):  # type: ignore[misc]
    """Hands out the driver's proposals and remembers which Tune trial carries which."""

    def __init__(self, driver: TrialDriver) -> None:
        super().__init__()
        self._driver = driver
        self.again: list[TrialPlan] = []
        """Trials that are handed out once more, before new ones."""

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial's config, None if there may be one later, or FINISHED."""
        if self._driver.should_stop():
            return str(Searcher.FINISHED)
        plan = self.again.pop(0) if self.again else self._driver.propose()
        if isinstance(plan, TrialPlan):
            return plan.to_config()
        return None if plan is WAIT else str(Searcher.FINISHED)  # None: Tune asks again

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Results reach the driver through the scheduler."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the store is the truth and Tune's own restore is not used (contract 6)."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""
