"""``make demo`` and ``make test`` now and at the last commit, one after the other on one machine.

``make bench-open-space-commands`` takes about forty minutes and goes on where it ended.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.end_to_end import demo
from benchmarks.harness import ROOT, Check, Results, Row
from benchmarks.open_space import last_commit

NAME = "open_space_commands"
_TESTS = ["-m", "pytest", "tests", "-n", "2", "--dist", "worksteal"]


def run(results: Results) -> None:
    """The cells that have no row yet."""
    with last_commit() as before:
        for command, measured in (("demo", demo), ("tests", _tests)):
            for when, checkout in (("now", ROOT), ("before", before)):
                results.cell(f"{command} {when}", lambda measured=measured, checkout=checkout: measured(checkout))  # type: ignore[misc]


def _tests(checkout: Path) -> Row:
    """As ``make test`` runs them; those of an older commit may fail in a newer environment."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    done = subprocess.run([sys.executable, *_TESTS], cwd=checkout, env=environment, check=False, capture_output=True, text=True)
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error)", done.stdout)}
    return {"duration_s": round(time.monotonic() - began, 1), **counts}


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
