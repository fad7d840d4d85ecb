from __future__ import annotations

import contextlib
import multiprocessing.util
import os
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from service.intake import landlock, sandbox
from service.intake.errors import IntakeError, SandboxError
from service.intake.sandbox import SandboxLimits, run_in_sandbox
from tests.waiting import wait_until

FUNCTIONS = "tests.service.sandbox_functions"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def isolation() -> sandbox.Isolation:
    return sandbox.warm_up()


def call(function: str, limits: SandboxLimits | None = None, scratch: Path | None = None, **arguments: Any) -> dict[str, Any]:
    return run_in_sandbox(f"{FUNCTIONS}:{function}", arguments, limits, scratch)


def test_result_comes_from_another_process():
    answer = call("echo", value={"a": [1, 2.5, None, "ü"]})
    assert answer["value"] == {"a": [1, 2.5, None, "ü"]}
    assert answer["pid"] != os.getpid()


def test_files_stay_in_the_scratch_folder_given(tmp_path: Path):
    answer = call("write_file", scratch=tmp_path, name="result.txt")
    assert answer["path"] == str(tmp_path / "result.txt")
    assert (tmp_path / "result.txt").read_text() == "written in the scratch folder"


def test_a_scratch_folder_of_its_own_is_removed():
    assert not Path(call("write_file", name="result.txt")["path"]).parent.exists()


def test_child_has_no_secrets_and_little_rights(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    answer = call("surroundings")
    assert "SECRET_TOKEN" not in answer["environment"]
    assert "hunter2" not in answer["first_environment"]
    assert set(answer["environment"]) <= {
        "PATH", "LANG", "LC_ALL", "HOME", "TMPDIR", "USER", "LOGNAME", "PARETOPRESS_SANDBOX_NETWORK",
    }  # fmt: skip
    assert answer["core_bytes"] == 0
    assert answer["is_session_leader"]


SECRETS = {
    "PARETOPRESS_DATABASE_URL": "postgresql://user:hunter2-database@host/db",
    "PARETOPRESS_TOKEN": "pp_id_hunter2-token",
    "PARETOPRESS_TLS_PRIVATE_KEY": "hunter2-key",
    "AWS_ACCESS_KEY_ID": "hunter2-id",
    "AWS_SECRET_ACCESS_KEY": "hunter2-secret",
    "AWS_SESSION_TOKEN": "hunter2-session",
    "MLFLOW_TRACKING_USERNAME": "hunter2-user",
    "MLFLOW_TRACKING_PASSWORD": "hunter2-password",
    "MLFLOW_TRACKING_TOKEN": "hunter2-mlflow",
    "PGPASSWORD": "hunter2-pg",
    "OTEL_EXPORTER_OTLP_HEADERS": "authorization=hunter2",
}


def test_no_secret_reaches_the_child(monkeypatch: pytest.MonkeyPatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    answer = call("surroundings")
    assert not set(SECRETS) & set(answer["environment"])
    assert "hunter2" not in str(answer)
    script = (
        "from service.intake import sandbox; from tests.service.test_sandbox import call\n"
        "sandbox.PRELOAD = ()\n"
        "assert 'hunter2' not in str(call('surroundings'))\n"
    )
    run_python(script, **SECRETS)  # and so it is where the fork server is started with them


@dataclass(frozen=True)
class Attempt:
    action: str
    on: str


@pytest.mark.parametrize(
    "tried",
    [
        Attempt("read", "secret.txt"),
        Attempt("write", "secret.txt"),
        Attempt("append", "secret.txt"),
        Attempt("write", "new.txt"),
        Attempt("make folder", "new"),
        Attempt("remove", "secret.txt"),
        Attempt("list", "."),
        Attempt("link", "secret.txt"),
        Attempt("write", str(Path(sandbox.__file__).with_name("planted.py"))),
        Attempt("read", "/etc/shadow"),
        Attempt("execute", "/bin/true"),
    ],
    ids=lambda tried: f"{tried.action} {Path(tried.on).name}",
)
def test_files_outside_the_scratch_folder_are_out_of_reach(tried: Attempt, isolation: sandbox.Isolation, tmp_path: Path):
    if not isolation.files_blocked:
        pytest.skip("this kernel has no Landlock")
    (tmp_path / "secret.txt").write_text("hunter2")
    answer = call("attempt", action=tried.action, path=str(tmp_path / tried.on))
    assert (answer["done"], answer["error"]) in [
        (False, "PermissionError"),
        (False, "OSError"),
    ]  # a link is refused as one over devices
    assert (tmp_path / "secret.txt").read_text() == "hunter2"


def test_what_is_shown_can_be_read_but_not_changed(isolation: sandbox.Isolation, tmp_path: Path):
    shown = tmp_path / "shown.txt"
    shown.write_text("to be read")
    arguments = {"action": "read", "path": str(shown)}
    assert run_in_sandbox(f"{FUNCTIONS}:attempt", arguments, readable=[shown]) == {"done": True, "gave": "to be read"}
    if isolation.files_blocked:
        answer = run_in_sandbox(f"{FUNCTIONS}:attempt", {**arguments, "action": "append"}, readable=[shown])
        assert not answer["done"]


def test_processes_outside_cannot_be_signalled(isolation: sandbox.Isolation):
    if landlock.version() < 6:
        pytest.skip("this kernel's Landlock knows no signals")
    assert not call("signal_parent")["allowed"]


def test_the_kernel_holds_every_limit():
    limits = SandboxLimits(cpu_time_s=77, memory_bytes=11 << 30, file_bytes=1 << 20, open_files=99, processes=7)
    held = call("limits", limits)
    assert (held["CPU"], held["AS"], held["FSIZE"], held["NOFILE"], held["CORE"]) == (77, 11 << 30, 1 << 20, 99, 0)
    assert 7 < held["NPROC"] < 1_000_000


def test_too_many_open_files_are_told():
    with pytest.raises(SandboxError, match="Too many open files"):
        call("open_files", SandboxLimits(open_files=64), count=100)


@pytest.mark.parametrize("death", ["kill_itself", "segfault", "raise_error", "write_file"])
def test_no_scratch_folder_stays_whatever_happens(death: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    multiprocessing.util.get_temp_dir()  # of the process that forks, once; not what this is about
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with contextlib.suppress(SandboxError):
        call(death, **({"name": "left.txt"} if death == "write_file" else {}))
    assert list(tmp_path.iterdir()) == []


def test_libraries_are_loaded_before_the_fork():
    assert call("surroundings")["modules"] == ["onnx", "torch"]


def test_fork_server_is_started_without_secrets():
    script = (
        "import os; from service.intake import sandbox; from service.intake.sandbox import run_in_sandbox\n"
        "sandbox.PRELOAD = ()\n"
        "answer = run_in_sandbox('tests.service.sandbox_functions:surroundings', {})\n"
        "assert 'hunter2' not in answer['first_environment'], answer\n"
        "assert os.environ['SECRET_TOKEN'] == 'hunter2'\n"
    )
    run_python(script, SECRET_TOKEN="hunter2")


def test_network_is_blocked_where_the_kernel_allows(isolation: sandbox.Isolation):
    if not isolation.network_blocked:
        pytest.skip("this kernel gives no network namespace to ordinary processes")
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert not call("connect", port=server.getsockname()[1])["connected"]


def test_callers_environment_is_out_of_reach_where_the_kernel_allows(isolation: sandbox.Isolation):
    if not isolation.network_blocked:
        pytest.skip("this kernel gives no namespaces to ordinary processes")
    assert call("parent_environment", pid=os.getpid())["read"] == ""


def test_refusal_keeps_code_field_and_problems():
    with pytest.raises(IntakeError, match="two things") as caught:
        call("refuse")
    assert (caught.value.code, caught.value.field, caught.value.problem_count) == ("bad_data", "dataset", 7)
    assert [str(p) for p in caught.value.problems] == ["row 1: x", "row 2: y"]
    assert caught.value.problems[1].severity == "warning"


@dataclass(frozen=True)
class Death:
    function: str
    kind: str
    says: str
    limits: SandboxLimits = field(default_factory=SandboxLimits)
    arguments: dict[str, Any] = field(default_factory=dict)


DEATHS = {
    "cpu time": Death("burn_cpu", "timeout", "1 s of CPU", SandboxLimits(cpu_time_s=1)),
    "memory": Death("use_memory", "memory", "12 GiB of memory", arguments={"gib": 16}),
    "memory in torch": Death("use_torch_memory", "memory", "memory", arguments={"gib": 16}),
    "file size": Death("big_file", "file_size", "2 MiB", SandboxLimits(file_bytes=2 << 20), {"mib": 3}),
    "segmentation fault": Death("segfault", "crash", "SIGSEGV"),
    "killed": Death("kill_itself", "memory", "ran out of memory"),
    "unforeseen error": Death("raise_error", "crash", "something unforeseen"),
}


@pytest.mark.parametrize("death", DEATHS.values(), ids=DEATHS.keys())
def test_death_is_told_as_a_sentence(death: Death):
    with pytest.raises(SandboxError, match=death.says) as caught:
        call(death.function, death.limits, **death.arguments)
    assert caught.value.kind == death.kind


def test_wall_time_ends_the_whole_process_group(tmp_path: Path):
    pid_file = tmp_path / "grandchild"
    started = time.monotonic()
    with pytest.raises(SandboxError, match=r"longer than 1\.5 s") as caught:
        call("sleep_with_child", SandboxLimits(wall_time_s=1.5), tmp_path, pid_file="grandchild")
    assert caught.value.kind == "timeout"
    assert time.monotonic() - started < 20
    grandchild = int(pid_file.read_text())
    # The kernel ends what it has been told to end when that process's turn comes.
    assert wait_until(lambda: not is_running(grandchild), 5)


def test_many_threads_at_once():
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: call("echo", value=i), range(24)))
    assert [a["value"] for a in answers] == list(range(24))


def test_calling_process_stays_lean():
    script = (
        "import sys, pathlib, tempfile\n"
        "import service.intake.models, service.intake.datasets, search.preprocessing, search.dataset_file\n"
        "from service.intake import sandbox\n"
        "sandbox.PRELOAD = ()\n"
        "sandbox.run_in_sandbox('tests.service.sandbox_functions:echo', {'value': 1})\n"
        "heavy = [m for m in ('torch', 'onnx', 'onnxruntime', 'ray', 'mlflow', 'torchvision', 'sklearn') if m in sys.modules]\n"
        "assert not heavy, heavy\n"
    )
    run_python(script)


def test_main_module_is_not_imported_again(tmp_path: Path):
    script = tmp_path / "unguarded.py"
    script.write_text(
        "from pathlib import Path\n"
        "Path(__file__).with_suffix('.log').open('a').write('run\\n')\n"
        "from service.intake import sandbox\n"
        "sandbox.PRELOAD = ()\n"
        "sandbox.run_in_sandbox('tests.service.sandbox_functions:echo', {'value': 1})\n"
    )
    subprocess.run([sys.executable, str(script)], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=120)
    assert script.with_suffix(".log").read_text() == "run\n"


def run_python(script: str, **environment: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
