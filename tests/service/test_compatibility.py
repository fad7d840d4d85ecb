"""Clients and servers of different releases understand each other; `buf` notices what would end that."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from typer.testing import CliRunner

from paretopress.cli.app import app, show_error
from paretopress.client import Client
from paretopress.errors import RequestRefusedError
from paretopress.v1 import model_pb2, search_pb2, target_pb2
from protos.compatibility import complaints, last_release, write_descriptor
from protos.generate import PROTO_ROOT
from service.testing import InProcessServer
from tests.service.conftest import upload_inputs
from tests.service.fakes import FakeImporter, FakeTools, finds_three

RUNNER = CliRunner(env={"COLUMNS": "200"})


class Release:
    """Messages and methods of a committed descriptor, beside today's generated code and apart from it."""

    def __init__(self, descriptor: Path) -> None:
        files = descriptor_pb2.FileDescriptorSet.FromString(descriptor.read_bytes()).file
        pool = descriptor_pool.DescriptorPool()
        for file in files:
            pool.Add(file)
        ours = [pool.FindFileByName(file.name) for file in files if file.package == "paretopress.v1"]
        self._pool = pool
        self.methods = {
            f"/{service.full_name}/{method.name}": method
            for file in ours
            for service in file.services_by_name.values()
            for method in service.methods
        }

    def message(self, kind: str, /, **fields: Any) -> Any:
        """A message of ``paretopress.v1``."""
        return message_factory.GetMessageClass(self._pool.FindMessageTypeByName(f"paretopress.v1.{kind}"))(**fields)

    def stub(self, channel: grpc.Channel, path: str) -> Callable[..., Any]:
        """Calls a method with this release's messages."""
        method = self.methods[path]
        kind = {
            (False, False): channel.unary_unary,
            (True, False): channel.stream_unary,
            (False, True): channel.unary_stream,
        }[method.client_streaming, method.server_streaming]
        answer = message_factory.GetMessageClass(method.output_type)
        return kind(path, lambda message: message.SerializeToString(), answer.FromString)  # type: ignore[no-any-return, operator]


@pytest.fixture(scope="module")
def release() -> Release:
    return Release(last_release())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcessServer]:
    data_dir = tmp_path_factory.mktemp("compatibility")
    with InProcessServer(data_dir, FakeImporter(), FakeTools(finds_three)) as running:
        yield running


# --- the protos


def test_protos_are_styled_and_break_nothing() -> None:
    assert complaints() == []


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("string display_name = 2", "int64 display_name = 2", "display_name"),
        ("QUEUED = 1", "QUEUED = 9", "enum"),
        ("rpc GetSearch(", "rpc FetchSearch(", "GetSearch"),
    ],
    ids=["type of a field", "number of an enum value", "name of a method"],
)
def test_a_breaking_change_is_noticed(old: str, new: str, says: str, tmp_path: Path) -> None:
    shutil.copytree(PROTO_ROOT / "paretopress", tmp_path / "paretopress", ignore=shutil.ignore_patterns("*.py"))
    changed = tmp_path / "paretopress/v1/search.proto"
    text = changed.read_text()
    assert old in text
    changed.write_text(text.replace(old, new, 1))
    assert any(says in line for line in complaints(tmp_path))


def test_the_release_was_made_from_protos_of_ours(release: Release, tmp_path: Path) -> None:
    write_descriptor(tmp_path / "now.binpb")
    assert set(release.methods) <= set(Release(tmp_path / "now.binpb").methods)


# --- an older client


def test_client_of_the_last_release_holds_a_conversation(release: Release, server: InProcessServer) -> None:
    parent = "projects/default"
    with grpc.insecure_channel(server.address) as channel:

        def call(service: str, method: str, request: Any) -> Any:
            return release.stub(channel, f"/paretopress.v1.{service}/{method}")(request)

        def upload(kind: str, content: bytes, resource: Any) -> Any:
            header = release.message("UploadHeader", upload_id=f"u-{kind}", size_bytes=len(content))
            header.sha256 = hashlib.sha256(content).hexdigest()
            metadata = release.message(f"Upload{kind}Metadata", parent=parent, upload=header, **{kind.lower(): resource})
            request = f"Upload{kind}Request"
            messages = [release.message(request, metadata=metadata), release.message(request, chunk=content)]
            return call(f"{kind}Service", f"Upload{kind}", iter(messages))

        model = upload("Model", b"network of the old client", release.message("Model", format="ONNX"))
        preprocessing = release.message("Preprocessing", height=28, width=28, channels=1)
        dataset = upload("Dataset", b"images", release.message("Dataset", format="NPZ", preprocessing=preprocessing))
        search = release.message(
            "Search",
            model=model.name,
            dataset=dataset.name,
            target=f"{parent}/targets/cpu-ort-1t",
            budget=release.message("Budget", latency_ms=1.5, max_accuracy_drop_points=1.0),
        )
        created = call(
            "SearchService",
            "CreateSearch",
            release.message("CreateSearchRequest", parent=parent, search=search, request_id="old-1"),
        )
        events = list(call("SearchService", "WatchSearch", release.message("WatchSearchRequest", name=created.name)))
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        found = call("SearchService", "GetSearch", release.message("GetSearchRequest", name=created.name))
        states = type(found).DESCRIPTOR.enum_types_by_name["State"].values_by_name
        assert found.state == states["SUCCEEDED"].number
        listed = call("SearchService", "ListSearches", release.message("ListSearchesRequest", parent=parent))
        assert created.name in [one.name for one in listed.searches]
        candidates = call("SearchService", "ListCandidates", release.message("ListCandidatesRequest", parent=created.name))
        assert found.best in [one.name for one in candidates.candidates]
        targets = call("TargetService", "ListTargets", release.message("ListTargetsRequest", parent=parent))
        assert search.target in [one.name for one in targets.targets]
        with pytest.raises(grpc.RpcError) as caught:
            call("SearchService", "GetSearch", release.message("GetSearchRequest", name=f"{parent}/searches/none"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


# --- an older server


class OldServer(grpc.GenericRpcHandler):
    """A server of a release: knows its methods only, and drops every field that the release did not have."""

    def __init__(self, release: Release, address: str) -> None:
        self._release = release
        self._channel = grpc.insecure_channel(address)
        self._server = grpc.server(ThreadPoolExecutor(4), handlers=[self])
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> OldServer:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()
        self._channel.close()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        path = handler_call_details.method
        method = self._release.methods.get(path)
        if method is None:
            return None
        forward = self._release.stub(self._channel, path)
        parse = _without_unknown(message_factory.GetMessageClass(method.input_type).FromString)

        def unary(request: Any, context: grpc.ServicerContext) -> Any:
            with _same_refusal(context):
                return forward(request)

        def stream(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            with _same_refusal(context):
                yield from forward(request)

        def serialize(answer: Any) -> bytes:
            answer.DiscardUnknownFields()
            return bytes(answer.SerializeToString())

        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(stream, parse, serialize)
        make = grpc.stream_unary_rpc_method_handler if method.client_streaming else grpc.unary_unary_rpc_method_handler
        return make(unary, parse, serialize)


class _same_refusal:  # noqa: N801 - a context manager
    def __init__(self, context: grpc.ServicerContext) -> None:
        self._context = context

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, grpc.RpcError):
            self._context.abort(error.code(), error.details() or "")


def _without_unknown(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def parsed(data: bytes) -> Any:
        message = parse(data)
        message.DiscardUnknownFields()
        return message

    return parsed


@pytest.fixture
def old_server(release: Release, server: InProcessServer) -> Iterator[OldServer]:
    with OldServer(release, server.address) as running:
        yield running


def test_client_works_against_the_last_release(old_server: OldServer, tmp_path: Path) -> None:
    with Client(old_server.address, retry_s=1) as client:
        created = client.create_search(upload_inputs(client, tmp_path))
        kinds = [event.kind for event in client.watch(created.name)]
        assert search_pb2.SearchEvent.CANDIDATE in kinds
        search = client.get_search(created.name)
        assert search.state == search_pb2.Search.SUCCEEDED
        assert search.best in [one.name for one in client.list_candidates(created.name)]
        assert created.name in [one.name for one in client.list_searches()]
        path = client.download_artifact(search.best, "model.onnx", tmp_path / "best.onnx")
        assert path.read_bytes().startswith(b"onnx")


def test_a_call_that_an_old_server_lacks_says_to_upgrade_it(capsys: pytest.CaptureFixture[str]) -> None:
    empty = grpc.server(ThreadPoolExecutor(1))
    address = f"127.0.0.1:{empty.add_insecure_port('127.0.0.1:0')}"
    empty.start()
    try:
        with Client(address, retry_s=1) as client, pytest.raises(RequestRefusedError, match="does not know this call") as caught:
            client.get_model("projects/default/models/m")
    finally:
        empty.stop(None).wait()
    assert caught.value.hint == "the server is older than this client: upgrade it"
    show_error(caught.value)
    assert "the server is older than this client: upgrade it" in capsys.readouterr().err


# --- a newer server


class NewerServer(grpc.GenericRpcHandler):
    """Answers with enum numbers and fields that this client has never heard of."""

    unknown_field = b"\xa2\xbb\x01\x03new"  # field 3000, three bytes

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        answers = _newer_answers()[handler_call_details.method.rpartition("/")[2]]
        data = [answer.SerializeToString() + self.unknown_field for answer in answers]
        if handler_call_details.method.endswith("/WatchSearch"):
            return grpc.unary_stream_rpc_method_handler(lambda request, context: iter(data))
        return grpc.unary_unary_rpc_method_handler(lambda request, context: data[0])


def _newer_answers() -> dict[str, Iterable[Any]]:
    name = "projects/default/searches/s"
    candidate = search_pb2.Candidate(name=f"{name}/candidates/c0001")
    candidate.state = 77  # type: ignore[assignment]
    candidate.recipe_json = json.dumps({"type": "recipe", "version": 2, "plan": []})
    search = search_pb2.Search(name=name, best=candidate.name, front=[candidate.name], last_sequence=1)
    search.state = search.metric = search.preference = 99  # type: ignore[assignment]
    event = search_pb2.SearchEvent(sequence=1, message="something new")
    event.kind = 88  # type: ignore[assignment]
    model = model_pb2.Model(name="projects/default/models/m", input_shape=[3, 8, 8])
    model.format = 66  # type: ignore[assignment]
    target = target_pb2.Target(name="projects/default/targets/t")
    target.origin = 55  # type: ignore[assignment]
    calibration = target_pb2.Calibration(name="projects/default/targets/t/calibrations/c")
    calibration.state = 44  # type: ignore[assignment]
    calibration.end_time.GetCurrentTime()
    return {
        "GetSearch": [search],
        "CancelSearch": [search],
        "ListSearches": [search_pb2.ListSearchesResponse(searches=[search])],
        "WatchSearch": [event],
        "GetCandidate": [candidate],
        "ListCandidates": [search_pb2.ListCandidatesResponse(candidates=[candidate])],
        "GetModel": [model],
        "ListModels": [model_pb2.ListModelsResponse(models=[model])],
        "GetTarget": [target],
        "ListTargets": [target_pb2.ListTargetsResponse(targets=[target])],
        "CalibrateTarget": [calibration],
        "GetCalibration": [calibration],
        "ListCalibrations": [target_pb2.ListCalibrationsResponse(calibrations=[calibration])],
    }


@pytest.fixture(scope="module")
def newer_address() -> Iterator[str]:
    running = grpc.server(ThreadPoolExecutor(4), handlers=[NewerServer()])
    address = f"127.0.0.1:{running.add_insecure_port('127.0.0.1:0')}"
    running.start()
    yield address
    running.stop(None).wait()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("searches list", "UNKNOWN_99"),
        ("searches show s", "UNKNOWN_99"),
        ("searches cancel s", "UNKNOWN_99"),
        ("searches watch s", "unknown_88"),
        ("searches list --json", '"state": 99'),
        ("searches watch s --json", '"kind": 88'),
        ("candidates list s", "c0001"),
        ("candidates show s/c0001", "unknown_77"),
        ("models list", "unknown_66"),
        ("models show m", "projects/default/models/m"),
        ("targets list", "unknown_55"),
        ("targets show t", "unknown_55"),
        ("targets calibrations t", "UNKNOWN_44"),
        ("targets calibrate t", "UNKNOWN_44"),
    ],
)
def test_answers_of_a_newer_server_are_shown(arguments: str, says: str, newer_address: str) -> None:
    result = RUNNER.invoke(app, ["--address", newer_address, *arguments.split()])
    assert says in result.output, result.output
    assert not isinstance(result.exception, Exception) or isinstance(result.exception, SystemExit), result.exception
