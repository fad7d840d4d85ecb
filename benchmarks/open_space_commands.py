"""``make demo`` and ``make test`` now and at the last commit, one after the other on one machine.

``make bench-open-space-commands`` takes about forty minutes and goes on where it ended.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import ROOT, Check, Results, Row
from benchmarks.open_space import last_commit

NAME = "open_space_commands"
_TESTS = ["-m", "pytest", "tests", "-q", "-n", "2", "--dist", "worksteal"]


def run(results: Results) -> None:
    """The cells that have no row yet."""
    with last_commit() as before:
        for command, measured in (("demo", _demo), ("tests", _tests)):
            for when, checkout in (("now", ROOT), ("before", before)):
                results.cell(f"{command} {when}", lambda measured=measured, checkout=checkout: measured(checkout))  # type: ignore[misc]


def _demo(checkout: Path) -> Row:
    """The whole command but for installing; ``best`` is what it found."""
    duration_s, _ = _timed(checkout, ["-m", "examples.demo"])
    report = json.loads((checkout / "build" / "demo" / "report.json").read_text())
    best, baseline = report["best"], report["baseline"]
    found: Row = {"duration_s": duration_s, "candidates": report["candidates_evaluated"], "front": len(report["front"])}
    if best is None:
        return found
    return found | {
        "speed_up": baseline["latency_ms"]["value"] / best["latency_ms"]["value"],
        "size_ratio": baseline["onnx_size_bytes"] / best["onnx_size_bytes"],
        "test_drop_points": best["drop_points"]["estimate"],
    }


def _tests(checkout: Path) -> Row:
    """As ``make test`` runs them; those of an older commit may fail in a newer environment."""
    duration_s, printed = _timed(checkout, _TESTS, {"OMP_NUM_THREADS": "1"})
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error)", printed)}
    return {"duration_s": duration_s, **counts}


def _timed(checkout: Path, command: Sequence[str], environment: dict[str, str] | None = None) -> tuple[float, str]:
    variables = {**os.environ, "PYTHONPATH": str(checkout), **(environment or {})}
    began = time.monotonic()
    done = subprocess.run([sys.executable, *command], cwd=checkout, env=variables, check=False, capture_output=True, text=True)
    return round(time.monotonic() - began, 1), done.stdout


def checks(rows: Sequence[Row]) -> list[Check]:
    """Line 8 of "open-space", whole commands."""
    seconds = {row["cell"]: row["duration_s"] for row in rows}
    ratio = {
        command: seconds[f"{command} now"] / seconds[f"{command} before"]
        for command in ("demo", "tests")
        if {f"{command} now", f"{command} before"} <= seconds.keys()
    }
    return [
        Check("open-space 8 make demo against the last commit", ratio.get("demo"), "<= 1.1"),
        Check("open-space 8 make test against the last commit", ratio.get("tests"), "<= 1.1"),
    ]
