"""Models from the registry and results to it: a worker's part, with a registry in memory, and once with MLflow's own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from paretopress.client import Client
from paretopress.v1 import schedule_pb2, search_pb2
from search.tracking.registry import ModelRegistry, RegistryRefusedError
from service.intake.onnx_folder import single_file
from service.settings import Settings
from service.store.database import Database
from service.store.invariants import violations
from service.store.schema import ScheduleRunRow
from service.testing import InProcessServer
from service.worker import RealTools, Worker
from tests.service.conftest import upload_inputs
from tests.service.fakes import FakeRegistry, FakeTools, finds_three

Run = schedule_pb2.ScheduleRun
NAME = "projects/default/schedules/champion"
NOT_SOON = "0 0 29 2 *"
"""These tests put the clock on, which must not pass a due time: in the hour before midnight a daily one was."""


class World:
    """A server, a worker that is run step by step, and a schedule of a model of the registry."""

    def __init__(self, server: InProcessServer, client: Client, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.server, self.client = server, client
        self.tools = FakeTools(finds_three)
        self.database = Database(server.settings.resolved_database_url)
        self.registry: FakeRegistry = self.tools.models
        self.template = upload_inputs(client, folder)
        self.worker = self.another_worker("worker")
        # Files of the registry are bytes that only the fake importer reads.
        monkeypatch.setattr("service.schedules.jobs.single_file", lambda path, scratch: path)

    def another_worker(self, owner: str) -> Worker:
        return Worker(self.server.settings, self.database, self.tools, owner)

    def schedule(self, reference: str = "models:/digits@champion", **changes: bool) -> None:
        self.template.model = reference
        asked = schedule_pb2.Schedule(cron=NOT_SOON, template=self.template, **changes)  # type: ignore[arg-type]
        asked.register_as.model_name, asked.register_as.alias = "digits-small", "edge"
        self.client.create_schedule(asked, schedule_id="champion")

    def put(self, version: str, content: bytes) -> None:
        self.registry.files["digits", version] = content
        self.registry.aliases["digits", "champion"] = version

    def run(self) -> Run:
        """Ask for a run and let the worker do what there is for it."""
        self.client.run_schedule(NAME)
        self.work()
        return self.last()

    def work(self) -> None:
        while self.worker._ran_something():
            pass

    def last(self) -> Run:
        return next(self.client.list_schedule_runs(NAME))

    def assert_sound(self) -> None:
        with self.database.read() as session:
            assert violations(session) == []


@pytest.fixture
def world(server: InProcessServer, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(server, client, tmp_path, monkeypatch)
    yield made
    made.assert_sound()
    made.database.close()


def test_a_new_champion_is_compressed_and_registered(world: World) -> None:
    world.put("3", b"the third")
    world.schedule()
    run = world.run()
    assert (run.state, run.source_version) == (Run.SEARCH_CREATED, "models:/digits/3")
    search = world.client.get_search(run.search)
    assert search.state == search_pb2.Search.SUCCEEDED
    assert world.client.get_model(search.model).display_name == "models:/digits/3"
    assert run.registered_version == "models:/digits-small/1"
    assert "c0002" in run.registration_message
    assert world.registry.results == {search.name: b"onnx" * 1000}
    assert world.registry.aliases["digits-small", "edge"] == "1"


def test_the_same_version_is_not_searched_again(world: World) -> None:
    world.put("3", b"the third")
    world.schedule()
    first = world.run()
    again = world.run()
    assert (again.state, again.search) == (Run.UNCHANGED, "")
    assert "models:/digits/3 was searched before" in again.message
    world.put("4", b"the fourth")
    assert world.run().source_version == "models:/digits/4"
    world.put("5", b"the third")  # the bytes of an older one
    last = world.run()
    assert last.state == Run.SEARCH_CREATED
    assert world.client.get_search(last.search).model == world.client.get_search(first.search).model


def test_unless_that_was_asked_for(world: World) -> None:
    world.put("3", b"the third")
    world.schedule(rerun_unchanged=True)
    assert [world.run().state for _ in range(2)] == [Run.SEARCH_CREATED] * 2


@pytest.mark.parametrize(
    ("reference", "content", "words"),
    [
        ("models:/digits@nobody", b"", "no such alias"),
        ("models:/digits/9", b"", "no such version"),
        ("models:/digits@champion", b"bad bytes", "problem"),
    ],
)
def test_what_cannot_be_taken_ends_the_run_with_words(world: World, reference: str, content: bytes, words: str) -> None:
    world.put("3", content)
    world.schedule(reference)
    run = world.run()
    assert (run.state, run.search) == (Run.FAILED, "")
    assert words in run.message
    assert not world.registry.results


def test_a_registry_that_is_away_is_asked_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.put("3", b"the third")
    world.schedule()
    world.registry.is_away = True
    assert world.run().state == Run.RESOLVING
    assert "the registry is away; is tried again" in world.last().message
    world.registry.is_away = False
    world.work()
    assert world.last().state == Run.RESOLVING, "it waits for a while"
    later(monkeypatch, 60)
    world.work()
    assert world.last().registered_version


def test_but_not_for_ever(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.schedule()
    world.registry.is_away = True
    world.client.run_schedule(NAME)
    for number in range(5):
        later(monkeypatch, 1000 * (number + 1))
        world.work()
    assert world.last().state == Run.FAILED
    assert "tried 5 times" in world.last().message


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr("time.time", lambda: time.clock_gettime(time.CLOCK_REALTIME) + seconds)


def test_a_result_outside_the_budget_is_not_registered(world: World) -> None:
    world.put("3", b"the third")
    world.schedule()
    world.client.run_schedule(NAME)
    assert world.worker._registry_worker.run_next()
    world.client.cancel_search(world.last().search)
    world.work()
    assert "ended CANCELLED: nothing was registered" in world.last().registration_message
    assert not world.registry.results


def test_a_deleted_search_is_not_registered(world: World) -> None:
    world.put("3", b"the third")
    world.schedule()
    world.client.run_schedule(NAME)
    assert world.worker._registry_worker.run_next()
    search = world.last().search
    world.client.cancel_search(search)
    world.client.delete_search(search)
    world.work()
    assert "was deleted: nothing was registered" in world.last().registration_message


def test_a_worker_that_dies_is_followed_by_another(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.put("3", b"the third")
    world.schedule()
    world.client.run_schedule(NAME)
    dead = world.another_worker("dead")
    claimed = dead._registry_worker._jobs.claim()
    assert claimed is not None
    world.work()
    assert world.last().state == Run.RESOLVING, "the lease holds"
    later(monkeypatch, 60)
    world.work()
    assert world.last().state == Run.SEARCH_CREATED
    dead._registry_worker._jobs.create_search(claimed.run_id, "projects/default/models/other", "models:/digits/2")
    assert world.last().source_version == "models:/digits/3", "who has lost the lease changes nothing"


def test_a_registration_that_was_made_is_not_made_again(world: World) -> None:
    """The worker died between the registry and the store."""
    world.put("3", b"the third")
    world.schedule()
    run = world.run()
    with world.database.write() as session:
        row = session.get_one(ScheduleRunRow, 1)
        row.registration, row.registered_version = "WAITING", ""
    world.work()
    assert world.last().registered_version == run.registered_version
    assert len(world.registry.results) == 1


@pytest.fixture(scope="module")
def mlflow_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ModelRegistry, str]]:
    """The real one, on SQLite, with a model of the onnx flavour and one that is none."""
    import mlflow
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    folder = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    weight = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 64]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save_model(model, folder / "result.onnx")  # before MLflow moves the weights out
    patch = pytest.MonkeyPatch()
    patch.setenv("MLFLOW_TRACKING_URI", uri)  # MLflow sets it as well, and would leave it to other tests
    mlflow.set_tracking_uri(uri)
    mlflow.create_experiment("users", (folder / "artifacts").as_uri())
    mlflow.set_experiment("users")
    with mlflow.start_run():
        mlflow.onnx.log_model(model, name="model", registered_model_name="digits", pip_requirements=["onnxruntime"])
        mlflow.pyfunc.log_model(name="other", python_model=_add_one, registered_model_name="sums", pip_requirements=[])
    client = mlflow.MlflowClient()
    client.set_registered_model_alias("digits", "champion", "1")
    settings_folder = folder / "data"
    settings_folder.mkdir()
    settings = Settings(data_dir=settings_folder, mlflow_tracking_uri=uri)
    yield RealTools().registry(settings), str(folder)
    mlflow.set_tracking_uri("")
    patch.undo()


def _add_one(model_input: list[str]) -> list[str]:
    return model_input


def test_mlflow_gives_a_model_whose_weights_lie_beside_it(mlflow_registry: tuple[ModelRegistry, str], tmp_path: Path) -> None:
    import onnx

    registry, _ = mlflow_registry
    assert registry.version_of("digits", "champion") == "1"
    (tmp_path / "version").mkdir()
    (tmp_path / "scratch").mkdir()
    found = registry.download("digits", "1", tmp_path / "version", 1 << 20)
    assert onnx.load_model(found.path, load_external_data=False).graph.initializer[0].external_data
    single = single_file(found.path, tmp_path / "scratch")
    whole = onnx.load_model(single, load_external_data=False)
    assert not whole.graph.initializer[0].external_data
    assert onnx.numpy_helper.to_array(whole.graph.initializer[0]).sum() == 64 * 64


@pytest.mark.parametrize(
    ("name", "version", "max_bytes", "words"),
    [
        ("digits", "7", 1 << 20, "not found"),
        ("nobody", "1", 1 << 20, "not found"),
        ("digits", "1", 100, "at most 100"),
        ("sums", "1", 1 << 20, "only models of the onnx flavour"),
    ],
)
def test_mlflow_says_what_cannot_be_taken(
    mlflow_registry: tuple[ModelRegistry, str], tmp_path: Path, name: str, version: str, max_bytes: int, words: str
) -> None:
    with pytest.raises(RegistryRefusedError, match=words):
        mlflow_registry[0].download(name, version, tmp_path, max_bytes)


def test_mlflow_knows_no_such_alias(mlflow_registry: tuple[ModelRegistry, str]) -> None:
    with pytest.raises(RegistryRefusedError, match=r"models:/digits@nobody.*check the name"):
        mlflow_registry[0].version_of("digits", "nobody")


def test_mlflow_keeps_one_version_of_each_search(mlflow_registry: tuple[ModelRegistry, str], tmp_path: Path) -> None:
    registry, folder = mlflow_registry
    result = Path(folder) / "result.onnx"
    first = [registry.register("digits-small", "edge", "projects/p/searches/a", result) for _ in range(2)]
    second = registry.register("digits-small", "edge", "projects/p/searches/b", result)
    assert (first, second) == (["1", "1"], "2")
    assert registry.version_of("digits-small", "edge") == "2"
    found = registry.download("digits-small", "2", tmp_path, 1 << 20)
    assert found.path.read_bytes() == result.read_bytes()
