"""What callers, searches and workers see of a store that is away for a moment."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from benchmarks.postgresql import PostgresServer
from paretopress.errors import ServerUnavailableError
from paretopress.v1 import search_pb2
from search.environment import SearchEnvironment, SearchOutcome
from search.spec import SearchSpec
from service.errors import StoreUnavailableError
from service.store.search_queue import SearchQueue
from service.testing import InProcessServer
from tests.service.conftest import upload_inputs
from tests.service.fakes import FakeImporter, FakeTools, finds_three


def test_a_search_whose_store_was_away_goes_on_when_its_lease_ends(tmp_path: Path) -> None:
    runs: list[int] = []

    def breaks_once(spec: SearchSpec, environment: SearchEnvironment) -> SearchOutcome:
        runs.append(1)
        if len(runs) == 1:
            raise StoreUnavailableError("the database does not answer")
        return finds_three(spec, environment)

    with (
        InProcessServer(tmp_path / "data", FakeImporter(), FakeTools(breaks_once), lease_s=1.01) as server,
        server.client() as client,
    ):
        made = client.create_search(upload_inputs(client, tmp_path))
        assert client.wait(made.name).state == search_pb2.Search.SUCCEEDED
    assert len(runs) == 2


def test_a_worker_waits_for_its_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim, failures = SearchQueue.claim, threading.Semaphore(3)

    def away_at_first(self: SearchQueue) -> object:
        if failures.acquire(blocking=False):
            raise StoreUnavailableError("the database does not answer")
        return claim(self)

    monkeypatch.setattr(SearchQueue, "claim", away_at_first)
    with InProcessServer(tmp_path / "data", FakeImporter(), FakeTools(finds_three)) as server, server.client() as client:
        made = client.create_search(upload_inputs(client, tmp_path))
        assert client.wait(made.name).state == search_pb2.Search.SUCCEEDED
    assert not failures.acquire(blocking=False)


def test_calls_end_with_unavailable_while_the_database_restarts(
    postgres_server: PostgresServer, postgresql_database_url: str, tmp_path: Path
) -> None:
    running = InProcessServer(tmp_path / "data", FakeImporter(), database_url=postgresql_database_url)
    with running as server, server.client() as patient, server.client(retry_s=0.0) as hasty:
        made = patient.create_search(upload_inputs(patient, tmp_path))
        postgres_server.stop()
        try:
            with pytest.raises(ServerUnavailableError, match="the database does not answer; try again"):
                hasty.get_search(made.name)
        finally:
            postgres_server.start()
        assert patient.get_search(made.name) == made
