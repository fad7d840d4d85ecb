"""The open search space: what tests prove, loose limits, searches that are cut off, and the price of a recipe.

``make bench-open-space``. What takes hours of training has a benchmark of its own.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, Check, Results, Row, run_tests, test_check
from benchmarks.promises_server import TARGET, PromisesServer, fresh_server, upload_resnet
from examples.demo import digits_subject, export_pt2
from hw_models.calibrate import calibrate
from hw_models.targets import get_target
from paretopress.client import Client
from paretopress.v1 import dataset_pb2, model_pb2, search_pb2

NAME = "open_space"
TESTS = {
    "open-space 1 toy": "tests/service/test_toy_technique.py",
    "open-space 1 no name": "tests/search/test_no_technique_by_name.py",
    "open-space 2 golden": "tests/search/test_golden_recipes.py",
    "open-space 3 contracts": "tests/techniques/test_contracts.py",
    "open-space 5 driver": "tests/search/test_driver.py",
    "open-space 6 metric and audit": "tests/service/test_toy_technique.py",
    "open-space 6 runtime and artifact": "tests/search/test_runtimes.py",
    "open-space 6 limits": "tests/search/test_limits.py",
}
LAST_COMMIT = "d01120c"
"""Before the search space was opened: what pricing and overhead are compared with."""
_LOOSE, _LOOSE_TRIALS = 1.5, 24
_CUT_TRIALS, _IMAGES, _EPOCHS = 4, 1500, 0.5
_ROUNDS = 3


def run(results: Results) -> None:
    """The cells that have no row yet."""
    for row in run_tests(TESTS.values()):
        results.cell(row["test"], lambda row=row: row, again=True)  # type: ignore[misc]
    results.cell("pricing", _pricing)
    results.cell("overhead", _overhead)
    if any(results.find(f"cut {number}") is None for number in range(_CUT_TRIALS + 1)):
        with fresh_server(NAME) as server:
            inputs = upload_resnet(server, _IMAGES)
            results.cell("cut 0", lambda: _searched(server, inputs, None))
            for number in range(1, _CUT_TRIALS + 1):
                results.cell(f"cut {number}", lambda number=number: _searched(server, inputs, number))  # type: ignore[misc]
    if results.find("loose") is None or results.find("unlimited") is None:
        with fresh_server(NAME) as server:
            inputs = _upload_digits(server)
            original_ms = results.cell("unlimited", lambda: _fastest(server, inputs, None))["original_ms"]
            results.cell("loose", lambda: _fastest(server, inputs, _LOOSE * original_ms))


def _upload_digits(server: PromisesServer) -> search_pb2.Search:
    """ResNet-8 on MNIST's digits."""
    subject = digits_subject(server.folder / "data.npz")
    export_pt2(subject.network, server.folder / "original.pt2")
    how = dataset_pb2.Preprocessing(height=28, width=28, channels=1, mean=[subject.mean], std=[subject.std])
    with Client(server.address) as client:
        model = client.upload_model(server.folder / "original.pt2", model_pb2.Model.PT2)
        data = client.upload_dataset(subject.data, dataset_pb2.Dataset.NPZ, how)
        while not client.get_target(TARGET).calibrated:
            time.sleep(1)
    return search_pb2.Search(model=model.name, dataset=data.name, target=TARGET, preference=search_pb2.FASTEST)


def _fastest(server: PromisesServer, inputs: search_pb2.Search, limit_ms: float | None) -> Row:
    request = search_pb2.Search()
    request.CopyFrom(inputs)
    request.budget.max_accuracy_drop_points = 3.0
    if limit_ms is not None:
        request.budget.latency_ms = limit_ms
    request.effort.max_trials, request.effort.max_epochs = _LOOSE_TRIALS, 1.0
    request.effort.max_wall_time.FromSeconds(420)
    with Client(server.address) as client:
        ended = client.wait(client.create_search(request).name)
        candidates = {c.name: c for c in client.list_candidates(ended.name)}
        best = client.get_candidate(ended.best)
    original = next(c for name, c in candidates.items() if name.endswith("/baseline"))
    structures = {c.recipe_json.partition('"distillation"')[0] for c in candidates.values()}
    pruned = sum("structured_pruning" in c.recipe_json for c in candidates.values())
    return {
        "state": search_pb2.Search.State.Name(ended.state),
        "limit_ms": limit_ms,
        "original_ms": original.measurements["latency_ms"].value,
        "predicted_ms": best.measurements["predicted_latency_ms"].value,
        "structures": len(structures),
        "pruned": pruned,
        "drop_points": best.accuracies["selection"].drop_points,
    }


def _searched(server: PromisesServer, inputs: search_pb2.Search, killed_after: int | None) -> Row:
    """A small search; server and worker are killed once so many candidates have been announced, and started again."""
    request = search_pb2.Search()
    request.CopyFrom(inputs)
    request.budget.max_accuracy_drop_points = 60.0
    request.effort.max_trials, request.effort.max_epochs, request.effort.seed = _CUT_TRIALS, _EPOCHS, 1
    request.effort.max_wall_time.FromSeconds(1200)
    with Client(server.address) as client:
        name = client.create_search(request).name
        announced: set[str] = set()
        for event in client.watch(name) if killed_after else ():
            announced |= {str(event.payload["candidate"])} if event.kind == search_pb2.SearchEvent.CANDIDATE else set()
            if len(announced) == killed_after:
                break
    if killed_after:
        server.end(signal.SIGKILL)
        server.start()
    with Client(server.address) as client:
        ended = client.wait(name)
        candidates = [c for c in client.list_candidates(name) if not c.name.endswith("/baseline")]
        resumed = sum(event.message == "resumed by a worker" for event in client.watch(name))
    return {
        "state": search_pb2.Search.State.Name(ended.state),
        "resumed": resumed,
        "recipes": [json.loads(c.recipe_json) for c in candidates],
        "accuracies": [c.accuracies["validation"].value for c in candidates],
        "predicted_ms": [_predicted_ms(c) for c in candidates],
    }


def _predicted_ms(candidate: search_pb2.Candidate) -> float:
    found = candidate.measurements
    return found["predicted_latency_ms" if "predicted_latency_ms" in found else "latency_ms"].value


def _pricing() -> Row:
    """Milliseconds a recipe, now and at the last commit, turn by turn: 5,000 recipes of ResNet-20, one calibrated predictor."""
    predictor = ROOT / "build" / "predictor.json"
    predictor.parent.mkdir(exist_ok=True)
    predictor.write_text(calibrate(get_target(TARGET.rpartition("/")[2])).to_json())
    command, one = ["-m", "benchmarks.hw_pricing", str(predictor)], {"OMP_NUM_THREADS": "1"}
    now, before, ratio = _against_last_commit(lambda checkout, turn: _answer(checkout, [*command, str(turn)], one)["median_ms"])
    return {"ms_a_recipe": now, "before_ms": before, "ratio": ratio}


def _overhead() -> Row:
    """Seconds of a trial that trains nothing, two at once, now and at the last commit, turn by turn."""
    # By its private name, which the last commit has, too.
    command = ["-c", "import json, benchmarks.end_to_end as one; print(json.dumps(one._overhead()))"]
    now, before, ratio = _against_last_commit(lambda checkout, _: _answer(checkout, command)["seconds_per_trial"])
    return {"s_a_trial": now, "before_s": before, "ratio": ratio}


def _against_last_commit(measured: Callable[[Path, int], float]) -> tuple[float, float, float]:
    """Medians of a checkout's figure now and at the last commit, and the median of their ratios."""
    with last_commit() as before:
        pairs = [(measured(ROOT, turn), measured(before, turn)) for turn in range(_ROUNDS)]
    now, then = (statistics.median(values) for values in zip(*pairs, strict=True))
    return now, then, statistics.median(a / b for a, b in pairs)


@contextmanager
def last_commit() -> Iterator[Path]:
    """A checkout of it."""
    before = ROOT / "build" / "last-commit"
    if not before.exists():
        subprocess.run(["git", "worktree", "add", "--detach", str(before), LAST_COMMIT], cwd=ROOT, check=True, capture_output=True)
    try:
        yield before
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(before)], cwd=ROOT, check=False, capture_output=True)


def _answer(checkout: Path, command: Sequence[str], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The last line that Python prints there, as JSON."""
    variables = {**os.environ, "PYTHONPATH": str(checkout), **(environment or {})}
    done = subprocess.run([sys.executable, *command], cwd=checkout, env=variables, check=True, capture_output=True, text=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def checks(rows: Sequence[Row]) -> list[Check]:
    """One check per line, from the rows."""
    cell: Mapping[str, Any] = {row["cell"]: row for row in rows}
    cut = [cell[name] for name in (f"cut {number}" for number in range(1, _CUT_TRIALS + 1)) if name in cell]
    whole = cell.get("cut 0", {})
    same = sum(all(one[key] == whole.get(key) for key in ("recipes", "accuracies", "predicted_ms")) for one in cut)
    loose, unlimited, pricing, overhead = (cell.get(name, {}) for name in ("loose", "unlimited", "pricing", "overhead"))
    apart = abs(loose["predicted_ms"] / unlimited["predicted_ms"] - 1) if loose and unlimited else None
    return [
        *(test_check(rows, line, node) for line, node in TESTS.items()),
        Check("open-space 4 predicted latency apart", apart, "<= 0.05"),
        Check("open-space 4 candidates that are pruned", loose.get("pruned"), ">= 5"),
        Check("open-space 5 searches that are the same", same, f">= {_CUT_TRIALS}"),
        Check("open-space 5 searches that were resumed", sum(one["resumed"] == 1 for one in cut), f">= {_CUT_TRIALS}"),
        Check("open-space 8 pricing, ms a recipe", pricing.get("ms_a_recipe"), "< 6"),
        Check("open-space 8 pricing against the last commit", pricing.get("ratio"), "<= 1.1"),
        Check("open-space 8 overhead, s a trial", overhead.get("s_a_trial"), "< 0.15"),
        Check("open-space 8 overhead against the last commit", overhead.get("ratio"), "<= 1.1"),
    ]
