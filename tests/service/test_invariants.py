"""Every contradiction is found in a store that was broken on purpose, and none in a sound one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from search.environment import SearchOutcome
from search.protocols import Event
from service.store.calibration_catalogue import CalibrationCatalogue, NewCalibration
from service.store.database import Database
from service.store.invariants import violations
from service.store.schema import CalibrationRow, CandidateRow, EventRow, InputRow, RequestRow, SearchRow, UploadRow
from service.store.search_catalogue import NewSearch, SearchCatalogue
from service.store.search_queue import SearchQueue
from service.store.search_store import SqlCandidateStore
from tests.service.fakes import record
from tests.service.test_store import SPEC

ENDED, RUNNING, QUEUED = "projects/p/searches/ended", "projects/p/searches/running", "projects/p/searches/queued"


@pytest.fixture
def sound(database: Database) -> Database:
    """An ended, a running and a queued search, a calibration, an answered request."""
    catalogue, queue = SearchCatalogue(database), SearchQueue(database, "me", 100.0)
    for name in (ENDED, RUNNING, QUEUED):
        catalogue.create(NewSearch(name, "p", "", "m", "d", SPEC, 60.0), name.rpartition("/")[2], "f" * 64)
    for name in (ENDED, RUNNING):
        claimed = queue.claim()
        assert claimed is not None
        assert claimed.name == name
        store = SqlCandidateStore(database, claimed.search_id, "me")
        for number in (1, 2):
            store.save_candidate(record(number), [Event("candidate", f"{number}")])
        if name == ENDED:
            queue.finish(claimed.search_id, SearchOutcome("SUCCEEDED", "found", best="c0001", front=("c0001", "c0002")))
    CalibrationCatalogue(database).create(NewCalibration("projects/p/targets/t/calibrations/c", "p", "projects/p/targets/t", 5.0))
    return database


def found(database: Database) -> list[str]:
    with database.read() as session:
        return violations(session)


def change(table: type, values: dict[str, Any], **key: Any) -> Callable[[Session], object]:
    return lambda session: session.execute(sa.update(table).filter_by(**key).values(**values))


def remove(table: type, *conditions: Any) -> Callable[[Session], object]:
    return lambda session: session.execute(sa.delete(table).where(*conditions))


def of_search(name: str) -> Any:
    return sa.select(SearchRow.id).filter_by(name=name).scalar_subquery()


def insert(row: Callable[[], object]) -> Callable[[Session], object]:
    return lambda session: session.add(row())


@dataclass(frozen=True)
class Broken:
    id: str
    change: Callable[[Session], object]
    says: str


INPUT = {"kind": "model", "project": "p", "display_name": "", "format": "ONNX", "sha256": "a", "size_bytes": 1, "facts_json": "{}"}
UPLOAD = {"project": "p", "kind": "model", "upload_id": "u", "size_bytes": 1, "sha256": "a", "update_time": 0.0}
BROKEN = [
    Broken(
        "gap", remove(EventRow, EventRow.sequence == 3, EventRow.search_id == of_search(ENDED)), f"{ENDED}: 4 events from 1 to 5"
    ),
    Broken("first", remove(EventRow, EventRow.sequence == 1, EventRow.search_id == of_search(ENDED)), "4 events from 2 to 5"),
    Broken("last", change(SearchRow, {"last_sequence": 9}, name=RUNNING), "should be 1 to 9"),
    Broken("none", remove(EventRow, EventRow.search_id == of_search(QUEUED)), f"{QUEUED}: 0 events"),
    Broken(
        "best",
        remove(CandidateRow, CandidateRow.candidate_id == "c0001", CandidateRow.search_id == of_search(ENDED)),
        "its best 'c0001'",
    ),
    Broken(
        "front",
        remove(CandidateRow, CandidateRow.candidate_id == "c0002", CandidateRow.search_id == of_search(ENDED)),
        "c0002 of its front",
    ),
    Broken("no outcome", change(SearchRow, {"outcome_json": ""}, name=ENDED), "its best None"),
    Broken("end", change(SearchRow, {"end_time": None}, name=ENDED), f"{ENDED}: SUCCEEDED with no end time"),
    Broken("lease", change(SearchRow, {"lease_owner": "x"}, name=ENDED), f"{ENDED}: SUCCEEDED with a lease"),
    Broken("early end", change(SearchRow, {"end_time": 1.0}, name=RUNNING), f"{RUNNING}: RUNNING with an end time"),
    Broken("queued lease", change(SearchRow, {"lease_owner": "x"}, name=QUEUED), f"{QUEUED}: QUEUED with a lease"),
    Broken("half a lease", change(SearchRow, {"lease_expires": 0.0}, name=RUNNING), f"{RUNNING}: RUNNING with half a lease"),
    Broken("no start", change(SearchRow, {"start_time": None}, name=RUNNING), "without a start"),
    Broken("state", change(SearchRow, {"state": "SLEEPING"}, name=QUEUED), "unknown state 'SLEEPING'"),
    Broken("trial", change(CandidateRow, {"trial_number": 7}), "trial 7 stands for 2 candidates"),
    Broken("calibration", change(CalibrationRow, {"state": "FAILED"}), "calibrations/c: FAILED with no end time"),
    Broken(
        "request",
        change(RequestRow, {"resource": "projects/q/searches/x"}, request_id="ended"),
        "request 'ended' of create_search in p",
    ),
    Broken(
        "input", insert(lambda: InputRow(**INPUT, name="projects/q/models/m", create_time=0.0)), "stands as a model of project p"
    ),
    Broken("upload", insert(lambda: UploadRow(**UPLOAD, resource="projects/q/models/m")), "upload 'u' of p: became"),
]


def test_a_sound_store_has_none(sound: Database) -> None:
    assert found(sound) == []
    SearchQueue(sound, "me", 100.0).release(2)
    assert found(sound) == []


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.id)
def test_a_contradiction_is_found(sound: Database, broken: Broken) -> None:
    with sound.write() as session:
        broken.change(session)
    assert any(broken.says in sentence for sentence in found(sound)), found(sound)


def test_rows_without_their_search_are_found(sqlite_database_url: str) -> None:
    database = Database(sqlite_database_url)
    SearchCatalogue(database).create(NewSearch(ENDED, "p", "", "m", "d", SPEC, 60.0), "", "")
    with database.engine.connect() as connection:
        # What a store that was repaired by hand may look like: foreign keys were off.
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
        connection.exec_driver_sql("DELETE FROM searches")
        connection.exec_driver_sql("PRAGMA foreign_keys=ON")
        connection.exec_driver_sql("BEGIN")
    assert found(database) == ["events: 1 rows of searches that do not exist"]
    database.close()
