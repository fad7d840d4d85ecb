"""A real server for tests, in this process: own port, own data directory, real gRPC; worker and intake can be replaced."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from paretopress.client import Client
from service.importing import Importer
from service.server import RunningServer, start
from service.settings import Settings
from service.store.database import Database
from service.worker import Tools, Worker


class InProcessServer:
    """Starts in ``__enter__``, ends in ``__exit__``.

    Args:
        importer: instead of opening uploads in the sandbox.
        tools: if given, a worker with these tools runs in a thread (never a process).
        settings: overrides of `Settings`.
    """

    def __init__(self, data_dir: Path, importer: Importer | None = None, tools: Tools | None = None, **settings: Any) -> None:
        defaults = {
            "port": 0,
            "data_dir": data_dir,
            "embedded_worker": False,
            "mlflow_ui": False,
            "shutdown_grace_s": 0.5,
            "readiness_needs_worker": False,
        }
        self.settings = Settings(**{**defaults, **settings})
        self._importer = importer
        self._tools = tools
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="server", daemon=True)
        self._worker: Worker | None = None
        self._worker_thread: threading.Thread | None = None
        self._running: RunningServer | None = None

    @property
    def address(self) -> str:
        """``host:port``."""
        if self._running is None:
            raise RuntimeError("the server has not been started")
        return self._running.address

    def client(self, **options: Any) -> Client:
        """A client of this server."""
        return Client(self.address, **options)

    def start_worker(self, tools: Tools, owner: str = "") -> None:
        """Start a worker in a thread."""
        self._worker = Worker(self.settings, Database(self.settings.resolved_database_url), tools, owner)
        self._worker_thread = threading.Thread(target=self._worker.run, name="worker", daemon=True)
        self._worker_thread.start()

    def stop_worker(self) -> None:
        """Stop it, as a SIGTERM would."""
        if self._worker is not None and self._worker_thread is not None:
            self._worker.stop()
            self._worker_thread.join(10)

    def __enter__(self) -> Self:
        self._thread.start()
        self._running = asyncio.run_coroutine_threadsafe(start(self.settings, self._importer), self._loop).result(30)
        if self._tools is not None:
            self.start_worker(self._tools)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop_worker()
        if self._running is not None:
            asyncio.run_coroutine_threadsafe(self._running.stop(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
