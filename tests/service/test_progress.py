"""What a running search is at: written by its worker with the clock, read over gRPC, shown as a line that moves."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from paretopress.cli.live import progress_words
from paretopress.client import Client
from paretopress.v1 import search_pb2
from search.clock import Clock, ClockedStore
from search.environment import SearchEnvironment, SearchOutcome
from search.pace import Pace
from search.plan import PlannedPhase, SearchPlan
from search.protocols import Progress
from search.spec import SearchSpec
from service.store.database import Database
from service.testing import InProcessServer
from service.worker import Worker
from techniques.effort import TrainingEffort
from tests.service.conftest import upload_inputs
from tests.service.fakes import FakeTools, finds_three


def test_a_running_search_tells_what_it_is_at_and_an_ended_one_nothing(
    server: InProcessServer, client: Client, tmp_path: Path
) -> None:
    seen: list[search_pb2.Search] = []

    def looked_at(spec: SearchSpec, environment: SearchEnvironment) -> SearchOutcome:
        clock = Clock(environment.store, 540.0, time.monotonic() - 40.0)
        store = ClockedStore(environment.store, clock)
        store.show(Progress("search", "trial 3 of 14", "c0002", 1, 3, 0.4, 1.5))
        store.note()
        seen.append(client.get_search(environment.search_name))
        return finds_three(spec, environment)

    database = Database(server.settings.resolved_database_url)
    worker = Worker(server.settings, database, FakeTools(looked_at), "worker")
    queued = client.create_search(upload_inputs(client, tmp_path))
    assert not queued.HasField("progress")
    assert worker.run_next()
    database.close()
    (running,) = seen
    assert (running.progress.candidate, running.progress.rung, running.progress.epoch) == ("c0002", 1, 0.4)
    assert running.progress.elapsed.ToTimedelta().total_seconds() == pytest.approx(40.0, abs=5)
    assert time.time() - running.progress.update_time.ToSeconds() < 60
    assert progress_words(running.progress).startswith("search: trial 3 of 14; c0002 at rung 1 of 2, epoch 0.4 of 1.5; at most 8:")
    assert not client.get_search(queued.name).HasField("progress")


def test_the_line_moves_between_two_answers_and_never_below_zero() -> None:
    at = search_pb2.SearchProgress(phase="baseline")
    at.remaining.FromSeconds(3700)
    assert progress_words(at) == "baseline; at most 1:01:40 left"
    assert progress_words(at, since_s=101.0) == "baseline; at most 59:59 left"
    assert progress_words(at, since_s=9999.0) == "baseline; at most 0:00 left"
    assert not progress_words(search_pb2.SearchProgress())


PACE = Pace(macs=1_000_000, image_s=0.002, step_s=0.4, file_s=3.0, latency_ms=0.7, open_s=18.0)


def test_a_plan_goes_by_what_the_searches_before_took(server: InProcessServer, client: Client, tmp_path: Path) -> None:
    planned = SearchPlan(
        (PlannedPhase("baseline", 31.0, "the original", over=True),), 7, TrainingEffort((0, 30, 90)), 3, 240, 4, "measured"
    )

    def looked_at(spec: SearchSpec, environment: SearchEnvironment) -> SearchOutcome:
        environment.store.save_phase("pace", PACE.to_json())
        environment.store.save_phase("plan", planned.to_json())
        return finds_three(spec, environment)

    request = upload_inputs(client, tmp_path)
    assert client.validate_search(request).plan.source == search_pb2.SearchPlan.GUESSED
    database = Database(server.settings.resolved_database_url)
    queued = client.create_search(request)
    assert not queued.HasField("plan")
    assert Worker(server.settings, database, FakeTools(looked_at), "worker").run_next()
    database.close()
    plan = client.get_search(queued.name).plan
    assert [(one.phase, one.duration.seconds, one.over) for one in plan.phases] == [("baseline", 31, True)]
    assert (plan.trials, list(plan.rung_steps), plan.batch_size) == (0, [0, 30, 90], 128), "none of them was tried"
    assert (plan.last_rung_candidates, plan.last_rung_steps, plan.finalists) == (0, 0, 0)
    again = client.validate_search(request)
    assert again.plan.source == search_pb2.SearchPlan.MEASURED
    assert {one.phase: one.duration.seconds for one in again.plan.phases}["baseline"] == 33, (
        "18 to open, 3 for the file, 12 to measure"
    )
    assert again.estimated_duration.ToTimedelta().total_seconds() == pytest.approx(
        sum(one.duration.ToTimedelta().total_seconds() for one in again.plan.phases)
    )
