"""Processes that must not outlive whom they work for: dying with a parent, and ending what a dead worker left behind (Linux)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path

MARKER = "PARETOPRESS_WORKER_OF"
"""Environment variable that a worker hands down to all that it starts; its value is the data directory."""
_PR_SET_PDEATHSIG = 1
_TERM_WAIT_S = 2.0


def die_with_parent(parent_pid: int, signal_number: int = signal.SIGTERM) -> None:
    """Ask the kernel for a signal when the parent dies, kill -9 included; exits at once if it is dead already."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
    if os.getppid() != parent_pid:
        raise SystemExit("the parent process is gone")


def end_process_group(pgid: int, marker_value: str) -> bool:
    """End a group that a predecessor recorded, if it is still ours: not our own group, and marked with our data directory.

    Returns:
        Whether there was something to end.
    """
    if pgid <= 1 or pgid == os.getpgrp() or not _group_is_marked(pgid, marker_value):
        return False
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pgid, signal.SIGTERM)
        deadline = time.monotonic() + _TERM_WAIT_S
        while time.monotonic() < deadline and members(pgid):
            time.sleep(0.05)
        os.killpg(pgid, signal.SIGKILL)
    return True


def members(pgid: int) -> list[int]:
    """Living processes of a group."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[2]) == pgid and fields[0] != "Z":
                    found.append(int(entry.name))
    return found


def _group_is_marked(pgid: int, marker_value: str) -> bool:
    wanted = f"{MARKER}={marker_value}".encode()
    for pid in members(pgid):
        with contextlib.suppress(OSError):
            if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                return True
    return False
