"""What the tracker did not take while a search ended reaches it later, once, from what the store keeps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from paretopress.client import Client
from paretopress.v1 import search_pb2
from search.environment import SearchEnvironment, SearchOutcome
from search.errors import SearchError
from search.protocols import CandidateRecord
from search.spec import SearchSpec
from search.tracking.base import EndState, Tracker
from search.tracking.ended import log_ended, remember_untracked
from search.tracking.outbox import Outbox
from service.store.database import Database
from service.store.invariants import violations
from service.store.queue_statistics import StatisticsReader
from service.store.upkeep_lease import UpkeepLease
from service.testing import InProcessServer
from service.worker import Worker
from tests.service.conftest import upload_inputs
from tests.service.fakes import FakeTools, finds_three

ALL_OF_IT = [
    "start",
    "baseline",
    "c0000",
    "c0001",
    "c0002",
    "c0002/model.onnx",
    "c0001/model.onnx",
    "c0000/model.onnx",
    "None/report.json",
    "end SUCCEEDED",
]


@dataclass
class AwayTracker(Tracker):
    """A tracker that can be away, and that chokes on some searches."""

    is_away: bool = True
    chokes_on: str = ""
    log: dict[str, list[str]] = field(default_factory=dict)

    def start_search(self, search_name: str, parameters: Mapping[str, str]) -> str:
        return self._note(search_name, "start")

    def log_candidate(self, search_name: str, record: CandidateRecord) -> str:
        return self._note(search_name, record.candidate_id)

    def log_artifact(self, search_name: str, candidate_id: str | None, path: Path, artifact_name: str) -> None:
        assert path.name == artifact_name
        assert path.read_bytes()
        self._note(search_name, f"{candidate_id}/{artifact_name}")

    def end_search(self, search_name: str, metrics: Mapping[str, float], state: EndState) -> None:
        assert state != "SUCCEEDED" or "best_latency_ms" in metrics
        self._note(search_name, f"end {state}")

    def _note(self, search_name: str, what: str) -> str:
        if self.is_away:
            raise SearchError("the tracker is away")
        if search_name == self.chokes_on:
            raise ValueError("never seen such a search")
        self.log.setdefault(search_name, []).append(what)
        return what


def _finds_three(spec: SearchSpec, environment: SearchEnvironment) -> SearchOutcome:
    """As `search.conclusion.conclude` ends a search."""
    outcome = finds_three(spec, environment)
    outbox, store = Outbox(environment.tracker, environment.search_name), environment.store
    outbox.start({})
    remember_untracked(store, log_ended(outbox, store.candidates(), environment.blobs, outcome))
    return outcome


def _fails(spec: SearchSpec, environment: SearchEnvironment) -> SearchOutcome:
    Outbox(environment.tracker, environment.search_name).start({})
    raise SearchError("the data does not fit the model")


class World:
    """A server, and workers that are run step by step."""

    def __init__(self, server: InProcessServer, client: Client, folder: Path) -> None:
        self.client, self.tracker = client, AwayTracker()
        self.settings = server.settings.model_copy(update={"tracking_retry_s": 0.001})
        self.database = Database(server.settings.resolved_database_url)
        self.template = upload_inputs(client, folder)
        self.tools = FakeTools(_finds_three, logs=self.tracker)
        self.worker = Worker(self.settings, self.database, self.tools, "worker")

    def search(self, search_id: str = "s1") -> str:
        """Run a search to its end; returns its name."""
        made: search_pb2.Search = self.client.create_search(self.template, search_id=search_id)
        assert self.worker.run_next()
        return made.name

    def send(self) -> bool:
        return self.worker._late_tracking.run_next()


@pytest.fixture
def world(server: InProcessServer, client: Client, tmp_path: Path) -> Iterator[World]:
    made = World(server, client, tmp_path)
    yield made
    with made.database.read() as session:
        assert violations(session) == []
    made.database.close()


def test_a_search_that_ends_while_the_tracker_is_away_is_logged_later_and_whole(world: World) -> None:
    name = world.search()
    assert world.client.get_search(name).state == search_pb2.Search.SUCCEEDED
    warnings = [e.message for e in world.client.watch(name) if e.kind == search_pb2.SearchEvent.WARNING]
    assert warnings == ["10 entries of this search did not reach MLflow; they are sent as soon as it answers"]
    assert not world.send()
    assert StatisticsReader(world.database).read(0.0).untracked == 1
    world.tracker.is_away = False
    assert world.send()
    assert world.tracker.log == {name: ALL_OF_IT}
    assert not world.send(), "once is enough"
    assert StatisticsReader(world.database).read(0.0).untracked == 0


def test_nothing_waits_where_the_tracker_took_everything(world: World) -> None:
    world.tracker.is_away = False
    name = world.search()
    assert world.tracker.log == {name: ALL_OF_IT}
    assert not world.send()


def test_the_run_of_a_failed_search_is_closed(world: World) -> None:
    world.tools.run, world.tracker.is_away = _fails, False
    name = world.search()
    assert world.client.get_search(name).state == search_pb2.Search.FAILED
    assert world.send()
    assert world.tracker.log[name][-1] == "end FAILED"


def test_the_run_of_a_cancelled_search_keeps_what_was_found(world: World) -> None:
    def cancelled(spec: SearchSpec, environment: SearchEnvironment) -> SearchOutcome:
        finds_three(spec, environment)
        world.client.cancel_search(environment.search_name)
        outcome = SearchOutcome("CANCELLED", "cancelled on request")
        remember_untracked(environment.store, log_ended(Outbox(environment.tracker, "s"), (), environment.blobs, outcome))
        return outcome

    world.tools.run = cancelled
    name = world.search()
    world.tracker.is_away = False
    assert world.send()
    assert world.tracker.log[name] == ["start", "baseline", "c0000", "c0001", "c0002", "end CANCELLED"]


def test_a_search_that_the_tracker_chokes_on_keeps_no_other_one_back(world: World, caplog: pytest.LogCaptureFixture) -> None:
    first, second = world.search("s1"), world.search("s2")
    world.tracker.is_away, world.tracker.chokes_on = False, first
    world.send()
    assert world.tracker.log == {second: ALL_OF_IT}
    assert "never seen such a search" in caplog.text
    assert not world.send()
    world.tracker.chokes_on = ""
    world.worker = Worker(world.settings, world.database, world.tools, "the next worker")
    assert world.send()
    assert world.tracker.log[first] == ALL_OF_IT


def test_two_workers_do_not_send_at_once(world: World) -> None:
    name = world.search()
    world.tracker.is_away = False
    lease = UpkeepLease(world.database, "tracking", "another worker", every_s=0.001, lease_s=60.0)
    assert lease.take()
    assert not world.send()
    lease.done()
    assert world.send()
    assert world.tracker.log == {name: ALL_OF_IT}


def test_what_waits_is_gone_with_its_search(world: World) -> None:
    name = world.search()
    world.client.delete_search(name)
    world.tracker.is_away = False
    assert not world.send()
    assert world.tracker.log == {}
