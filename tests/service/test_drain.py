"""A server that stops lets calls in progress end and sends watchers elsewhere; a call whose deadline has passed changes nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from paretopress.client import Client
from paretopress.errors import ServerUnavailableError
from paretopress.v1 import search_pb2, search_pb2_grpc
from service.store.database import Database
from service.testing import InProcessServer
from tests.service.conftest import upload_inputs
from tests.service.fakes import FakeImporter


class Holder:
    """Keeps the lock of writers until it is told to let go, so that a call takes as long as a test wants."""

    def __init__(self, server: InProcessServer) -> None:
        self._database = Database(server.settings.resolved_database_url)
        self._held, self._let_go = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._hold)
        self._thread.start()
        self._held.wait(10)

    def _hold(self) -> None:
        with self._database.write():
            self._held.set()
            self._let_go.wait(20)

    def let_go(self) -> None:
        self._let_go.set()
        self._thread.join()
        self._database.close()


def test_calls_in_progress_end_and_watchers_are_sent_elsewhere(tmp_path: Path) -> None:
    with InProcessServer(tmp_path / "data", FakeImporter(), shutdown_grace_s=10.0) as server, server.client(retry_s=0) as client:
        search = upload_inputs(client, tmp_path)
        watched = client.create_search(search).name
        events = client.watch(watched)
        next(events)
        holder = Holder(server)
        with ThreadPoolExecutor(2) as threads:
            slow = threads.submit(client.create_search, search)
            watching = threads.submit(lambda: list(events))
            time.sleep(0.3)  # the call waits for the lock in a thread of the server
            assert server._running is not None
            stopping = asyncio.run_coroutine_threadsafe(server._running.stop(), server._loop)
            with pytest.raises(ServerUnavailableError, match="watch again from the last event"):
                watching.result(10)
            assert not slow.done()
            assert not stopping.done()
            holder.let_go()
            assert slow.result(10).state == search_pb2.Search.QUEUED
            stopping.result(10)
        with Client(server.address, retry_s=0) as late, pytest.raises(ServerUnavailableError):
            late.get_search(watched)
        server._running = None


def test_a_call_whose_deadline_has_passed_changes_nothing(server: InProcessServer, client: Client, tmp_path: Path) -> None:
    request = search_pb2.CreateSearchRequest(parent="projects/default", search=upload_inputs(client, tmp_path))
    holder = Holder(server)
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as refused:
        search_pb2_grpc.SearchServiceStub(channel).CreateSearch(request, timeout=0.5)
    assert refused.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    holder.let_go()
    client.delete_model(request.search.model)  # a write that comes after: the abandoned one has had its turn
    assert not list(client.list_searches())


def test_sigterm_ends_the_process_in_order(tmp_path: Path) -> None:
    own = {"DATA_DIR": str(tmp_path), "PORT": "0", "EMBEDDED_WORKER": "false", "LOG_FORMAT": "json"}
    environment = {**os.environ, **{f"PARETOPRESS_{name}": value for name, value in own.items()}}
    command = [sys.executable, "-m", "service.server"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert " listens on 127.0.0.1:" in process.stdout.readline()
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "stopping\n"
        assert process.wait(30) == 0
