"""Keeping a lease alive while the work that it stands for goes on."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def kept_lease(renew: Callable[[], object], lease_s: float) -> Iterator[None]:
    """Call ``renew`` four times per ``lease_s`` seconds, from a thread of its own."""
    done = threading.Event()

    def keep() -> None:
        while not done.wait(lease_s / 4):
            with contextlib.suppress(Exception):  # a busy database is tried again before the lease ends
                renew()

    heartbeat = threading.Thread(target=keep, name="lease", daemon=True)
    heartbeat.start()
    try:
        yield
    finally:
        done.set()
        heartbeat.join()
