from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from paretopress.client import Client
from paretopress.v1 import search_pb2
from tests.service.conftest import upload_inputs
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]


def start_server(data_dir: Path) -> tuple[subprocess.Popen[str], Client]:
    command = [sys.executable, "-m", "tests.service.server_process", "serve", str(data_dir)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    return process, Client(process.stdout.readline().strip())


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_kill_9_of_the_server_loses_nothing_and_leaves_no_process(tmp_path: Path) -> None:
    server, client = start_server(tmp_path / "data")
    child_pid = 0
    try:
        name = client.create_search(upload_inputs(client, tmp_path)).name
        for event in client.watch(name):
            if "child" in event.payload.fields:
                child_pid, worker_pid = int(event.payload["child"]), int(event.payload["worker"])
                break
        server.send_signal(signal.SIGKILL)
        server.wait(5)
        client.close()
        assert wait_until(lambda: not is_alive(worker_pid)), "the worker must not outlive its server"
        assert is_alive(child_pid), "it ignores SIGTERM, as a stuck runtime would"

        server, client = start_server(tmp_path / "data")
        ended = client.wait(name)
        assert ended.state == search_pb2.Search.SUCCEEDED
        assert [c.trial_number for c in client.list_candidates(name)] == [0, 1]
        assert not is_alive(child_pid), "the predecessor's process group is ended before the search goes on"
        sequences = [event.sequence for event in client.watch(name)]
        assert sequences == list(range(1, ended.last_sequence + 1))
    finally:
        client.close()
        server.kill()
        server.wait(5)
        if child_pid and is_alive(child_pid):
            os.kill(child_pid, signal.SIGKILL)


def test_a_killed_worker_is_started_again_and_resumes(tmp_path: Path) -> None:
    server, client = start_server(tmp_path / "data")
    try:
        name = client.create_search(upload_inputs(client, tmp_path)).name
        worker_pid = next(int(e.payload["worker"]) for e in client.watch(name) if "worker" in e.payload.fields)
        os.kill(worker_pid, signal.SIGKILL)
        ended = client.wait(name)
        assert ended.state == search_pb2.Search.SUCCEEDED
        assert ended.candidate_count == 2
    finally:
        client.close()
        server.kill()
        server.wait(5)


def test_a_storm_of_signals_ends_a_worker_as_one_does(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.service.server_process", "worker", "--data-dir", str(tmp_path)]
    worker = subprocess.Popen([*command, "--parent-pid", str(os.getpid())], cwd=ROOT, start_new_session=True)
    try:
        assert wait_until((tmp_path / "paretopress.db").exists), "it migrates its database before it waits for searches"
        time.sleep(1.0)
        for _ in range(2000):
            worker.send_signal(signal.SIGTERM)
        assert worker.wait(5) == 0, "it must end by itself, not by the kill after the grace time"
    finally:
        worker.kill()
