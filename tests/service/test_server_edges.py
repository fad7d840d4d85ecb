from __future__ import annotations

import json
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from paretopress.client import Client
from paretopress.errors import RequestRefusedError
from paretopress.v1 import model_pb2, model_pb2_grpc, technique_pb2
from service.intake.sandbox import run_in_sandbox
from service.server import SERVICE_NAMES, AddressInUseError, DataDirError
from service.testing import InProcessServer
from tests.service.fakes import FakeImporter


def test_health_and_reflection(server: InProcessServer) -> None:
    with grpc.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", *SERVICE_NAMES):
            answer = stub.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert set(SERVICE_NAMES) <= set(ProtoReflectionDescriptorDatabase(channel).get_services())


def test_a_data_directory_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataDirError, match="PARETOPRESS_DATA_DIR"), InProcessServer(tmp_path / "file", FakeImporter()):
        pass


def test_it_listens_on_loopback_by_default(server: InProcessServer) -> None:
    assert server.address.startswith("127.0.0.1:")


def test_a_taken_port_is_told(server: InProcessServer, tmp_path: Path) -> None:
    port = int(server.address.rpartition(":")[2])
    taken = InProcessServer(tmp_path / "other", FakeImporter(), port=port)
    with pytest.raises(AddressInUseError, match=str(port)), taken:
        pass


def test_the_caller_gets_its_request_id_back(server: InProcessServer) -> None:
    with grpc.insecure_channel(server.address) as channel:
        stub = model_pb2_grpc.ModelServiceStub(channel)
        request = model_pb2.ListModelsRequest(parent="projects/default")
        _, call = stub.ListModels.with_call(request, metadata=(("x-request-id", "mine-7"),))
        assert ("x-request-id", "mine-7") in [tuple(pair) for pair in call.trailing_metadata()]


def test_the_unexpected_is_internal_and_says_nothing(tmp_path: Path) -> None:
    class BrokenImporter(FakeImporter):
        def model(self, path: Path, request: object) -> dict[str, object]:
            raise ZeroDivisionError("/secret/path")

    (tmp_path / "net.onnx").write_bytes(b"x")
    with (
        InProcessServer(tmp_path / "data", BrokenImporter()) as server,
        server.client() as client,
        pytest.raises(RequestRefusedError) as error,
    ):
        client.upload_model(tmp_path / "net.onnx", model_pb2.Model.ONNX)
    assert error.value.code is grpc.StatusCode.INTERNAL
    assert "secret" not in str(error.value)
    assert error.value.request_id


def test_technique_names_come_from_the_registry() -> None:
    found = run_in_sandbox("service.child_functions:describe_techniques", {})["techniques"]
    assert "structured_pruning" in [one["name"] for one in found]
    assert json.dumps(found)


def test_techniques_are_listed_in_the_order_of_recipes(client: Client) -> None:
    listed = client.list_techniques()
    assert [one.stage for one in listed] == ["resolution", "depth", "width", "rank", "training", "bits"]
    pruning = next(one for one in listed if one.name == "structured_pruning")
    assert pruning.axis == technique_pb2.WIDTH
    assert list(pruning.reduces) == ["macs", "parameters"]
    assert "DepGraph" in pruning.cites
    assert [(setting.name, list(setting.choices)) for setting in pruning.settings] == [("importance", ["l2", "taylor"])]
    training = next(one for one in listed if one.stage == "training")
    assert (training.axis, list(training.reduces)) == (technique_pb2.AXIS_UNSPECIFIED, [])
    assert [(setting.low, setting.high) for setting in training.settings] == [(1.0, 8.0), (0.5, 1.0)]
