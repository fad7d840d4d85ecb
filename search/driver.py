"""The search driver: proposes trials, records what they return, decides who is promoted. The only writer (contract 6)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from search.aims import Aims
from search.allocation import Allocation, MakeRecipe, allocate
from search.errors import OptionSkippedError, SearchCancelledError, SearchError
from search.execution.driver import WAIT, Wait
from search.execution.trial import TrialPlan
from search.execution.word import Word
from search.last_rung import FEW, LastRung, Prospect, most_promising, recovery, settled
from search.limits import priced_limits
from search.pareto import WANTED
from search.plan import SEARCH
from search.planning import Planner
from search.pricing import Price, Pricer, price_measurements
from search.promotion import Standings
from search.protocols import BASELINE, CandidateRecord, CandidateStore, Event, Progress, RungReading
from search.sampler import PolicySampler
from search.sensitivity import Sensitivity
from search.space import Policy
from search.spec import SearchSpec
from search.tracking.outbox import Outbox
from techniques.apply import structure_of
from techniques.recipe import Recipe

_ASKS_PER_TRIAL = 8
_TIGHTENING = 0.93
_STOP_POLL_S = 0.3
LAST_RUNG_PHASE = "last_rung"


@dataclass(frozen=True)
class _Running:
    policy: Policy
    recipe: Recipe
    price: Price
    record: CandidateRecord | None = None


class SearchDriver:
    """A `TrialDriver` over one search; see `search.execution.driver` for when each method is called."""

    def __init__(
        self,
        spec: SearchSpec,
        store: CandidateStore,
        outbox: Outbox,
        sampler: PolicySampler,
        sensitivity: Sensitivity,
        pricer: Pricer,
        make_recipe: MakeRecipe,
        aims: Aims,
        rungs: int,
        deadline: float,
        interrupt: Path,
        grace_s: float = math.inf,
        first_deadline: float = -math.inf,
        first_ends_at: float = -math.inf,
        last: LastRung | None = None,
        held_rung: Callable[[int], int] = lambda _: -1,
        planner: Planner | None = None,
    ) -> None:
        """See the class.

        Args:
            aims: what recipes are made for.
            deadline: of `time.monotonic`; behind it nothing is proposed or promoted.
            interrupt: a file that ends the trials that run, where it exists.
            grace_s: how long after the deadline (the last rung's, where there is one) a trial may go on; then it is interrupted,
                and what it had reached stays.
            first_deadline, first_ends_at: until when the first one may begin and go on, if that is later: without a candidate
                there is no answer.
            last: how the last rung may be spent; None where nothing is trained.
            held_rung: of a trial: the last rung that its checkpoint holds, -1 if there is none.
            planner: hears how many trials are done, and when they are over.
        """
        self._spec, self._store, self._outbox, self._sampler = spec, store, outbox, sampler
        self._sensitivity, self._pricer, self._make_recipe = sensitivity, pricer, make_recipe
        self._aims, self._rungs, self._deadline, self._interrupt = aims, rungs, deadline, interrupt
        self._last, self._held_rung, self._planner = last, held_rung, planner
        self._ends_at = max(deadline, last.ends_at if last else deadline) + grace_s
        self._first_deadline, self._first_ends_at = max(deadline, first_deadline), max(self._ends_at, first_ends_at)
        self._running: dict[int, _Running] = {}
        self._unfinished: list[TrialPlan] = []
        self._trials_over = False
        self._trained: dict[int, CandidateRecord] = {}
        self._last_drops: dict[int, float] = {}
        self._last_done = self._last_rungs_done()
        self._step_s: dict[int, float] = {}
        self._standings = Standings(rungs, spec.budget, pricer.price(Recipe()))
        self._structures: set[str] = set()
        self._number = 0
        self._done = 0
        self._last_steps: list[int] = []
        self._asked_at, self._stop, self._told = 0.0, False, False

    @property
    def cancelled(self) -> bool:
        """Whether the store said stop."""
        return self._stop

    @property
    def last_steps(self) -> tuple[int, ...]:
        """Of each candidate that was given to the last rung."""
        return tuple(self._last_steps)

    def _last_rungs_done(self) -> int:
        """By earlier lives of what is asked for now: what an extension asks for has a last rung of its own."""
        ended = sum(bool(record.last_steps or record.kept) for record in self._store.candidates())
        asked, found = [self._spec.effort.max_trials, self._spec.effort.max_wall_time_s], self._store.phase(LAST_RUNG_PHASE)
        if found is None or found["asked"] != asked:
            found = {"asked": asked, "before": ended}
            self._store.save_phase(LAST_RUNG_PHASE, found)
        return ended - int(found["before"])

    def restore(self, records: Sequence[CandidateRecord]) -> None:
        """Take over what an earlier life of this search did: what the sampler knows, who stands where, and what was begun."""
        for record in sorted(records, key=lambda one: one.trial_number):
            if record.candidate_id == BASELINE:
                continue
            number, recipe = record.trial_number, Recipe.from_json(record.recipe_json)
            self._number = max(self._number, number + 1)
            self._structures.add(structure_of(recipe))
            policy, price = Policy.from_json(record.policy), self._pricer.price(recipe)
            for reading in record.readings:
                self._stand(number, reading, price)
            if record.goes_on and record.rung + 1 < self._rungs:
                self._sampler.resume(number, policy)
                self._running[number] = _Running(policy, recipe, price, record)
                self._unfinished.append(TrialPlan(number, {"recipe": record.recipe_json}, record.rung + 1))
                continue
            self._done += 1
            if record.last_steps:
                self._last_steps.append(record.last_steps)
            if record.readings and not record.error:
                self._trained[number] = record
                self._sampler.restore(record.policy, *self._standings.told(number))
            self._outbox.candidate(record)
        self._tell_done()

    def propose(self) -> TrialPlan | Wait | None:
        """What an earlier life has begun, then the next recipe that fits the budget by prediction and is new."""
        if self._unfinished:
            plan = self._unfinished.pop(0)
            self._show(plan.number, plan.rung)
            return plan
        begun = self._done + len(self._running)
        if self._trials_over or self._is_late(begun) or begun >= self._spec.effort.max_trials:
            return self._propose_last()
        for _ in range(_ASKS_PER_TRIAL):
            number, policy = self._number, self._sampler.ask(self._number)
            self._number += 1
            allocation = self._allocate(policy)
            if allocation is None:
                self._sampler.tell_failed(number)
                if self._is_late(begun):
                    return self._propose_last()
                continue
            # What cannot fit is not tried, but one candidate is always made: the answer can then name the nearest (contract 5).
            if not self._can_fit(allocation.price) and (self._standings or self._running):
                self._sampler.tell_failed(number)
                continue
            return self._start(number, policy, allocation)
        if not self.should_stop():
            words = f"{_ASKS_PER_TRIAL} policies in a row made no recipe that is new and can fit the budget"
            self.note(f"{words}: the search ends with {begun} of {self._spec.effort.max_trials} candidates", warning=True)
        self._trials_over = True
        return self._propose_last()

    def _is_late(self, begun: int) -> bool:
        """Whether no other trial may begin, after so many."""
        return time.monotonic() > (self._deadline if begun else self._first_deadline)

    def _propose_last(self) -> TrialPlan | Wait | None:
        """The next candidate of the last rung, if there is time for it; they are trained one after the other."""
        if self._last is None or self._last_done >= FEW or self.should_stop():
            return None
        if self._running:
            return WAIT
        expected = {number: self._standings.expected_drop(number) for number in self._trained}
        left: list[Prospect] = []
        trained: list[Prospect] = []
        for number, record in self._trained.items():
            price = self._pricer.price(Recipe.from_json(record.recipe_json))
            over = number in self._last_drops or record.kept
            drop, is_read = self._last_drops.get(number, expected[number]), self._standings.has_finished(number)
            (trained if over else left).append(Prospect(number, drop, price, is_read))
        whole = settled(left, self._spec)
        left, trained = [one for one in left if one not in whole], [*trained, *whole]
        share, wanted_most = recovery(expected, self._last_drops), self._last_done < WANTED
        chosen = most_promising(left, share, self._spec, trained, wanted_most)
        if chosen is None:
            return None
        number, left_s = chosen.number, self._last.ends_at - time.monotonic()
        steps = self._last.steps(self._held_rung(number), self._step_s.get(number), self._last_done, left_s, len(left))
        if not steps:
            return None
        record, recipe = self._trained[number], Recipe.from_json(self._trained[number].recipe_json)
        self._last_steps.append(steps)
        if self._planner is not None:
            self._planner.over(SEARCH)
        self._running[number] = _Running(Policy.from_json(record.policy), recipe, chosen.price, record)
        self.note(f"last rung: {record.candidate_id} is trained for {steps} steps more", {"candidate": record.candidate_id})
        self._show(number, self._rungs)
        return TrialPlan(number, {"recipe": record.recipe_json, "last_steps": steps}, self._rungs)

    def _stand(self, number: int, reading: RungReading, price: Price) -> None:
        if reading.rung < self._rungs:
            self._standings.add(number, reading, price)
        else:
            self._last_drops[number] = reading.drop_points[0]

    def _start(self, number: int, policy: Policy, allocation: Allocation) -> TrialPlan:
        self._structures.add(structure_of(allocation.recipe))
        self._running[number] = _Running(policy, allocation.recipe, allocation.price)
        self._show(number, 0)
        return TrialPlan(number, {"recipe": allocation.recipe.to_json()})

    def _allocate(self, policy: Policy) -> Allocation | None:
        """A new recipe under the policy; a structure seen before is made again with tighter aims."""
        for attempt in range(_ASKS_PER_TRIAL):
            aims = self._aims.at(policy.shares(), _TIGHTENING**attempt)
            try:
                stop = self._store.should_stop
                allocation = allocate(policy, aims, self._sensitivity, self._make_recipe, self._pricer.price, stop)
            except (OptionSkippedError, SearchCancelledError):
                return None
            if structure_of(allocation.recipe) not in self._structures:
                return allocation
            if not allocation.fits:
                return None  # all options that help were taken: tighter aims find no more
        return None

    def _can_fit(self, price: Price) -> bool:
        """Whether even the optimistic end of the prediction is within every limit."""
        return all(limit.can_hold(price) for limit in priced_limits(self._spec.budget))

    def report(self, number: int, rung: int, values: Mapping[str, Any]) -> bool:
        """Store the candidate, then decide: promoted, or told to the sampler and done."""
        running = self._running[number]
        record = self._record(number, rung, running, values)
        if rung == self._rungs and running.record is not None and _is_worse(record, running.record):
            self._keep(number, f"it would have lost {record.drop_points['validation'][0]:+.2f} points")
            return False
        self._stand(number, record.readings[-1], running.price)
        if "step_s" in values:
            self._step_s[number] = values["step_s"]
        goes_on = rung + 1 < self._rungs and self._has_time() and self._standings.is_promoted(number, rung)
        record = replace(record, promoted=goes_on)
        self._running[number] = replace(running, record=record)
        self._store.save_candidate(record, [_candidate_event(record, goes_on, self._pricer.source)])
        self._last_done += rung == self._rungs
        if goes_on:
            self._show(number, rung + 1)
        else:
            self._finish(number, record)
        return goes_on

    def heard(self, word: Word) -> None:
        """Shown to whoever looks."""
        if word.number in self._running:
            self._show(word.number, word.rung, word.epoch, word.epochs)

    def _show(self, number: int, rung: int, epoch: float = 0.0, epochs: float = 0.0) -> None:
        words = f"trial {self._done + len(self._running)} of {self._spec.effort.max_trials}"
        if rung == self._rungs:
            words = f"last rung, candidate {self._last_done + 1} of at most {FEW}"
        self._store.show(Progress("search", words, f"c{number:04d}", rung, max(self._rungs, rung + 1), epoch, epochs))

    def failed(self, number: int, rung: int, message: str) -> None:
        """Store the failure; what the trial reached before stays."""
        if rung == self._rungs:
            self._keep(number, message)
            return
        running = self._running.pop(number)
        before = running.record
        self._sampler.tell_failed(number)
        if self.should_stop() and self._stop:
            return
        if self._is_over():
            message = f"the time for trials was up: {message}"
        record = before or self._record(number, rung, running, {})
        record = replace(record, error=message, state=record.state if before else "failed")
        self._count()
        self._store.save_candidate(record, [Event("warning", f"{record.candidate_id} failed at rung {rung}: {message}")])
        self._outbox.candidate(record)

    def _keep(self, number: int, why: str) -> None:
        """The last rung did a candidate no good: it is as it was, and another one gets the time that is left."""
        record = self._running.pop(number).record
        assert record is not None  # only what was read before comes to the last rung
        if self.should_stop():
            return  # ended from outside: nothing was found out about it
        record = self._trained[number] = replace(record, kept=why)
        words = f"{record.candidate_id} stays as it was before the last rung: {why}"
        self._store.save_candidate(record, [Event("warning", words, {"candidate": record.candidate_id})])
        self._last_done += 1

    def close(self) -> None:
        """Tell of the trials that the end of the time cut off: they have failed, unless they had reached a rung."""
        if not self._stop:
            self.require_time()
        for number, running in list(self._running.items()):
            if running.record is not None:
                self._outbox.candidate(running.record)  # stored when it reached its rung; the tracker has not heard of it
            elif self._is_over():
                self.failed(number, 0, "not finished")

    def require_time(self) -> None:
        """Refuse to go on without any trial.

        Raises:
            SearchError: the time was up before one could begin.
        """
        late_s = time.monotonic() - self._first_deadline
        if not self._done and not self._running and late_s > 0:
            limit_s = self._spec.effort.max_wall_time_s
            least_s = math.ceil((limit_s + late_s) / 10) * 10
            raise SearchError(
                f"the wall time of {limit_s:.0f} s holds no candidate here: baseline and sensitivity are done, and trying, "
                f"exporting and measuring one would end {late_s:.0f} s too late. Allow at least {least_s} s, or give fewer images"
            )

    def should_stop(self) -> bool:
        """Cancelled, or so long after the deadline that trials have to end; wakes up training through the interrupt file."""
        now = time.monotonic()
        if not self._stop and now - self._asked_at > _STOP_POLL_S:
            self._asked_at = now
            self._stop = self._store.should_stop()
        ends = self._stop or self._is_over()
        if ends and not self._told:
            self._told = True
            self._interrupt.touch()
        return ends

    def note(self, message: str, facts: Mapping[str, Any] | None = None, warning: bool = False) -> None:
        """Tell the watchers."""
        self._store.append(Event("warning" if warning else "phase", message, facts or {}))

    def _is_over(self) -> bool:
        return time.monotonic() > (self._ends_at if self._done else self._first_ends_at)

    def _has_time(self) -> bool:
        return not self.should_stop() and time.monotonic() <= self._deadline

    def _finish(self, number: int, record: CandidateRecord) -> None:
        del self._running[number]
        self._trained[number] = record
        if record.rung < self._rungs:
            self._count()
            self._sampler.tell(number, *self._standings.told(number))
        self._outbox.candidate(record)

    def _count(self) -> None:
        self._done += 1
        self._tell_done()

    def _tell_done(self) -> None:
        if self._done and self._planner is not None:
            self._planner.tried(self._done)

    def _record(self, number: int, rung: int, running: _Running, values: Mapping[str, Any]) -> CandidateRecord:
        before = running.record
        return CandidateRecord(
            candidate_id=f"c{number:04d}",
            trial_number=number,
            recipe_json=running.recipe.to_json(),
            seed=self._spec.effort.seed,
            rung=rung,
            policy=running.policy.to_json(),
            accuracy={"validation": values["accuracy"]} if values else {},
            accuracy_interval={"validation": tuple(values["interval"])} if values else {},
            drop_points={"validation": tuple(values["drop_points"])} if values else {},
            measurements=price_measurements(running.price),
            duration_s=(before.duration_s if before else 0.0) + values.get("duration_s", 0.0),
            node=values.get("node", ""),
            earlier=before.readings if before else (),
            last_steps=values.get("last_steps", 0),
        )


def _is_worse(after: CandidateRecord, before: CandidateRecord) -> bool:
    """Whether the reading behind the last rung is above the interval of the one before: less is noise of the split."""
    return after.drop_points["validation"][0] > before.drop_points["validation"][2]


def _candidate_event(record: CandidateRecord, goes_on: bool, source: str) -> Event:
    drop = record.drop_points["validation"][0]
    latency_ms = record.measurements["latency_ms"].value
    message = (
        f"{record.candidate_id} rung {record.rung}: accuracy {record.accuracy['validation']:.4f} (drop {drop:+.2f} points), "
        f"{latency_ms:.3f} ms {source}"
    )
    return Event("candidate", message, {"candidate": record.candidate_id, "rung": record.rung, "promoted": goes_on})
