"""Due times and their runs in the store, on both databases, with a clock that tests move."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from search.spec import Budget, Effort, SearchSpec
from service.errors import EtagMismatchError, PreconditionError, QuotaExceededError
from service.estimate import Estimator
from service.schedules.maker import SearchMaker
from service.schedules.scheduler import Scheduler
from service.schedules.spec import ScheduleSpec, SearchTemplate, Timing
from service.store.database import Database
from service.store.input_store import InputStore, NewInput
from service.store.invariants import violations
from service.store.pages import PageRequest
from service.store.quotas import Quotas
from service.store.schedule_runs import ScheduleRuns
from service.store.schedule_store import NewSchedule, ScheduleStore, StoredRun
from service.store.schema import ScheduleRow, ScheduleRunRow, SearchRow
from service.store.search_catalogue import SearchCatalogue
from service.targets.predictors import PredictorFiles
from tests.service.fakes import dataset_facts, model_facts

MODEL, DATASET = "projects/p/models/m", "projects/p/datasets/d"
TEMPLATE = SearchTemplate(
    MODEL, DATASET, "nightly", SearchSpec("0" * 64, "0" * 64, "cpu-ort-1t", Budget(latency_ms=1.0, max_accuracy_drop_points=1.0))
)
HOUR_S = 3600.0
NOON = 1795608000.0  # 2026-11-25 12:00 UTC


class World:
    """A store with a model and a dataset, and as many servers as one likes."""

    def __init__(self, database: Database, folder: Path, quotas: Quotas | None = None) -> None:
        self.database = database
        self.models, self.datasets = InputStore(database, "model"), InputStore(database, "dataset")
        self.models.add(NewInput(MODEL, "p", "", "onnx", "1" * 64, 7, model_facts()))
        self.datasets.add(NewInput(DATASET, "p", "", "npz", "2" * 64, 7, dataset_facts()))
        self.schedules, self.searches = ScheduleStore(database), SearchCatalogue(database)
        estimator = Estimator(PredictorFiles(folder / "targets"), 1, 40.0)
        self.maker = SearchMaker(self.models, self.datasets, estimator)
        self.runs = ScheduleRuns(database, self.maker.make, quotas or Quotas())

    def add(self, name: str = "t", due: float | None = NOON, **changes: Any) -> str:
        timing = Timing("0 * * * *", **{key: changes.pop(key) for key in list(changes) if key in Timing.__dataclass_fields__})
        spec = ScheduleSpec("", timing, **{"template": TEMPLATE, **changes})
        return self.schedules.create(NewSchedule(f"projects/p/schedules/{name}", "p", spec, due), "", "").name

    def number(self, name: str) -> int:
        return self.schedules.get(name).schedule_id

    def fire(self, name: str, now: float) -> int:
        return self.runs.fire(self.number(name), now)

    def listed(self, name: str) -> list[StoredRun]:
        """Oldest first."""
        return list(self.schedules.runs(name, PageRequest(100, None, "")).items)[::-1]

    def states(self, name: str) -> list[str]:
        return [run.state for run in self.listed(name)]

    def search_count(self) -> int:
        return len(self.searches.list("p", PageRequest(1000, None, "")).items)

    def assert_sound(self) -> None:
        with self.database.read() as session:
            assert violations(session) == []


@pytest.fixture
def world(database: Database, tmp_path: Path) -> World:
    return World(database, tmp_path)


def test_a_due_time_becomes_one_search(world: World) -> None:
    name = world.add()
    assert world.fire(name, NOON - 1) == 0
    assert world.fire(name, NOON + 1) == 1
    assert world.fire(name, NOON + 2) == 0
    (run,) = world.listed(name)
    assert (run.due_time, run.state, run.manual) == (NOON, "SEARCH_CREATED", False)
    search = world.searches.get(run.search)
    assert search.name == "projects/p/searches/t-20261125-120000"
    assert (search.state, search.model, search.dataset, search.display_name) == ("QUEUED", MODEL, DATASET, "nightly")
    assert search.spec == replace(TEMPLATE.spec, model_sha256="a" * 64, dataset_sha256="d" * 64)
    stored = world.schedules.get(name)
    assert (stored.next_run_time, stored.last_run) == (NOON + HOUR_S, run)
    world.assert_sound()


def test_servers_at_once_start_one_search_each(world: World) -> None:
    """A hundred schedules, three servers that look at the very same moment."""
    names = [world.add(f"t{number}") for number in range(100)]
    gate = threading.Barrier(3)
    counts: list[int] = []

    def serve() -> None:
        scheduler = Scheduler(ScheduleStore(world.database), ScheduleRuns(world.database, world.maker.make))
        gate.wait()
        counts.append(scheduler.run_due(NOON + 1))

    servers = [threading.Thread(target=serve) for _ in range(3)]
    for server in servers:
        server.start()
    for server in servers:
        server.join()
    assert sum(counts) == 100
    assert world.search_count() == 100
    assert all(world.states(name) == ["SEARCH_CREATED"] for name in names)
    world.assert_sound()


class _Crash(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("where", ["before the search", "after the search"])
def test_a_server_that_dies_within_a_run_leaves_nothing_half_done(
    world: World, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = world.add()

    def crash(*arguments: Any) -> Any:
        if where == "after the search":
            real(*arguments)
        raise _Crash

    from service.store import schedule_runs

    real = schedule_runs.queue_search
    monkeypatch.setattr(schedule_runs, "queue_search", crash)
    with pytest.raises(_Crash):
        world.fire(name, NOON + 1)
    monkeypatch.undo()
    assert (world.search_count(), world.listed(name)) == (0, [])
    assert world.fire(name, NOON + 2) == 1
    assert (world.search_count(), world.states(name)) == (1, ["SEARCH_CREATED"])


def test_a_clock_that_goes_back_runs_nothing_twice(world: World) -> None:
    name = world.add()
    world.fire(name, NOON + 1)
    world.schedules.pause(name)
    world.schedules.resume(name, NOON - 5)
    assert world.schedules.get(name).next_run_time == NOON
    assert world.fire(name, NOON + 1) == 0
    assert world.search_count() == 1
    assert world.schedules.get(name).next_run_time == NOON + HOUR_S


def test_missed_due_times_are_told(world: World) -> None:
    name = world.add(misfire_grace_s=3 * HOUR_S)
    world.fire(name, NOON + 5.5 * HOUR_S)
    missed, run = world.listed(name)
    assert (missed.due_time, missed.state) == (NOON, "SKIPPED")
    assert "no server was there" in missed.message
    assert (run.due_time, run.state) == (NOON + 5 * HOUR_S, "SEARCH_CREATED")
    assert "stands for 2 earlier due times" in run.message


@pytest.mark.parametrize(
    ("policy", "states", "searches"),
    [
        ("skip", ["SEARCH_CREATED", "SKIPPED"], ["QUEUED"]),
        ("queue", ["SEARCH_CREATED", "SEARCH_CREATED"], ["QUEUED", "QUEUED"]),
        ("cancel_previous", ["SEARCH_CREATED", "SEARCH_CREATED"], ["CANCELLED", "QUEUED"]),
    ],
)
def test_overlaps(world: World, policy: str, states: list[str], searches: list[str]) -> None:
    name = world.add(overlap_policy=policy)
    for hour in (0, 1):
        world.fire(name, NOON + hour * HOUR_S + 1)
    assert world.states(name) == states
    listed = world.searches.list("p", PageRequest(10, None, "")).items[::-1]
    assert [search.state for search in listed] == searches
    if policy == "skip":
        assert f"{listed[0].name} had not ended" in world.listed(name)[1].message
        world.searches.cancel(listed[0].name)
        world.fire(name, NOON + 2 * HOUR_S + 1)
        assert world.states(name)[-1] == "SEARCH_CREATED"
    world.assert_sound()


def test_overlaps_are_those_of_the_same_schedule(world: World) -> None:
    names = [world.add("a"), world.add("b")]
    assert [world.fire(name, NOON + 1) for name in names] == [1, 1]
    assert world.search_count() == 2


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda world: world.models.delete(MODEL), f"{MODEL} does not exist any more"),
        (lambda world: world.datasets.delete(DATASET), f"{DATASET} does not exist any more"),
        (lambda world: other_dataset(world), "do not go together: dataset: gives"),
    ],
)
def test_a_run_that_cannot_be_says_why_and_the_next_goes_on(world: World, spoil: Callable[[World], None], words: str) -> None:
    name = world.add()
    spoil(world)
    assert world.fire(name, NOON + 1) == 1
    (run,) = world.listed(name)
    assert run.state == "FAILED"
    assert words in run.message
    assert "update the schedule's template" in run.message
    assert world.schedules.get(name).next_run_time == NOON + HOUR_S
    world.assert_sound()


def other_dataset(world: World) -> None:
    world.datasets.delete(DATASET)
    facts = {**dataset_facts(), "preprocessing": {"height": 32, "width": 32, "channels": 3}}
    world.datasets.add(NewInput(DATASET, "p", "", "npz", "2" * 64, 7, facts))


def test_quotas_hold_for_scheduled_searches(database: Database, tmp_path: Path) -> None:
    world = World(database, tmp_path, Quotas(concurrent_searches=1))
    names = [world.add("a"), world.add("b")]
    for name in names:
        world.fire(name, NOON + 1)
    assert [world.states(name) for name in names] == [["SEARCH_CREATED"], ["FAILED"]]
    assert "may have 1" in world.listed(names[1])[0].message


def test_a_run_that_breaks_the_server_is_given_up_and_others_go_on(world: World) -> None:
    bad, good = world.add("bad"), world.add("good")

    def make(template: SearchTemplate, project: str, name: str, model_name: str) -> Any:
        if "/bad-" in name:
            raise RuntimeError("unforeseen")
        return world.maker.make(template, project, name, model_name)

    runs = ScheduleRuns(world.database, make)
    assert Scheduler(world.schedules, runs).run_due(NOON + 1) == 1
    assert (world.states(bad), world.states(good)) == (["FAILED"], ["SEARCH_CREATED"])
    assert "its log has the details" in world.listed(bad)[0].message
    world.assert_sound()


def test_a_schedule_that_this_version_cannot_read_is_paused_with_the_reason_and_others_go_on(world: World) -> None:
    bad, good = world.add("bad"), world.add("good")
    with world.database.write() as session:
        row = session.scalar(select(ScheduleRow).filter_by(name=bad))
        assert row is not None
        row.spec_json, number = row.spec_json.replace('"max_trials"', '"most_candidates"'), row.id
    assert Scheduler(world.schedules, world.runs).run_due(NOON + 1) == 1
    assert world.states(good) == ["SEARCH_CREATED"]
    assert [one.name for one in world.schedules.list("p", PageRequest(10, None, "")).items] == [good]
    with pytest.raises(PreconditionError, match="cannot read the request"):
        world.schedules.get(bad)
    with world.database.read() as session:
        paused = session.get_one(ScheduleRow, number)
        run = session.scalar(select(ScheduleRunRow).filter_by(schedule_id=number))
        assert (paused.paused, paused.next_run_time) == (True, None)
        assert run is not None
        assert (run.state, "most_candidates" in run.message) == ("FAILED", True)


def test_run_now(world: World) -> None:
    name = world.add(due=None, overlap_policy="skip")
    first = world.runs.run_now(name, "r1", "d1")
    assert (first.manual, first.state) == (True, "SEARCH_CREATED")
    assert world.runs.run_now(name, "r1", "d1") == first
    assert world.runs.run_now(name, "r2", "d2").state == "SEARCH_CREATED"
    assert world.search_count() == 2


def test_a_taken_name_does_not_stop_a_run(world: World) -> None:
    name = world.add()
    world.fire(name, NOON + 1)
    world.schedules.delete(name)
    assert world.search_count() == 1
    again = world.add(overlap_policy="queue")
    world.fire(again, NOON + 1)
    assert world.search_count() == 2
    assert world.states(again) == ["SEARCH_CREATED"]


def test_a_long_name_gives_a_name_that_is_one(world: World) -> None:
    name = world.add("a" * 63)
    world.fire(name, NOON + 1)
    (run,) = world.listed(name)
    assert world.searches.get(run.search).name == f"projects/p/searches/{'a' * 40}-20261125-120000"


def test_changes(world: World) -> None:
    name = world.add()
    before = world.schedules.get(name)
    slower = replace(before.spec, timing=replace(before.spec.timing, cron="0 0 * * *"))
    after = world.schedules.update(name, slower, before.etag, NOON)
    assert after.next_run_time == NOON + 12 * HOUR_S
    with pytest.raises(EtagMismatchError):
        world.schedules.update(name, before.spec, before.etag, NOON)
    renamed = world.schedules.update(name, replace(slower, display_name="x"), after.etag, NOON + 100 * HOUR_S)
    assert renamed.next_run_time == after.next_run_time
    paused = world.schedules.pause(name)
    assert (paused.paused, paused.next_run_time) == (True, None)
    assert world.schedules.pause(name) == paused
    assert world.schedules.update(name, before.spec, "", NOON).next_run_time is None
    resumed = world.schedules.resume(name, NOON + 1)
    assert resumed.next_run_time == NOON + HOUR_S
    assert world.schedules.resume(name, NOON + 9 * HOUR_S) == resumed


def test_due_are_the_longest_waiting_first(world: World) -> None:
    late, early = world.add("late", NOON + 1), world.add("early", NOON)
    world.add("resting", None)
    assert world.schedules.due(NOON - 1) == []
    assert world.schedules.due(NOON + 1) == [world.number(early), world.number(late)]
    assert world.schedules.next_due() == NOON


def test_a_project_has_at_most_so_many(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.store.schedule_store.MAX_SCHEDULES", 1)
    world.add("a")
    with pytest.raises(QuotaExceededError, match="delete those"):
        world.add("b")


def test_a_spec_is_kept_as_it_was_said() -> None:
    effort = Effort(max_trials=3)
    spec = ScheduleSpec("x", Timing("0 0 * * *"), replace(TEMPLATE, spec=replace(TEMPLATE.spec, effort=effort, scopes=("a", "b"))))
    assert ScheduleSpec.from_json(spec.to_json()) == spec
    with pytest.raises(ValueError, match="known version"):
        ScheduleSpec.from_json('{"type": "schedule", "version": 2}')


def test_the_checker_sees_what_must_not_be(world: World) -> None:
    name = world.add()
    world.fire(name, NOON + 1)
    with world.database.write() as session:
        run = session.scalars(select(ScheduleRunRow)).one()
        run.search, run.state, run.lease_owner = "projects/q/searches/x", "SEARCH_CREATED", "somebody"
    with world.database.read() as session:
        assert len(violations(session)) == 2
    with world.database.write() as session:
        session.scalars(select(ScheduleRunRow)).one().state = "ODD"
        assert session.scalars(select(SearchRow)).all()
    with world.database.read() as session:
        assert any("ODD" in sentence for sentence in violations(session))
