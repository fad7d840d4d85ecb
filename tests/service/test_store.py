from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.orm import Session

from search.environment import SearchOutcome
from search.protocols import CandidateStore, Event
from search.spec import Budget, SearchSpec
from service.errors import AlreadyExistsError, NotFoundError, StoreUnavailableError
from service.store.database import Database
from service.store.pages import PageRequest
from service.store.records import candidate_from_json, candidate_to_json
from service.store.schema import Base
from service.store.search_catalogue import NewSearch, SearchCatalogue, StoredSearch
from service.store.search_queue import SearchQueue, owner_is_dead, process_identity
from service.store.search_store import LeaseLostError, SqlCandidateStore
from service.workers.processes import MARKER, end_process_group, members
from tests.service.fakes import record
from tests.waiting import wait_until

SPEC = SearchSpec("a" * 64, "b" * 64, "cpu-ort-1t", Budget(latency_ms=1.0, max_accuracy_drop_points=1.0))


def add_search(database: Database, name: str = "s") -> StoredSearch:
    new = NewSearch(f"projects/p/searches/{name}", "p", "", "m", "d", SPEC, 60.0, ("note",))
    return SearchCatalogue(database).create(new, "", "")


def claimed_store(database: Database, owner: str = "me") -> tuple[SqlCandidateStore, SearchQueue, int]:
    search_id = add_search(database).search_id
    queue = SearchQueue(database, owner, 10.0)
    assert queue.claim() is not None
    return SqlCandidateStore(database, search_id, owner), queue, search_id


def test_the_migration_makes_the_tables_of_the_schema(database: Database) -> None:
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_a_candidate_survives_its_text() -> None:
    made = record(3, policy={"a": 1.5, "b": "x"}, artifacts={"model.onnx": "0" * 64})
    assert candidate_from_json(candidate_to_json(made)) == made
    with pytest.raises(ValueError, match="known version"):
        candidate_from_json('{"type": "candidate", "version": 99}')


def test_the_candidate_store_keeps_its_contract(database: Database) -> None:
    sql_store, _, _ = claimed_store(database)
    store: CandidateStore = sql_store
    store.save_candidate(record(2), [Event("candidate", "two")])
    store.save_candidate(record(1), [Event("candidate", "one"), Event("front", "front")])
    store.save_candidate(record(2, drop=0.1))
    assert [c.trial_number for c in store.candidates()] == [1, 2]
    assert store.candidates()[1].drop_points["selection"][0] == 0.1
    store.append(Event("warning", "careful", {"value": float("nan")}))
    assert store.phase("baseline") is None
    store.save_phase("baseline", {"accuracy": 0.5})
    store.save_phase("baseline", {"accuracy": 0.6})
    assert store.phase("baseline") == {"accuracy": 0.6}
    events = SearchCatalogue(database).events_after("projects/p/searches/s", 0)
    assert [e.sequence for e in events] == [1, 2, 3, 4, 5, 6]
    assert [e.kind for e in events] == ["state", "state", "candidate", "candidate", "front", "warning"]


def test_sequences_have_no_gaps_under_concurrent_writers(database: Database) -> None:
    store, _, _ = claimed_store(database)
    threads = [threading.Thread(target=lambda: [store.append(Event("phase", "x")) for _ in range(10)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = SearchCatalogue(database).events_after("projects/p/searches/s", 0)
    assert [e.sequence for e in events] == list(range(1, 43))


def test_only_one_worker_claims_a_search(database: Database) -> None:
    for number in range(3):
        add_search(database, f"s{number}")
    claimed: list[str] = []

    def claim(owner: str) -> None:
        taken = SearchQueue(database, owner, 10.0).claim()
        if taken is not None:
            claimed.append(taken.name)

    threads = [threading.Thread(target=claim, args=(f"w{i}",)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == [f"projects/p/searches/s{i}" for i in range(3)]


CLAIMS_ALL = """
import sys
from service.store.database import Database
from service.store.search_queue import SearchQueue, process_identity
queue = SearchQueue(Database(sys.argv[1]), process_identity() + sys.argv[2], 1000.0)
print("ready", flush=True)
sys.stdin.readline()
while (claimed := queue.claim()) is not None:
    print(claimed.name, flush=True)
"""


def test_several_processes_claim_each_search_once(database: Database) -> None:
    names = [add_search(database, f"s{number}").name for number in range(20)]
    command = [sys.executable, "-c", CLAIMS_ALL, database.url]
    # Owners that differ from the process itself: a claimed search must not look like a dead worker's when its process has ended.
    workers = [
        subprocess.Popen([*command, f"|{number}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for number in range(2)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    claimed = [line for worker in workers for line in worker.communicate(timeout=60)[0].split()]
    assert sorted(claimed) == sorted(names)


def test_a_race_of_one_request_id_gives_everybody_the_same_search(database: Database) -> None:
    catalogue, answers = SearchCatalogue(database), []
    start = threading.Barrier(20)

    def create(number: int) -> None:
        new = NewSearch(f"projects/p/searches/s{number}", "p", "", "m", "d", SPEC, 60.0)
        start.wait()
        answers.append(catalogue.create(new, "once", "f" * 64).name)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 20
    assert len(set(answers)) == 1
    assert len(catalogue.list("p", PageRequest(50, None, "")).items) == 1
    with pytest.raises(AlreadyExistsError, match="another create_search request"):
        catalogue.create(NewSearch("projects/p/searches/other", "p", "", "m", "d", SPEC, 60.0), "once", "0" * 64)


@pytest.mark.parametrize("breaks", ["before", "after"], ids=["before the commit", "after the commit"])
def test_a_connection_that_breaks_in_the_middle_repeats_nothing(
    database: Database, breaks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows whether a commit that got no answer took place; the store finds out."""
    store, _, _ = claimed_store(database)
    commit, broken = Session.commit, []

    def commit_with_a_break(session: Session) -> None:
        if breaks == "after" or broken:
            commit(session)
        if not broken:
            broken.append(True)
            raise StoreUnavailableError("the connection broke")

    monkeypatch.setattr(Session, "commit", commit_with_a_break)
    store.save_candidate(record(1), [Event("candidate", "one"), Event("front", "front")])
    store.append(Event("phase", "next"))
    assert broken
    events = SearchCatalogue(database).events_after("projects/p/searches/s", 2)
    assert [(e.sequence, e.message) for e in events] == [(3, "one"), (4, "front"), (5, "next")]
    assert len(store.candidates()) == 1


def test_an_expired_lease_is_taken_over_and_its_owner_writes_no_more(database: Database) -> None:
    search_id = add_search(database).search_id
    first = SearchQueue(database, "first", 0.05)
    assert first.claim() is not None
    second = SearchQueue(database, "second", 10.0)
    assert second.claim() is None
    time.sleep(0.1)
    taken = second.claim()
    assert taken is not None
    assert taken.resumed
    assert taken.dataset_notes == ("note",)
    old = SqlCandidateStore(database, search_id, "first")
    assert old.should_stop()
    for write in (lambda: old.save_candidate(record(1)), lambda: old.append(Event("phase", "x")), lambda: old.save_phase("a", {})):
        with pytest.raises(LeaseLostError):
            write()
    assert not first.renew(search_id)
    first.finish(search_id, SearchOutcome("SUCCEEDED", "too late"))
    assert SearchCatalogue(database).get("projects/p/searches/s").state == "RUNNING"


def test_a_dead_owner_on_this_machine_needs_no_waiting(database: Database) -> None:
    dead = process_identity().rpartition("|")[0] + "|1"
    assert owner_is_dead(dead)
    assert not owner_is_dead(process_identity())
    add_search(database)
    assert SearchQueue(database, dead, 1000.0).claim() is not None
    assert SearchQueue(database, process_identity(), 10.0).claim() is not None


def test_cancelling_reaches_a_running_search_within_half_a_second(database: Database) -> None:
    store, queue, search_id = claimed_store(database)
    assert not store.should_stop()
    SearchCatalogue(database).cancel("projects/p/searches/s")
    assert wait_until(store.should_stop, 0.5)
    queue.finish(search_id, SearchOutcome("CANCELLED", "stopped"))
    assert SearchCatalogue(database).get("projects/p/searches/s").state == "CANCELLED"


def test_a_deleted_search_takes_everything_along(database: Database) -> None:
    store, queue, search_id = claimed_store(database)
    store.save_candidate(record(1))
    queue.fail(search_id, "broken")
    catalogue = SearchCatalogue(database)
    catalogue.delete("projects/p/searches/s")
    with pytest.raises(NotFoundError):
        catalogue.candidates("projects/p/searches/s")
    assert add_search(database).candidate_count == 0


def test_only_marked_process_groups_are_ended(database: Database, tmp_path: Path) -> None:
    store, queue, search_id = claimed_store(database)
    environment = {**os.environ, MARKER: str(tmp_path)}
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    ours = subprocess.Popen(command, env=environment, start_new_session=True)
    foreign = subprocess.Popen(command, start_new_session=True)
    try:
        store.record_process_group(ours.pid)
        assert queue.process_groups(search_id) == (ours.pid,)
        assert wait_until(lambda: end_process_group(ours.pid, str(tmp_path)), 5)
        assert ours.wait(5) != 0
        assert not end_process_group(foreign.pid, str(tmp_path))
        assert not end_process_group(os.getpgrp(), str(tmp_path))
        assert members(foreign.pid) == [foreign.pid]
    finally:
        for process in (ours, foreign):
            process.kill()
            process.wait()


def test_an_outcome_is_stored_before_it_is_announced(database: Database) -> None:
    _, queue, search_id = claimed_store(database)
    queue.finish(search_id, SearchOutcome("SUCCEEDED", "found", best="c0001", front=("c0001",)))
    stored = SearchCatalogue(database).get("projects/p/searches/s")
    assert (stored.state, stored.outcome["best"], stored.has_ended) == ("SUCCEEDED", "c0001", True)
    last = SearchCatalogue(database).events_after(stored.name, stored.last_sequence - 1)[0]
    assert last.payload == {"state": "SUCCEEDED"}
    assert replace(stored, state="QUEUED").has_ended is False
