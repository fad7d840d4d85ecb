from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from benchmarks.postgresql import PostgresServer
from service.errors import InvalidRequestError, StoreUnavailableError, StoreUrlError, describe_error
from service.server import main
from service.settings import Settings
from service.store import database as database_module
from service.store.database import Database
from service.store.deadline import Probe
from service.store.schema import TargetRow

HOLDS_THE_LOCK = """
import sys, time
from service.store.database import Database
with Database(sys.argv[1]).write() as session:
    print("held", flush=True)
    time.sleep(60)
"""


def add_target(database: Database, name: str) -> None:
    with database.write() as session:
        session.add(TargetRow(project="p", name=name, target_json="{}", create_time=0.0))


def target_names(database: Database) -> list[str]:
    with database.read() as session:
        return list(session.scalars(sa.select(TargetRow.name).order_by(TargetRow.id)))


def test_a_read_sees_one_snapshot(database: Database) -> None:
    add_target(database, "a")
    with database.read() as session:
        count = sa.select(sa.func.count()).select_from(TargetRow)
        assert session.scalar(count) == 1
        add_target(database, "b")
        assert session.scalar(count) == 1
    assert target_names(database) == ["a", "b"]


def test_a_write_commits_wholly_or_not_at_all(database: Database) -> None:
    def break_off() -> None:
        with database.write() as session:
            session.add(TargetRow(project="p", name="a", target_json="{}", create_time=0.0))
            session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        break_off()
    assert target_names(database) == []


def test_what_a_write_has_read_nobody_changes_before_it_ends(database: Database) -> None:
    """Read, think, write: without the lock, two of them would both have read the old value."""

    def count_up() -> None:
        for _ in range(10):
            with database.write() as session:
                row = session.scalars(sa.select(TargetRow)).one()
                row.create_time += 1.0

    add_target(database, "a")
    threads = [threading.Thread(target=count_up) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as session:
        assert session.scalars(sa.select(TargetRow.create_time)).one() == 60.0


def test_the_lock_of_a_killed_process_is_free_at_once(database: Database) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDS_THE_LOCK, database.url], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    holder.wait()
    started = time.monotonic()
    add_target(database, "a")
    assert time.monotonic() - started < 5


def test_a_lock_that_is_held_for_too_long_is_a_typed_error(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "_LOCK_TIMEOUT_MS", 200)
    database = Database(database_url)
    with database.write(), pytest.raises(StoreUnavailableError, match="try again"):
        add_target(database, "a")
    database.close()


def test_a_value_that_the_store_cannot_keep_is_the_requests_fault(postgresql_database_url: str) -> None:
    database = Database(postgresql_database_url)
    for name in ("nul\0", "x" * 300):
        with pytest.raises(InvalidRequestError):
            add_target(database, name)
    database.close()


@pytest.mark.parametrize(
    "url", ["sqlite:////nowhere/at/all.db", "postgresql://u:hunter2@127.0.0.1:9/d"], ids=["sqlite", "postgresql"]
)
def test_a_store_that_is_away_says_so_in_time(url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: None)
    database = Database(url, patience_s=0.2)
    with caplog.at_level(logging.DEBUG):
        for ask in (database.migrate, lambda: add_target(database, "a"), lambda: target_names(database), database.ping):
            started = time.monotonic()
            with pytest.raises(StoreUnavailableError) as caught:
                ask()
            assert time.monotonic() - started < 2.5
            assert describe_error(caught.value).code.name == "UNAVAILABLE"
    assert "hunter2" not in caplog.text


def test_a_database_that_restarts_is_waited_for(
    postgres_server: PostgresServer, postgresql_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(postgresql_database_url, patience_s=30.0)
    add_target(database, "a")
    waiting = threading.Event()

    def write_while(something_happens: Callable[[], None]) -> None:
        with database.write() as session:
            something_happens()
            session.execute(sa.text("SELECT 1"))

    monkeypatch.setattr(database_module, "pause", lambda seconds: waiting.set() or time.sleep(seconds))
    try:
        with pytest.raises(StoreUnavailableError):
            write_while(postgres_server.stop)
        writer = threading.Thread(target=add_target, args=(database, "b"))
        writer.start()
        assert waiting.wait(10)
    finally:
        postgres_server.start()
    writer.join()
    assert target_names(database) == ["a", "b"]
    database.close()


def test_ping_tells_a_store_with_our_tables(database: Database, tmp_path: Path) -> None:
    database.ping()
    empty = Database(f"sqlite:///{tmp_path / 'empty.db'}")
    with pytest.raises(StoreUnavailableError):
        empty.ping()


def test_a_deleted_sqlite_file_is_noticed(sqlite_database_url: str) -> None:
    database = Database(sqlite_database_url)
    database.ping()
    Path(sqlite_database_url.removeprefix("sqlite:///")).unlink()
    with pytest.raises(StoreUnavailableError):
        database.ping()


def test_a_probe_that_hangs_is_given_up_and_not_asked_twice() -> None:
    calls, released = [], threading.Event()

    def hang() -> None:
        calls.append(1)
        released.wait(10)

    probe = Probe("the store", hang)
    for _ in range(2):
        with pytest.raises(StoreUnavailableError, match=r"within 0\.05 s"):
            probe.ask(0.05)
    assert len(calls) == 1
    released.set()
    probe.ask(5)


@pytest.mark.parametrize("url", ["", "mysql://u:hunter2@h/d", "postgres://u:hunter2@h/d", "not a url hunter2"])
def test_a_url_that_cannot_be_used_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(StoreUrlError, match=r"postgresql\+psycopg://") as caught:
        Database(url)
    assert "hunter2" not in str(caught.value)


def test_a_server_without_its_database_ends_with_words_and_no_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PARETOPRESS_DATABASE_URL", "postgresql://me:hunter2@127.0.0.1:9/d")
    monkeypatch.setenv("PARETOPRESS_DATA_DIR", str(tmp_path))
    assert main() == 2
    printed = capfd.readouterr()
    assert "error: the database does not answer" in printed.err
    assert "hunter2" not in printed.out + printed.err + repr(Settings()) + str(Settings())


def test_a_new_file_may_be_opened_by_two_at_once(tmp_path: Path) -> None:
    """One of sixteen such pairs was told at once that the database is locked."""
    for number in range(60):
        databases = [Database(f"sqlite:///{tmp_path / f'{number}.db'}", patience_s=0.0) for _ in range(2)]
        together = threading.Barrier(2)

        def look(database: Database, together: threading.Barrier = together) -> None:
            together.wait()
            with database.write() as session:
                session.execute(sa.text("SELECT 1"))

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(look, databases))
        for database in databases:
            database.close()
