"""``kill -9`` of the server during a real search: the next server finishes it, and nothing that was announced is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from paretopress.client import Client
from paretopress.v1 import search_pb2
from tests.service.digits_search import make_inputs, place_predictors, search, upload

pytestmark = pytest.mark.timeout(400)
SEARCH = "projects/default/searches/killed"
ROOT = Path(__file__).parent.parent.parent
MARKER = "Paretopress listens on "


def _serve(data_dir: Path, log: Path) -> tuple[subprocess.Popen[bytes], str]:
    command = [str(Path(sys.executable).with_name("paretopress")), "serve", "--port", "0", "--data-dir", str(data_dir)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PARETOPRESS_LEASE_S": "4"}
    with log.open("wb") as file:
        process = subprocess.Popen([*command, "--no-mlflow-ui"], cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 90
    while MARKER not in (text := log.read_text()):
        assert process.poll() is None, text
        assert time.monotonic() < deadline, text
        time.sleep(0.1)
    return process, text.split(MARKER, 1)[1].split(";", 1)[0]


def test_a_search_survives_kill_9_of_the_server(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path)
    data_dir = tmp_path / "data"
    place_predictors(data_dir)
    server, address = _serve(data_dir, tmp_path / "first.log")
    announced: set[str] = set()
    try:
        with Client(address) as client:
            model, dataset = upload(client, inputs)
            budget = search_pb2.Budget(latency_ms=50.0, max_accuracy_drop_points=90.0)
            client.create_search(search(model, dataset, budget, trials=4), search_id="killed")
            for event in client.watch(SEARCH):
                if event.kind == search_pb2.SearchEvent.CANDIDATE:
                    announced.add(str(event.payload["candidate"]))
                    break
    finally:
        os.kill(server.pid, signal.SIGKILL)
        server.wait()

    server, address = _serve(data_dir, tmp_path / "second.log")
    try:
        with Client(address) as client:
            ended = client.wait(SEARCH)
            found = {c.name.rpartition("/")[2] for c in client.list_candidates(SEARCH)}
    finally:
        server.terminate()
        server.wait(timeout=60)
    assert ended.state == search_pb2.Search.SUCCEEDED, ended.state_message
    assert announced <= found
    tracking = MlflowClient(f"sqlite:///{data_dir / 'mlflow.db'}")
    experiment = tracking.get_experiment_by_name("paretopress")
    assert experiment is not None
    runs = tracking.search_runs([experiment.experiment_id], f"tags.`paretopress.search` = '{SEARCH}'")
    logged = [r.data.tags["paretopress.candidate"] for r in runs if "mlflow.parentRunId" in r.data.tags]
    assert sorted(logged) == sorted(found)
