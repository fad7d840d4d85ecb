"""Real searches over a real gRPC server with its real worker process, sandbox, Ray, Optuna and MLflow.

The first server is killed (-9) when the first candidate is announced; all that is read below, another server has finished.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from mlflow.tracking import MlflowClient

from examples import digits
from paretopress.client import Client
from paretopress.v1 import search_pb2
from search.dataset_file import read
from search.effort_plan import training_effort
from search.evaluation.candidate import CandidateEvaluator, EvaluationFiles, EvaluationSettings
from search.spec import Budget, Effort, SearchSpec
from service.testing import InProcessServer
from techniques.recipe import Recipe
from tests.service.digits_search import ALL, Inputs, place_predictors, search, searching_server, upload
from tests.service.serving import serve

pytestmark = pytest.mark.timeout(400)
SEARCH = "projects/default/searches/digits"


@dataclass(frozen=True)
class Killed:
    """What a server left that was killed during a search."""

    folder: Path
    model: str
    dataset: str
    announced: frozenset[str]


@pytest.fixture(scope="module")
def killed(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """A search that trains a little and is feasible, begun."""
    folder = tmp_path_factory.mktemp("data")
    place_predictors(folder)
    process, address = serve(folder, tmp_path_factory.mktemp("logs") / "server.log")
    try:
        with Client(address) as client:
            model, dataset = upload(client, inputs)
            budget = search_pb2.Budget(latency_ms=50.0, max_accuracy_drop_points=20.0)
            client.create_search(
                search(model, dataset, budget, trials=3, epochs=6.0, techniques=ALL, wall_time_s=400), search_id="digits"
            )
            candidates = (event for event in client.watch(SEARCH) if event.kind == search_pb2.SearchEvent.CANDIDATE)
            return Killed(folder, model, dataset, frozenset({str(next(candidates).payload["candidate"])}))
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def server(killed: Killed) -> Iterator[InProcessServer]:
    with searching_server(killed.folder) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: InProcessServer) -> Iterator[Client]:
    with server.client() as made:
        yield made


@dataclass(frozen=True)
class Done:
    search: search_pb2.Search
    model: str
    dataset: str
    report: dict[str, object]
    folder: Path


@pytest.fixture(scope="module")
def done(client: Client, killed: Killed, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The search that was begun, finished."""
    ended = client.wait(SEARCH)
    assert ended.state == search_pb2.Search.SUCCEEDED, ended.state_message
    folder = tmp_path_factory.mktemp("download")
    client.download_artifact(SEARCH, "report.json", folder / "report.json")
    client.download_artifact(ended.best, "model.onnx", folder / "model.onnx")
    return Done(ended, killed.model, killed.dataset, json.loads((folder / "report.json").read_text()), folder)


def test_a_search_survives_kill_9_of_the_server(done: Done, killed: Killed, client: Client) -> None:
    assert killed.announced <= {candidate.name.rpartition("/")[2] for candidate in client.list_candidates(SEARCH)}
    assert sum(event.message == "resumed by a worker" for event in client.watch(SEARCH)) == 1


def test_the_downloaded_model_gives_the_reported_test_accuracy(done: Done) -> None:
    data = digits.load()
    x = ((data.test_images[:, None].astype(np.float32) / 255) - digits.MEAN) / digits.STD
    session = ort.InferenceSession(str(done.folder / "model.onnx"))
    name = session.get_inputs()[0].name
    predicted = [int(session.run(None, {name: x[i : i + 1].astype(np.float32)})[0].argmax()) for i in range(len(x))]
    best = done.report["best"]
    assert best["split"] == "test"  # type: ignore[index]
    assert np.mean(predicted == data.test_labels) == pytest.approx(best["accuracy"], abs=0.001)  # type: ignore[index]
    assert best["latency_ms"]["source"] == "measured"  # type: ignore[index]
    assert best["latency_ms"]["rounds"] >= 3  # type: ignore[index]


def test_mlflow_holds_one_parent_and_one_child_per_candidate(done: Done, client: Client, server: InProcessServer) -> None:
    candidates = [c.name.rpartition("/")[2] for c in client.list_candidates(SEARCH)]
    tracking = MlflowClient(server.settings.resolved_tracking_uri)
    experiment = tracking.get_experiment_by_name("paretopress")
    assert experiment is not None
    runs = tracking.search_runs([experiment.experiment_id], f"tags.`paretopress.search` = '{SEARCH}'")
    parents = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    children = [r for r in runs if "mlflow.parentRunId" in r.data.tags]
    assert len(parents) == 1
    assert sorted(r.data.tags["paretopress.candidate"] for r in children) == sorted(candidates)
    front = {name.rpartition("/")[2] for name in done.search.front}
    for run in children:
        files = {f.path for f in tracking.list_artifacts(run.info.run_id)}
        assert "recipe.json" in files
        assert ("model.onnx" in files) == (run.data.tags["paretopress.candidate"] in front)
    assert "report.json" in {f.path for f in tracking.list_artifacts(parents[0].info.run_id)}


def test_a_front_member_replays_to_the_same_outputs(done: Done, client: Client, server: InProcessServer, tmp_path: Path) -> None:
    from service.store.blobs import FsspecBlobStore

    blobs = FsspecBlobStore(server.settings.resolved_blob_url)
    spec = SearchSpec("", "", "cpu-ort-1t", Budget(max_accuracy_drop_points=20.0), Effort(3, 200.0, 1, 6.0))
    facts = {kind: _digest(server, kind) for kind in ("model", "dataset")}
    work = server.settings.work_dir / SEARCH.replace("/", "-")
    files = EvaluationFiles(
        network=blobs.local_path(facts["model"]),
        dataset=blobs.local_path(facts["dataset"]),
        teacher_logits=work / "teacher_logits.npy",
        original_logits=work / "original_logits.npy",
        checkpoints=tmp_path,
        interrupt=tmp_path / "interrupt",
    )
    images = int((read(files.dataset)[0].split == 0).sum())
    effort = training_effort(spec.effort, images, trains=True)
    dtype = done.report["effort"]["training_dtype"]  # type: ignore[index]
    assert dtype == "float32", "epochs were asked for: what can be repeated"
    settings = EvaluationSettings("top1", effort, 1, 2, server.settings.cpus, ("*",), training_dtype=dtype)
    member = client.get_candidate(done.search.front[0])
    replayed = CandidateEvaluator(files, settings).build(Recipe.from_json(member.recipe_json), member.rung, None, member.last_steps)
    client.download_artifact(member.name, "model.pt2", tmp_path / "model.pt2")
    from techniques import lift

    stored = lift.from_pt2(tmp_path / "model.pt2")
    x = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(replayed.eval()(x), stored.eval()(x))


def _digest(server: InProcessServer, kind: str) -> str:
    from sqlalchemy import create_engine, text

    engine = create_engine(server.settings.resolved_database_url)
    with engine.connect() as connection:
        spec = json.loads(connection.execute(text("select spec_json from searches where name like '%/digits'")).scalar_one())
    return str(spec[f"{kind}_sha256"])
