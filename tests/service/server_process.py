"""Run as a program: a real server with a real worker process whose search only waits. For tests that kill processes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

from search.environment import SearchEnvironment, SearchOutcome
from search.protocols import Event
from search.spec import SearchSpec
from service import worker
from service.server import start
from service.settings import Settings
from tests.service.fakes import FakeImporter, FakeTools, record


def run_search(spec: SearchSpec, environment: SearchEnvironment) -> SearchOutcome:
    """Stores a candidate; the first life then waits beside a child process, the next one ends."""
    store = environment.store
    number = len(store.candidates())
    store.record_process_group(os.getpgrp())
    store.save_candidate(record(number), [Event("candidate", f"candidate {number}")])
    if number:
        return SearchOutcome("SUCCEEDED", "found", best=f"c{number:04d}")
    child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(120)"])
    store.append(Event("phase", "waiting", {"child": child.pid, "worker": os.getpid()}))
    while not store.should_stop():
        time.sleep(0.05)
    return SearchOutcome("CANCELLED", "stopped")


async def serve(data_dir: Path) -> None:
    """Serve until killed; the port goes to standard output."""
    settings = Settings(data_dir=data_dir, port=0)
    command = [sys.executable, "-m", "tests.service.server_process", "worker", "--parent-pid", str(os.getpid())]
    running = await start(settings, FakeImporter(), command)
    print(running.address, flush=True)
    await running.wait()


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        worker.RealTools = lambda: FakeTools(run_search)  # type: ignore[assignment,misc]
        sys.exit(worker.main(sys.argv[2:]))
    asyncio.run(serve(Path(sys.argv[2])))
