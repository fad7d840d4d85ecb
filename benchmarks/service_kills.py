"""``kill -9`` of server, worker, Ray and MLflow over real small searches: nothing accepted or announced may be lost.

``python -m benchmarks.service_kills sqlite 25`` prints one row.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.harness import ROOT, Row
from paretopress.client import Client
from paretopress.v1 import search_pb2
from service.store.database import Database
from service.store.invariants import violations
from service.store.untracked import UntrackedSearches
from tests.service.digits_search import make_inputs, place_predictors, search, upload
from tests.service.ports import free_port
from tests.waiting import wait_until

LOGS = ROOT / "build" / "service_kills"
KINDS = ("server", "worker", "ray", "mlflow")
SHORTEST_GAP_S, LONGEST_GAP_S = 1.0, 16.0
QUEUED_AT_ONCE = 2
TRIALS = 4
END_S = 900.0
TRACKING_S = 300.0
_ENDED = (search_pb2.Search.SUCCEEDED, search_pb2.Search.INFEASIBLE)


def measure(database: str, kills: int, seed: int = 0) -> Row:
    """Searches of a small network, killed ``kills`` times; ``database`` is ``sqlite`` or ``postgresql``."""
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        folder = Path(name)
        inputs = make_inputs(folder)
        place_predictors(folder / "data")
        with (
            _database_url(database, folder) as url,
            _Processes(folder, url) as processes,
            Client(processes.address, retry_s=120) as client,
        ):
            model, dataset = upload(client, inputs)
            watched = _Watched(client)
            killed = _kill_at_random(processes, watched, model, dataset, kills, random.Random(seed))
            watched.wait()
            _await_tracking(url)
            shutil.copy(folder / "data" / "worker.log", LOGS)
            return {**_judged(client, watched, url, processes.tracking_uri), "kills": sum(killed.values()), "killed": dict(killed)}


@dataclass
class _Watched:
    """Searches that were accepted, each watched by a thread over all reconnects."""

    client: Client
    names: list[str] = field(default_factory=list)
    announced: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    sequences: dict[str, list[int]] = field(default_factory=dict)
    _threads: list[threading.Thread] = field(default_factory=list)

    def create(self, model: str, dataset: str) -> None:
        """Queue one more search."""
        budget = search_pb2.Budget(latency_ms=50.0, max_accuracy_drop_points=90.0)
        number = len(self.names)
        made = self.client.create_search(search(model, dataset, budget, trials=TRIALS), search_id=f"killed-{number}")
        self.names.append(made.name)
        self.announced[made.name], self.sequences[made.name] = [], []
        thread = threading.Thread(target=self._watch, args=(made.name,), daemon=True)
        thread.start()
        self._threads.append(thread)

    def _watch(self, name: str) -> None:
        for event in self.client.watch(name):
            self.sequences[name].append(event.sequence)
            if event.kind == search_pb2.SearchEvent.CANDIDATE and "candidate" in event.payload:
                self.announced[name].append((str(event.payload["candidate"]), int(event.payload.fields["rung"].number_value)))

    @property
    def open_count(self) -> int:
        """Searches that have not ended."""
        return sum(thread.is_alive() for thread in self._threads)

    def wait(self) -> None:
        """Until all have ended, for at most a quarter of an hour."""
        deadline = time.monotonic() + END_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))


def _kill_at_random(
    processes: _Processes, watched: _Watched, model: str, dataset: str, kills: int, generator: random.Random
) -> Counter[str]:
    killed: Counter[str] = Counter()
    while sum(killed.values()) < kills:
        while watched.open_count < QUEUED_AT_ONCE:
            watched.create(model, dataset)
        time.sleep(generator.uniform(SHORTEST_GAP_S, LONGEST_GAP_S))
        kind = generator.choice(KINDS)
        if processes.kill(kind, generator):
            killed[kind] += 1
            print(f"{sum(killed.values())} of {kills}: {kind}", file=sys.stderr, flush=True)
    return killed


class _Processes:
    """A server, an MLflow server, and what they started; both are started again after they were killed."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self._folder, self._ports = folder, [free_port(), free_port()]
        self.address, self.tracking_uri = f"127.0.0.1:{self._ports[0]}", f"http://127.0.0.1:{self._ports[1]}"
        self._closing, self._lock = threading.Event(), threading.Lock()
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PARETOPRESS_DATA_DIR": str(folder / "data"),
            "PARETOPRESS_PORT": str(self._ports[0]),
            "PARETOPRESS_DATABASE_URL": database_url,
            "PARETOPRESS_LEASE_S": "4",
            "PARETOPRESS_MLFLOW_TRACKING_URI": self.tracking_uri,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }

    def __enter__(self) -> _Processes:
        self._mlflow, self._server = self._start_mlflow(), self._start_server()
        threading.Thread(target=self.tend, daemon=True).start()
        _await_port(self._ports[0])
        _await_port(self._ports[1])
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        with self._lock:
            self._server.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._server.wait(30)
        for process in (self._server, self._mlflow):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def tend(self) -> None:
        """Start again what has ended, as a service manager does; called from a thread."""
        while not self._closing.wait(0.5):
            with self._lock:
                if self._server.poll() is not None:
                    self._server = self._start_server()
                if self._mlflow.poll() is not None:
                    self._mlflow = self._start_mlflow()

    def kill(self, kind: str, generator: random.Random) -> bool:
        """``kill -9`` one process of the kind; False when none runs at the moment."""
        if kind in ("server", "mlflow"):
            process = self._server if kind == "server" else self._mlflow
            # MLflow is several processes of one group; the server's own children must survive its death on their own.
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if kind == "mlflow" else os.kill)(process.pid, signal.SIGKILL)
            return True
        found = _find(("service.worker",) if kind == "worker" else ("raylet/raylet", "gcs_server", "ray::"), str(self._folder))
        if not found:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(generator.choice(found), signal.SIGKILL)
        return True

    def _start_server(self) -> subprocess.Popen[bytes]:
        return self._start("server", [sys.executable, "-m", "service.server"])

    def _start_mlflow(self) -> subprocess.Popen[bytes]:
        store = f"sqlite:///{self._folder / 'mlflow.db'}"
        artifacts = (self._folder / "mlartifacts").as_uri()
        place = ["--host", "127.0.0.1", "--port", str(self._ports[1]), "--workers", "1"]
        files = ["--backend-store-uri", store, "--artifacts-destination", artifacts]
        return self._start("mlflow", [sys.executable, "-m", "mlflow", "server", *files, *place])

    def _start(self, name: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
        LOGS.mkdir(parents=True, exist_ok=True)
        with (LOGS / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                command, cwd=ROOT, env=self._environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )


def _find(words: Sequence[str], marker: str) -> list[int]:
    """Processes whose command line has one of the words and whose environment names our folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if any(word in command for word in words) and marker.encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
    return found


def _await_tracking(url: str) -> None:
    """What MLflow did not take while a search ended is sent a minute later; a run that is missing after that is lost."""
    with contextlib.closing(Database(url)) as database:
        wait_until(lambda: not UntrackedSearches(database).pending(), TRACKING_S)


def _judged(client: Client, watched: _Watched, url: str, tracking_uri: str) -> Row:
    searches = [client.get_search(name) for name in watched.names]
    lost, repeated, duplicates, missing = 0, 0, 0, 0
    for name in watched.names:
        stored = {c.name.rpartition("/")[2] for c in client.list_candidates(name)}
        announced = watched.announced[name]
        lost += len({candidate for candidate, _ in announced} - stored)
        repeated += len(announced) - len(set(announced))
        runs = Counter(_logged_candidates(tracking_uri, name))
        duplicates += sum(runs.values()) - len(runs)
        missing += len(stored - set(runs))
    gaps = sum(s != list(range(1, len(s) + 1)) for s in watched.sequences.values())
    database = Database(url)
    with database.read() as session:
        broken = violations(session)
    database.close()
    return {
        "searches": len(searches),
        "not_ended": sum(s.state not in _ENDED for s in searches),
        "states": dict(Counter(search_pb2.Search.State.Name(s.state) for s in searches)),
        "messages": sorted({s.state_message for s in searches if s.state not in _ENDED}),
        "announced": sum(len(set(a)) for a in watched.announced.values()),
        "lost_candidates": lost,
        "repeated_trials": repeated,
        "duplicate_runs": duplicates,
        "missing_runs": missing,
        "watches_with_gaps": gaps,
        "violations": broken,
    }


def _logged_candidates(tracking_uri: str, name: str) -> list[str]:
    from mlflow.tracking import MlflowClient

    tracking = MlflowClient(tracking_uri)
    experiment = tracking.get_experiment_by_name("paretopress")
    if experiment is None:
        return []
    runs = tracking.search_runs([experiment.experiment_id], f"tags.`paretopress.search` = '{name}'", max_results=1000)
    return [run.data.tags["paretopress.candidate"] for run in runs if "mlflow.parentRunId" in run.data.tags]


@contextlib.contextmanager
def _database_url(kind: str, folder: Path) -> Iterator[str]:
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'data' / 'paretopress.db'}"
        return
    from benchmarks.postgresql import postgresql_url

    with postgresql_url(folder / "postgresql") as url:
        yield url


def _await_port(port: int, timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.2)
    raise TimeoutError(f"nothing listens on port {port} after {timeout_s:.0f} s")


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0), indent=1))
