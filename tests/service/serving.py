"""`paretopress serve` as a program of its own, which a test may kill."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
_MARKER = "Paretopress listens on "
_START_S = 90


def serve(data_dir: Path, log: Path, variables: Mapping[str, str] | None = None) -> tuple[subprocess.Popen[bytes], str]:
    """Start it; returns the process and its address once it listens.

    Args:
        variables: of its environment, beside short leases and measurements.
    """
    command = [str(Path(sys.executable).with_name("paretopress")), "serve", "--port", "0", "--data-dir", str(data_dir)]
    short = {"PARETOPRESS_LEASE_S": "4", "PARETOPRESS_MEASURE_LIMIT_S": "5"}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **short, **(variables or {})}
    with log.open("wb") as file:
        process = subprocess.Popen([*command, "--no-mlflow-ui"], cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + _START_S
    while _MARKER not in (text := log.read_text()):
        assert process.poll() is None, text
        assert time.monotonic() < deadline, text
        time.sleep(0.1)
    return process, text.split(_MARKER, 1)[1].split(";", 1)[0]
