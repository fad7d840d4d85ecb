from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.errors import StoreUnavailableError
from service.monitoring.readiness import Readiness
from service.store.database import Database
from service.store.search_queue import process_identity
from service.testing import InProcessServer
from service.workers.heartbeats import SILENT_AFTER_S, Heartbeat, WorkerRegistry
from tests.service.fakes import FakeImporter, FakeTools, finds_three
from tests.service.ports import free_port

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: dict[str, int] = {}

    async def set(self, service: str, status: int) -> None:
        self.told[service] = status


def fetch(address: str, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Warnings about readiness; other servers of the tests may log beside."""
    return [r.getMessage() for r in caplog.records if r.name == "paretopress.readiness" and r.levelname == "WARNING"]


async def test_a_part_that_is_away_takes_its_services_out_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    away = {"store": True, "blobs": False}

    def check(part: str) -> None:
        if away[part]:
            raise StoreUnavailableError(f"{part} does not answer")

    health = Health()
    checks = {part: lambda part=part: check(part) for part in away}
    readiness = Readiness(checks, {"searches": ["store", "blobs"], "blobs-only": ["blobs"]}, health)
    assert set(readiness.problems) == {"store", "blobs"}, "not ready before it was looked at"
    await readiness.look()
    assert health.told == {"searches": NOT_SERVING, "blobs-only": SERVING, "": NOT_SERVING}
    assert readiness.problems == {"store": "store does not answer"}
    assert told(caplog) == ["not ready: store: store does not answer"]
    away["store"] = False
    await readiness.look()
    assert set(health.told.values()) == {SERVING}
    assert readiness.problems == {}
    assert len(told(caplog)) == 1, "warned of once"


async def test_a_check_that_breaks_is_a_part_that_is_not_ready() -> None:
    health = Health()
    readiness = Readiness({"store": lambda: 1 / 0}, {"searches": ["store"]}, health)
    await readiness.look()
    assert health.told == {"searches": NOT_SERVING, "": NOT_SERVING}
    assert "ZeroDivisionError" in readiness.problems["store"]


def test_a_worker_lives_while_it_beats(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'store.db'}")
    database.migrate()
    registry = WorkerRegistry(database, tmp_path / "workers")
    assert registry.living() == frozenset()
    with Heartbeat(tmp_path / "workers", process_identity()), Heartbeat(tmp_path / "workers", "elsewhere|b|1|2"):
        assert registry.living() == {process_identity(), "elsewhere|b|1|2"}
        for path in (tmp_path / "workers").iterdir():
            long_ago = time.time() - SILENT_AFTER_S - 1
            if path.read_text().startswith("elsewhere"):
                os.utime(path, (long_ago, long_ago))
        assert registry.living() == {process_identity()}
    assert registry.living() == frozenset()
    dead = process_identity().rpartition("|")[0] + "|1"
    with Heartbeat(tmp_path / "workers", dead):
        assert registry.living() == frozenset(), "its process is no more"


def test_a_server_without_workers_is_not_ready_and_one_with_a_worker_is(tmp_path: Path) -> None:
    settings = {"metrics_port": free_port(), "readiness_needs_worker": True}
    with InProcessServer(tmp_path / "data", FakeImporter(), **settings) as server, grpc.insecure_channel(server.address) as channel:
        page = f"127.0.0.1:{settings['metrics_port']}"
        health = health_pb2_grpc.HealthStub(channel)

        def status(service: str) -> int:
            return int(health.Check(health_pb2.HealthCheckRequest(service=service)).status)

        assert status("") == status("paretopress.v1.SearchService") == NOT_SERVING
        assert status("paretopress.v1.ModelService") == SERVING
        code, words = fetch(page, "/readyz")
        assert code == 503
        assert words.startswith("workers: no worker lives")
        assert fetch(page, "/livez") == (200, "ok\n")
        assert fetch(page, "/elsewhere")[0] == 404
        server.start_worker(FakeTools(finds_three))
        watch = health.Watch(health_pb2.HealthCheckRequest(service=""), timeout=20)
        assert next(answer.status for answer in watch if answer.status == SERVING) == SERVING
        assert fetch(page, "/readyz") == (200, "ok\n")
