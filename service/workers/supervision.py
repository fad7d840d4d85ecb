"""Processes beside the server: started, started again when they die, ended with it.

Run as ``python -m service.workers.supervision PARENT_PID COMMAND...`` it starts a command in a group of its own and ends that group
when the parent dies: for programs that start processes themselves and would leave them behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from search.process_variables import with_training_variables
from service.workers.processes import die_with_parent

_LOG = logging.getLogger("paretopress.supervision")
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_TERM_WAIT_S = 10.0


def child_environment() -> dict[str, str]:
    """The server's environment, with this checkout importable and what training needs from its start."""
    root = str(Path(__file__).resolve().parent.parent)
    path = os.environ.get("PYTHONPATH")
    return {**with_training_variables(os.environ), "PYTHONPATH": f"{root}{os.pathsep}{path}" if path else root}


class SupervisedProcess:
    """One command that is kept running, in its own session."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log_path: Path | None = None) -> None:
        self.name = name
        self._command = list(command)
        self._environment = dict(environment)
        self._log_path = log_path
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Process number, while it runs."""
        return self._process.pid if self._process and self._process.returncode is None else None

    def start(self) -> None:
        """Begin; must be called in the event loop's main thread, for the kernel ties a child to the thread that made it."""
        self._task = asyncio.create_task(self._keep_running())

    async def stop(self) -> None:
        """End it: politely, then not."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), _TERM_WAIT_S)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    async def _keep_running(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            begin = asyncio.get_running_loop().time()
            self._process = await self._spawn()
            code = await self._process.wait()
            lived_s = asyncio.get_running_loop().time() - begin
            pause_s = _FIRST_PAUSE_S if lived_s > _LONGEST_PAUSE_S else min(2 * pause_s, _LONGEST_PAUSE_S)
            _LOG.warning("%s ended with code %s; starts again in %.1f s", self.name, code, pause_s)
            await asyncio.sleep(pause_s)

    async def _spawn(self) -> asyncio.subprocess.Process:
        with contextlib.ExitStack() as stack:
            output = stack.enter_context(self._log_path.open("ab")) if self._log_path else None
            return await asyncio.create_subprocess_exec(
                *self._command, env=self._environment, start_new_session=True, stdout=output, stderr=output
            )


def main(arguments: Sequence[str]) -> int:
    """Run a command in its own group and take the group along when the parent or this process is ended."""
    parent_pid, command = int(arguments[0]), list(arguments[1:])
    ended = False

    def end(*_: object) -> None:
        nonlocal ended
        ended = True
        with contextlib.suppress(NameError, ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(parent_pid)
    process = subprocess.Popen(command, start_new_session=True)
    while process.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.5)
            break
        if ended:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            break
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
