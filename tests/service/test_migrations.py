from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from benchmarks.postgresql import PostgresServer
from service.store import database as database_module
from service.store.database import Database
from service.store.schema import Base

MIGRATIONS = Path(database_module.__file__).parent / "migrations"
PROGRAM = "import sys; from service.store.database import Database; Database(sys.argv[1], patience_s=30.0).migrate(); print('done')"


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A database without tables."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'store.db'}"
        yield Database(url)
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        url = server.new_database()
        opened = Database(url)
        yield opened
        opened.close()
        server.drop_database(url)


def revisions() -> list[str]:
    """All, oldest first."""
    return [script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()][::-1]


def migrate(database: Database, revision: str, down: bool = False) -> set[str]:
    """Names of the tables afterwards."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with database.write() as session:
        config.attributes["connection"] = session.connection()
        (command.downgrade if down else command.upgrade)(config, revision)
    return set(sa.inspect(database.engine).get_table_names()) - {"alembic_version"}


def differences(database: Database) -> list[Any]:
    with database.engine.connect() as connection:
        return list(compare_metadata(MigrationContext.configure(connection), Base.metadata))


def fill(database: Database) -> dict[str, int]:
    """A row in every table as it is now; returns how many rows each has."""
    tables = sa.MetaData()
    tables.reflect(database.engine)
    with database.write() as session:
        for table in tables.sorted_tables:
            if table.name != "alembic_version":
                session.execute(table.insert(), {column.name: _value(column) for column in table.columns if _is_needed(column)})
    return counts(database, [name for name in tables.tables if name != "alembic_version"])


def _is_needed(column: sa.Column[Any]) -> bool:
    return not column.nullable or bool(column.foreign_keys)


def _value(column: sa.Column[Any]) -> object:
    kind = column.type.python_type
    return "x" if kind is str else kind(1)


def counts(database: Database, tables: list[str]) -> dict[str, int]:
    with database.engine.connect() as connection:
        return {name: connection.execute(sa.text(f"SELECT count(*) FROM {name}")).scalar_one() for name in tables}


def test_an_empty_store_gets_the_tables_of_the_schema(empty: Database) -> None:
    empty.migrate()
    assert differences(empty) == []
    empty.migrate()
    assert differences(empty) == []


@pytest.mark.parametrize("version", revisions())
def test_a_store_of_every_version_keeps_its_rows(empty: Database, version: str) -> None:
    before = migrate(empty, version)
    rows = fill(empty)
    assert set(rows) == before
    assert set(rows.values()) == {1}
    empty.migrate()
    assert differences(empty) == []
    assert counts(empty, sorted(before)) == rows
    assert migrate(empty, version, down=True) == before
    assert counts(empty, sorted(before)) == rows
    empty.migrate()
    assert differences(empty) == []


def test_answers_of_before_count_as_given_at_the_migration(empty: Database) -> None:
    migrate(empty, "0002")
    fill(empty)
    empty.migrate()
    with empty.read() as session:
        assert session.execute(sa.text("SELECT create_time FROM requests")).scalar_one() > 1.7e9


def test_a_migration_that_breaks_leaves_the_store_as_it_was(empty: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    before = migrate(empty, "0002")
    rows = fill(empty)
    upgrade = command.upgrade

    def breaks(*what: Any) -> None:
        upgrade(*what)
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(command, "upgrade", breaks)
    with pytest.raises(RuntimeError):
        empty.migrate()
    monkeypatch.undo()
    assert set(sa.inspect(empty.engine).get_table_names()) - {"alembic_version"} == before
    assert counts(empty, sorted(before)) == rows
    empty.migrate()
    assert differences(empty) == []


def test_several_processes_may_migrate_at_once(empty: Database) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, empty.url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    answers = [process.communicate(timeout=60) for process in processes]
    assert [out for out, _ in answers] == ["done\n"] * 2, answers
    assert differences(empty) == []
