"""A runtime is one file: what it runs is priced, written, proven, read and measured, and its size can be limited."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hw_models import runtimes as rules
from hw_models.predictor import Predictor
from hw_models.targets import Target, get_target
from search import limit_kinds, runtimes
from search.errors import InvalidSpecError
from search.job import run_search
from search.pace import Pace
from search.plan import SearchPlan
from search.protocols import BASELINE
from search.runtimes.onnx_runtime import OnnxRuntime
from search.sized import size_violations
from search.spec import Budget
from tests.search.small_search import SmallSearch, small_search
from tests.search.torch_runtime import TorchRuntime


@pytest.fixture
def target() -> Iterator[Target]:
    """A target that torch runs on, while torch is registered as a runtime."""
    runtimes.register(TorchRuntime())
    yield replace(get_target("cpu-ort-1t"), name="cpu-torch-1t", runtime="torch")
    del runtimes._RUNTIMES["torch"], rules._RULES["torch"], limit_kinds._KINDS["program_size_bytes"]


def on_target(target: Target, budget: Budget, folder: Path) -> SmallSearch:
    small = small_search(folder)
    predictor = Predictor.uncalibrated(target).to_json()
    spec = replace(small.spec, target=target.name, budget=budget, preference="smallest")
    return replace(small, spec=spec, environment=replace(small.environment, predictor_json=predictor))


def test_a_search_goes_through_another_runtime_and_its_file(target: Target, tmp_path: Path) -> None:
    budget = Budget(latency_ms=50.0, max_accuracy_drop_points=100.0, limits={"program_size_bytes": 10e6})
    small = on_target(target, budget, tmp_path)
    outcome = run_search(small.spec, small.environment)
    assert outcome.state == "SUCCEEDED", outcome.message
    best = next(record for record in small.store.candidates() if record.candidate_id == outcome.best)
    original = next(record for record in small.store.candidates() if record.candidate_id == BASELINE)
    assert set(best.artifacts) == {"model.program", "model.pt2", "model.zip", "recipe.json"}
    assert set(original.artifacts) == {"model.program"}
    assert best.measurements["latency_ms"].source == best.measurements["program_size_bytes"].source == "measured"
    assert best.measurements["program_size_bytes"].value < original.measurements["program_size_bytes"].value
    assert "onnx_size_bytes" not in best.measurements
    assert TorchRuntime.ran > 4
    plan, pace = SearchPlan.read(small.store.phases["plan"]), Pace.read(small.store.phases["pace"])
    assert plan is not None and pace is not None  # noqa: PT018
    assert {phase.name for phase in plan.phases if phase.over} >= {"baseline", "sensitivity", "search", "finalists"}
    assert (plan.trials, plan.finalists) == (2, 2)
    assert plan.duration_s < small.spec.effort.max_wall_time_s
    assert min(pace.image_s, pace.step_s, pace.file_s, pace.latency_ms) > 0
    with zipfile.ZipFile(io.BytesIO(small.environment.blobs.get_bytes(best.artifacts["model.zip"]))) as container:
        assert container.namelist() == ["model.program", "recipe.json"]
    assert outcome.report_sha256 is not None
    report = json.loads(small.environment.blobs.get_bytes(outcome.report_sha256))
    assert report["best"]["program_size_bytes"] == best.measurements["program_size_bytes"].value
    assert report["budget"]["size_name"] == "program_size_bytes"


def test_a_limit_on_a_file_that_the_target_does_not_run_is_refused(target: Target, tmp_path: Path) -> None:
    budget = Budget(size_bytes=50_000, max_accuracy_drop_points=100.0)
    small = on_target(target, budget, tmp_path)
    with pytest.raises(
        InvalidSpecError, match=r"model\.onnx is not what cpu-torch-1t runs: limit program_size_bytes in budget\.limits"
    ):
        run_search(small.spec, small.environment)
    elsewhere = replace(small.spec, budget=replace(budget, limits={"program_size_bytes": 5e4}))
    (found,) = size_violations(elsewhere, get_target("cpu-ort-1t"))
    assert found.field == "budget.limits[program_size_bytes]"


def test_a_runtime_is_registered_once(target: Target) -> None:
    with pytest.raises(ValueError, match="'torch' is registered twice"):
        runtimes.register(TorchRuntime())
    assert isinstance(runtimes.runtime_of(target), TorchRuntime)


def test_onnx_runtime_stands_in_for_what_is_known_from_data_sheets() -> None:
    assert isinstance(runtimes.runtime_of(replace(get_target("cpu-ort-1t"), name="phone", runtime="tflite")), OnnxRuntime)
