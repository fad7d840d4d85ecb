"""Schedules over a real server: what users do, what is refused, and that due times really come."""

from __future__ import annotations

import time
from pathlib import Path

import grpc
import pytest

from paretopress.client import Client
from paretopress.errors import RequestRefusedError
from paretopress.v1 import schedule_pb2, search_pb2
from service.testing import InProcessServer
from tests.service.conftest import upload_inputs
from tests.service.fakes import FakeImporter
from tests.waiting import wait_until

NAME = "projects/default/schedules/nightly"
Schedule = schedule_pb2.Schedule


@pytest.fixture
def template(client: Client, tmp_path: Path) -> search_pb2.Search:
    return upload_inputs(client, tmp_path)


@pytest.fixture
def schedule(client: Client, template: search_pb2.Search) -> Schedule:
    asked = Schedule(display_name="every night", cron="30 2 * * *", time_zone="Europe/Berlin", template=template)
    return client.create_schedule(asked, schedule_id="nightly")


def test_a_schedule_comes_back_as_it_was_made(client: Client, schedule: Schedule, template: search_pb2.Search) -> None:
    assert schedule.name == NAME
    assert client.get_schedule(NAME) == schedule
    assert list(client.list_schedules()) == [schedule]
    for field in ("model", "dataset", "target"):
        assert getattr(schedule.template, field) == getattr(template, field)
    assert schedule.template.budget.latency_ms == template.budget.latency_ms
    assert schedule.template.effort.max_trials == 24
    assert not schedule.template.name
    assert schedule.next_run_time.seconds > time.time()
    assert (schedule.misfire_policy, schedule.overlap_policy) == (Schedule.RUN_ONCE, Schedule.SKIP)
    assert schedule.misfire_grace.seconds == 3600
    assert not schedule.HasField("last_run")


def test_the_same_request_makes_one_schedule(client: Client, template: search_pb2.Search) -> None:
    asked = Schedule(cron="0 0 * * *", template=template)
    made = [client.create_schedule(asked, request_id="r1").name for _ in range(2)]
    assert made[0] == made[1]
    assert len(list(client.list_schedules())) == 1
    with pytest.raises(RequestRefusedError) as refused:
        client.create_schedule(Schedule(cron="1 0 * * *", template=template), request_id="r1")
    assert refused.value.code is grpc.StatusCode.ALREADY_EXISTS


def test_a_name_is_given_once(client: Client, schedule: Schedule) -> None:
    with pytest.raises(RequestRefusedError) as refused:
        client.create_schedule(schedule, schedule_id="nightly")
    assert refused.value.code is grpc.StatusCode.ALREADY_EXISTS


def test_only_checking_makes_nothing(client: Client, template: search_pb2.Search) -> None:
    checked = client.validate_schedule(Schedule(cron="0 0 * * *", template=template))
    assert checked.next_run_time.seconds > time.time()
    assert not checked.etag
    assert not list(client.list_schedules())


def test_every_bad_field_is_named(client: Client, template: search_pb2.Search) -> None:
    bad = Schedule(display_name="x" * 2000, cron="x", time_zone="y", misfire_policy=9, overlap_policy=9, template=template)  # type: ignore[arg-type]
    bad.misfire_grace.seconds = 1
    bad.start_time.seconds, bad.end_time.seconds = 10, 5
    bad.template.model, bad.template.dataset, bad.template.target = "models:/x", "projects/default/datasets/none", "elsewhere"
    bad.template.budget.ClearField("latency_ms")
    bad.template.budget.max_accuracy_drop_points = -1
    bad.register_as.model_name, bad.register_as.alias = "a/b", "v1"
    with pytest.raises(RequestRefusedError) as refused:
        client.create_schedule(bad)
    assert {problem.field for problem in refused.value.problems} == {
        "schedule.display_name",
        "schedule.cron",
        "schedule.time_zone",
        "schedule.misfire_policy",
        "schedule.overlap_policy",
        "schedule.misfire_grace",
        "schedule.end_time",
        "schedule.template.model",
        "schedule.template.dataset",
        "schedule.template.target",
        "schedule.template.budget.max_accuracy_drop_points",
        "schedule.register_as.model_name",
        "schedule.register_as.alias",
    }


def test_an_end_before_the_first_due_time_is_refused(client: Client, template: search_pb2.Search) -> None:
    asked = Schedule(cron="0 0 1 1 *", template=template)
    asked.end_time.seconds = int(time.time()) + 60
    with pytest.raises(RequestRefusedError, match="nothing is due before it"):
        client.create_schedule(asked)


def test_fields_are_changed_one_by_one(client: Client, schedule: Schedule) -> None:
    changed = client.update_schedule(Schedule(name=NAME, cron="0 6 * * *", display_name="left alone"), ["cron"])
    assert (changed.cron, changed.display_name) == ("0 6 * * *", "every night")
    assert changed.next_run_time != schedule.next_run_time
    assert changed.etag != schedule.etag
    end = Schedule(name=NAME)
    end.end_time.seconds = 4_000_000_000
    assert client.update_schedule(end, ["end_time"]).end_time == end.end_time
    assert not client.update_schedule(Schedule(name=NAME), ["end_time", "time_zone"]).HasField("end_time")
    assert client.get_schedule(NAME).time_zone == "UTC"
    template = search_pb2.Search()
    template.CopyFrom(schedule.template)
    template.effort.max_trials = 3
    assert client.update_schedule(Schedule(name=NAME, template=template), ["template"]).template.effort.max_trials == 3
    whole = client.update_schedule(schedule_like(schedule), ["*"])
    assert (whole.cron, whole.time_zone, whole.template) == (schedule.cron, schedule.time_zone, schedule.template)


def schedule_like(schedule: Schedule) -> Schedule:
    copy = Schedule()
    copy.CopyFrom(schedule)
    copy.ClearField("etag")
    return copy


@pytest.mark.parametrize(
    ("fields", "change", "bad"),
    [
        ([], Schedule(), "update_mask"),
        (["name"], Schedule(), "update_mask"),
        (["template.budget"], Schedule(), "update_mask"),
        (["cron"], Schedule(), "schedule.cron"),
        (["template"], Schedule(), "schedule.template.model"),
    ],
)
def test_changes_that_cannot_be(client: Client, schedule: Schedule, fields: list[str], change: Schedule, bad: str) -> None:
    asked = Schedule(name=NAME)
    asked.MergeFrom(change)
    with pytest.raises(RequestRefusedError) as refused:
        client.update_schedule(asked, fields)
    assert bad in [problem.field for problem in refused.value.problems]
    assert client.get_schedule(NAME) == schedule


def test_an_old_etag_changes_nothing(client: Client, schedule: Schedule) -> None:
    client.pause_schedule(NAME)
    old = schedule.etag
    changes = (
        lambda: client.update_schedule(Schedule(name=NAME, cron="1 1 * * *", etag=old), ["cron"]),
        lambda: client.pause_schedule(NAME, old),
        lambda: client.resume_schedule(NAME, old),
        lambda: client.delete_schedule(NAME, old),
    )
    for change in changes:
        with pytest.raises(RequestRefusedError) as refused:
            change()
        assert refused.value.code is grpc.StatusCode.ABORTED
    assert client.get_schedule(NAME).paused


def test_pages(client: Client, template: search_pb2.Search) -> None:
    names = [client.create_schedule(Schedule(cron="0 0 * * *", template=template)).name for _ in range(5)]
    assert [schedule.name for schedule in client.list_schedules(page_size=2)] == names[::-1]
    for _ in range(3):
        client.run_schedule(names[0])
    runs = list(client.list_schedule_runs(names[0], page_size=2))
    assert len({run.name for run in runs}) == 3
    assert client.get_schedule(names[0]).last_run == runs[0]


def test_searches_stay_when_their_schedule_goes(client: Client, schedule: Schedule) -> None:
    run = client.run_schedule(NAME)
    client.delete_schedule(NAME)
    assert client.get_search(run.search).state == search_pb2.Search.QUEUED
    for gone in (
        lambda: client.get_schedule(NAME),
        lambda: client.run_schedule(NAME),
        lambda: list(client.list_schedule_runs(NAME)),
    ):
        with pytest.raises(RequestRefusedError) as refused:
            gone()
        assert refused.value.code is grpc.StatusCode.NOT_FOUND


@pytest.fixture
def quick_clock(monkeypatch: pytest.MonkeyPatch) -> float:
    """Time goes on from two seconds before a full minute."""
    real, begin = time.time, time.time()
    start = (begin // 60 + 2) * 60 - 2
    monkeypatch.setattr("time.time", lambda: start + real() - begin)
    return start + 2


def test_a_due_time_comes_by_itself(quick_clock: float, tmp_path: Path) -> None:
    with InProcessServer(tmp_path / "data", FakeImporter()) as server, server.client() as client:
        template = upload_inputs(client, tmp_path)
        name = client.create_schedule(Schedule(cron="* * * * *", template=template)).name
        assert wait_until(lambda: any(True for _ in client.list_schedule_runs(name)), 20)
        (run,) = client.list_schedule_runs(name)
        assert run.due_time.seconds == quick_clock
        assert run.create_time.ToNanoseconds() / 1e9 - quick_clock < 2
        assert client.get_search(run.search).state == search_pb2.Search.QUEUED
        assert client.get_schedule(name).next_run_time.seconds == quick_clock + 60


def test_the_registry_is_closed_to_projects_that_were_not_let_in(tmp_path: Path) -> None:
    with InProcessServer(tmp_path / "data", FakeImporter(), registry_projects=("other",)) as server, server.client() as client:
        template = upload_inputs(client, tmp_path)
        template.model = "models:/digits@champion"
        with pytest.raises(RequestRefusedError, match="PARETOPRESS_REGISTRY_PROJECTS"):
            client.create_schedule(Schedule(cron="0 0 * * *", template=template))
        assert server.settings.may_use_registry("other")
