"""Half an hour for ResNet-20 on Fashion-MNIST: the best of a search beside what is done by hand in the same minutes, by seeds.

``make bench-open-space-best`` takes half an hour a cell and goes on where it ended.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, Check, Results, Row
from benchmarks.promises_server import fresh_server, upload
from examples import fashion_mnist
from examples.demo import OUT, Subject, prepare
from examples.to_npz import write_npz
from paretopress.client import Client
from paretopress.v1 import search_pb2

NAME = "open_space_best"
SEEDS = (0, 1, 2)
_SECONDS, _TRIALS = 1800, 16
_MAX_DROP, _SIZE_RATIO = 0.8, 17.0
"""What is asked for on the selection split: a little less than the point that is promised, and a size that is at most two
thirds of what is done by hand (11.1x smaller than the original at 8bcced9)."""
_HELD_OUT = 6000


def subject() -> Subject:
    """The demo's network on all images: 54,000 to train on, 3,000 each to choose by, 10,000 to report on."""
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / "all.npz"
    write_npz(path, fashion_mnist.load(), _HELD_OUT, fashion_mnist.CLASS_NAMES)
    return replace(prepare(), data=path)


def run(results: Results) -> None:
    """The cells that have no row yet, in turns."""
    for seed in SEEDS:
        results.cell(f"search {seed}", lambda seed=seed: _searched(seed))  # type: ignore[misc]
        results.cell(f"by hand {seed}", lambda seed=seed: _by_hand(seed))  # type: ignore[misc]


def _by_hand(seed: int) -> Row:
    command = [sys.executable, "-m", "benchmarks.by_hand", str(_SECONDS), str(seed)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    answer = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout
    row: Row = json.loads(answer.splitlines()[-1])
    return {"seed": seed, **row}


def _searched(seed: int) -> Row:
    with fresh_server(NAME) as server, tempfile.TemporaryDirectory() as folder:
        given = upload(server, subject(), server.folder)
        with Client(server.address) as client:
            size = client.get_model(given.model).onnx_size_bytes
            request = search_pb2.Search()
            request.CopyFrom(given)
            request.preference = search_pb2.FASTEST
            request.budget.max_accuracy_drop_points, request.budget.size_bytes = _MAX_DROP, int(size / _SIZE_RATIO)
            request.effort.max_trials, request.effort.seed = _TRIALS, seed
            request.effort.max_wall_time.FromSeconds(_SECONDS)
            ended = client.wait(client.create_search(request).name)
            asked = {"asked_size_ratio": _SIZE_RATIO, "asked_drop_points": _MAX_DROP}
            row: Row = {
                "seed": seed,
                **asked,
                "state": search_pb2.Search.State.Name(ended.state),
                "candidates": ended.candidate_count,
            }
            row["duration_s"] = round(ended.end_time.ToNanoseconds() / 1e9 - ended.start_time.ToNanoseconds() / 1e9, 1)
            if ended.state != search_pb2.Search.SUCCEEDED:
                return {**row, "message": ended.state_message}
            client.download_artifact(ended.name, "report.json", Path(folder) / "report.json")
            report = json.loads((Path(folder) / "report.json").read_text())
    best, baseline = report["best"], report["baseline"]
    return {
        **row,
        "front": len(report["front"]),
        "speed_up": baseline["latency_ms"]["value"] / best["latency_ms"]["value"],
        "size_ratio": baseline["onnx_size_bytes"] / best["onnx_size_bytes"],
        "test_drop_points": best["drop_points"]["estimate"],
        "selection_accuracy": best["accuracies"]["selection"],
        "recipe": [step["technique"] for step in best["recipe"]["steps"]],
    }


def fastest_by_hand(row: Mapping[str, Any], most_points: float = 1.0) -> Mapping[str, Any] | None:
    """Of the networks that lose no more on test."""
    within = [one for one in row["networks"] if one["test_drop_points"] <= most_points]
    return max(within, key=lambda one: one["speed_up"], default=None)


def checks(rows: Sequence[Row]) -> list[Check]:
    """Line 7 of "open-space": the worst of three searches, alone and against the best by hand of the same seed."""
    cell = {row["cell"]: row for row in rows}
    searched = [cell[f"search {seed}"] for seed in SEEDS if f"search {seed}" in cell]
    hands = [cell[f"by hand {seed}"] for seed in SEEDS if f"by hand {seed}" in cell]
    found = [row for row in searched if "speed_up" in row]
    least = {name: min((row[name] for row in found), default=None) for name in ("speed_up", "size_ratio")}
    pairs = [
        (cell[f"search {s}"], fastest_by_hand(cell[f"by hand {s}"]))
        for s in SEEDS
        if {f"search {s}", f"by hand {s}"} <= cell.keys()
    ]
    compared = [(ours, theirs) for ours, theirs in pairs if theirs is not None and "speed_up" in ours]
    against = {
        name: min((ours[name] / theirs[name] for ours, theirs in compared), default=None) for name in ("speed_up", "size_ratio")
    }
    return [
        Check("open-space 7 searches with an answer", len(found), f">= {len(SEEDS)}"),
        Check("open-space 7 largest test drop, points", max((row["test_drop_points"] for row in found), default=None), "<= 1.0"),
        Check("open-space 7 least speed-up", least["speed_up"], ">= 2.8"),
        Check("open-space 7 least size ratio", least["size_ratio"], ">= 8"),
        Check("open-space 7 least speed-up", least["speed_up"], ">= 3.2", "goal"),
        Check("open-space 7 least size ratio", least["size_ratio"], ">= 12", "goal"),
        Check(
            "open-space 7 longest search, s", max((row["duration_s"] for row in searched), default=None), f"<= {1.1 * _SECONDS:g}"
        ),
        Check("open-space 7 longest by hand, s", max((row["duration_s"] for row in hands), default=None), f"<= {1.1 * _SECONDS:g}"),
        Check("open-space 7 seeds beside by hand", len(compared), f">= {len(SEEDS)}"),
        Check("open-space 7 faster than by hand", against["speed_up"], ">= 1.15"),
        Check("open-space 7 smaller than by hand", against["size_ratio"], ">= 1.5"),
        Check("open-space 7 faster than by hand", against["speed_up"], ">= 1.3", "goal"),
        Check("open-space 7 smaller than by hand", against["size_ratio"], ">= 2", "goal"),
    ]
