"""Searches over a real server that end otherwise than with a best model: refused, infeasible, cancelled. Each by its own way."""

from __future__ import annotations

import json
import math
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from mlflow.tracking import MlflowClient

from examples import digits
from paretopress.client import Client
from paretopress.errors import ClientError, RequestRefusedError
from paretopress.v1 import dataset_pb2, model_pb2, search_pb2, target_pb2
from service.testing import InProcessServer
from tests.service.digits_search import ALL, Inputs, place_predictors, preprocessing, search, searching_server, upload

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcessServer]:
    folder = tmp_path_factory.mktemp("data")
    place_predictors(folder)
    with searching_server(folder) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: InProcessServer) -> Iterator[Client]:
    with server.client() as made:
        yield made


@dataclass(frozen=True)
class Uploaded:
    """Names of what every search here begins with."""

    model: str
    dataset: str


@pytest.fixture(scope="module")
def uploaded(client: Client, inputs: Inputs) -> Uploaded:
    return Uploaded(*upload(client, inputs))


def test_wrong_preprocessing_is_caught_and_named(client: Client, inputs: Inputs) -> None:
    model, dataset = upload(client, inputs, preprocessing(mean=5.0, std=0.01))
    budget = search_pb2.Budget(latency_ms=50.0, max_accuracy_drop_points=1.0)
    client.create_search(search(model, dataset, budget), search_id="wrong")
    ended = client.wait("projects/default/searches/wrong")
    assert ended.state == search_pb2.Search.FAILED
    assert "chance" in ended.state_message
    assert "mean" in ended.state_message
    assert "5" in ended.state_message


def test_an_accuracy_below_the_expected_one_is_caught(uploaded: Uploaded, client: Client) -> None:
    request = search(uploaded.model, uploaded.dataset, search_pb2.Budget(latency_ms=50.0, max_accuracy_drop_points=1.0))
    request.expected_accuracy = 0.9999
    client.create_search(request, search_id="expected")
    ended = client.wait("projects/default/searches/expected")
    assert ended.state == search_pb2.Search.FAILED
    assert "expected_accuracy" in ended.state_message


def test_a_budget_out_of_reach_ends_infeasible_with_the_nearest(
    uploaded: Uploaded, client: Client, server: InProcessServer, tmp_path: Path
) -> None:
    """Without labels, for several images per run, and for a board that is known from its data sheet only."""
    np.savez_compressed(tmp_path / "images.npz", images=digits.load().train_images[:600])
    dataset = client.upload_dataset(tmp_path / "images.npz", dataset_pb2.Dataset.NPZ, preprocessing())
    peaks = target_pb2.Peaks(fp32_gmacs=2.0, int8_gmacs=8.0, bandwidth_gb_s=1.0, sources=["a data sheet"])
    board = client.create_target(target_pb2.Target(device="cpu", runtime="onnxruntime", peaks=peaks), "my-board")
    # Int8 comes near it by prediction, but not with the upper bound of a data sheet: three times as much.
    original_ms = client.predict_latency(board.name, uploaded.model, batch_size=4).latency_ms
    budget = search_pb2.Budget(latency_ms=original_ms / 3, max_accuracy_drop_points=20.0, batch_size=4)
    request = search(uploaded.model, dataset.name, budget, trials=1, techniques=("int8_quantization",))
    request.target = board.name
    request.metric = search_pb2.AGREEMENT
    client.create_search(request, search_id="impossible")
    ended = client.wait("projects/default/searches/impossible")
    assert ended.state == search_pb2.Search.INFEASIBLE, ended.state_message
    assert ended.nearest.startswith("projects/default/searches/impossible/candidates/c")
    assert [b.limit for b in ended.broken_limits if b.excess > 0 and b.limit == "latency_ms"] == ["latency_ms"]
    assert not ended.best
    client.download_artifact(ended.nearest, "model.onnx", tmp_path / "model.onnx")
    session = ort.InferenceSession(str(tmp_path / "model.onnx"))
    assert session.run(None, {session.get_inputs()[0].name: np.zeros((4, 1, 8, 8), np.float32)})[0].shape == (4, 10)
    nearest = client.get_candidate(ended.nearest)
    latencies = [one for name, one in nearest.measurements.items() if name.endswith("latency_ms")]
    assert {one.source for one in latencies} == {latencies[0].PREDICTED}
    client.download_artifact("projects/default/searches/impossible", "report.json", tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert {report[name]["latency_ms"]["source"] for name in ("baseline", "nearest")} == {"predicted"}
    tracking = MlflowClient(server.settings.resolved_tracking_uri)
    (experiment,) = tracking.search_experiments(filter_string="name = 'paretopress'")
    runs = tracking.search_runs([experiment.experiment_id], "tags.`paretopress.search` = 'projects/default/searches/impossible'")
    metrics = {name for run in runs for name in run.data.metrics if "latency" in name}
    assert metrics
    assert all("latency_ms_predicted" in name for name in metrics)
    assert 0.8 <= nearest.accuracies["selection"].value < 1.0 or nearest.accuracies["selection"].drop_points == 0.0


def test_a_hostile_archive_is_refused_and_does_not_run(client: Client, inputs: Inputs, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    payload = f"cposix\nsystem\n(S'touch {canary}'\ntR.".encode()
    hostile = tmp_path / "hostile.pt2"
    with zipfile.ZipFile(inputs.model) as source, zipfile.ZipFile(hostile, "w") as target:
        for entry in source.namelist():
            target.writestr(entry, payload if entry.endswith("sample_inputs/model.pt") else source.read(entry))
    with pytest.raises(ClientError) as caught:
        client.upload_model(hostile, model_pb2.Model.PT2)
    assert "sample_inputs" in str(caught.value)
    assert not canary.exists()


def test_every_bad_field_of_a_budget_is_answered_at_once(uploaded: Uploaded, client: Client) -> None:
    budget = search_pb2.Budget(latency_ms=math.nan, size_bytes=-5, macs=0, max_accuracy_drop_points=-1.0, confidence=2.0)
    with pytest.raises(RequestRefusedError) as caught:
        client.create_search(search(uploaded.model, uploaded.dataset, budget))
    fields = {problem.field for problem in caught.value.problems}
    names = {name.rpartition(".")[2] for name in fields}
    assert {"latency_ms", "size_bytes", "macs", "max_accuracy_drop_points", "confidence"} <= names


def test_cancelling_takes_seconds(uploaded: Uploaded, client: Client) -> None:
    budget = search_pb2.Budget(latency_ms=50.0, max_accuracy_drop_points=20.0)
    client.create_search(
        search(uploaded.model, uploaded.dataset, budget, trials=500, epochs=50.0, techniques=ALL), search_id="long"
    )
    name = "projects/default/searches/long"
    for event in client.watch(name):
        if event.kind == search_pb2.SearchEvent.CANDIDATE:
            break
    started = time.monotonic()
    client.cancel_search(name)
    assert client.wait(name).state == search_pb2.Search.CANCELLED
    assert time.monotonic() - started < 20
