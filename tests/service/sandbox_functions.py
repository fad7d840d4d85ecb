"""What the sandbox tests run inside a child."""

from __future__ import annotations

import ctypes
import os
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from service.intake.errors import IntakeError, Problem


def echo(value: Any) -> dict[str, Any]:
    return {"value": value, "pid": os.getpid()}


def write_file(name: str) -> dict[str, Any]:
    Path(name).write_text("written in the scratch folder")
    return {"path": str(Path(name).resolve())}


def surroundings() -> dict[str, Any]:
    return {
        "environment": dict(os.environ),
        "first_environment": Path("/proc/self/environ").read_text(),
        "core_bytes": resource.getrlimit(resource.RLIMIT_CORE)[1],
        "is_session_leader": os.getsid(0) == os.getpid(),
        "modules": sorted(m for m in ("torch", "onnx") if m in sys.modules),
    }


def parent_environment(pid: int) -> dict[str, Any]:
    try:
        return {"read": Path(f"/proc/{pid}/environ").read_text()}
    except OSError as error:
        return {"read": "", "error": str(error)}


def connect(port: int) -> dict[str, Any]:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
    except OSError as error:
        return {"connected": False, "error": str(error)}
    return {"connected": True}


def refuse() -> dict[str, Any]:
    raise IntakeError("bad_data", "two things are wrong", "dataset", [Problem("row 1", "x"), Problem("row 2", "y", "warning")], 7)


def sleep_with_child(pid_file: str) -> dict[str, Any]:
    child = os.fork()
    if child:
        Path(pid_file).write_text(str(child))
    time.sleep(60)
    return {}


def attempt(action: str, path: str) -> dict[str, Any]:
    """What happens when the child tries something with a path."""
    actions = {
        "read": lambda: Path(path).read_text(),
        "write": lambda: Path(path).write_text("written"),
        "append": lambda: Path(path).open("a").close(),
        "list": lambda: os.listdir(path),
        "make folder": lambda: os.mkdir(path),
        "remove": lambda: os.unlink(path),
        "link": lambda: os.link(path, "linked"),
        "execute": lambda: subprocess.run([path], check=True),
    }
    try:
        return {"done": True, "gave": str(actions[action]())}
    except OSError as error:
        return {"done": False, "error": type(error).__name__}


def signal_parent() -> dict[str, Any]:
    """Whether a process outside could be ended; 0 only asks."""
    try:
        os.kill(os.getppid(), 0)
    except PermissionError:
        return {"allowed": False}
    return {"allowed": True}


def limits() -> dict[str, Any]:
    """What the kernel holds the child to."""
    kinds = ("AS", "CORE", "CPU", "FSIZE", "NOFILE", "NPROC")
    return {kind: resource.getrlimit(getattr(resource, f"RLIMIT_{kind}"))[0] for kind in kinds}


def open_files(count: int) -> dict[str, Any]:
    files = [open(os.devnull) for _ in range(count)]  # noqa: SIM115 - held open
    return {"count": len(files)}


def burn_cpu() -> dict[str, Any]:
    while True:
        pass


def use_memory(gib: int) -> dict[str, Any]:
    return {"bytes": len(bytearray(gib << 30))}


def use_torch_memory(gib: int) -> dict[str, Any]:
    import torch

    return {"bytes": torch.ones(gib << 28).numel()}


def big_file(mib: int) -> dict[str, Any]:
    with open("big", "wb") as file:
        for _ in range(mib):
            file.write(bytes(1 << 20))
    return {}


def segfault() -> dict[str, Any]:
    ctypes.string_at(0)
    return {}


def kill_itself() -> dict[str, Any]:
    os.kill(os.getpid(), 9)
    return {}


def raise_error() -> dict[str, Any]:
    raise RuntimeError("something unforeseen")
