"""Searches for targets that are not here, over gRPC; what report, CLI and MLflow call their latencies; the tests of answers.

``make bench-promises-elsewhere``: a board of the catalogue, one registered from a data sheet, each with and without an answer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from benchmarks.harness import ROOT, Check, Results, Row, run_tests, test_check
from benchmarks.promises_server import PromisesServer, fresh_server, upload_resnet
from paretopress.client import Client
from paretopress.v1 import measurement_pb2, search_pb2, target_pb2
from tests.search.records import latencies_in

NAME = "promises_elsewhere"
TESTS = {
    "promises 3 predicted everywhere": "tests/search/test_head_searches.py",
    "promises 6 command line": "tests/paretopress/test_cli.py",
    "promises 6 targets": "tests/paretopress/test_cli_targets.py",
    "promises 6 credentials": "tests/paretopress/test_credentials.py",
    "promises 6 out of reach": "tests/search/test_reach.py",
    "promises 6 answers": "tests/search/test_conclusion.py",
    "promises 6 tracker": "tests/search/test_tracking.py",
    "promises 6 same bytes": "tests/service/test_upload_conflicts.py",
}
_SHEET = "kiosk"
_SHARES = {"an answer": 2.0, "no answer": 0.05}
"""Limits on the latency as shares of what the original is predicted to take there; bounds are three times a prediction."""
_IMAGES, _TRIALS = 1500, 3
_WORDS = "predicted, uncalibrated"


def run(results: Results) -> None:
    """Two targets, two limits each; then the tests."""
    cells = [f"{target}, {answer}" for target in ("raspberry-pi-5", _SHEET) for answer in _SHARES]
    if any(results.find(cell) is None for cell in cells):
        with fresh_server(NAME) as server:
            inputs = upload_resnet(server, _IMAGES)
            with Client(server.address) as client:
                client.create_target(_board(), _SHEET)
            for cell in cells:
                target, _, answer = cell.partition(", ")
                results.cell(cell, lambda target=target, answer=answer: _searched(server, inputs, target, _SHARES[answer]))  # type: ignore[misc]
    for line, row in zip(TESTS, run_tests(TESTS.values()), strict=True):
        results.cell(f"test {line}", lambda row=row: row, again=True)  # type: ignore[misc]


def _board() -> target_pb2.Target:
    peaks = target_pb2.Peaks(fp32_gmacs=10, int8_gmacs=40, bandwidth_gb_s=5, per_kernel_us=2, sources=["a data sheet"])
    return target_pb2.Target(device="cpu", runtime="onnxruntime", peaks=peaks)


def _searched(server: PromisesServer, inputs: search_pb2.Search, target: str, share: float) -> Row:
    request = search_pb2.Search()
    request.CopyFrom(inputs)
    request.target = f"projects/default/targets/{target}"
    request.effort.max_trials, request.effort.max_epochs = _TRIALS, 0.0
    request.effort.max_wall_time.FromSeconds(600)
    request.budget.max_accuracy_drop_points = 60.0
    with Client(server.address) as client:
        original_ms = client.predict_latency(request.target, inputs.model).latency_ms
        request.budget.latency_ms = share * original_ms
        ended = client.wait(client.create_search(request).name)
        candidates = list(client.list_candidates(ended.name))
        path = server.folder / f"{ended.name.rpartition('/')[2]}.json"
        client.download_artifact(ended.name, "report.json", path)
    report = json.loads(path.read_text())
    shown = _cli(server, "searches", "show", ended.name)
    run = _run_of(server, ended.name)
    latencies = {c.name: c.measurements["latency_ms"] for c in candidates}
    wrong = [c for c in candidates if c.feasible and latencies[c.name].value + latencies[c.name].spread > request.budget.latency_ms]
    return {
        "state": search_pb2.Search.State.Name(ended.state),
        "limit_ms": request.budget.latency_ms,
        "called_measured": len([one for one in latencies_in(report) if one["source"] != "predicted"])
        + sum(c.measurements["latency_ms"].source != measurement_pb2.Measurement.PREDICTED for c in candidates),
        "latencies_in_report": len(latencies_in(report)),
        "feasible_above_the_bound": len(wrong),
        "told_in_report": any(_WORDS in note for note in report["notes"]),
        "told_by_cli": _WORDS in shown and "measured" not in shown.replace("not measured", ""),
        "told_in_mlflow": _WORDS in json.dumps([run.data.params, run.data.tags]) and "best_latency_ms" not in run.data.metrics,
    }


def _cli(server: PromisesServer, *arguments: str) -> str:
    command = [str(Path(sys.executable).with_name("paretopress")), "--address", server.address, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def _run_of(server: PromisesServer, search: str) -> Any:
    client = MlflowClient(f"sqlite:///{server.folder / 'data' / 'mlflow.db'}")
    runs = client.search_runs([one.experiment_id for one in client.search_experiments()])
    return next(
        run for run in runs if run.data.tags.get("paretopress.search") == search and "mlflow.parentRunId" not in run.data.tags
    )


def checks(rows: Sequence[Row]) -> list[Check]:
    """Lines 3 and 6 of "promises"."""
    searched = [row for row in rows if "called_measured" in row]
    ended = [row for row in searched if row["state"] in ("SUCCEEDED", "INFEASIBLE")]
    told = [row for row in searched if row["told_in_report"] and row["told_by_cli"] and row["told_in_mlflow"]]
    wrong = {
        name: sum(row[name] for row in searched) if searched else None for name in ("called_measured", "feasible_above_the_bound")
    }
    return [
        Check("promises 3 searches that end with or without an answer", len(ended), ">= 4"),
        Check("promises 3 of them with one", sum(row["state"] == "SUCCEEDED" for row in searched), ">= 2"),
        Check("promises 3 latencies called measured", wrong["called_measured"], "== 0"),
        Check(
            "promises 3 latencies in a report, least", min((row["latencies_in_report"] for row in searched), default=None), ">= 1"
        ),
        Check("promises 3 feasible above the bound", wrong["feasible_above_the_bound"], "== 0"),
        Check("promises 3 told in report, CLI and MLflow", len(told), ">= 4"),
        *(test_check(rows, line, node) for line, node in TESTS.items()),
    ]
