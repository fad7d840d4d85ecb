"""README.md's commands, run as they stand there.

The searches find their candidates at once here; `benchmarks/promises_readme.py` runs the same blocks with real ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnxruntime as ort
import pytest

from service.testing import InProcessServer
from techniques.lift import from_pt2
from tests.readme_tour import EXAMPLE_CANDIDATE, EXAMPLE_DATASET, SERVES, Tour, blocks, candidate_in, commands, write_certificates
from tests.service.fakes import FakeImporter, FakeTools, finds_three, model_facts
from tests.service.ports import free_port

BLOCKS = blocks()
ELSEWHERE = {
    "make demo": "both end by themselves and are run as they are: `make test` by CI, `make demo` for its own gates",
    "make": "the benchmark runs it in a fresh clone",
    "ray get-auth-token": "takes two machines; `benchmarks/promises_cluster.py` starts two nodes with a token and searches on them",
}
HERE = (
    "paretopress serve", "import torch", "paretopress search", "paretopress schedules", "from paretopress",
    "export PARETOPRESS_AUTH=tokens",
)  # fmt: skip


class PhotoImporter(FakeImporter):
    """Every model reads what the README's does."""

    def model(self, path: Path, request: object) -> dict[str, object]:
        return {**model_facts(), "input_shape": [3, 224, 224]}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[InProcessServer]:
    with InProcessServer(tmp_path / "data", PhotoImporter(), FakeTools(finds_three)) as running:
        yield running


@pytest.fixture
def tour(tmp_path: Path) -> Tour:
    """In a folder with the README's files, which no real importer reads here."""
    for name in ("model.pt2", "images.npz"):
        (tmp_path / name).write_bytes(name.encode())
    port = str(free_port())
    variables = {
        "PARETOPRESS_DATA_DIR": str(tmp_path / "served"),
        "PARETOPRESS_PORT": port,
        "PARETOPRESS_ADDRESS": f"127.0.0.1:{port}",
    }
    without_worker = {"PARETOPRESS_EMBEDDED_WORKER": "false", "PARETOPRESS_READINESS_NEEDS_WORKER": "false"}
    return Tour.of_this_checkout(tmp_path, {**variables, **without_worker})


@pytest.fixture
def visitor(tour: Tour, server: InProcessServer) -> Tour:
    """Somebody whose server is the one of the tests."""
    tour.environment["PARETOPRESS_ADDRESS"] = server.address
    tour.replaced["127.0.0.1:50051"] = server.address
    return tour


def test_every_block_is_run_or_says_where_it_is() -> None:
    assert set(BLOCKS) == {*HERE, *ELSEWHERE}


def test_the_server_starts(tour: Tour) -> None:
    (command,) = commands(BLOCKS["paretopress serve"])
    with tour.serving(command) as log:
        assert f"{SERVES}127.0.0.1:" in log
        assert "MLflow: http://127.0.0.1:" in log


@pytest.mark.slow
def test_exported_models_are_taken(tour: Tour) -> None:
    tour.replaced["224"] = "32"  # seconds less
    tour.python(BLOCKS["import torch"])
    network = from_pt2(tour.folder / "model.pt2")
    assert network.input_shape == (3, 32, 32)
    (read,) = ort.InferenceSession(tour.folder / "model.onnx").get_inputs()
    assert isinstance(read.shape[0], str), "the batch is free"
    assert read.shape[1:] == [3, 32, 32]
    assert {path.name for path in tour.folder.glob("model.*")} == {"model.pt2", "model.onnx"}, "no file of weights beside"


def test_search_and_download(visitor: Tour) -> None:
    search, download = commands(BLOCKS["paretopress search"])
    visitor.replaced[EXAMPLE_CANDIDATE] = candidate_in(visitor.run(search))
    visitor.run(download)
    assert (visitor.folder / "compressed" / "model.onnx").read_bytes() == b"onnx" * 1000


def test_the_client_in_python_and_a_schedule(visitor: Tour, server: InProcessServer) -> None:
    assert "candidate 2" in visitor.python(BLOCKS["from paretopress"])
    assert (visitor.folder / "best.onnx").exists()
    with server.client() as client:
        (dataset,) = client.list_datasets()
    visitor.replaced[EXAMPLE_DATASET] = dataset.name.rpartition("/")[2]
    (create,) = commands(BLOCKS["paretopress schedules"])
    assert "Europe/Berlin" in visitor.run(create)


def test_letting_others_in(tour: Tour) -> None:
    write_certificates(tour)
    on_server, create_first, serve, on_client, create_second = commands(BLOCKS["export PARETOPRESS_AUTH=tokens"])
    tour.export(on_server)
    tour.replaced["pp_..."] = tour.run(create_first).strip()
    with tour.serving(serve) as log:
        assert "INSECURE" not in log
        tour.export(on_client)
        assert "pp_" in tour.run(create_second)
        assert tour.run("python -m service.health") == "SERVING\n"
    with pytest.raises(AssertionError, match="error"):
        tour.run(create_second)
