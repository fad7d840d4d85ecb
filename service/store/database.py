"""Connections to the SQL store, with one meaning on SQLite and PostgreSQL: reads see one snapshot, writes come one at a time."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import sleep as pause
from typing import Any, TypeVar

from alembic import command
from alembic.config import Config
from sqlalchemy import URL, Connection, Engine, Row, Select, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session

from service.calls import check_call
from service.errors import StoreUrlError
from service.store.deadline import Probe
from service.store.failures import is_restarting, translated

_MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK_TIMEOUT_MS = 15_000
_IDLE_TIMEOUT_MS = 30_000
_CONNECT_TIMEOUT_S = 5
_WRITE_LOCK = 0x70726573
"""Key of the advisory lock that every write transaction on PostgreSQL holds ("pres" in ASCII)."""
_POOL = {"pool_size": 8, "max_overflow": 24, "pool_timeout": 10.0, "pool_pre_ping": True}
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0
AnyRow = Row[*tuple[Any, ...]]
OpenT = TypeVar("OpenT", Session, Connection)


class Database:
    """A store by its SQLAlchemy URL. Threads and processes may share one; what a session returns is copied before it closes.

    SQLite has one writer at a time by nature. PostgreSQL gets the same by an advisory lock, so that every query that was thought
    through for the one is right on the other: a service that queues minutes of work per write needs no second writer.

    Args:
        url: ``sqlite:///path`` or ``postgresql+psycopg://user:password@host/database``.
        patience_s: how long the begin of a transaction is tried again while the database restarts.

    Raises:
        StoreUrlError: no such URL.
    """

    def __init__(self, url: str, patience_s: float = 3.0) -> None:
        parsed = _parsed(url)
        self.url = url
        self._patience_s = patience_s
        self._file = Path(parsed.database) if _is_sqlite(parsed) and parsed.database else None
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
        self.engine = _engine(parsed)
        self._writer = self.engine.execution_options(paretopress_write=True)
        self._reader = self.engine if _is_sqlite(parsed) else self.engine.execution_options(**_SNAPSHOT)
        self._single = self.engine.execution_options(paretopress_single=True)
        self._probe = Probe("the database", self._look)

    def migrate(self) -> None:
        """Bring the tables to the newest version, wholly or not at all; safe to call from several processes.

        Raises:
            StoreUnavailableError: the database does not answer.
        """
        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS))
        with self.write() as session:
            config.attributes["connection"] = session.connection()
            command.upgrade(config, "head")

    def rows(self, statement: Select[*tuple[Any, ...]], **parameters: Any) -> Sequence[AnyRow]:
        """What one statement finds. That is a snapshot in itself: SQLite needs no transaction around it.

        For what is asked often: every further statement is another wait of the thread for the interpreter's lock.

        Raises:
            StoreUnavailableError: the database does not answer.
        """
        with _own_errors(), self._patiently(self._single.connect) as connection:
            return connection.execute(statement, parameters).all()

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that sees one snapshot and writes nothing.

        Raises:
            StoreUnavailableError: the database does not answer.
        """
        with _own_errors(), self._begun(self._reader) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session in a transaction that no other writer interleaves; commits at the end, or not at all.

        Raises:
            StoreUnavailableError: the database does not answer, or other writers held it for too long.
            CallAbandonedError: nobody waits for the answer any more.
        """
        with _own_errors(), self._begun(self._writer) as session:
            check_call()  # it may have waited for others for longer than its caller did
            yield session
            session.commit()

    def ping(self, timeout_s: float = 2.0) -> None:
        """Return if the database answers and has our tables.

        Raises:
            StoreUnavailableError: not within ``timeout_s``.
        """
        self._probe.ask(timeout_s)

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()

    def _look(self) -> None:
        # An open SQLite file can still be read after it was deleted.
        if self._file is not None and not self._file.exists():
            raise FileNotFoundError(str(self._file))
        with _own_errors(), self.engine.connect() as connection:
            connection.execute(text("SELECT version_num FROM alembic_version")).all()

    def _begun(self, engine: Engine) -> Session:
        """A session whose transaction has begun, the lock of writers held."""

        def begin() -> Session:
            session = Session(engine, expire_on_commit=False)
            try:
                session.connection()
            except BaseException:
                session.close()
                raise
            return session

        return self._patiently(begin)

    def _patiently(self, connect: Callable[[], OpenT]) -> OpenT:
        """Connect again for a while if the database restarts."""
        deadline, pause_s = time.monotonic() + self._patience_s, _FIRST_PAUSE_S
        while True:
            try:
                return connect()
            except DBAPIError as error:
                if not is_restarting(error) or time.monotonic() + pause_s > deadline:
                    raise
            pause(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


_SNAPSHOT: dict[str, Any] = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}


@contextmanager
def _own_errors() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        known = translated(error)
        if known is None:
            raise
        raise known from error


def _parsed(url: str) -> URL:
    # Nothing of the URL stands in a message: it may hold a password.
    try:
        parsed = make_url(url)
    except ArgumentError:
        parsed = None
    if parsed is None or parsed.get_backend_name() not in ("sqlite", "postgresql"):
        examples = "sqlite:////var/lib/paretopress/store.db or postgresql+psycopg://user:password@host:5432/database"
        raise StoreUrlError(f"PARETOPRESS_DATABASE_URL must look like {examples}")
    return parsed.set(drivername="postgresql+psycopg") if parsed.drivername == "postgresql" else parsed


def _is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _engine(url: URL) -> Engine:
    # Parameters never stand in errors: some are digests of secrets.
    if _is_sqlite(url):
        engine = create_engine(url, hide_parameters=True)
        event.listen(engine, "connect", _set_pragmas)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    engine = create_engine(url, hide_parameters=True, connect_args=_postgresql_arguments(), **_POOL)
    event.listen(engine, "begin", _begin_postgresql)
    return engine


def _postgresql_arguments() -> dict[str, Any]:
    """Both ends notice within half a minute that the other one is gone, so that a dead server's lock is soon free again."""
    keepalives = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
    timeouts = {"lock_timeout": _LOCK_TIMEOUT_MS, "idle_in_transaction_session_timeout": _IDLE_TIMEOUT_MS}
    server_side = {**timeouts, **{f"tcp_{name}": value for name, value in keepalives.items()}}
    options = " ".join(f"-c {name}={value}" for name, value in server_side.items())
    waiting = {"connect_timeout": _CONNECT_TIMEOUT_S, "tcp_user_timeout": _IDLE_TIMEOUT_MS}
    return {"keepalives": 1, **keepalives, **waiting, "options": options}


def _set_pragmas(connection: Any, record: object) -> None:
    # SQLAlchemy's `begin` event starts transactions, not the driver's own guess.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (f"busy_timeout={_LOCK_TIMEOUT_MS}", "foreign_keys=ON", "synchronous=NORMAL"):
        cursor.execute(f"PRAGMA {pragma}")
    _write_ahead(cursor)
    cursor.close()


def _write_ahead(cursor: Any) -> None:
    """Two connections that do this to a new file at once do not wait for each other: SQLite tells one of them that it is busy."""
    deadline = time.monotonic() + _LOCK_TIMEOUT_MS / 1000
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        pause(_FIRST_PAUSE_S)


def _has(connection: Connection, option: str) -> bool:
    return bool(connection.get_execution_options().get(option, False))


def _begin_sqlite(connection: Connection) -> None:
    if not _has(connection, "paretopress_single"):
        connection.exec_driver_sql("BEGIN IMMEDIATE" if _has(connection, "paretopress_write") else "BEGIN")


def _begin_postgresql(connection: Connection) -> None:
    if _has(connection, "paretopress_write"):
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITE_LOCK})")
