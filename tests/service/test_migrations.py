from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

from service.store import database as database_module
from service.store.database import Database
from service.store.schema import Base

MIGRATIONS = Path(database_module.__file__).parent / "migrations"


def migrate(database: Database, revision: str, down: bool = False) -> set[str]:
    """Names of the tables afterwards."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with database.engine.connect() as connection:
        config.attributes["connection"] = connection
        with connection.begin():
            (command.downgrade if down else command.upgrade)(config, revision)
    return set(sa.inspect(database.engine).get_table_names()) - {"alembic_version"}


def test_a_store_of_the_first_version_keeps_its_rows_up_and_down_again(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'store.db'}")
    first = migrate(database, "0001")
    assert not first & {"targets", "calibrations"}
    row = "INSERT INTO requests (project, method, request_id, fingerprint, resource) VALUES ('p', 'm', 'r', 'f', 'x')"
    with database.write() as session:
        session.execute(sa.text(row))
    database.migrate()
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
        assert connection.execute(sa.text("SELECT resource FROM requests")).scalar() == "x"
    assert migrate(database, "0001", down=True) == first
    with database.engine.connect() as connection:
        assert connection.execute(sa.text("SELECT resource FROM requests")).scalar() == "x"
    database.close()
