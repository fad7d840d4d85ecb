"""The plan says what the wall time holds before anything is queued, and is made again by what a search takes."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from search.clock import Clock
from search.pace import Pace
from search.plan import BASELINE, FINALS, LAST_RUNG, SEARCH, SENSITIVITY, Known, SearchPlan, plan_search
from search.planning import PHASE, SPENT_PHASE, Planner
from search.spec import Effort
from tests.search.memory import MemoryStore
from tests.search.records import candidate

IMAGES = {"train": 10_000, "validation": 2_000, "selection": 2_000, "test": 2_000}
PACE_HERE = Pace(macs=40_000_000, image_s=0.001, step_s=0.2, file_s=2.0, latency_ms=0.5, open_s=25.0)
KNOWN = Known(PACE_HERE, IMAGES, trains=True)


def seconds(plan: SearchPlan) -> dict[str, float]:
    return {phase.name: phase.seconds for phase in plan.phases}


@pytest.mark.parametrize("minutes", [3, 5, 10, 30, 60])
def test_what_is_planned_fits_into_the_minutes_and_uses_most_of_them(minutes: float) -> None:
    limit_s = 60.0 * minutes
    plan = plan_search(Effort(max_trials=14, max_wall_time_s=limit_s), KNOWN)
    assert 0.75 * limit_s < plan.duration_s <= limit_s
    assert 1 <= plan.trials <= 14
    assert list(seconds(plan)) == [BASELINE, SENSITIVITY, SEARCH, *[LAST_RUNG] * (minutes > 3), FINALS]


def test_more_minutes_hold_more_candidates_and_then_train_them_longer() -> None:
    plans = [plan_search(Effort(max_trials=24, max_wall_time_s=60.0 * minutes), KNOWN) for minutes in (3, 6, 12, 30, 120)]
    assert [plan.trials for plan in plans] == sorted(plan.trials for plan in plans)
    assert plans[0].trials < plans[-1].trials == 24
    assert [sum(plan.effort.rung_steps) for plan in plans[1:]] == sorted(sum(plan.effort.rung_steps) for plan in plans[1:])
    assert plans[-1].last_steps > plans[1].last_steps


def test_without_training_the_last_rung_and_its_time_are_not_there() -> None:
    plan = plan_search(Effort(max_trials=14, max_wall_time_s=1800.0), replace(KNOWN, trains=False))
    assert plan.effort.stages == (0,)
    assert plan.trials == 14
    assert LAST_RUNG not in seconds(plan)
    assert plan.duration_s < 400.0


def test_epochs_that_are_limited_end_a_search_before_its_time() -> None:
    few, many = (plan_search(Effort(14, 7200.0, max_epochs=epochs), KNOWN) for epochs in (1.0, 4.0))
    assert few.duration_s < many.duration_s < 7200.0
    assert few.last_steps == 40, "half of 79 steps"


def test_a_target_that_is_not_calibrated_comes_on_top() -> None:
    effort = Effort(max_trials=14, max_wall_time_s=600.0)
    later, first = plan_search(effort, KNOWN), plan_search(effort, replace(KNOWN, calibration_s=120.0))
    assert first.duration_s == pytest.approx(later.duration_s + 120.0)
    assert first.trials == later.trials


def test_seconds_of_another_network_go_with_its_macs() -> None:
    scaled = PACE_HERE.scaled(4 * PACE_HERE.macs)
    assert (scaled.image_s, scaled.step_s, scaled.latency_ms) == (0.004, 0.8, 2.0)
    assert (scaled.file_s, scaled.source) == (2.0, "scaled")
    assert Pace.read(scaled.to_json()) == scaled
    assert Pace.read({"seconds": 1.0}) is Pace.read(None) is None, "another version's"
    fewer = plan_search(Effort(max_trials=24, max_wall_time_s=600.0), replace(KNOWN, pace=scaled))
    assert fewer.trials < plan_search(Effort(max_trials=24, max_wall_time_s=600.0), KNOWN).trials


def test_a_plan_comes_back_from_the_store_as_it_was() -> None:
    plan = plan_search(Effort(max_trials=14, max_wall_time_s=600.0), KNOWN)
    assert SearchPlan.read(plan.to_json()) == plan
    assert SearchPlan.read({"phases": []}) is SearchPlan.read(None) is None, "another version's"


def test_trials_at_once_take_less_of_the_time() -> None:
    effort = Effort(max_trials=400, max_wall_time_s=600.0)
    assert plan_search(effort, replace(KNOWN, parallel=4)).trials > 2 * plan_search(effort, KNOWN).trials


def test_what_is_priced_only_is_not_measured() -> None:
    effort = Effort(max_trials=14, max_wall_time_s=600.0)
    here, elsewhere = (plan_search(effort, replace(KNOWN, pace=replace(PACE_HERE, latency_ms=ms))) for ms in (0.5, 0.0))
    for phase in (BASELINE, FINALS):
        assert seconds(elsewhere)[phase] < seconds(here)[phase] - 4.0


def test_the_last_rung_trains_no_more_than_there_are() -> None:
    assert plan_search(Effort(max_trials=1, max_wall_time_s=1800.0), KNOWN).last_candidates == 1


def test_the_start_of_the_runtime_is_not_taken_for_a_trial() -> None:
    effort = Effort(max_trials=14, max_wall_time_s=300.0)
    begun = replace(KNOWN, trains=False, elapsed_s=83.0, over={BASELINE: 30.0, SENSITIVITY: 30.0}, trials=1, trials_s=23.0)
    assert plan_search(effort, begun).trials == 14


@pytest.mark.parametrize("change", [{"source": "remembered"}, {"image_s": None}, {"step_s": float("nan")}, {"file_s": 1e300}])
def test_a_pace_that_is_none_is_not_read(change: dict[str, object]) -> None:
    assert Pace.read(PACE_HERE.to_json() | change) is None


def test_a_plan_that_is_none_is_not_read() -> None:
    plan = plan_search(Effort(max_trials=14, max_wall_time_s=600.0), KNOWN).to_json()
    assert SearchPlan.read(plan | {"source": "remembered"}) is None
    assert SearchPlan.read(plan | {"phases": [{"name": "search", "seconds": None, "message": ""}]}) is None
    store = MemoryStore()
    store.save_phase(SPENT_PHASE, {"at": "measuring", BASELINE: None})
    Worked(store).planner.over(BASELINE)


class Worked:
    """A search whose clock is moved by hand."""

    def __init__(self, store: MemoryStore, spent_s: float = 0.0) -> None:
        self.store, self.effort = store, Effort(max_trials=14, max_wall_time_s=600.0)
        self.clock = Clock(store, 600.0, time.monotonic() - spent_s)
        effort = plan_search(self.effort, KNOWN).effort
        self.planner = Planner(self.effort, replace(KNOWN, effort=effort), store, self.clock, spent_s)

    def pass_s(self, passed_s: float) -> None:
        self.clock._began -= passed_s

    def begin(self, *passed_s: float) -> None:
        """The phases before the trials, each in so many seconds."""
        for phase, one_s in zip((BASELINE, SENSITIVITY), passed_s, strict=True):
            self.pass_s(one_s)
            self.planner.over(phase)

    @property
    def plan(self) -> SearchPlan:
        plan = SearchPlan.read(self.store.phases[PHASE])
        assert plan is not None
        return plan

    @property
    def spent(self) -> dict[str, float]:
        return {name: self.store.phases[SPENT_PHASE][name] for name in (BASELINE, SENSITIVITY, SEARCH, LAST_RUNG, FINALS)}


def test_the_plan_is_made_again_as_the_search_goes_on() -> None:
    worked = Worked(MemoryStore())
    worked.pass_s(70.0)
    worked.planner.over(BASELINE)
    before = worked.plan
    assert seconds(before)[BASELINE] == pytest.approx(70.0, abs=0.5)
    worked.pass_s(20.0)
    worked.planner.over(SENSITIVITY)
    assert seconds(worked.plan)[SENSITIVITY] == pytest.approx(20.0, abs=0.5)
    assert "plan: " in worked.store.events[-1].message
    worked.pass_s(120.0)
    worked.planner.tried(2)
    slow = worked.plan
    assert slow.trials < before.trials, "trials take a minute each, and were thought to take less"
    assert slow.duration_s <= 600.0
    for trials in range(3, 13):
        worked.pass_s(1.0)
        worked.planner.tried(trials)
    assert worked.plan.trials == 14
    assert seconds(worked.plan)[LAST_RUNG] > seconds(slow)[LAST_RUNG]


def test_what_is_over_stands_as_it_was() -> None:
    worked = Worked(MemoryStore())
    worked.begin(30.0, 10.0)
    worked.pass_s(100.0)
    worked.planner.tried(8)
    worked.planner.over(SEARCH)
    worked.pass_s(60.0)
    worked.planner.last_rung_over((120, 80))
    assert (worked.plan.trials, worked.plan.last_candidates, worked.plan.last_steps) == (8, 2, 100), "no more recipes were found"
    worked.pass_s(40.0)
    worked.planner.finalists(3)
    worked.planner.over(FINALS)
    assert worked.plan.finalists == 3
    assert all(phase.over for phase in worked.plan.phases)
    assert worked.plan.duration_s == pytest.approx(240.0, abs=1.0)


def test_what_an_earlier_worker_spent_counts_for_the_phase_that_it_was_at() -> None:
    store = MemoryStore()
    first = Worked(store)
    first.begin(50.0, 10.0)
    first.pass_s(100.0)
    first.planner.tried(5)  # and 20 s later it is killed
    second = Worked(store, spent_s=180.0)
    second.pass_s(30.0)
    second.planner.over(BASELINE)
    assert second.spent[SEARCH] == pytest.approx(120.0, abs=0.5)
    assert second.spent[BASELINE] == pytest.approx(80.0, abs=0.5)
    third = Worked(store, spent_s=210.0)  # the second one, too, at once
    third.pass_s(5.0)
    third.planner.over(BASELINE)
    assert (third.spent[SEARCH], third.spent[SENSITIVITY]) == (pytest.approx(120.0, abs=0.5), pytest.approx(10.0, abs=0.5))
    assert sum(third.spent.values()) == pytest.approx(215.0, abs=0.5)
    assert [phase.over for phase in third.plan.phases][:2] == [True, False]


def test_another_life_plans_with_the_candidates_that_there_are() -> None:
    """From its first plan on: it does not promise the time of those that are done a second time."""
    store = MemoryStore()
    first = Worked(store)
    first.begin(50.0, 10.0)
    first.pass_s(200.0)
    for number in range(10):
        store.save_candidate(replace(candidate(number, 1.0, 1.0), promoted=number == 9))
    first.planner.tried(9)
    second = Worked(store, spent_s=260.0)
    second.pass_s(10.0)
    second.planner.over(BASELINE)
    assert second.planner._known.trials == 9, "the tenth goes on"
    assert seconds(second.plan)[SEARCH] > 200.0
    assert second.plan.trials > 9
