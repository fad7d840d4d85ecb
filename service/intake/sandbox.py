"""Opens uploads in a child process that can do little harm (contract 8).

One fork server per process has torch and the readers loaded, so that a child starts in milliseconds while the calling
process itself never imports them. The fork server is started with an empty environment, so secrets are not even in its
``/proc/self/environ``. Each child gets its own session, resource limits, no core dumps and, where the kernel allows it,
its own user and network namespace (no network, no look at other processes) and Landlock (it reads libraries and the upload,
writes in its scratch folder, executes nothing). Arguments and results are JSON; files go through a scratch folder. The
caller ends the child's whole process group at the wall time limit.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import threading
import traceback
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from search.process_variables import WAIT_POLICY, wait_policy
from service.intake import landlock
from service.intake.errors import IntakeError, SandboxError, printable

PRELOAD = ("service.intake.preload",)
MAX_RESULT_BYTES = 64 << 20
_KEPT_ENVIRONMENT = (
    "PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "OMP_NUM_THREADS", *WAIT_POLICY, "COVERAGE_PROCESS_START",
)  # fmt: skip
_SYSTEM_FOLDERS = ("/usr", "/lib", "/lib64", "/opt", "/nix", "/proc", "/sys", "/etc/ld.so.cache", "/etc/localtime", "/etc/passwd")
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_GRACE_S = 2.0
_START_LOCK = threading.Lock()
"""Starting and reaping children is not thread-safe in `multiprocessing` (a finished child is polled on the next start)."""


@dataclass(frozen=True)
class SandboxLimits:
    """What one child may use.

    Attributes:
        wall_time_s, cpu_time_s: a data set of 2 GiB takes two minutes.
        memory_bytes: address space: importing torch alone takes 4 GB of it.
        file_bytes: of each file that it writes: twice what may be uploaded, and some.
        open_files: an archive needs one, a library some dozens while it is imported.
        processes: threads that it may start beside those of the machine; the kernel holds it for ordinary users, not for root.
    """

    wall_time_s: float = 300.0
    cpu_time_s: int = 600
    memory_bytes: int = 12 << 30
    file_bytes: int = 5 << 30
    open_files: int = 512
    processes: int = 256


@dataclass(frozen=True)
class Isolation:
    """What the kernel allowed: read from inside a child."""

    network_blocked: bool
    files_blocked: bool
    environment_names: tuple[str, ...]
    memory_bytes: int


def warm_up() -> Isolation:
    """Start the fork server, load its libraries and report how well a child is isolated on this machine.

    Takes some seconds. Call it once at start-up, before other threads exist.
    """
    report = run_in_sandbox("service.intake.sandbox:describe_isolation", {})
    names = tuple(report["environment_names"])
    return Isolation(report["network_blocked"], report["files_blocked"], names, report["memory_bytes"])


def run_in_sandbox(
    function_path: str,
    arguments: dict[str, Any],
    limits: SandboxLimits | None = None,
    scratch: Path | None = None,
    readable: Sequence[Path] = (),
) -> dict[str, Any]:
    """Call ``module:function`` with JSON arguments in a child and return the JSON object that it returns.

    The child's working directory is ``scratch`` (a fresh folder that is removed afterwards, unless one is given); beside it
    and the libraries it can read what lies under ``readable``.
    Thread-safe; blocks until the child is done, so call it from a thread in an asyncio server.

    Raises:
        IntakeError: the function refused its input.
        SandboxError: the child ran out of time or memory, or crashed.
    """
    limits = limits or SandboxLimits()
    with contextlib.ExitStack() as stack:
        folder = scratch or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="paretopress-sandbox-")))
        reader, writer = multiprocessing.Pipe(duplex=False)
        stack.callback(reader.close)
        shown = [str(path.resolve()) for path in readable]
        job = (writer, function_path, json.dumps(arguments), limits, str(folder.resolve()), shown)
        child = ForkServerProcess(target=_child_main, args=job, daemon=True)
        with _START_LOCK:
            _ensure_fork_server()
            with _no_main_module():
                child.start()
        writer.close()
        try:
            answer = _receive(reader, child, limits)
            wait([child.sentinel], _GRACE_S)  # it may tidy up
        finally:
            _end_group(child)
            _reap(child)
    if answer is None:
        raise _death(child.exitcode, limits, _log_tail(folder) if scratch else "")
    return _unwrap(json.loads(answer))


def describe_isolation() -> dict[str, Any]:
    """Run inside a child: what it can reach."""
    interfaces = os.listdir("/sys/class/net") if not _in_own_network() else ["lo"]
    return {
        "network_blocked": interfaces in (["lo"], []),
        "files_blocked": _is_closed(Path(__file__)),
        "environment_names": sorted(os.environ),
        "memory_bytes": resource.getrlimit(resource.RLIMIT_AS)[0],
    }


def _is_closed(path: Path) -> bool:
    try:
        path.open("ab").close()
    except PermissionError:
        return True
    return False


def _in_own_network() -> bool:
    return os.environ.get("PARETOPRESS_SANDBOX_NETWORK") == "none"


def _ensure_fork_server() -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOAD))
    with _clean_environment():
        forkserver.ensure_running()


@contextlib.contextmanager
def _clean_environment() -> Iterator[None]:
    """Swap the environment for the moment in which the fork server may be started; a running one is left alone."""
    if _fork_server_runs():
        yield
        return
    saved = dict(os.environ)
    search_path = os.pathsep.join(p for p in sys.path if p and os.path.isdir(p))
    kept = {name: saved[name] for name in _KEPT_ENVIRONMENT if name in saved}
    try:
        os.environ.clear()
        os.environ.update({**wait_policy(kept), **kept, "PYTHONPATH": search_path})
        yield
    finally:
        os.environ.clear()
        os.environ.update(saved)


@contextlib.contextmanager
def _no_main_module() -> Iterator[None]:
    """Keep `multiprocessing` from importing the caller's main module into the child: slow, and nothing there is needed."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _fork_server_runs() -> bool:
    pid = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    try:
        return pid is not None and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


def _receive(reader: Connection, child: ForkServerProcess, limits: SandboxLimits) -> bytes | None:
    """The child's answer; None when it died without one."""
    ready = wait([reader, child.sentinel], limits.wall_time_s)
    if not ready:
        message = f"reading the upload took longer than {limits.wall_time_s:g} s and was stopped; send a smaller file"
        raise SandboxError("timeout", message)
    try:
        return reader.recv_bytes(MAX_RESULT_BYTES) if reader.poll(0) else None
    except EOFError:
        return None
    except OSError as error:
        raise SandboxError("crash", "the reader gave an answer that is too long", str(error)) from error


def _end_group(child: ForkServerProcess) -> None:
    """Kill whatever is left of the child's session; the child itself first, should it not lead a group yet."""
    pid = child.pid
    if pid is None:
        return
    for kill in (os.killpg, os.kill):
        if kill is os.kill and wait([child.sentinel], 0):
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def _reap(child: ForkServerProcess) -> None:
    wait([child.sentinel], 5)
    with _START_LOCK:
        child.join(0)


def _death(exit_code: int | None, limits: SandboxLimits, log: str) -> SandboxError:
    if exit_code == -signal.SIGXCPU:
        message = f"reading the upload took more than {limits.cpu_time_s} s of CPU and was stopped; send a smaller file"
        return SandboxError("timeout", message, log)
    if exit_code == -signal.SIGKILL:
        message = "the reader was killed, most likely because the machine ran out of memory; send a smaller file"
        return SandboxError("memory", message, log)
    name = signal.Signals(-exit_code).name if exit_code and exit_code < 0 else f"exit code {exit_code}"
    return SandboxError("crash", f"the reader crashed on this upload ({name}); nothing was stored", log)


def _log_tail(folder: Path) -> str:
    path = folder / "output.log"
    return path.read_bytes()[-4000:].decode(errors="replace") if path.is_file() else ""


def _unwrap(answer: dict[str, Any]) -> dict[str, Any]:
    if "refused" in answer:
        raise IntakeError.from_json(answer["refused"])
    if "failed" in answer:
        raise SandboxError(answer["failed"]["kind"], answer["failed"]["message"], answer["failed"]["detail"])
    result: dict[str, Any] = answer["result"]
    return result


def _child_main(
    writer: Connection, function_path: str, arguments: str, limits: SandboxLimits, scratch: str, readable: list[str]
) -> None:
    """Everything that happens in the child: give up rights, call, answer."""
    _give_up_rights(limits, scratch)
    landlock.restrict([*_libraries(), *readable], scratch)
    try:
        module, _, name = function_path.partition(":")
        result = getattr(importlib.import_module(module), name)(**json.loads(arguments))
        answer = {"result": result}
    except IntakeError as error:
        answer = {"refused": error.to_json()}
    except BaseException as error:
        answer = {"failed": _failure(error, limits)}
    with contextlib.suppress(OSError):  # the caller may be gone
        writer.send_bytes(json.dumps(answer).encode())


def _failure(error: BaseException, limits: SandboxLimits) -> dict[str, str]:
    detail = "".join(traceback.format_exception(error))[-8000:]
    text = str(error)
    if isinstance(error, MemoryError) or "allocate memory" in text or "bad_alloc" in text:
        message = f"reading the upload needs more than {limits.memory_bytes >> 30} GiB of memory; send a smaller file"
        return {"kind": "memory", "message": message, "detail": detail}
    if isinstance(error, OSError) and error.errno == 27:  # EFBIG
        message = f"the upload unpacks to a file of more than {limits.file_bytes >> 20} MiB; send a smaller one"
        return {"kind": "file_size", "message": message, "detail": detail}
    message = f"the reader failed on this upload ({type(error).__name__}: {printable(text, 300)}); nothing was stored"
    return {"kind": "crash", "message": message, "detail": detail}


def _give_up_rights(limits: SandboxLimits, scratch: str) -> None:
    os.setsid()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    own_network = _leave_namespaces(libc)
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
    os.environ.clear()
    os.environ.update(kept, HOME=scratch, TMPDIR=scratch, USER="sandbox", LOGNAME="sandbox")
    os.environ["PARETOPRESS_SANDBOX_NETWORK"] = "none" if own_network else "shared"
    tempfile.tempdir = scratch
    os.chdir(scratch)
    log = os.open("output.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    # The kernel counts all of the user's tasks; those of the whole machine, which it tells cheaply, are at least as many.
    most_tasks = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2]) + limits.processes
    for kind, soft, hard in (
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_CPU, limits.cpu_time_s, limits.cpu_time_s + 5),
        (resource.RLIMIT_FSIZE, limits.file_bytes, limits.file_bytes),
        (resource.RLIMIT_NOFILE, limits.open_files, limits.open_files),
        (resource.RLIMIT_AS, limits.memory_bytes, limits.memory_bytes),
        (resource.RLIMIT_NPROC, most_tasks, most_tasks),
    ):
        _, ceiling = resource.getrlimit(kind)
        lowered = (soft, hard) if ceiling == resource.RLIM_INFINITY else (min(soft, ceiling), min(hard, ceiling))
        resource.setrlimit(kind, lowered)


def _libraries() -> list[str]:
    """What imports need: Python, its packages, our own code, shared libraries and facts about the machine."""
    ours = str(Path(__file__).resolve().parents[2])
    return [*_SYSTEM_FOLDERS, sys.prefix, sys.base_prefix, *(path for path in sys.path if path), ours]


def _leave_namespaces(libc: ctypes.CDLL) -> bool:
    """Own user and network namespace, if the kernel lets an ordinary process have one."""
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        return False
    with contextlib.suppress(OSError):
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    return True
