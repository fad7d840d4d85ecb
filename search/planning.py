"""Keeps the plan of a search that runs: what is over stands with what it took, and the rest is planned again."""

from __future__ import annotations

from dataclasses import replace

from search.clock import Clock
from search.pace import PHASE as PACE
from search.pace import Pace
from search.plan import BASELINE, LAST_RUNG, ORDER, SEARCH, SENSITIVITY, Known, SearchPlan, plan_search
from search.protocols import BASELINE as BASELINE_ID
from search.protocols import CandidateStore, Event
from search.spec import Effort

PHASE, SPENT_PHASE = "plan", "spent"


class Planner:
    """The plan of one search, written down whenever it changes, for whoever asks how long it will take.

    Beside it stands what all workers of the search have spent on each phase: what an earlier one had not written down before it
    died counts for the phase that it was at.
    """

    def __init__(self, effort: Effort, known: Known, store: CandidateStore, clock: Clock, began_s: float = 0.0) -> None:
        """See the class.

        Args:
            known: what was found out on the original.
            began_s: of the clock: when this worker took the search.
        """
        self._effort, self._store, self._clock, self._marked_s = effort, store, clock, began_s
        before = store.phase(SPENT_PHASE) or {}
        self._spent: dict[str, float] = {name: float(before.get(name) or 0.0) for name in ORDER}
        at = before["at"] if before.get("at") in ORDER else BASELINE
        self._spent[at] += max(began_s - sum(self._spent.values()), 0.0)
        done = sum(record.candidate_id != BASELINE_ID and not record.goes_on for record in store.candidates())
        self._known = replace(known, trials=done, trials_s=self._spent[SEARCH] if done else 0.0)

    def over(self, phase: str) -> None:
        """A phase has ended, unless it has before."""
        if phase in self._known.over:
            return
        self._book(phase)
        self._known = replace(self._known, over={**self._known.over, phase: self._spent[phase]})
        plan = self._save()
        if phase == SENSITIVITY:
            self._remember_sensitivity()
            self._store.append(Event("phase", plan.sentence(), {"duration_s": plan.duration_s}))

    def _remember_sensitivity(self) -> None:
        """For the plans of searches to come, once."""
        pace = Pace.read(self._store.phase(PACE))
        if pace is not None and pace.sensitivity_s is None:
            self._store.save_phase(PACE, replace(pace, sensitivity_s=round(self._spent[SENSITIVITY], 2)).to_json())

    def trials_until(self, until_s: float) -> None:
        """Of the clock: when trials leave the time to the last rung."""
        self._known = replace(self._known, trials_until_s=until_s)

    def tried(self, trials: int) -> None:
        """So many trials are done."""
        if SEARCH not in self._known.over:
            self._book(SEARCH)
        self._known = replace(self._known, trials=trials, trials_s=self._spent[SEARCH])
        self._save()

    def last_rung_over(self, steps: tuple[int, ...]) -> None:
        """No candidate is trained any more; ``steps`` of each that was."""
        self.over(SEARCH)
        self._known = replace(self._known, last_steps=steps)
        self.over(LAST_RUNG)

    def finalists(self, count: int) -> None:
        """So many were measured."""
        self._known = replace(self._known, finalists=count)

    def _book(self, phase: str) -> None:
        now_s = self._clock.spent_s
        self._spent[phase] += now_s - self._marked_s
        self._marked_s = now_s

    def _save(self) -> SearchPlan:
        """Plan again, and write down plan, seconds spent and the phase that is at work."""
        plan = plan_search(self._effort, replace(self._known, elapsed_s=self._clock.spent_s))
        self._store.save_phase(PHASE, plan.to_json())
        to_come = [name for name in ORDER if name not in self._known.over]
        self._store.save_phase(SPENT_PHASE, {**self._spent, "at": to_come[0] if to_come else ORDER[-1]})
        return plan
