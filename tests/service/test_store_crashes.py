"""Workers that are killed in the middle of their writes: the store stays sound, and what was announced stays stored."""

from __future__ import annotations

import random
import subprocess
import sys
import threading

from service.store.database import Database
from service.store.invariants import violations
from service.store.search_catalogue import SearchCatalogue
from tests.service.test_store import add_search

CANDIDATES = 30
WORKER = f"""
import sys
from search.environment import SearchOutcome
from search.protocols import CandidateRecord, Event
from service.store.database import Database
from service.store.search_queue import SearchQueue, process_identity
from service.store.search_store import SqlCandidateStore
database = Database(sys.argv[1])
queue = SearchQueue(database, process_identity(), 1000.0)
print("ready", flush=True)
sys.stdin.readline()
while (claimed := queue.claim()) is not None:
    store = SqlCandidateStore(database, claimed.search_id, queue.owner)
    for number in range(len(store.candidates()), {CANDIDATES}):
        record = CandidateRecord(f"c{{number:04d}}", number, "{{}}", 0, 1)
        store.save_candidate(record, [Event("candidate", record.candidate_id)])
        print(claimed.name, f"c{{number:04d}}", flush=True)
    queue.finish(claimed.search_id, SearchOutcome("SUCCEEDED", "found", best="c0000", front=("c0000", "c0001")))
"""


class Worker:
    """A process that takes searches; kept are the candidates that it has announced."""

    def __init__(self, url: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORKER, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.announced: list[tuple[str, str]] = []
        self._ended = False
        self._changed = threading.Condition()

    def wait_ready(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def start(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def kill_after(self, count: int) -> None:
        """``kill -9`` once it has announced so many."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.announced) >= count or self._ended, 60)
        self._process.kill()
        self.end()

    def end(self) -> None:
        self._process.wait(60)
        self._reader.join(60)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.endswith("\n"):
                name, candidate = line.split()
                with self._changed:
                    self.announced.append((name, candidate))
                    self._changed.notify()
        with self._changed:
            self._ended = True
            self._changed.notify()


def test_nothing_is_lost_when_workers_are_killed_while_they_write(database: Database) -> None:
    names = [add_search(database, f"s{number}").name for number in range(4)]
    workers, generator = [Worker(database.url) for _ in range(4)], random.Random(5)
    for worker in workers:
        worker.wait_ready()
    *victims, last = workers
    for worker in victims:
        worker.start()
    for worker in victims:
        worker.kill_after(generator.randrange(1, CANDIDATES))
    last.start()
    last.end()

    with database.read() as session:
        assert violations(session) == []
    catalogue = SearchCatalogue(database)
    announced = [pair for worker in workers for pair in worker.announced]
    assert len(set(announced)) == len(announced)
    assert set(announced) <= {(name, record.candidate_id) for name in names for record in catalogue.candidates(name)}
    for name in names:
        assert catalogue.get(name).state == "SUCCEEDED"
        assert [record.trial_number for record in catalogue.candidates(name)] == list(range(CANDIDATES))
        told = [event.message for event in catalogue.events_after(name, 0) if event.kind == "candidate"]
        assert told == [f"c{number:04d}" for number in range(CANDIDATES)]
