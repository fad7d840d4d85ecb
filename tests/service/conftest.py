from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.postgresql import PostgresServer
from paretopress.client import Client
from paretopress.v1 import dataset_pb2, model_pb2, search_pb2
from service.store.database import Database
from service.testing import InProcessServer
from tests.service.digits_search import Inputs, make_inputs
from tests.service.fakes import FakeImporter, FakeTools, finds_three


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """A small trained network of digits and its data; nobody changes the files."""
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A real PostgreSQL, started when the first test asks for it."""
    with tempfile.TemporaryDirectory(prefix="postgresql-") as name:
        Path(name).chmod(0o755)
        with PostgresServer(Path(name) / "server") as running:
            yield running


@pytest.fixture(scope="session")
def migrated_template(postgres_server: PostgresServer) -> str:
    """Name of a database with our tables, to copy from."""
    url = postgres_server.new_database()
    template = Database(url)
    template.migrate()
    template.close()
    return url.rpartition("/")[2]


@pytest.fixture
def postgresql_database_url(postgres_server: PostgresServer, migrated_template: str) -> Iterator[str]:
    """A fresh database with our tables on PostgreSQL."""
    url = postgres_server.new_database(migrated_template)
    yield url
    postgres_server.drop_database(url)


@pytest.fixture
def sqlite_database_url(tmp_path: Path) -> str:
    """A fresh database with our tables on SQLite."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    made = Database(url)
    made.migrate()
    made.close()
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A fresh database with our tables, on either."""
    url: str = request.getfixturevalue(f"{request.param}_database_url")
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A fresh store; every test that takes it runs on SQLite and on PostgreSQL."""
    opened = Database(database_url)
    yield opened
    opened.close()


@pytest.fixture
def importer() -> FakeImporter:
    return FakeImporter()


@pytest.fixture
def server(tmp_path: Path, importer: FakeImporter) -> Iterator[InProcessServer]:
    """Without a worker: what is queued stays queued."""
    with InProcessServer(tmp_path / "data", importer) as running:
        yield running


@pytest.fixture
def working_server(tmp_path: Path, importer: FakeImporter) -> Iterator[InProcessServer]:
    """With a worker that finds three candidates."""
    with InProcessServer(tmp_path / "data", importer, FakeTools(finds_three)) as running:
        yield running


@pytest.fixture
def client(server: InProcessServer) -> Iterator[Client]:
    with server.client() as made:
        yield made


def upload_inputs(client: Client, folder: Path) -> search_pb2.Search:
    """A model and a dataset, and a valid search of them."""
    (folder / "net.onnx").write_bytes(b"network")
    (folder / "data.npz").write_bytes(b"images")
    preprocessing = dataset_pb2.Preprocessing(height=28, width=28, channels=1)
    model = client.upload_model(folder / "net.onnx", model_pb2.Model.ONNX)
    dataset = client.upload_dataset(folder / "data.npz", dataset_pb2.Dataset.NPZ, preprocessing)
    return search_pb2.Search(
        model=model.name,
        dataset=dataset.name,
        target="projects/default/targets/cpu-ort-1t",
        budget=search_pb2.Budget(latency_ms=1.5, max_accuracy_drop_points=1.0),
    )
