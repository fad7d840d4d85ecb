"""The verdicts of searches beside a neighbour that takes a processor at random, against those of the quiet machine.

Twenty budgets for ResNet-20, each searched for twice: once quietly, once beside a process that computes for 1 to 10 s, rests for
1 to 10 s, and so on. Without training, the same request makes the same candidates with the same accuracies: only latencies differ.
"""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from benchmarks.harness import Check, Results, Row
from benchmarks.promises_server import PromisesServer, fresh_server, upload_resnet
from paretopress.client import Client
from paretopress.v1 import search_pb2

NAME = "promises_noise"
SHARES = tuple(round(0.25 + 0.035 * number, 3) for number in range(20))
"""Limits on the latency, as shares of what the original takes on the quiet machine."""
TECHNIQUES = ("structured_pruning", "block_removal", "int8_quantization")
_TRIALS, _WALL_S, _IMAGES = 3, 900, 1500
_LEAST_S, _MOST_S = 1.0, 10.0


def run(results: Results) -> None:
    """The searches that have no row yet: each budget quietly, then beside the neighbour; the machine itself changes by the hour."""
    with fresh_server(NAME) as server:
        inputs = upload_resnet(server, _IMAGES)
        original = results.cell("original", lambda: _original(server, inputs))
        for share in SHARES:
            limit_ms = share * original["latency_ms"]
            results.cell(f"quiet {share}", lambda limit_ms=limit_ms: _searched(server, inputs, limit_ms))  # type: ignore[misc]
            with _neighbour():
                results.cell(f"busy {share}", lambda limit_ms=limit_ms: _searched(server, inputs, limit_ms))  # type: ignore[misc]


@contextmanager
def _neighbour() -> Iterator[None]:
    process = multiprocessing.get_context("spawn").Process(target=_compute_at_random, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def _compute_at_random() -> None:
    generator = random.Random()
    while True:
        until = time.monotonic() + generator.uniform(_LEAST_S, _MOST_S)
        while time.monotonic() < until:
            sum(range(1000))
        time.sleep(generator.uniform(_LEAST_S, _MOST_S))


def _original(server: PromisesServer, inputs: search_pb2.Search) -> Row:
    row = _searched(server, inputs, 1000.0)
    return {"latency_ms": row["latencies_ms"]["baseline"], "state": row["state"]}


def _searched(server: PromisesServer, inputs: search_pb2.Search, limit_ms: float) -> Row:
    request = search_pb2.Search()
    request.CopyFrom(inputs)
    request.budget.latency_ms, request.budget.max_accuracy_drop_points = limit_ms, 60.0
    request.techniques.extend(TECHNIQUES)
    request.effort.max_trials, request.effort.max_epochs = _TRIALS, 0.0
    request.effort.max_wall_time.FromSeconds(_WALL_S)
    with Client(server.address) as client:
        ended = client.wait(client.create_search(request).name)
        candidates = list(client.list_candidates(ended.name))
    finalists = [c for c in candidates if "selection" in c.accuracies]
    return {
        "limit_ms": limit_ms,
        "state": search_pb2.Search.State.Name(ended.state),
        "best": ended.best.rpartition("/")[2],
        "feasible": sorted(c.name.rpartition("/")[2] for c in finalists if c.feasible),
        "latencies_ms": {c.name.rpartition("/")[2]: c.measurements["latency_ms"].value for c in finalists},
        "spreads_ms": {c.name.rpartition("/")[2]: c.measurements["latency_ms"].spread for c in finalists},
        "duration_s": round(ended.end_time.ToNanoseconds() / 1e9 - ended.start_time.ToNanoseconds() / 1e9, 1),
    }


def checks(rows: Sequence[Row]) -> list[Check]:
    """The first half of line 1 of "promises"."""
    by_cell = {row["cell"]: row for row in rows}
    pairs = [(by_cell[f"quiet {s}"], by_cell[f"busy {s}"]) for s in SHARES if {f"quiet {s}", f"busy {s}"} <= by_cell.keys()]
    same = sum(all(quiet[key] == busy[key] for key in ("state", "best", "feasible")) for quiet, busy in pairs)
    differences = [
        abs(busy["latencies_ms"][name] / value - 1)
        for quiet, busy in pairs
        for name, value in quiet["latencies_ms"].items()
        if name in busy["latencies_ms"]
    ]
    return [
        Check("promises 1 searches with the same verdict", same, f">= {len(SHARES)}"),
        Check("promises 1 latencies apart at most", max(differences, default=None), "<= 0.05"),
    ]
