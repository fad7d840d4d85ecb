from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from search.environment import SearchOutcome
from search.protocols import CandidateRecord, Measurement
from search.spec import Budget, Effort, SearchSpec
from search.tracking.base import EndState, TrackingError, TrackingRefusedError
from search.tracking.described import SearchOrigin, search_parameters
from search.tracking.ended import log_ended
from search.tracking.mlflow_tracker import MlflowTracker, candidate_metrics
from search.tracking.outbox import Outbox
from tests.search.memory import FolderBlobs
from tests.search.records import candidate

SEARCH = "projects/default/searches/s1"


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


def _tracker(uri: str, tmp_path: Path) -> MlflowTracker:
    return MlflowTracker(uri, artifact_location=(tmp_path / "artifacts").as_uri())


def test_one_parent_and_one_child_per_candidate_however_often_it_is_logged(uri: str, tmp_path: Path) -> None:
    first = _tracker(uri, tmp_path)
    parent = first.start_search(SEARCH, {"target": "cpu-ort-1t"})
    for _ in range(2):
        for number in (1, 2):
            first.log_candidate(SEARCH, candidate(number, 0.5, 1.0))
    restarted = _tracker(uri, tmp_path)
    assert restarted.start_search(SEARCH, {"target": "cpu-ort-1t"}) == parent
    child = restarted.log_candidate(SEARCH, dataclasses.replace(candidate(2, 0.4, 0.9), state="best"))
    path = tmp_path / "model.onnx"
    path.write_bytes(b"onnx")
    restarted.log_artifact(SEARCH, "c0002", path, "model.onnx")
    restarted.end_search(SEARCH, {"best_latency_ms": 0.9}, state="SUCCEEDED")

    client = MlflowClient(uri)
    runs = client.search_runs([client.get_run(parent).info.experiment_id])
    assert len(runs) == 3
    children = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent]
    assert len(children) == 2
    best = client.get_run(child)
    assert best.data.metrics["latency_ms"] == 0.9
    assert best.data.params["structured_pruning.ratios.stem"] == "0.02"
    assert best.data.tags["paretopress.state"] == "best"
    assert best.info.run_name == "c0002 (best)"
    assert best.info.end_time - best.info.start_time == pytest.approx(1000 * candidate(2, 0.4, 0.9).duration_s, abs=1)
    assert {f.path for f in client.list_artifacts(child)} == {"model.onnx", "recipe.json"}


def test_a_search_is_called_and_described_as_it_was_asked_for(uri: str, tmp_path: Path) -> None:
    budget = Budget(latency_ms=4.5, max_accuracy_drop_points=1.0)
    spec = SearchSpec("m", "d", "raspberry-pi-5", budget, Effort(max_trials=7), techniques=("low_rank", "distillation"))
    origin = SearchOrigin("Digits for the kiosk", "projects/default/models/digits", "projects/default/datasets/photos")
    client = MlflowClient(uri)
    run = client.get_run(_tracker(uri, tmp_path).start_search("projects/default/searches/named", search_parameters(spec, origin)))
    assert run.info.run_name == "Digits for the kiosk"
    wanted = {"budget.latency_ms": "4.5", "effort.max_trials": "7", "techniques": "low_rank, distillation"}
    assert wanted.items() <= run.data.params.items()
    assert {"budget.size_name", "budget.macs", "expected_accuracy"}.isdisjoint(run.data.params)
    note = run.data.tags["mlflow.note.content"]
    assert "- dataset: projects/default/datasets/photos" in note
    assert "- budget: latency_ms 4.5, batch_size 1, max_accuracy_drop_points 1.0" in note


def test_a_predicted_latency_never_carries_the_measured_name() -> None:
    record = dataclasses.replace(candidate(1, 0.5, 1.0), measurements={"latency_ms": Measurement(2.0, "predicted", 0.1)})
    metrics = candidate_metrics(record)
    assert metrics["latency_ms_predicted"] == 2.0
    assert "latency_ms" not in metrics


class FlakyTracker:
    """Away for the first calls."""

    def __init__(self, failures: int) -> None:
        self.failures, self.log = failures, list[str]()

    def _note(self, what: str) -> str:
        if self.failures > 0:
            self.failures -= 1
            raise TrackingError("away")
        self.log.append(what)
        return what

    def start_search(self, search_name: str, parameters: Mapping[str, str]) -> str:
        return self._note("start")

    def log_candidate(self, search_name: str, record: CandidateRecord) -> str:
        return self._note(record.candidate_id)

    def log_artifact(self, search_name: str, candidate_id: str | None, path: Path, artifact_name: str) -> None:
        self._note(artifact_name)

    def end_search(self, search_name: str, metrics: Mapping[str, float], state: EndState) -> None:
        self._note("end")


@pytest.mark.parametrize(("source", "names"), [("predicted", {"best_latency_ms_predicted"}), ("measured", {"best_latency_ms"})])
def test_the_best_ones_latency_is_called_what_it_is(source: Any, names: set[str], tmp_path: Path) -> None:
    """Found by a search for a board: its summary had a latency without a word."""
    told: dict[str, float] = {}

    class Summary(FlakyTracker):
        def end_search(self, search_name: str, metrics: Mapping[str, float], state: EndState) -> None:
            told.update(metrics)

    blobs = FolderBlobs(tmp_path / "blobs")
    best = dataclasses.replace(
        candidate(1, 0.5, 1.0),
        measurements={"latency_ms": Measurement(2.0, source)},
        artifacts={"model.onnx": blobs.put_bytes(b"onnx")},
    )
    outcome = SearchOutcome("SUCCEEDED", "found", best="c0001", front=("c0001",))
    log_ended(Outbox(Summary(0), SEARCH), (best,), blobs, outcome)
    assert {name for name in told if "latency" in name} == names


def test_the_outbox_delivers_late_and_in_order() -> None:
    tracker = FlakyTracker(failures=1)
    outbox = Outbox(tracker, SEARCH)
    outbox.start({})
    outbox.candidate(candidate(1, 0.0, 1.0))
    assert tracker.log == []
    assert outbox.end({}, state="SUCCEEDED") == 0
    assert tracker.log == ["start", "c0001", "end"]


def test_a_tracker_that_is_away_is_left_alone_for_longer_and_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    now, tracker = [0.0], FlakyTracker(failures=1000)
    monkeypatch.setattr("search.tracking.outbox.time.monotonic", lambda: now[0])
    outbox = Outbox(tracker, SEARCH)
    tried_at: list[float] = []
    for second in range(1000):
        now[0], before = float(second), tracker.failures
        outbox.candidate(candidate(second % 100, 0.0, 1.0))
        if tracker.failures < before:
            tried_at.append(second)
    assert tried_at == [0, 5, 15, 35, 75, 155, 315, 615, 915]
    tracker.failures, now[0] = 0, 1215.0
    outbox.candidate(candidate(7, 0.0, 1.0))
    assert len(tracker.log) == 1001


def test_the_end_is_tried_at_once_and_says_what_is_left() -> None:
    outbox = Outbox(FlakyTracker(failures=2), SEARCH)
    outbox.start({})
    assert outbox.end({}, state="SUCCEEDED") == 2


def test_the_run_of_a_search_that_goes_on_is_open_again(uri: str, tmp_path: Path) -> None:
    tracker, client, name = _tracker(uri, tmp_path), MlflowClient(uri), "projects/default/searches/extended"
    long = "x" * 10_000
    parent = tracker.start_search(name, {"spec": "4 trials", "target": "cpu-ort-1t", "long": long})
    tracker.end_search(name, {}, state="FAILED")
    assert client.get_run(parent).info.status == "FAILED"
    tracker.start_search(name, {"spec": "6 trials", "target": "cpu-ort-1t", "long": long, "new": "1"})
    run = client.get_run(parent)
    assert (run.info.status, run.data.tags["paretopress.state"]) == ("RUNNING", "RUNNING")
    assert (run.data.params["spec"], run.data.params["new"]) == ("4 trials", "1")
    assert run.data.tags["paretopress.spec"] == "6 trials"
    assert {"paretopress.target", "paretopress.long"}.isdisjoint(run.data.tags)
    tracker.end_search(name, {}, state="SUCCEEDED")
    assert tracker.parent_run(name) == parent
    assert client.get_run(parent).info.status == "FINISHED"


@pytest.mark.parametrize(
    ("state", "status"), [("SUCCEEDED", "FINISHED"), ("INFEASIBLE", "FAILED"), ("CANCELLED", "KILLED"), ("FAILED", "FAILED")]
)
def test_only_what_found_something_is_shown_as_finished(state: EndState, status: str, uri: str, tmp_path: Path) -> None:
    tracker, client, name = _tracker(uri, tmp_path), MlflowClient(uri), f"projects/default/searches/{state.lower()}"
    parent = tracker.start_search(name, {})
    tracker.end_search(name, {}, state)
    run = client.get_run(parent)
    assert (run.info.status, run.data.tags["paretopress.state"]) == (status, state)


def test_what_the_tracker_will_never_take_holds_nothing_up(uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = _tracker(uri, tmp_path)
    tracker.start_search("projects/default/searches/refused", {})
    outbox = Outbox(tracker, "projects/default/searches/refused")
    outbox.candidate(candidate(1, 0.0, 1.0))
    outbox.candidate(dataclasses.replace(candidate(1, 0.0, 1.0), seed=99))  # a parameter cannot change
    outbox.candidate(candidate(2, 0.0, 1.0))
    assert outbox.end({}, state="SUCCEEDED") == 0
    assert "an entry of projects/default/searches/refused is not tracked: MLflow refuses it: Changing param" in caplog.text
    with pytest.raises(TrackingRefusedError):
        tracker.log_candidate("projects/default/searches/refused", dataclasses.replace(candidate(1, 0.0, 1.0), seed=99))
