"""Checks of the first issue: one gRPC request compresses a real CNN, end to end. ``make bench-end-to-end``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import ROOT, Check, Results, Row, run_tests, test_check
from search.execution.runner import run_trials
from search.execution.runtime import RunnerSettings, ray_runtime
from search.execution.trial import TrialPlan
from search.execution.word import Tell, Word

NAME = "end_to_end"
DEMO = ROOT / "build" / "demo"
TESTS = {
    "end-to-end 3 runs": "tests/service/test_end_to_end.py::test_mlflow_holds_one_parent_and_one_child_per_candidate",
    "end-to-end 3 replay": "tests/service/test_end_to_end.py::test_a_front_member_replays_to_the_same_outputs",
    "end-to-end 4 onnx": "tests/techniques/test_onnx_import.py",
    "end-to-end 5 infeasible": "tests/service/test_other_ends.py::test_a_budget_out_of_reach_ends_infeasible_with_the_nearest",
    "end-to-end 5 preprocessing": "tests/service/test_other_ends.py::test_wrong_preprocessing_is_caught_and_named",
    "end-to-end 5 hostile": "tests/service/test_other_ends.py::test_a_hostile_archive_is_refused_and_does_not_run",
    "end-to-end 5 fields": "tests/service/test_other_ends.py::test_every_bad_field_of_a_budget_is_answered_at_once",
    "end-to-end 6": "tests/service/test_end_to_end.py::test_a_search_survives_kill_9_of_the_server",
    "end-to-end 8": "tests/paretopress/test_import_is_light.py",
}
# The user's side of line 2: onnxruntime and numpy, nothing of ours.
_ALONE = """
import json, sys, time, numpy as np, onnxruntime as ort
data = np.load(sys.argv[2])
x, y = data["x"], data["y"]
options = ort.SessionOptions(); options.intra_op_num_threads = 1; options.inter_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options)
name = session.get_inputs()[0].name
hits = sum(int(session.run(None, {name: x[i:i + 1]})[0].argmax() == y[i]) for i in range(len(x)))
rounds = []
for _ in range(3):
    session = ort.InferenceSession(sys.argv[1], options)
    for _ in range(50): session.run(None, {name: x[:1]})
    times = []
    for _ in range(400):
        t = time.perf_counter(); session.run(None, {name: x[:1]}); times.append(time.perf_counter() - t)
    rounds.append(1000 * float(np.median(times))); time.sleep(1)
ours = sorted(m for m in sys.modules if m in ("torch", "paretopress"))
print(json.dumps({"accuracy": hits / len(x), "latency_ms": float(np.median(rounds)), "modules": ours}))
"""


def run(results: Results) -> None:
    """The demo, its model alone, the overhead per trial, and the tests that prove lines."""
    results.cell("demo", demo)
    results.cell("onnx alone", _onnx_alone)
    results.cell("overhead", _overhead)
    results.cell("fine-tune", _fine_tune)
    record_tests(results)


def record_tests(results: Results) -> None:
    """Run the tests that prove lines, all in one go, and record each."""
    for line, row in zip(TESTS, run_tests(TESTS.values()), strict=True):
        results.cell(f"test {line}", lambda row=row: row, again=True)  # type: ignore[misc]


def demo(checkout: Path = ROOT) -> Row:
    """Run a checkout's demo, unless one has just been run by hand (``REUSE_DEMO=1``): what it left is read either way."""
    if not os.environ.get("REUSE_DEMO"):
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        subprocess.run([sys.executable, "-m", "examples.demo"], cwd=checkout, env=environment, check=False)
    left = checkout / DEMO.relative_to(ROOT)
    run, report = (json.loads((left / name).read_text()) for name in ("demo.json", "report.json"))
    best, baseline = report["best"], report["baseline"]
    found = {
        "status": run["status"],
        "duration_s": run["duration_s"],
        "candidates": report["candidates_evaluated"],
        "front": len(report["front"]),
    }
    if best is None:
        return {**found, "broken_limits": report["broken_limits"]}
    return {
        **found,
        "speed_up": baseline["latency_ms"]["value"] / best["latency_ms"]["value"],
        "latency_source": best["latency_ms"]["source"],
        "size_ratio": baseline["onnx_size_bytes"] / best["onnx_size_bytes"],
        "test_drop_points": best["drop_points"]["estimate"],
        "test_drop_low": best["drop_points"]["low"],
        "test_drop_high": best["drop_points"]["high"],
        "test_accuracy": best["accuracy"],
        "latency_ms": best["latency_ms"]["value"],
        "latency_spread_ms": best["latency_ms"]["spread"],
        "baseline_latency_ms": baseline["latency_ms"]["value"],
    }


def _onnx_alone() -> Row:
    from examples import fashion_mnist
    from examples.train_fashion import to_input

    data = fashion_mnist.load()
    report = json.loads((DEMO / "report.json").read_text())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "test.npz"
        np.savez(path, x=to_input(data.test_images).numpy(), y=data.test_labels)
        command = [sys.executable, "-I", "-c", _ALONE, str(DEMO / "model.onnx"), str(path)]
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    latency = report["best"]["latency_ms"]
    return {
        **found,
        "accuracy_difference": abs(found["accuracy"] - report["best"]["accuracy"]),
        "latency_difference_in_spreads": abs(found["latency_ms"] - latency["value"]) / latency["spread"],
    }


def _fine_tune(steps: int = 150) -> Row:
    """The original module and its lifted network, trained alike on the same batches: test accuracy of both."""
    import torch
    from safetensors.torch import load_file
    from torch.nn import functional

    from examples import fashion_mnist
    from examples.resnet import ResNet
    from examples.train_fashion import accuracy, to_input
    from techniques.lift import from_module

    data = fashion_mnist.load()
    original = ResNet(20)
    original.load_state_dict(load_file(ROOT / "examples" / "resnet20_fashion.safetensors"))
    lifted = from_module(original, (1, 28, 28)).clone().graph
    x, y = to_input(data.train_images[:50_000]), torch.from_numpy(data.train_labels[:50_000])
    test_x, test_y = to_input(data.test_images), torch.from_numpy(data.test_labels)
    reached = []
    for module in (original, lifted):
        generator = torch.Generator().manual_seed(0)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.02, momentum=0.9)
        module.train()
        for _ in range(steps):
            index = torch.randint(0, len(x), (128,), generator=generator)
            loss = functional.cross_entropy(module(x[index]), y[index])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        reached.append(accuracy(module, test_x, test_y))
    return {"steps": steps, "original": reached[0], "lifted": reached[1], "gap_points": 100 * abs(reached[0] - reached[1])}


class _Nothing:
    """Evaluates to nothing: what is left is the framework."""

    tell: Tell | None = None

    def on_device(self, device: str) -> _Nothing:
        return self

    def evaluate(self, plan: TrialPlan, rung: int) -> Mapping[str, Any]:
        return {}


class _Counting:
    def __init__(self, trials: int) -> None:
        self._left, self._number = trials, 0

    def propose(self) -> TrialPlan | None:
        if not self._left:
            return None
        self._left -= 1
        self._number += 1
        return TrialPlan(self._number)

    def report(self, number: int, rung: int, values: Mapping[str, Any]) -> bool:
        return False

    def failed(self, number: int, rung: int, message: str) -> None:
        raise RuntimeError(message)

    def note(self, message: str, facts: Mapping[str, Any] | None = None, warning: bool = False) -> None:
        pass

    def heard(self, word: Word) -> None:
        pass

    def should_stop(self) -> bool:
        return False


def _overhead(trials: int = 30) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        settings = RunnerSettings(cpus=2, storage_path=Path(folder), parallel_trials=2)
        with ray_runtime(settings):
            started = time.monotonic()
            run_trials(_Counting(trials), _Nothing(), settings)
            return {"trials": trials, "seconds_per_trial": (time.monotonic() - started) / trials}


def checks(rows: Sequence[Row]) -> list[Check]:
    """One check per line, from the rows."""
    cell = {row["cell"]: row for row in rows}
    demo, alone = cell.get("demo", {}), cell.get("onnx alone", {})
    listed = [
        Check("end-to-end 1 minutes", demo.get("duration_s", float("inf")) / 60, "< 15"),
        Check("end-to-end 1 minutes", demo.get("duration_s", float("inf")) / 60, "<= 10", "goal"),
        Check("end-to-end 1 candidates", demo.get("candidates"), ">= 12"),
        Check("end-to-end 1 front", demo.get("front"), ">= 4"),
        Check("end-to-end 1 speed-up", demo.get("speed_up"), ">= 2"),
        Check("end-to-end 1 size ratio", demo.get("size_ratio"), ">= 4"),
        Check("end-to-end 1 test drop points", demo.get("test_drop_points"), "<= 1.0"),
        Check("end-to-end 2 accuracy", alone.get("accuracy_difference"), "<= 0.001"),
        Check("end-to-end 2 latency in spreads", alone.get("latency_difference_in_spreads"), "<= 1"),
        Check("end-to-end 7 s per trial", cell.get("overhead", {}).get("seconds_per_trial"), "< 0.5"),
        Check("end-to-end 4 fine-tuning gap points", cell.get("fine-tune", {}).get("gap_points"), "<= 0.2"),
    ]
    return listed + [test_check(rows, line, node) for line, node in TESTS.items()]
