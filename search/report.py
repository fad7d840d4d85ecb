"""The report of a search: one JSON document with a version; its schema stands in docs/report.md."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search.evaluation.audits import AUDITS
from search.limit_kinds import KINDS, SIZE_SUFFIX
from search.protocols import CandidateRecord, Measurement
from search.runtimes import RUNTIMES
from search.spec import SearchSpec
from techniques.effort import FLOAT32

REPORT_VERSION = 1
PACKAGES = ("torch", "optuna", "ray", "mlflow", "numpy", "paretopress")
_SIZES = ("onnx_size_bytes", "download_size_bytes", "weight_size_bytes")
"""Of the files that any target has; null where it has none."""


@dataclass(frozen=True)
class ReportInputs:
    """Everything a report is made of.

    Attributes:
        gaps: ``baseline`` and ``best`` -> train accuracy minus validation accuracy, in points.
        places: `search.places.Places` as JSON: what can be made smaller, and why the rest cannot; None where it is not known.
        techniques: what each can do here, or why nothing; with the paper it is from.
        rung_steps: of training at each rung; fewer than asked for where the wall time would not hold them.
        training_dtype: what it computed in.
        notes: what a reader must know about the data and the search.
    """

    search_name: str
    spec: SearchSpec
    baseline: CandidateRecord
    best: CandidateRecord | None
    nearest: CandidateRecord | None
    front: Sequence[CandidateRecord]
    candidates_evaluated: int
    broken_limits: Mapping[str, float]
    gaps: Mapping[str, float]
    data_sha256: str
    duration_s: float
    notes: Sequence[str] = field(default=())
    places: Mapping[str, Any] | None = None
    rung_steps: Sequence[int] = ()
    training_dtype: str = FLOAT32
    techniques: Sequence[Mapping[str, Any]] = ()


def build_report(inputs: ReportInputs) -> dict[str, Any]:
    """The report as a JSON object."""
    spec = inputs.spec
    return {
        "type": "paretopress_report",
        "version": REPORT_VERSION,
        "search": inputs.search_name,
        "feasible": inputs.best is not None,
        "baseline": entry(inputs.baseline, "test" if inputs.best else "selection"),
        "best": entry(inputs.best, "test") if inputs.best else None,
        "nearest": entry(inputs.nearest, "selection") if inputs.nearest else None,
        "broken_limits": {name: by if math.isfinite(by) else None for name, by in inputs.broken_limits.items()},
        "front": [entry(record, "selection") for record in inputs.front],
        "candidates_evaluated": inputs.candidates_evaluated,
        "budget": json.loads(spec.to_json())["budget"],
        "effort": {
            **json.loads(spec.to_json())["effort"],
            "rung_steps": list(inputs.rung_steps),
            "training_dtype": inputs.training_dtype,
        },
        "target": spec.target,
        "metric": spec.metric,
        "preference": spec.preference,
        "train_validation_gap_points": dict(inputs.gaps),
        "model_sha256": spec.model_sha256,
        "data_sha256": inputs.data_sha256,
        "seed": spec.effort.seed,
        "versions": versions(),
        "machine": machine(),
        "duration_s": inputs.duration_s,
        "techniques": list(inputs.techniques),
        "places": None if inputs.places is None else dict(inputs.places),
        "notes": list(inputs.notes),
    }


def entry(record: CandidateRecord, split: str) -> dict[str, Any]:
    """One network of the report, read on ``split`` (or on the last split before it that was read)."""
    order = ("validation", "selection", "test")
    read = [name for name in order[: order.index(split) + 1] if name in record.accuracy]
    split = read[-1]
    latency = record.measurements.get("latency_ms")
    return {
        "candidate": record.candidate_id,
        "split": split,
        "accuracy": record.accuracy[split],
        "accuracy_interval": list(record.accuracy_interval[split]),
        "drop_points": dict(zip(("estimate", "low", "high"), record.drop_points[split], strict=True)),
        "accuracies": dict(record.accuracy),
        "latency_ms": _measurement(latency),
        "predicted_latency_ms": _measurement(record.measurements.get("predicted_latency_ms")),
        **{name: _counted(record.measurements.get(name)) for name in (*_sizes(record), "macs", "parameters")},
        "audits": {name: _measurement(record.measurements[name]) for name in AUDITS if name in record.measurements},
        "recipe": json.loads(record.recipe_json),
        "rung": record.rung,
        "last_steps": record.last_steps,
        "seed": record.seed,
        "artifacts": dict(record.artifacts),
    }


def _sizes(record: CandidateRecord) -> list[str]:
    """The sizes of the files that there can be, and those of other runtimes' where they were measured."""
    return [name for name in KINDS if name.endswith(SIZE_SUFFIX) and (name in _SIZES or name in record.measurements)]


def _measurement(measurement: Measurement | None) -> dict[str, Any] | None:
    if measurement is None:
        return None
    return {
        "value": measurement.value,
        "spread": measurement.spread,
        "source": measurement.source,
        "rounds": measurement.rounds,
    }


def _counted(measurement: Measurement | None) -> int | None:
    return None if measurement is None else int(measurement.value)


def versions() -> dict[str, str]:
    """Versions of what decides about results."""
    found = {"python": platform.python_version()}
    for package in (*PACKAGES, *(name for runtime in RUNTIMES.values() for name in runtime.packages)):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """The machine that measured: processor, architecture, cores, system."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    return {"processor": name, "architecture": platform.machine(), "cpus": os.cpu_count(), "system": platform.platform()}
