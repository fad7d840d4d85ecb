from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search.environment import SearchOutcome
from search.protocols import Event
from service import maintenance, upkeep
from service.errors import NotFoundError
from service.settings import Settings
from service.store.blobs import FsspecBlobStore
from service.store.database import Database
from service.store.input_store import InputStore, NewInput
from service.store.requests import recall
from service.store.retention import DAY_S, Collected, Collector, RetentionPolicy
from service.store.schema import (
    Base,
    CandidateRow,
    EventRow,
    InputRow,
    PhaseRow,
    RequestRow,
    ScheduleRow,
    ScheduleRunRow,
    SearchRow,
    TargetRow,
)
from service.store.search_catalogue import NewSearch, SearchCatalogue
from service.store.search_queue import SearchQueue, process_identity
from service.store.search_store import SqlCandidateStore
from service.store.upkeep_lease import UpkeepLease
from service.store.upload_store import STALE_AFTER_S, UploadStore
from service.upkeep import Upkeep, retention_policy
from tests.service.fakes import record
from tests.service.test_store import SPEC
from tests.service.test_store_contract import UPLOAD
from tests.waiting import wait_until

NO_WAIT: Callable[[float], bool] = lambda seconds: False  # noqa: E731
OLD_S = 2 * DAY_S


class Stores:
    """A database, blobs and uploads in one folder."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.blobs = FsspecBlobStore(str(folder / "blobs"))
        self.uploads = UploadStore(database, folder / "uploads", 1000)
        self.work_dir = folder / "work"

    def put(self, data: bytes, age_s: float = OLD_S) -> str:
        """A blob that was written some time ago."""
        digest = self.blobs.put_bytes(data)
        written = time.time() - age_s
        os.utime(self.blobs.local_path(digest), (written, written))
        return digest

    def search(self, name: str, age_s: float | None, outcome: SearchOutcome | None = None) -> int:
        """A search that ended ``age_s`` ago (None: it runs), with a candidate whose file is a blob."""
        full = f"projects/p/searches/{name}"
        search_id = SearchCatalogue(self.database).create(NewSearch(full, "p", "", "m", "d", SPEC, 60.0), name, "f" * 64).search_id
        queue = SearchQueue(self.database, "me", 100.0)
        assert queue.claim() is not None
        store = SqlCandidateStore(self.database, search_id, "me")
        store.save_candidate(record(1, artifacts={"model.onnx": self.put(name.encode())}), [Event("candidate", "one")])
        if age_s is not None:
            queue.finish(search_id, outcome or SearchOutcome("SUCCEEDED", "found", best="c0001"))
            with self.database.write() as session:
                session.execute(sa.update(SearchRow).filter_by(id=search_id).values(end_time=time.time() - age_s))
        return search_id

    def collect(self, policy: RetentionPolicy, wait: Callable[[float], bool] = NO_WAIT, **options: bool) -> Collected:
        return self.collector(policy, wait).collect(**options)

    def collector(self, policy: RetentionPolicy, wait: Callable[[float], bool] = NO_WAIT) -> Collector:
        return Collector(self.database, self.blobs, self.uploads, self.work_dir, policy, wait)


@pytest.fixture
def stores(database: Database, tmp_path: Path) -> Stores:
    return Stores(database, tmp_path)


def names(database: Database) -> list[str]:
    with database.read() as session:
        return [name.rpartition("/")[2] for name in session.scalars(sa.select(SearchRow.name).order_by(SearchRow.id))]


def test_ended_searches_go_when_they_are_old_and_take_their_blobs_along(stores: Stores) -> None:
    stores.search("old", 11 * DAY_S)
    stores.search("young", 9 * DAY_S)
    stores.search("running", None)
    policy = RetentionPolicy(searches_s=10 * DAY_S)
    assert stores.collect(policy, dry_run=True).searches == 1
    assert names(stores.database) == ["old", "young", "running"]
    assert stores.collect(policy) == Collected(searches=1, blobs=1, blob_bytes=3)
    assert names(stores.database) == ["young", "running"]
    with stores.database.read() as session:
        for table in (CandidateRow, EventRow):
            assert len(set(session.scalars(sa.select(table.search_id)))) == 2


def test_searches_are_kept_for_ever_by_default(stores: Stores) -> None:
    stores.search("old", 1000 * DAY_S)
    assert stores.collect(RetentionPolicy(requests_s=None)) == Collected()


def test_a_search_that_is_extended_meanwhile_stays(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    stores.search("old", 11 * DAY_S)
    collector = stores.collector(RetentionPolicy(searches_s=DAY_S))
    delete = Collector._delete_search

    def extend_first(self: Collector, *what: object) -> int:
        SearchCatalogue(stores.database).extend("projects/p/searches/old", 5, 60.0, "", "", "")
        return delete(self, *what)  # type: ignore[arg-type]

    monkeypatch.setattr(Collector, "_delete_search", extend_first)
    assert collector.collect().searches == 0
    assert names(stores.database) == ["old"]


def test_answers_and_finished_uploads_are_forgotten_after_their_time(stores: Stores) -> None:
    stores.search("s", None)
    stores.uploads.begin(UPLOAD, 0)
    stores.uploads.finish(UPLOAD, "projects/p/models/m")
    policy, later = RetentionPolicy(requests_s=30 * DAY_S), time.time() + 31 * DAY_S
    collector = stores.collector(policy)
    assert collector.collect().requests == 0
    assert collector.collect(dry_run=True, now=later).requests == 2
    assert collector.collect(now=later).requests == 2
    with stores.database.read() as session:
        assert recall(session, "p", "create_search", "s", "0" * 64) is None
    with pytest.raises(NotFoundError):
        stores.uploads.progress("p", "model", "u1")
    assert names(stores.database) == ["s"]


def test_many_answers_go_in_several_transactions(stores: Stores) -> None:
    with stores.database.write() as session:
        values = {"project": "p", "method": "m", "fingerprint": "f", "resource": "r", "create_time": 1.0}
        session.execute(sa.insert(RequestRow), [{**values, "request_id": str(number)} for number in range(2500)])
    assert stores.collect(RetentionPolicy()).requests == 2500


def test_unfinished_uploads_go_after_a_week(stores: Stores) -> None:
    stores.uploads.begin(UPLOAD, 0)
    collector = stores.collector(RetentionPolicy())
    assert collector.collect().uploads == 0
    later = time.time() + STALE_AFTER_S + 1
    assert collector.collect(dry_run=True, now=later).uploads == 1
    assert collector.collect(now=later).uploads == 1


def test_work_folders_of_deleted_searches_go(stores: Stores) -> None:
    stores.search("kept", None)
    for name in ("projects-p-searches-kept", "projects-p-searches-gone", "sensitivity"):
        (stores.work_dir / name).mkdir(parents=True)
        (stores.work_dir / name / "checkpoint").write_bytes(b"weights")
    assert stores.collect(RetentionPolicy(), dry_run=True).work_folders == 1
    assert stores.collect(RetentionPolicy()).work_folders == 1
    assert sorted(path.name for path in stores.work_dir.iterdir()) == ["projects-p-searches-kept", "sensitivity"]


def test_a_blob_that_nothing_refers_to_goes_when_it_is_a_day_old(stores: Stores) -> None:
    old, young = stores.put(b"old"), stores.put(b"young", age_s=DAY_S - 600)
    assert stores.collect(RetentionPolicy(), dry_run=True) == Collected(blobs=1, blob_bytes=3)
    assert stores.blobs.exists(old)
    assert stores.collect(RetentionPolicy()) == Collected(blobs=1, blob_bytes=3)
    assert not stores.blobs.exists(old)
    assert stores.blobs.exists(young)


def test_a_blob_that_somebody_refers_to_between_the_two_looks_stays(stores: Stores) -> None:
    """Such as a search of a model whose row was deleted right after it had been read."""
    used, put_again, unused = stores.put(b"used"), stores.put(b"put again"), stores.put(b"unused")

    def meanwhile(seconds: float) -> bool:
        assert seconds == 60.0
        new = NewInput("projects/p/models/m", "p", "", "ONNX", "a" * 64, 1, {"canonical_sha256": used})
        InputStore(stores.database, "model").add(new)
        stores.blobs.put_bytes(b"put again")
        return False

    assert stores.collect(RetentionPolicy(), meanwhile).blobs == 1
    assert [stores.blobs.exists(digest) for digest in (used, put_again, unused)] == [True, True, False]


def test_a_server_that_ends_between_the_two_looks_deletes_nothing(stores: Stores) -> None:
    unused = stores.put(b"unused")
    assert stores.collect(RetentionPolicy(), lambda seconds: True) == Collected()
    assert stores.blobs.exists(unused)


def test_a_reference_counts_in_every_text_of_every_table(stores: Stores) -> None:
    """Also in tables that are added later: each of ours gets a row whose every text that is long enough names a blob."""
    search_id = stores.search("s", None)
    expected = []
    for number, table in enumerate(Base.metadata.sorted_tables):
        values: dict[str, object] = {}
        for column in table.columns:
            if isinstance(column.type, sa.String | sa.Text) and (column.type.length or 64) >= 64:
                text = f"{table.name} {column.name}"
                expected.append(stores.put(text.encode()))
                values[column.name] = expected[-1] if column.type.length else json.dumps({"digest": expected[-1]})
            elif column.name == "search_id":
                values[column.name] = search_id
            elif not column.nullable and column.name != "id":
                values[column.name] = column.type.python_type(number + 10)
        foreign = [key.column.table.name for column in table.columns for key in column.foreign_keys]
        if set(foreign) <= {"searches"}:
            with stores.database.write() as session:
                session.execute(table.insert(), values)
        else:
            for column in values:
                expected = [digest for digest in expected if digest not in str(values[column])]
    stores.collect(RetentionPolicy(requests_s=None))
    assert [digest for digest in expected if not stores.blobs.exists(digest)] == []
    assert len(expected) > 20


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    blobs=st.lists(
        st.tuples(
            st.floats(0, 3 * DAY_S) | st.just(OLD_S),
            st.sampled_from(["", "input", "candidate", "outcome", "phase", "event", "target"]),
        ),
        min_size=4,
        max_size=12,
    ),
    ended_days=st.lists(st.none() | st.floats(0, 20), max_size=2),
    keep_days=st.none() | st.floats(1, 15),
)
def test_nothing_that_is_referred_to_is_ever_deleted(
    blobs: list[tuple[float, str]],
    ended_days: list[float | None],
    keep_days: float | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("retention")
    database = Database(f"sqlite:///{folder / 'store.db'}")
    database.migrate()
    stores = Stores(database, folder)
    kept_id = stores.search("kept", None)
    for number, days in enumerate(ended_days):
        stores.search(f"s{number}", None if days is None else days * DAY_S)
    digests = [stores.put(f"blob {number}".encode(), age_s) for number, (age_s, _) in enumerate(blobs)]
    for number, (digest, (_, place)) in enumerate(zip(digests, blobs, strict=True)):
        refer(database, kept_id, number, digest, place)
    stores.collect(RetentionPolicy(searches_s=None if keep_days is None else keep_days * DAY_S))
    for digest, (age_s, place) in zip(digests, blobs, strict=True):
        if place or age_s < DAY_S - 60:
            assert stores.blobs.exists(digest)
        elif age_s > DAY_S + 60:
            assert not stores.blobs.exists(digest)
    with database.read() as session:
        for text in session.scalars(sa.select(CandidateRow.record_json)):
            assert all(stores.blobs.exists(digest) for digest in json.loads(text)["artifacts"].values())
    database.close()


def refer(database: Database, search_id: int, number: int, digest: str, place: str) -> None:
    """A row that names the blob, in one of the places where rows do."""
    text = json.dumps({"some": [{"where": digest}]})
    with database.write() as session:
        if place == "input":
            values = {"kind": "model", "project": "p", "name": f"m{number}", "display_name": "", "format": "ONNX", "sha256": digest}
            session.add(InputRow(**values, size_bytes=1, facts_json="{}", create_time=0.0))
        elif place == "candidate":
            key = {"search_id": search_id, "candidate_id": f"x{number}", "trial_number": 100 + number}
            session.add(CandidateRow(**key, state="front", record_json=json.dumps({"artifacts": {"a": digest}})))
        elif place == "outcome":
            session.execute(sa.update(SearchRow).filter_by(id=search_id).values(outcome_json=SearchRow.outcome_json + text))
        elif place == "phase":
            session.add(PhaseRow(search_id=search_id, name=f"p{number}", value_json=text))
        elif place == "event":
            key = {"search_id": search_id, "sequence": 1000 + number}
            session.add(EventRow(**key, kind="report", message="", payload_json=text, time=0.0))
        elif place == "target":
            session.add(TargetRow(project="p", name=f"t{number}", target_json=text, create_time=0.0))


def test_one_of_several_servers_does_the_upkeep_and_not_too_often(database: Database) -> None:
    first, second = (UpkeepLease(database, "collect", owner, every_s=100.0, lease_s=50.0) for owner in ("a", "b"))
    assert first.take(now=1000.0)
    assert not second.take(now=1010.0)
    first.done(now=1020.0)
    assert not second.take(now=1110.0)
    assert second.take(now=1121.0)
    assert not first.take(now=1170.0)
    assert first.take(now=1172.0), "the lease of a server that hangs ends"
    second.done(now=1173.0)
    assert not second.take(now=1174.0)


def test_a_dead_servers_upkeep_is_taken_over_at_once(database: Database) -> None:
    dead = process_identity().rpartition("|")[0] + "|1"
    assert UpkeepLease(database, "collect", dead, 100.0, 5000.0).take()
    assert UpkeepLease(database, "collect", process_identity(), 100.0, 5000.0).take()


def test_the_server_collects_hourly(stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "_ASK_S", 0.01)
    settings = Settings(data_dir=tmp_path, retention_search_days=5.0)
    stores.search("old", 11 * DAY_S)
    running = Upkeep(settings, stores.database, stores.blobs)
    running.start()
    assert wait_until(lambda: not names(stores.database), 20)
    asyncio.run(running.stop())
    assert running.collect_if_due() is None, "it has just been done"


def test_settings_say_how_long(tmp_path: Path) -> None:
    made = Settings(data_dir=tmp_path, retention_search_days=3, retention_request_days=0, blob_grace_hours=2)
    assert retention_policy(made) == RetentionPolicy(searches_s=3 * DAY_S, requests_s=None, blob_grace_s=7200.0)
    assert retention_policy(Settings(data_dir=tmp_path)) == RetentionPolicy()


def test_collecting_and_checking_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PARETOPRESS_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("PARETOPRESS_RETENTION_SEARCH_DAYS", "5")
    database = Database(Settings().resolved_database_url)
    database.migrate()
    stores = Stores(database, tmp_path)
    search_id = stores.search("old", 11 * DAY_S)
    assert maintenance.main(["check"]) == 0
    with database.write() as session:
        session.execute(sa.update(SearchRow).filter_by(id=search_id).values(lease_owner="somebody"))
    assert maintenance.main(["check"]) == 1
    assert "projects/p/searches/old: SUCCEEDED with a lease" in capsys.readouterr().out
    assert maintenance.main(["collect", "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith(
        "would delete 1 searches, 0 answers, 0 scheduled runs, 0 uploads, 0 work folders, 0 blobs"
    )
    assert names(database) == ["old"]
    database.close()


def test_old_runs_of_schedules_are_forgotten_but_not_the_newest(stores: Stores) -> None:
    old = time.time() - 91 * DAY_S
    with stores.database.write() as session:
        session.add(ScheduleRow(project="p", name="projects/p/schedules/t", spec_json="{}", create_time=old))
        session.flush()
        for number, (state, create_time) in enumerate([("SKIPPED", old), ("RESOLVING", old), ("FAILED", old), ("SKIPPED", old)]):
            values = {"name": f"projects/p/schedules/t/runs/{number}", "due_time": float(number), "schedule_id": 1}
            session.add(ScheduleRunRow(**values, state=state, create_time=create_time))
    assert stores.collect(RetentionPolicy(), dry_run=True).runs == 2
    assert stores.collect(RetentionPolicy()).runs == 2
    with stores.database.read() as session:
        kept = session.scalars(sa.select(ScheduleRunRow.name).order_by(ScheduleRunRow.id)).all()
    assert [name.rpartition("/")[2] for name in kept] == ["1", "3"]
