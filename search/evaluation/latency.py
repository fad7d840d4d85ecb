"""Measured latency of exported candidates: in the target's runtime, in a process of its own, against a reference."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hw_models.targets import Target
from paretopress import runtime
from paretopress.runtime.rounds import LIMIT_S
from search.errors import SearchError
from search.process_variables import KEPT_MEMORY
from search.protocols import Measurement

TIMEOUT_S = 1800.0
_TURN_S = 0.5


class LatencyError(SearchError):
    """A candidate's file could not be measured; the message says which and why."""


@dataclass(frozen=True)
class LatencyResult:
    """A measured latency and how quiet the machine was.

    Attributes:
        measurement: value and half width of the 95% interval, in milliseconds.
        upper_bound_ms: what a latency limit is compared with (contract 3).
        drift_percent: how far the reference's rounds lie apart.
        noisy: whether the interval was still wider than 5% when the time was up; the number then stands under doubt.
    """

    measurement: Measurement
    upper_bound_ms: float
    round_medians_ms: tuple[float, ...]
    drift_percent: float
    noisy: bool


def measure_candidates(
    models: Mapping[str, bytes], target: Target, reference: str, batch: int = 1, limit_s: float = LIMIT_S
) -> Mapping[str, LatencyResult]:
    """Measure ONNX files, taking turns, in a fresh process where no other library's threads run.

    Rounds are added until every interval is within 3%, or ``limit_s`` seconds have passed.

    Raises:
        LatencyError: the target is not attached, the reference is none of the models, or a file does not run.
    """
    if not target.attached:
        raise LatencyError(f"target {target.name} is not attached: its latency can only be predicted")
    if reference not in models:
        raise LatencyError(f"the reference {reference!r} is none of the models {sorted(models)}")
    order = [reference, *(name for name in models if name != reference)]
    with tempfile.TemporaryDirectory(prefix="paretopress-latency-") as folder:
        paths = {name: Path(folder) / f"{index}.onnx" for index, name in enumerate(order)}
        for name, path in paths.items():
            path.write_bytes(models[name])
        measured = _run_measuring(list(paths.values()), order, target, batch, limit_s)
        return {name: _result(measured[str(path)]) for name, path in paths.items()}


def _run_measuring(paths: list[Path], names: list[str], target: Target, batch: int, limit_s: float) -> dict[str, dict[str, Any]]:
    # The runtime is the target's own (``target.runtime``); onnxruntime is the only one so far.
    options = {"threads": target.threads, "batch": batch, "limit-s": limit_s, "optimization": target.optimization}
    command = [sys.executable, "-m", "paretopress.runtime.measure", *map(str, paths)]
    for option, value in options.items():
        command += [f"--{option}", str(value)]
    returncode, output, errors = _finished(command, names)
    if returncode:
        message = errors.strip()[-2000:]
        for path, name in zip(paths, names, strict=True):
            message = message.replace(str(path), name)
        raise LatencyError(f"measuring failed: {message}")
    measured: dict[str, dict[str, Any]] = json.loads(output)
    return measured


def _finished(command: list[str], names: list[str]) -> tuple[int, str, str]:
    """Return code, output and errors. It is waited for in short turns: a search that is to stop interrupts between two of them."""
    deadline = time.monotonic() + TIMEOUT_S
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment()) as process:
        try:
            while time.monotonic() < deadline:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    output, errors = process.communicate(timeout=_TURN_S)
                    return process.returncode, output, errors
            raise LatencyError(f"measuring {names} took more than {TIMEOUT_S:.0f} s")
        finally:
            process.kill()


def _environment() -> dict[str, str]:
    root = str(Path(runtime.__path__[0]).parents[1])
    # As a user's process has it, that only runs the file.
    inherited = {name: value for name, value in os.environ.items() if name not in KEPT_MEMORY}
    return {**inherited, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))}


def _result(measured: Mapping[str, Any]) -> LatencyResult:
    return LatencyResult(
        measurement=Measurement(measured["value_ms"], "measured", measured["spread_ms"], measured["rounds"]),
        upper_bound_ms=measured["upper_bound_ms"],
        round_medians_ms=tuple(measured["round_medians_ms"]),
        drift_percent=measured["drift_percent"],
        noisy=measured["noisy"],
    )
