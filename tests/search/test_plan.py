"""The plan says what the wall time holds before anything is queued, and is made again by what a search takes."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from search.clock import Clock
from search.pace import PHASE as PACE
from search.pace import Pace
from search.plan import BASELINE, FINALS, LAST_RUNG, PHASE, SEARCH, SENSITIVITY, Known, SearchPlan, plan_search
from search.planning import Planner
from search.spec import Effort
from tests.search.memory import MemoryStore

IMAGES = {"train": 10_000, "validation": 2_000, "selection": 2_000, "test": 2_000}
PACE_HERE = Pace(macs=40_000_000, image_s=0.001, step_s=0.2, file_s=2.0, latency_ms=0.5, baseline_s=40.0)
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
    assert Pace.from_json(scaled.to_json()) == scaled
    fewer = plan_search(Effort(max_trials=24, max_wall_time_s=600.0), replace(KNOWN, pace=scaled))
    assert fewer.trials < plan_search(Effort(max_trials=24, max_wall_time_s=600.0), KNOWN).trials


def test_a_plan_comes_back_from_the_store_as_it_was() -> None:
    plan = plan_search(Effort(max_trials=14, max_wall_time_s=600.0), KNOWN)
    assert SearchPlan.from_json(plan.to_json()) == plan


class Worked:
    """A search whose clock is moved by hand."""

    def __init__(self, store: MemoryStore) -> None:
        self.store, self.effort = store, Effort(max_trials=14, max_wall_time_s=600.0)
        self.clock = Clock(store, 600.0, time.monotonic())
        effort = plan_search(self.effort, KNOWN).effort
        self.planner = Planner(self.effort, replace(KNOWN, effort=effort), store, self.clock)

    def pass_s(self, passed_s: float) -> None:
        self.clock._began -= passed_s

    @property
    def plan(self) -> SearchPlan:
        return SearchPlan.from_json(self.store.phases[PHASE])


def test_the_plan_is_made_again_as_the_search_goes_on() -> None:
    worked = Worked(MemoryStore())
    worked.pass_s(70.0)
    worked.planner.over(BASELINE)
    before = worked.plan
    assert seconds(before)[BASELINE] == pytest.approx(70.0, abs=0.5)
    worked.pass_s(20.0)
    worked.planner.over(SENSITIVITY)
    assert seconds(worked.plan)[SENSITIVITY] == pytest.approx(20.0, abs=0.5)
    assert Pace.from_json(worked.store.phases[PACE]).sensitivity_s == pytest.approx(20.0, abs=0.5)
    assert "plan: " in worked.store.events[-1].message
    worked.planner.tried(2, 120.0)
    slow = worked.plan
    assert slow.trials < before.trials, "trials take a minute each, and were thought to take less"
    assert slow.duration_s <= 600.0
    worked.planner.tried(4, 16.0)
    assert worked.plan.trials == 14
    assert seconds(worked.plan)[LAST_RUNG] > seconds(slow)[LAST_RUNG]


def test_what_an_earlier_worker_spent_on_a_phase_counts() -> None:
    store = MemoryStore()
    first = Worked(store)
    first.pass_s(50.0)
    first.planner.over(BASELINE)
    second = Worked(store)
    second.pass_s(30.0)
    second.planner.over(BASELINE)
    second.planner.over(BASELINE)
    assert seconds(second.plan)[BASELINE] == pytest.approx(80.0, abs=0.5)
    assert [phase.over for phase in second.plan.phases] == [True, False, False, False, False]
