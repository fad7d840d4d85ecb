"""The search driver: proposes trials, records what they return, decides who is promoted. The only writer (contract 6)."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from search.allocation import Allocation, MakeRecipe, aims_of, allocate
from search.effort_plan import FIRST_PEERS, PROMOTED_SHARE
from search.errors import OptionSkippedError, SearchCancelledError, SearchError
from search.execution.trial import TrialPlan
from search.execution.word import Word
from search.pareto import non_dominated_ranks, objectives
from search.pricing import Price, Pricer, price_measurements
from search.protocols import BASELINE, CandidateRecord, CandidateStore, Event, Progress
from search.sampler import PolicySampler
from search.sensitivity import Sensitivity
from search.space import Policy
from search.spec import SearchSpec
from search.tracking.outbox import Outbox
from techniques.recipe import Recipe

_ASKS_PER_TRIAL = 8
_TIGHTENING = 0.93
_STOP_POLL_S = 0.3


@dataclass(frozen=True)
class _Running:
    policy: Policy
    allocation: Allocation
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
        rungs: int,
        deadline: float,
        interrupt: Path,
        grace_s: float = math.inf,
        first_deadline: float = -math.inf,
        first_ends_at: float = -math.inf,
    ) -> None:
        """See the class.

        Args:
            deadline: of `time.monotonic`; behind it nothing is proposed or promoted.
            interrupt: a file that ends the trials that run, where it exists.
            grace_s: how long after the deadline a trial may go on; then it is interrupted, and what it had reached stays.
            first_deadline, first_ends_at: until when the first one may begin and go on, if that is later: without a candidate
                there is no answer.
        """
        self._spec, self._store, self._outbox, self._sampler = spec, store, outbox, sampler
        self._sensitivity, self._pricer, self._make_recipe = sensitivity, pricer, make_recipe
        self._rungs, self._deadline, self._interrupt = rungs, deadline, interrupt
        self._ends_at = deadline + grace_s
        self._first_deadline, self._first_ends_at = max(deadline, first_deadline), max(self._ends_at, first_ends_at)
        self._original = pricer.price(Recipe())
        self._running: dict[int, _Running] = {}
        self._by_rung: list[dict[int, CandidateRecord]] = [{} for _ in range(rungs)]
        self._recipes: set[str] = set()
        self._number = 0
        self._done = 0
        self._asked_at, self._stop, self._told = 0.0, False, False

    @property
    def cancelled(self) -> bool:
        """Whether the store said stop."""
        return self._stop

    def restore(self, records: Sequence[CandidateRecord]) -> None:
        """Take over what an earlier life of this search finished: sampler, rungs and numbers."""
        for record in records:
            if record.candidate_id == BASELINE:
                continue
            self._number = max(self._number, record.trial_number + 1)
            self._recipes.add(Recipe.from_json(record.recipe_json).digest)
            self._done += 1
            if record.state != "failed":
                self._by_rung[min(record.rung, self._rungs - 1)][record.trial_number] = record
                self._sampler.restore(record.policy, self._values(record), self._constraints(record))
            self._outbox.candidate(record)

    def propose(self) -> TrialPlan | None:
        """The next recipe that fits the budget by prediction and is new."""
        begun = self._done + len(self._running)
        if begun >= self._spec.effort.max_trials or time.monotonic() > (self._deadline if begun else self._first_deadline):
            return None
        for _ in range(_ASKS_PER_TRIAL):
            number, policy = self._number, self._sampler.ask(self._number)
            self._number += 1
            allocation = self._allocate(policy)
            if allocation is None:
                self._sampler.tell_failed(number)
                continue
            # What cannot fit is not tried, but one candidate is always made: the answer can then name the nearest (contract 5).
            if not self._can_fit(allocation.price) and (any(self._by_rung) or self._running):
                self._sampler.tell_failed(number)
                continue
            return self._start(number, policy, allocation)
        return None

    def _start(self, number: int, policy: Policy, allocation: Allocation) -> TrialPlan:
        self._recipes.add(allocation.recipe.digest)
        self._running[number] = _Running(policy, allocation)
        self._show(number, 0)
        return TrialPlan(number, {"recipe": allocation.recipe.to_json()})

    def _allocate(self, policy: Policy) -> Allocation | None:
        """A new recipe under the policy; a recipe seen before is made again with tighter aims."""
        tightness = policy.tightness
        for _ in range(_ASKS_PER_TRIAL):
            aims = aims_of(self._spec.budget, self._original, tightness)
            try:
                stop = self._store.should_stop
                allocation = allocate(policy, aims, self._sensitivity, self._make_recipe, self._pricer.price, stop)
            except (OptionSkippedError, SearchCancelledError):
                return None
            if allocation.recipe.digest not in self._recipes:
                return allocation
            if not allocation.fits:
                # All moves that help were made: tighter aims give the same recipe.
                return None
            tightness *= _TIGHTENING
        return None

    def _can_fit(self, price: Price) -> bool:
        """Whether even the optimistic end of the prediction is within every limit."""
        budget = self._spec.budget
        named = price.named()
        optimistic = price.latency.value - price.latency.spread
        return (
            (budget.latency_ms is None or optimistic <= budget.latency_ms)
            and (budget.size_bytes is None or named[budget.size_name] <= budget.size_bytes)
            and (budget.macs is None or price.macs <= budget.macs)
        )

    def report(self, number: int, rung: int, values: Mapping[str, Any]) -> bool:
        """Store the candidate, then decide: promoted, or told to the sampler and done."""
        running = self._running[number]
        record = self._record(number, rung, running, values)
        self._running[number] = replace(running, record=record)
        self._by_rung[rung][number] = record
        goes_on = rung + 1 < self._rungs and self._has_time() and self._is_promoted(record, rung)
        self._store.save_candidate(record, [_candidate_event(record, goes_on)])
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
        self._store.show(Progress("search", words, f"c{number:04d}", rung, self._rungs, epoch, epochs))

    def failed(self, number: int, rung: int, message: str) -> None:
        """Store the failure; what the trial reached before stays."""
        running = self._running.pop(number)
        self._sampler.tell_failed(number)
        if self.should_stop() and self._stop:
            return
        if self._is_over():
            message = f"the time for trials was up: {message}"
        before = running.record
        record = before or self._record(number, rung, running, {})
        record = replace(record, error=message, state=record.state if before else "failed")
        self._done += 1
        self._store.save_candidate(record, [Event("warning", f"{record.candidate_id} failed at rung {rung}: {message}")])
        self._outbox.candidate(record)

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
        self._done += 1
        self._sampler.tell(number, self._values(record), self._constraints(record))
        self._outbox.candidate(record)

    def _is_promoted(self, record: CandidateRecord, rung: int) -> bool:
        """Successive halving: least over the accuracy limit first, then by non-dominated rank, then by drop.

        The rank is MO-ASHA's promotion (Schmucker 2021, section 3); the limit comes before it (constrained domination,
        Deb 2002, section VI-A), or the fastest networks would be trained however little of them is left.
        The first few have nothing to be compared with and go on.
        """
        peers = list(self._by_rung[rung].values())
        if len(peers) <= FIRST_PEERS:
            return True
        ranks = non_dominated_ranks([objectives(r, "validation") for r in peers])
        limit = self._spec.budget.max_accuracy_drop_points

        def key(pair: tuple[int, CandidateRecord]) -> tuple[float, ...]:
            drop = objectives(pair[1], "validation")[0]
            return (max(drop - limit, 0.0) if limit is not None else 0.0, pair[0], drop)

        order = sorted(zip(ranks, peers, strict=True), key=key)
        keep = math.ceil(len(peers) * PROMOTED_SHARE)
        return record.trial_number in {r.trial_number for _, r in order[:keep]}

    def _record(self, number: int, rung: int, running: _Running, values: Mapping[str, Any]) -> CandidateRecord:
        price = running.allocation.price
        before = running.record
        return CandidateRecord(
            candidate_id=f"c{number:04d}",
            trial_number=number,
            recipe_json=running.allocation.recipe.to_json(),
            seed=self._spec.effort.seed,
            rung=rung,
            policy=running.policy.to_json(),
            accuracy={"validation": values["accuracy"]} if values else {},
            accuracy_interval={"validation": tuple(values["interval"])} if values else {},
            drop_points={"validation": tuple(values["drop_points"])} if values else {},
            measurements=price_measurements(price),
            duration_s=(before.duration_s if before else 0.0) + values.get("duration_s", 0.0),
            node=values.get("node", ""),
        )

    def _values(self, record: CandidateRecord) -> tuple[float, float, float]:
        drop, latency, size = objectives(record, "validation")
        return drop, latency / self._original.latency.value, size / self._original.onnx_size_bytes

    def _constraints(self, record: CandidateRecord) -> tuple[float, ...]:
        """Relative excess over each limit; at most 0 is met."""
        budget = self._spec.budget
        drop = record.drop_points["validation"][0]
        limits = (
            (record.measurements["latency_ms"].value, budget.latency_ms),
            (record.measurements[budget.size_name].value, budget.size_bytes),
            (record.measurements["macs"].value, budget.macs),
        )
        values = [value / limit - 1 for value, limit in limits if limit is not None]
        if budget.max_accuracy_drop_points is not None:
            values.append(drop - budget.max_accuracy_drop_points)
        return tuple(values) or (0.0,)


def _candidate_event(record: CandidateRecord, goes_on: bool) -> Event:
    drop = record.drop_points["validation"][0]
    latency = record.measurements["latency_ms"]
    message = (
        f"{record.candidate_id} rung {record.rung}: accuracy {record.accuracy['validation']:.4f} (drop {drop:+.2f} points), "
        f"{latency.value:.3f} ms {latency.source}"
    )
    return Event("candidate", message, {"candidate": record.candidate_id, "rung": record.rung, "promoted": goes_on})
