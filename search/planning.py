"""Keeps the plan of a search that runs: what is over stands with what it took, and the rest is planned again."""

from __future__ import annotations

from dataclasses import replace

from search.clock import Clock
from search.pace import PHASE as PACE
from search.plan import LAST_RUNG, PHASE, SEARCH, SENSITIVITY, Known, SearchPlan, plan_search
from search.protocols import CandidateStore, Event
from search.spec import Effort


class Planner:
    """The plan of one search, written down whenever it changes, for whoever asks how long it will take.

    Args:
        known: what was found out on the original.
    """

    def __init__(self, effort: Effort, known: Known, store: CandidateStore, clock: Clock, began_s: float = 0.0) -> None:
        """See the class.

        Args:
            began_s: of the clock: when this worker took the search.
        """
        self._effort, self._store, self._clock, self._marked_s = effort, store, clock, began_s
        before = store.phase(PHASE)
        spent = {phase.name: phase.seconds for phase in SearchPlan.from_json(before).phases if phase.over} if before else {}
        # What an earlier worker spent on a phase counts, once this one is behind it as well.
        self._before_s, self._known = spent, known

    def over(self, phase: str) -> None:
        """A phase has ended, unless it has before."""
        if phase in self._known.spent_s:
            return
        now_s = self._clock.spent_s
        seconds = now_s - self._marked_s + self._before_s.get(phase, 0.0)
        self._marked_s = now_s
        self._known = replace(self._known, spent_s={**self._known.spent_s, phase: seconds})
        if phase == SENSITIVITY and self._store.phase(PACE) is None:
            # An earlier worker's is of a search from its beginning.
            self._store.save_phase(PACE, replace(self._known.pace, sensitivity_s=seconds).to_json())
        plan = self._save()
        if phase == SENSITIVITY:
            self._store.append(Event("phase", plan.sentence(), {"duration_s": plan.duration_s}))

    def tried(self, trials: int, trials_s: float) -> None:
        """So many trials are done, and took so many seconds together."""
        self._known = replace(self._known, trials=trials, trials_s=trials_s)
        self._save()

    def trials_over(self) -> None:
        """The trials have ended, and what follows is the last rung."""
        self.over(SEARCH)

    def last_rung_over(self) -> None:
        """No candidate is trained any more."""
        self.over(SEARCH)
        self.over(LAST_RUNG)

    def _save(self) -> SearchPlan:
        plan = plan_search(self._effort, self._known)
        self._store.save_phase(PHASE, plan.to_json())
        return plan
