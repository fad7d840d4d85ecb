"""Where the original is measured: alone on this machine, and what is said where a cluster does not give that. No Ray runs here."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from hw_models.targets import get_target
from search import baseline
from search.baseline import measure_alone
from search.errors import ClusterError
from search.evaluation.latency import LatencyResult
from search.execution.runtime import RunnerSettings
from search.protocols import BASELINE, Measurement
from search.runtimes.onnx_runtime import OnnxRuntime
from tests.search.memory import MemoryStore

QUIET, BESIDE = Measurement(1.0, "measured"), Measurement(2.0, "measured")


def _result(measurement: Measurement) -> Mapping[str, LatencyResult]:
    return {BASELINE: LatencyResult(measurement, measurement.value, (measurement.value,), 0.0, False)}


def _measured(
    folder: Path, address: str | None, monkeypatch: pytest.MonkeyPatch, run_quietly: Any
) -> tuple[Measurement, list[str]]:
    monkeypatch.setattr(baseline, "ray_runtime", lambda runner: nullcontext())
    monkeypatch.setattr(baseline, "run_quietly", run_quietly)
    monkeypatch.setattr(OnnxRuntime, "measure", lambda *_, **named: _result(BESIDE))
    store = MemoryStore()
    found = measure_alone(b"onnx", get_target("cpu-ort-1t"), 1, 5.0, RunnerSettings(2, folder, address), store)
    return found, [event.message for event in store.events]


def test_the_original_is_measured_when_a_cluster_gives_the_machine_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by review: it was measured beside whatever ran there, though the README says otherwise."""
    assert _measured(tmp_path, "host:1", monkeypatch, lambda *_, **named: _result(QUIET)) == (QUIET, [])


def test_without_a_cluster_no_runtime_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **named: object) -> None:
        raise AssertionError("there is no runtime yet")

    assert _measured(tmp_path, None, monkeypatch, never) == (BESIDE, [])


def test_a_machine_that_others_keep_is_told_and_ends_no_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: object, **named: object) -> None:
        raise ClusterError("others use the machine of this worker")

    words = "others use the machine of this worker. The original is measured beside them; the finals measure it again"
    assert _measured(tmp_path, "host:1", monkeypatch, busy) == (BESIDE, [words])
