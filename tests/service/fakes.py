"""What stands in for intake, the search and MLflow where a test is about the service."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hw_models.kernel_times import KernelTimes
from hw_models.kernels import FEATURES
from hw_models.predictor import CalibrationSummary, Predictor
from hw_models.targets import Target
from search.environment import SearchEnvironment, SearchOutcome
from search.errors import SearchError
from search.protocols import BlobStore, CandidateRecord, Event, Measurement
from search.spec import SearchSpec
from search.tracking.base import EndState, Tracker
from search.tracking.registry import ModelRegistry, OnnxModel, RegistryRefusedError
from service.converters.inputs import DatasetRequest, ModelUpload
from service.importing import Importer
from service.intake.errors import IntakeError, Problem
from service.settings import Settings
from service.targets.calibrating import Calibrate, Progress, ShouldStop

PLACES = "1 of 4 places are left alone, 98.5% of the MACs, 97.4% of the parameters can be made smaller. Left alone: fc: no reason"
EMPTY_RECIPE = json.dumps({"type": "recipe", "version": 1, "steps": []})


class FakeImporter:
    """Takes every file whose bytes do not start with ``bad``."""

    def __init__(self) -> None:
        self.received: list[bytes] = []

    def model(self, path: Path, request: ModelUpload) -> Mapping[str, Any]:
        self._read(path)
        return model_facts()

    def dataset(self, path: Path, request: DatasetRequest) -> Mapping[str, Any]:
        self._read(path)
        return {**dataset_facts(), "preprocessing": request.preprocessing.to_json()}

    def _read(self, path: Path) -> None:
        data = path.read_bytes()
        self.received.append(data)
        if data.startswith(b"bad"):
            problems = [Problem("a/1.png", "cannot be decoded"), Problem("a/2.png", "is empty")]
            raise IntakeError("bad_data", "the dataset has 2 problem(s)", "dataset", problems, 2)


def model_facts() -> dict[str, Any]:
    return {
        "architecture": "",
        "canonical_sha256": "a" * 64,
        "onnx_sha256": "b" * 64,
        "graph_sha256": "c" * 64,
        "input_shape": [1, 28, 28],
        "outputs": 10,
        "is_classifier": True,
        "parameters": 1000,
        "macs": 100_000,
        "onnx_size_bytes": 5000,
        "size_is_free": True,
        "size_note": "",
        "erased": [],
    }


def dataset_facts() -> dict[str, Any]:
    return {
        "canonical_sha256": "d" * 64,
        "data_sha256": "e" * 64,
        "preprocessing": {"height": 28, "width": 28, "channels": 1},
        "image_count": 100,
        "class_names": [str(i) for i in range(10)],
        "labeled": True,
        "split_sizes": {"train": 70, "validation": 10, "selection": 10, "test": 10},
        "split_note": "split chosen by the dataset",
        "notes": [],
        "group_columns": [],
        "problems": [],
        "problem_count": 0,
    }


def record(number: int, latency_ms: float = 1.0, drop: float = 0.5, **changes: Any) -> CandidateRecord:
    made = CandidateRecord(
        candidate_id=f"c{number:04d}",
        trial_number=number,
        recipe_json=EMPTY_RECIPE,
        seed=0,
        rung=1,
        accuracy={"validation": 0.9, "selection": 0.9},
        accuracy_interval={"selection": (0.88, 0.92)},
        drop_points={"validation": (drop, drop - 0.2, drop + 0.2), "selection": (drop, drop - 0.2, drop + 0.2)},
        measurements={
            "latency_ms": Measurement(latency_ms, "measured", 0.01, 3),
            "onnx_size_bytes": Measurement(1000.0 * number + 500, "counted"),
        },
        state="front",
        feasible=True,
    )
    return replace(made, **changes)


class NoTracker(Tracker):
    """Logs nothing."""

    def start_search(self, search_name: str, parameters: Mapping[str, str]) -> str:
        return ""

    def log_candidate(self, search_name: str, record: CandidateRecord) -> str:
        return ""

    def log_artifact(self, search_name: str, candidate_id: str | None, path: Path, artifact_name: str) -> None:
        return None

    def end_search(self, search_name: str, metrics: Mapping[str, float], state: EndState) -> None:
        return None


RunSearch = Callable[[SearchSpec, SearchEnvironment], SearchOutcome]


def calibrated_predictor(target: Target, networks: int = 100) -> Predictor:
    """A predictor that knows one kind of kernel."""
    times = KernelTimes(target.threads, {"convkxk.fp32.blocked": (1000.0, *(0.1 for _ in FEATURES[1:]))})
    summary = CalibrationSummary(networks, 3.5, 1.25, 40.0, runtime="onnxruntime 1.0")
    return Predictor(target, times, summary=summary)


def measures_at_once(target: Target, budget_s: float, should_stop: ShouldStop, progress: Progress) -> str:
    """A calibration that takes no time."""
    progress(0.5, "half of the networks")
    return calibrated_predictor(target).to_json()


class MeasuresUntilStopped:
    """A calibration that goes on until it is told to stop."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.runs = 0

    def __call__(self, target: Target, budget_s: float, should_stop: ShouldStop, progress: Progress) -> str:
        self.runs += 1
        progress(0.25, "10 networks, round 1 of 3")
        self.started.set()
        while not should_stop():
            time.sleep(0.02)
        raise InterruptedError(f"calibration of {target.name} stopped")


@dataclass
class FakeRegistry(ModelRegistry):
    """Versions of models in memory: ``files`` by name and version, ``aliases`` by name and alias."""

    files: dict[tuple[str, str], bytes] = field(default_factory=dict)
    aliases: dict[tuple[str, str], str] = field(default_factory=dict)
    results: dict[str, bytes] = field(default_factory=dict)
    is_away: bool = False

    def version_of(self, model_name: str, alias: str) -> str:
        if self.is_away:
            raise SearchError("the registry is away")
        if (model_name, alias) not in self.aliases:
            raise RegistryRefusedError(f"models:/{model_name}@{alias}: no such alias")
        return self.aliases[model_name, alias]

    def download(self, model_name: str, version: str, folder: Path, max_bytes: int) -> OnnxModel:
        if (model_name, version) not in self.files:
            raise RegistryRefusedError(f"models:/{model_name}/{version}: no such version")
        (folder / "model.onnx").write_bytes(self.files[model_name, version])
        return OnnxModel(folder, folder / "model.onnx")

    def register(self, model_name: str, alias: str, search_name: str, onnx_path: Path) -> str:
        if self.is_away:
            raise SearchError("the registry is away")
        self.results.setdefault(search_name, onnx_path.read_bytes())
        self.aliases[model_name, alias] = str(len(self.results))
        return self.aliases[model_name, alias]


@dataclass
class FakeTools:
    """A worker's tools: ``run`` is the search, ``measure`` the calibration."""

    run: RunSearch
    measure: Calibrate = measures_at_once
    calibrated: list[str] = field(default_factory=list)
    models: FakeRegistry = field(default_factory=FakeRegistry)
    logs: Tracker = field(default_factory=NoTracker)

    def load(self) -> None:
        """Nothing to read."""

    def run_search(self, spec: SearchSpec, environment: SearchEnvironment) -> SearchOutcome:
        return self.run(spec, environment)

    def calibrate(self, target: Target, budget_s: float, should_stop: ShouldStop, progress: Progress) -> str:
        self.calibrated.append(target.name)
        return self.measure(target, budget_s, should_stop, progress)

    def tracker(self, settings: Settings) -> Tracker:
        return self.logs

    def registry(self, settings: Settings) -> ModelRegistry:
        return self.models

    def importer(self, settings: Settings, blobs: BlobStore) -> Importer:
        return FakeImporter()


def finds_three(spec: SearchSpec, environment: SearchEnvironment) -> SearchOutcome:
    """A search that stores a baseline and three candidates, with files."""
    blobs: BlobStore = environment.blobs
    model, report = blobs.put_bytes(b"onnx" * 1000), blobs.put_bytes(b'{"version": 1}')
    store = environment.store
    store.save_candidate(replace(record(0), candidate_id="baseline", trial_number=-1, state="evaluated"))
    store.append(Event("sensitivity", PLACES, {"places": PLACES}))
    for number in range(3):
        made = record(number, latency_ms=3.0 - number, drop=0.2 * number, artifacts={"model.onnx": model})
        store.save_candidate(made, [Event("candidate", f"candidate {number}", {"candidate": made.candidate_id})])
    store.append(Event("front", "final front", {"worst": float("inf")}))
    names = ("c0002", "c0001", "c0000")
    return SearchOutcome("SUCCEEDED", "found", best="c0002", report_sha256=report, front=names)


class RunsUntilStopped:
    """A search that adds a candidate now and then until it is told to stop."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.runs = 0

    def __call__(self, spec: SearchSpec, environment: SearchEnvironment) -> SearchOutcome:
        self.runs += 1
        number = len(environment.store.candidates())
        environment.store.save_candidate(record(number), [Event("candidate", f"candidate {number}")])
        self.started.set()
        while not environment.store.should_stop():
            time.sleep(0.02)
        return SearchOutcome("CANCELLED", "stopped")
