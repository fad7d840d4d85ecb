"""A Ray cluster of two nodes on this machine, the second one without our files: for checks of searches on a cluster.

The second node lives in its own mount and process namespaces (root is needed): the checkout and the data folder are hidden from
it by empty file systems, its packages stay, and killing its first process ends it like a machine whose power fails.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ray.util import get_node_ip_address

from benchmarks.harness import ROOT
from tests.service.ports import free_port
from tests.waiting import wait_until

SECOND = "127.0.0.2"
_START_S = 120.0
_ATTEMPTS = 4
_STARTED = "Ray runtime started."
_HIDE = """
set -e
mkdir -p "$KEEP"
mount --bind "$VENV" "$KEEP"
for folder in $HIDDEN; do mount -t tmpfs tmpfs "$folder"; done
mkdir -p "$VENV"
mount --bind "$KEEP" "$VENV"
cd /
exec "$@"
"""


@dataclass(frozen=True)
class Cluster:
    """A running one.

    Attributes:
        environment: what a worker needs to be let in.
        second: the process that the whole second node lives in.
    """

    address: str
    environment: Mapping[str, str]
    second: subprocess.Popen[bytes]

    def lose_second(self) -> None:
        """End it at once, with all that runs there."""
        os.killpg(self.second.pid, signal.SIGKILL)
        self.second.wait()


@contextlib.contextmanager
def two_nodes(folder: Path, hidden: Sequence[Path], cpus: int = 2, second_cpus: int = 2) -> Iterator[Cluster]:
    """Start both, with a token that only they and ``environment`` know; end both.

    Args:
        folder: short: Ray's sockets lie below.
        hidden: folders that the second node does not see, beside the checkouts.
    """
    environment = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray ends processes when the machine has little memory left, whoever took it.
        "RAY_memory_monitor_refresh_ms": "0",
    }
    address = f"{get_node_ip_address()}:{free_port()}"
    port = address.rpartition(":")[2]
    head = second = None
    try:
        head = _started(folder / "1", environment, ["--head", f"--port={port}", "--include-dashboard=false", f"--num-cpus={cpus}"])
        options = [f"--address={address}", f"--node-ip-address={SECOND}", f"--num-cpus={second_cpus}"]
        second = _started(folder / "2", environment, options, _hiding(folder, hidden))
        yield Cluster(address, environment, second)
    finally:
        for process in (second, head):
            if process is not None and process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        _end_children(folder)


def _started(
    folder: Path, environment: Mapping[str, str], options: Sequence[str], before: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    """A node that runs; on a busy machine Ray gives up after 30 s, so it is started again."""
    for attempt in range(_ATTEMPTS):
        place = folder.with_name(f"{folder.name}{attempt}")
        process = _start(place, environment, options, before)
        log = place / "start.log"
        wait_until(lambda log=log, process=process: _STARTED in log.read_text() or process.poll() is not None, _START_S)  # type: ignore[misc]
        if process.poll() is None and _STARTED in log.read_text():
            return process
        _end_children(place)
    raise RuntimeError(f"a node of Ray did not start: {log.read_text()[-2000:]}")


def _start(folder: Path, environment: Mapping[str, str], options: Sequence[str], before: Sequence[str]) -> subprocess.Popen[bytes]:
    (folder / "tmp").mkdir(parents=True)
    command = [*before, sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", "--num-gpus=0"]
    command += ["--object-store-memory=200000000", f"--temp-dir={folder}", "--min-worker-port=0", "--max-worker-port=0", *options]
    names = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with (folder / "start.log").open("wb") as log:
        return subprocess.Popen(
            command,
            env={**names, **environment, "TMPDIR": str(folder / "tmp")},
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
        )


def _hiding(folder: Path, hidden: Sequence[Path]) -> list[str]:
    """A command that runs another one where neither a checkout nor ``hidden`` is to be seen."""
    venv = Path(sys.prefix)
    checkouts = {ROOT, venv.parent} if (venv.parent / "search").is_dir() else {ROOT}
    outer = [path for path in checkouts if not any(other != path and other in path.parents for other in checkouts)]
    values = {"VENV": venv, "KEEP": folder / "keep", "HIDDEN": " ".join(str(path) for path in (*outer, *hidden))}
    names = [f"{name}={value}" for name, value in values.items()]
    return ["env", *names, "unshare", "-m", "-p", "-f", "--mount-proc", "--kill-child", "bash", "-c", _HIDE, "hide"]


def _end_children(folder: Path) -> None:
    """Ray's processes leave the group of what has started them; theirs are those that name our folder."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if f"{folder}/".encode() in (entry / "cmdline").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)
    time.sleep(0.5)
