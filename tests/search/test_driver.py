"""The search driver's decisions: what is proposed, promoted and told, without Ray and without training."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from search.aims import Aims
from search.driver import SearchDriver
from search.errors import SearchError
from search.execution.trial import TrialPlan
from search.last_rung import LastRung
from search.sampler import PolicySampler
from search.space import search_space
from search.spec import Budget, Effort, SearchSpec
from search.tracking.outbox import Outbox
from techniques.recipe import Recipe
from tests.search.memory import MemoryStore, SilentTracker
from tests.search.priced_options import MANY_SENSITIVITY, made_price, made_recipe

LOWEST_MS = 0.4
NOTHING_FITS = Budget(latency_ms=0.8, size_bytes=1)


class MadePricer:
    """A `Pricer` without a network, for a target that nobody has measured."""

    source = "predicted, uncalibrated"
    price = staticmethod(made_price)


class Life:
    """One life of a search: its driver, and what store and tracker have kept."""

    def __init__(
        self,
        folder: Path,
        budget: Budget,
        trials: int = 4,
        rungs: int = 2,
        store: MemoryStore | None = None,
        time_s: float = 600.0,
        grace_s: float = 600.0,
        first_s: float = -600.0,
        last: LastRung | None = None,
    ) -> None:
        self.store, self.tracker = store or MemoryStore(), SilentTracker()
        self.interrupt = folder / "interrupt"
        pricer: Any = MadePricer()
        aims = Aims.of(budget, "fastest", made_price(Recipe()).named(), {"latency_ms": LOWEST_MS})
        self.driver = SearchDriver(
            spec=SearchSpec("model", "dataset", "target", budget, Effort(max_trials=trials)),
            store=self.store,
            outbox=Outbox(self.tracker, "searches/s"),
            sampler=PolicySampler(search_space(MANY_SENSITIVITY.offered, (), aims.ranges), 0, folder / "optuna.db"),
            aims=aims,
            sensitivity=MANY_SENSITIVITY,
            pricer=pricer,
            make_recipe=made_recipe,
            rungs=rungs,
            deadline=time.monotonic() + time_s,
            interrupt=self.interrupt,
            grace_s=grace_s,
            first_deadline=time.monotonic() + first_s,
            first_ends_at=time.monotonic() + first_s,
            last=last,
        )

    def proposed(self) -> TrialPlan:
        plan = self.driver.propose()
        assert isinstance(plan, TrialPlan)
        return plan


def values_of(drop_points: float, duration_s: float = 1.0) -> Mapping[str, Any]:
    interval = (drop_points - 0.5, drop_points + 0.5)
    return {
        "accuracy": 0.9 - drop_points / 100,
        "interval": (0.88, 0.91),
        "drop_points": (drop_points, *interval),
        "duration_s": duration_s,
    }


def _latency_ms(plan: TrialPlan) -> float:
    return made_price(Recipe.from_json(plan.payload["recipe"])).latency.value


def test_what_is_proposed_is_new_and_fits_by_prediction(tmp_path: Path) -> None:
    life = Life(tmp_path, Budget(latency_ms=0.8, max_accuracy_drop_points=5.0), trials=3)
    plans = [life.proposed() for _ in range(3)]
    assert all(_latency_ms(plan) <= 0.8 for plan in plans)
    assert len({plan.payload["recipe"] for plan in plans}) == 3


def test_no_more_than_the_asked_trials_run_or_have_run(tmp_path: Path) -> None:
    life = Life(tmp_path, Budget(latency_ms=0.8), trials=2, rungs=1)
    first = life.proposed()
    life.driver.report(first.number, 0, values_of(1.0))
    life.proposed()
    assert life.driver.propose() is None


def test_nothing_is_proposed_once_the_time_is_over(tmp_path: Path) -> None:
    assert Life(tmp_path, Budget(latency_ms=0.8), time_s=-1.0).driver.propose() is None


def test_one_candidate_is_made_even_if_nothing_can_fit(tmp_path: Path) -> None:
    life = Life(tmp_path, NOTHING_FITS)
    only = life.proposed()
    assert life.driver.propose() is None
    life.driver.report(only.number, 0, values_of(9.0))
    assert life.driver.propose() is None
    assert list(life.store.records) == [f"c{only.number:04d}"]


def test_a_failed_trial_is_not_the_one_candidate_that_is_always_made(tmp_path: Path) -> None:
    life = Life(tmp_path, NOTHING_FITS)
    failed = life.proposed()
    life.driver.failed(failed.number, 0, "its process died")
    other = life.proposed()
    assert other.payload["recipe"] != failed.payload["recipe"]


def test_another_life_knows_that_the_one_candidate_was_made_on_whatever_rung(tmp_path: Path) -> None:
    before = Life(tmp_path, NOTHING_FITS)
    only = before.proposed()
    for rung in range(2):
        before.driver.report(only.number, rung, values_of(9.0))
    after = Life(tmp_path, NOTHING_FITS, store=before.store)
    after.driver.restore(before.store.candidates())
    assert after.driver.propose() is None


def test_the_first_candidates_go_on_and_then_only_the_better_half(tmp_path: Path) -> None:
    life = Life(tmp_path, Budget(latency_ms=0.95, max_accuracy_drop_points=2.0), trials=5)
    goes_on = [life.driver.report(life.proposed().number, 0, values_of(drop)) for drop in (1.0, 1.5, 9.0)]
    assert goes_on == [True, True, True]
    assert not life.driver.report(life.proposed().number, 0, values_of(20.0))


def test_the_last_rung_ends_a_trial(tmp_path: Path) -> None:
    life = Life(tmp_path, Budget(latency_ms=0.8), rungs=2)
    plan = life.proposed()
    assert life.driver.report(plan.number, 0, values_of(2.0, duration_s=3.0))
    assert life.tracker.calls == []
    assert not life.driver.report(plan.number, 1, values_of(1.0, duration_s=4.0))
    (record,) = life.store.records.values()
    assert (record.rung, record.drop_points["validation"][0], record.duration_s) == (1, 1.0, 7.0)
    assert [(e.payload["rung"], e.payload["promoted"]) for e in life.store.events] == [(0, True), (1, False)]
    assert all(event.message.endswith("ms predicted, uncalibrated") for event in life.store.events)
    assert [(reading.rung, reading.drop_points[0]) for reading in record.readings] == [(0, 2.0), (1, 1.0)]
    assert life.tracker.calls == [record.candidate_id]


def test_a_failure_keeps_what_the_trial_had_reached(tmp_path: Path) -> None:
    life = Life(tmp_path, Budget(latency_ms=0.8))
    plan = life.proposed()
    life.driver.report(plan.number, 0, values_of(2.0))
    life.driver.failed(plan.number, 1, "out of memory")
    (record,) = life.store.records.values()
    assert (record.state, record.rung, record.error) == ("evaluated", 0, "out of memory")
    assert life.store.events[-1].kind == "warning"
    assert "out of memory" in life.store.events[-1].message


def test_a_cancelled_search_proposes_no_promotion_and_interrupts_training(tmp_path: Path) -> None:
    life = Life(tmp_path, Budget(latency_ms=0.8))
    plan = life.proposed()
    life.store.stop = True
    assert not life.driver.report(plan.number, 0, values_of(1.0))
    assert life.driver.cancelled
    assert life.interrupt.exists()


def test_behind_the_deadline_nothing_is_promoted(tmp_path: Path) -> None:
    life = Life(tmp_path, Budget(latency_ms=0.8), time_s=2.0)
    plan = life.proposed()
    time.sleep(2.0)
    assert not life.driver.report(plan.number, 0, values_of(1.0))
    assert not life.driver.should_stop(), "a trial that trains has some grace"
    assert not life.interrupt.exists()


def test_behind_the_grace_trials_are_interrupted_and_what_they_had_reached_stays(tmp_path: Path) -> None:
    life = Life(tmp_path, Budget(latency_ms=0.8), time_s=2.0, grace_s=0.1)
    plan = life.proposed()
    assert life.driver.report(plan.number, 0, values_of(1.0))
    time.sleep(2.1)
    assert life.driver.should_stop()
    assert life.interrupt.exists()
    assert not life.driver.cancelled, "the finals are still to come"
    life.driver.failed(plan.number, 1, "training was interrupted")
    (record,) = life.store.records.values()
    assert (record.state, record.error) == ("evaluated", "the time for trials was up: training was interrupted")


def test_a_trial_that_the_end_of_the_time_cut_off_has_failed_with_that_reason(tmp_path: Path) -> None:
    life = Life(tmp_path, Budget(latency_ms=0.8), time_s=2.0, grace_s=0.0)
    plan = life.proposed()
    time.sleep(2.0)
    assert life.driver.should_stop()
    life.driver.close()
    (record,) = life.store.records.values()
    assert (record.trial_number, record.state, record.error) == (plan.number, "failed", "the time for trials was up: not finished")


def test_a_search_without_time_for_any_trial_says_so(tmp_path: Path) -> None:
    life = Life(tmp_path, Budget(latency_ms=0.8), time_s=-1.0)
    assert life.driver.propose() is None
    with pytest.raises(SearchError, match=r"wall time of 1800 s holds no candidate here.* 1 s too late. Allow at least 1810 s"):
        life.driver.close()


def test_a_trial_that_cancelling_ended_is_no_failure(tmp_path: Path) -> None:
    life = Life(tmp_path, Budget(latency_ms=0.8))
    plan = life.proposed()
    life.store.stop = True
    life.driver.failed(plan.number, 0, "interrupted")
    assert not life.store.records


@pytest.mark.parametrize("ends", ["report", "failed"])
def test_another_life_goes_on_with_new_numbers_and_recipes_and_the_rest_of_the_trials(tmp_path: Path, ends: str) -> None:
    budget = Budget(latency_ms=0.8)
    before = Life(tmp_path, budget, trials=2, rungs=1)
    first = before.proposed()
    if ends == "report":
        before.driver.report(first.number, 0, values_of(1.0))
    else:
        before.driver.failed(first.number, 0, "cannot be built")
    after = Life(tmp_path, budget, trials=2, rungs=1, store=before.store)
    after.driver.restore(before.store.candidates())
    second = after.proposed()
    assert second.number > first.number
    assert second.payload["recipe"] != first.payload["recipe"]
    assert after.driver.propose() is None, "two trials were asked for, over both lives"
    assert after.tracker.calls == [f"c{first.number:04d}"], "the tracker may have missed it"


@pytest.mark.parametrize("cancelled", [False, True])
def test_what_was_cut_off_between_two_rungs_reaches_the_tracker(cancelled: bool, tmp_path: Path) -> None:
    life = Life(tmp_path, Budget(latency_ms=0.8))
    plan = life.proposed()
    assert life.driver.report(plan.number, 0, values_of(1.0)), "promoted"
    life.store.stop = cancelled
    time.sleep(0.4)
    life.driver.should_stop()
    life.driver.close()
    assert life.tracker.calls == [f"c{plan.number:04d}"]


def test_the_first_candidate_may_begin_later_than_others(tmp_path: Path) -> None:
    """A minute is over in the baseline on a busy machine; one untrained candidate is an answer, none is not."""
    life = Life(tmp_path, Budget(latency_ms=0.8), time_s=-1.0, grace_s=0.0, first_s=60.0)
    life.driver.require_time()
    plan = life.proposed()
    assert not life.driver.should_stop()
    assert life.driver.propose() is None, "only one"
    assert not life.driver.report(plan.number, 0, values_of(1.0)), "for training there is no time"
    time.sleep(0.4)
    assert life.driver.should_stop()
    assert life.driver.propose() is None
    assert [record.state for record in life.store.records.values()] == ["evaluated"]


def _drop_of(plan: TrialPlan, rung: int) -> float:
    """A drop that follows from the recipe; training takes most of it back."""
    digest = Recipe.from_json(plan.payload["recipe"]).digest
    return (1 + int(digest[:4], 16) / 65536 * 20) * (1.0, 0.2)[rung]


def _lived(folder: Path, cut_after: int | None) -> MemoryStore:
    """A search of seven trials; every ``cut_after`` reports the process dies, perhaps between two rungs of a trial."""
    budget, store = Budget(latency_ms=0.9, max_accuracy_drop_points=2.0), MemoryStore()
    while True:
        folder.mkdir(exist_ok=True)
        life, reports = Life(folder, budget, trials=7, store=store), 0
        life.driver.restore(store.candidates())
        while isinstance(plan := life.driver.propose(), TrialPlan):
            rung = plan.rung
            while reports != cut_after:
                reports += 1
                if not life.driver.report(plan.number, rung, values_of(_drop_of(plan, rung))):
                    break
                rung += 1
            if reports == cut_after:
                break
        else:
            return store


@pytest.mark.parametrize("cut_after", [1, 2, 3, 5])
def test_a_search_that_dies_again_and_again_is_the_search_that_did_not(tmp_path: Path, cut_after: int) -> None:
    whole, cut = _lived(tmp_path / "whole", None), _lived(tmp_path / "cut", cut_after)
    assert len(whole.records) == 7
    assert {r.rung for r in whole.records.values()} == {0, 1}
    assert [replace(r, duration_s=0.0) for r in cut.candidates()] == [replace(r, duration_s=0.0) for r in whole.candidates()]


def test_a_trial_that_was_promoted_when_its_process_died_goes_on_at_its_next_rung(tmp_path: Path) -> None:
    before = Life(tmp_path, Budget(latency_ms=0.8), trials=1)
    plan = before.proposed()
    assert before.driver.report(plan.number, 0, values_of(2.0))
    after = Life(tmp_path, Budget(latency_ms=0.8), trials=1, store=before.store)
    after.driver.restore(before.store.candidates())
    again = after.proposed()
    assert (again.number, again.rung, again.payload) == (plan.number, 1, plan.payload)
    assert after.driver.propose() is None
    assert not after.driver.report(again.number, 1, values_of(1.0))


def test_an_end_for_want_of_new_recipes_is_told(tmp_path: Path) -> None:
    life = Life(tmp_path, NOTHING_FITS, trials=9)
    life.driver.report(life.proposed().number, 0, values_of(9.0))
    assert life.driver.propose() is None
    told = [event.message for event in life.store.events if event.kind == "warning"]
    assert told == ["8 policies in a row made no recipe that is new and can fit the budget: the search ends with 1 of 9 candidates"]
