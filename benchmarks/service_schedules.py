"""A hundred schedules due in the same minute, two servers on one PostgreSQL, one of them killed in the middle.

``python -m benchmarks.service_schedules`` prints one row. In each round the schedules are due at the next full minute; one server
is killed with ``kill -9`` as soon as some of the runs are there, and started again once all are.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import func, select

from benchmarks.harness import ROOT, Row
from benchmarks.postgresql import postgresql_url
from paretopress.client import Client
from paretopress.v1 import schedule_pb2, search_pb2
from service.store.database import Database
from service.store.input_store import InputStore, NewInput
from service.store.invariants import violations
from service.store.schema import ScheduleRunRow, SearchRow
from tests.service.fakes import dataset_facts, model_facts

SCHEDULES, ROUNDS = 100, 4
_KILL_AFTER_RUNS = (10, 30, 50, 70)
_MODEL, _DATASET = "projects/default/models/m", "projects/default/datasets/d"
_TIME_TO_PREPARE_S = 15.0
_PATIENCE_S = 60.0


def measure(rounds: int = ROUNDS) -> Row:
    """``searches`` is the count of the round that is farthest from ``SCHEDULES``."""
    figures = [_round(_KILL_AFTER_RUNS[number % len(_KILL_AFTER_RUNS)], killed=number % 2) for number in range(rounds)]
    counts = [figure["searches"] for figure in figures]
    return {
        "schedules": SCHEDULES,
        "searches": max(counts, key=lambda count: abs(count - SCHEDULES)),
        "searches_of_rounds": counts,
        "runs_when_killed": [figure["runs_when_killed"] for figure in figures],
        "seconds_from_due_to_last": [figure["seconds"] for figure in figures],
        "violations": [sentence for figure in figures for sentence in figure["violations"]],
    }


def _round(kill_after: int, killed: int) -> Row:
    with tempfile.TemporaryDirectory(prefix="schedules-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        url = stack.enter_context(postgresql_url(folder / "postgresql"))
        database = Database(url)
        stack.callback(database.close)
        database.migrate()
        InputStore(database, "model").add(NewInput(_MODEL, "default", "", "onnx", "1" * 64, 7, model_facts()))
        InputStore(database, "dataset").add(NewInput(_DATASET, "default", "", "npz", "2" * 64, 7, dataset_facts()))
        servers = [stack.enter_context(_Server(folder / f"server{number}", url)) for number in range(2)]
        due = _schedule(servers[0].address)
        before = _wait_for_runs(database, kill_after, due)
        servers[killed].kill()
        _wait_for_runs(database, SCHEDULES, due)
        seconds = time.time() - due
        servers[killed].start()
        time.sleep(3.0)  # it looks once a second, and must find nothing
        with database.read() as session:
            searches = session.scalar(select(func.count()).select_from(SearchRow)) or 0
            return {
                "searches": searches,
                "runs_when_killed": before,
                "seconds": round(seconds, 2),
                "violations": violations(session),
            }


def _schedule(address: str) -> float:
    """Make the schedules; returns when they are due."""
    due = (time.time() + _TIME_TO_PREPARE_S) // 60 * 60 + 60
    moment = datetime.fromtimestamp(due, UTC)
    budget = search_pb2.Budget(latency_ms=1.0, max_accuracy_drop_points=1.0)
    target = "projects/default/targets/cpu-ort-1t"
    template = search_pb2.Search(model=_MODEL, dataset=_DATASET, target=target, budget=budget)
    with Client(address) as client:
        for _ in range(SCHEDULES):
            client.create_schedule(schedule_pb2.Schedule(cron=f"{moment.minute} {moment.hour} * * *", template=template))
    if time.time() > due:
        raise RuntimeError("making the schedules took longer than was left until they are due; the machine is too busy")
    return due


def _wait_for_runs(database: Database, count: int, due: float) -> int:
    while True:
        with database.read() as session:
            runs = session.scalar(select(func.count()).select_from(ScheduleRunRow)) or 0
        if runs >= count or time.time() > due + _PATIENCE_S:
            return runs
        time.sleep(0.002 if time.time() > due - 1 else 0.2)


class _Server:
    """A server process without a worker, in a session of its own."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        own = {"DATA_DIR": str(folder), "DATABASE_URL": url, "PORT": "0", "EMBEDDED_WORKER": "false"}
        own |= {"READINESS_NEEDS_WORKER": "false", "BLOB_URL": str(folder.parent / "blobs")}
        variables = {f"PARETOPRESS_{name}": value for name, value in own.items()}
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
        self.address = ""

    def __enter__(self) -> _Server:
        self._folder.mkdir()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start (again), and wait until it listens."""
        with (self._folder / "server.log").open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "service.server"],
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
                start_new_session=True,
            )
        self.address = next(self._addresses())

    def kill(self) -> None:
        """``kill -9``, and what it started beside."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
            self._process.wait()
            os.killpg(self._process.pid, signal.SIGKILL)

    def _addresses(self) -> Iterator[str]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if " listens on " in line:
                yield line.split(" listens on ")[1].split(";")[0]
        raise RuntimeError(f"the server did not start: {(self._folder / 'server.log').read_text()[-2000:]}")


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS), indent=1))
