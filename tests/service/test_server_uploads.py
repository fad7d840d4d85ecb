from __future__ import annotations

import asyncio
import hashlib
import random
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest

from paretopress.client import Client
from paretopress.errors import RequestRefusedError, from_rpc_error
from paretopress.v1 import dataset_pb2, model_pb2, upload_pb2
from service.converters.inputs import ModelUpload
from service.errors import StoreUnavailableError
from service.servicers.blocks import _BLOCK_BYTES, _BLOCKS, Blocks
from service.testing import InProcessServer
from tests.service.fakes import FakeImporter

DATA = bytes(range(256)) * 40
PREPROCESSING = dataset_pb2.Preprocessing(height=28, width=28, channels=1)


def messages(
    data: bytes, offset: int, sent: bytes, upload_id: str = "u1", sha256: str = ""
) -> Iterator[model_pb2.UploadModelRequest]:
    digest = sha256 or hashlib.sha256(data).hexdigest()
    header = upload_pb2.UploadHeader(upload_id=upload_id, size_bytes=len(data), sha256=digest, offset=offset)
    model = model_pb2.Model(format=model_pb2.Model.ONNX)
    yield model_pb2.UploadModelRequest(
        metadata=model_pb2.UploadModelMetadata(parent="projects/default", model=model, upload=header)
    )
    for start in range(0, len(sent), 1000):
        yield model_pb2.UploadModelRequest(chunk=sent[start : start + 1000])


def test_a_model_arrives_whole_and_can_be_listed_and_deleted(client: Client, importer: FakeImporter, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(DATA)
    seen: list[tuple[int, int]] = []
    model = client.upload_model(tmp_path / "net.onnx", model_pb2.Model.ONNX, model_id="mine", progress=lambda *a: seen.append(a))
    assert importer.received == [DATA]
    assert model.name == "projects/default/models/mine"
    assert model.sha256 == hashlib.sha256(DATA).hexdigest()
    assert list(model.input_shape) == [1, 28, 28]
    assert seen[-1] == (len(DATA), len(DATA))
    assert [m.name for m in client.list_models()] == [model.name]
    with pytest.raises(RequestRefusedError) as error:
        client.upload_model(tmp_path / "net.onnx", model_pb2.Model.ONNX, model_id="mine")
    assert error.value.code is grpc.StatusCode.ALREADY_EXISTS
    client.delete_model(model.name, model.etag)
    with pytest.raises(RequestRefusedError) as error:
        client.get_model(model.name)
    assert error.value.code is grpc.StatusCode.NOT_FOUND


def test_an_upload_is_resumed_at_the_committed_size(client: Client, importer: FakeImporter) -> None:
    with pytest.raises(grpc.RpcError) as error:
        client._models.UploadModel(messages(DATA, 0, DATA[:3000]))
    assert error.value.code() is grpc.StatusCode.ABORTED
    query = upload_pb2.QueryUploadRequest(parent="projects/default", upload_id="u1")
    assert client._models.QueryModelUpload(query).committed_size_bytes == 3000
    with pytest.raises(grpc.RpcError) as error:
        client._models.UploadModel(messages(DATA, 2000, DATA[2000:]))
    assert error.value.code() is grpc.StatusCode.ABORTED
    model = client._models.UploadModel(messages(DATA, 3000, DATA[3000:]))
    assert importer.received == [DATA]
    status = client._models.QueryModelUpload(query)
    assert (status.committed_size_bytes, status.resource) == (len(DATA), model.name)
    again = client._models.UploadModel(messages(DATA, len(DATA), b""))
    assert again.name == model.name


def test_wrong_bytes_are_discarded(client: Client, importer: FakeImporter) -> None:
    with pytest.raises(grpc.RpcError) as error:
        client._models.UploadModel(messages(DATA, 0, DATA, sha256="0" * 64))
    assert error.value.code() is grpc.StatusCode.DATA_LOSS
    query = upload_pb2.QueryUploadRequest(parent="projects/default", upload_id="u1")
    assert client._models.QueryModelUpload(query).committed_size_bytes == 0
    assert importer.received == []


def test_more_bytes_than_announced_are_refused(client: Client) -> None:
    with pytest.raises(grpc.RpcError) as error:
        client._models.UploadModel(messages(DATA, 0, DATA + b"more"))
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_the_first_message_must_be_metadata(client: Client) -> None:
    with pytest.raises(grpc.RpcError) as error:
        client._models.UploadModel(iter([model_pb2.UploadModelRequest(chunk=b"x")]))
    assert [p.field for p in from_rpc_error(error.value).problems] == ["metadata"]


def test_every_bad_field_of_a_model_upload(client: Client) -> None:
    metadata = model_pb2.UploadModelMetadata(
        parent="nowhere",
        model_id="-",
        model=model_pb2.Model(format=model_pb2.Model.ONNX, architecture="resnet18"),
        architecture_options=model_pb2.ArchitectureOptions(height=-1),
        upload=upload_pb2.UploadHeader(upload_id="no spaces", size_bytes=0, sha256="xyz", offset=-1),
    )
    with pytest.raises(grpc.RpcError) as error:
        client._models.UploadModel(iter([model_pb2.UploadModelRequest(metadata=metadata)]))
    assert {p.field for p in from_rpc_error(error.value).problems} == {
        "parent",
        "model_id",
        "model.architecture",
        "architecture_options",
        "architecture_options.height",
        "upload.upload_id",
        "upload.size_bytes",
        "upload.sha256",
        "upload.offset",
    }


def test_a_file_over_the_limit_is_refused_before_it_is_sent(tmp_path: Path, importer: FakeImporter) -> None:
    (tmp_path / "net.onnx").write_bytes(DATA)
    with InProcessServer(tmp_path / "data", importer, max_upload_bytes=100) as server, server.client() as client:
        with pytest.raises(RequestRefusedError) as error:
            client.upload_model(tmp_path / "net.onnx", model_pb2.Model.ONNX)
        assert error.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_problems_of_a_dataset_are_told_one_by_one(client: Client, tmp_path: Path) -> None:
    (tmp_path / "data.zip").write_bytes(b"bad images")
    with pytest.raises(RequestRefusedError) as error:
        client.upload_dataset(tmp_path / "data.zip", dataset_pb2.Dataset.ZIP, PREPROCESSING)
    assert error.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert [p.field for p in error.value.problems] == ["a/1.png", "a/2.png"]
    assert error.value.metadata["problem_count"] == "2"


def test_bad_preprocessing_is_refused_with_every_field(client: Client, tmp_path: Path) -> None:
    (tmp_path / "data.npz").write_bytes(DATA)
    bad = dataset_pb2.Preprocessing(height=0, width=28, channels=3, mean=[0.5, 0.5], std=[0.0], crop=9)
    with pytest.raises(RequestRefusedError) as error:
        client.upload_dataset(tmp_path / "data.npz", dataset_pb2.Dataset.NPZ, bad)
    fields = {p.field.removeprefix("dataset.preprocessing.") for p in error.value.problems}
    assert fields == {"height", "mean", "std", "crop"}


def test_a_dataset_is_kept_as_stated(client: Client, tmp_path: Path) -> None:
    (tmp_path / "data.npz").write_bytes(DATA)
    stated = dataset_pb2.Preprocessing(
        height=28,
        width=28,
        channels=1,
        resize=dataset_pb2.Preprocessing.STRETCH,
        crop=dataset_pb2.Preprocessing.CROP_NONE,
        mean=[0.25],
        std=[0.5],
        layout=dataset_pb2.Preprocessing.NCHW,
        range=dataset_pb2.Preprocessing.MINUS_ONE_TO_ONE,
        interpolation=dataset_pb2.Preprocessing.BICUBIC,
    )
    dataset = client.upload_dataset(tmp_path / "data.npz", dataset_pb2.Dataset.NPZ, stated, dataset_id="kept")
    assert dataset.preprocessing == stated
    assert client.get_dataset("projects/default/datasets/kept") == dataset
    client.delete_dataset(dataset.name)
    assert list(client.list_datasets()) == []


def test_server_side_paths_need_a_root(tmp_path: Path, importer: FakeImporter) -> None:
    root = tmp_path / "shared"
    root.mkdir()
    (root / "data.npz").write_bytes(DATA)
    arguments = ("data.npz", dataset_pb2.Dataset.NPZ, PREPROCESSING)
    with InProcessServer(tmp_path / "a", importer) as server, server.client() as client:
        with pytest.raises(RequestRefusedError) as error:
            client.import_dataset(*arguments)
        assert error.value.code is grpc.StatusCode.PERMISSION_DENIED
    with InProcessServer(tmp_path / "b", importer, dataset_roots=(root,)) as server, server.client() as client:
        assert client.import_dataset(*arguments).sha256 == hashlib.sha256(DATA).hexdigest()
        with pytest.raises(RequestRefusedError) as error:
            client.import_dataset("../b/paretopress.db", dataset_pb2.Dataset.NPZ, PREPROCESSING)
        assert error.value.code is grpc.StatusCode.PERMISSION_DENIED


def test_an_upload_cut_off_anywhere_and_resumed_has_the_right_digest(client: Client, importer: FakeImporter) -> None:
    data = random.Random(3).randbytes(5 << 20)
    query = upload_pb2.QueryUploadRequest(parent="projects/default", upload_id="u1")
    offset = 0
    for cut in (1, 777_777, 3 << 20):  # within the first block, within the first, in the second
        with pytest.raises(grpc.RpcError):
            client._models.UploadModel(messages(data, offset, data[offset:cut]))
        offset = client._models.QueryModelUpload(query).committed_size_bytes
        assert offset == cut
    model = client._models.UploadModel(messages(data, offset, data[offset:]))
    assert model.sha256 == hashlib.sha256(data).hexdigest()
    assert importer.received == [data]


def test_bytes_that_the_project_has_are_not_sent_again(server: InProcessServer, importer: FakeImporter) -> None:
    with server.client() as client:
        first = client._models.UploadModel(messages(DATA, 0, DATA))
        again = client._models.UploadModel(messages(DATA, 0, b"", upload_id="u2"))
        assert again == first, "the same bytes are the same resource"
        named = next(messages(DATA, 0, b"", upload_id="u4"))
        named.metadata.model_id = "another"
        again = client._models.UploadModel(iter([named]))
        assert again.name == "projects/default/models/another"
        assert (again.sha256, again.parameters) == (first.sha256, first.parameters)
        assert importer.received == [DATA], "neither sent nor opened again"
        titled = next(messages(DATA, 0, b"", upload_id="u5"))
        titled.metadata.model.display_name = "the second"
        other = client._models.UploadModel(iter([titled]))
        assert (other.display_name, other.name != first.name) == ("the second", True), "a title is never dropped in silence"
        client.delete_model(first.name)
        assert client.get_model(again.name) == again
        foreign = next(messages(DATA, 0, b"", upload_id="u3"))
        foreign.metadata.parent = "projects/other"
        with pytest.raises(grpc.RpcError) as error:
            client._models.UploadModel(iter([foreign]))
        assert error.value.code() is grpc.StatusCode.ABORTED, "another project is not told that the bytes are here"


def test_the_same_bytes_with_other_preprocessing_are_another_dataset(
    client: Client, importer: FakeImporter, tmp_path: Path
) -> None:
    (tmp_path / "data.npz").write_bytes(DATA)
    for mean in (0.25, 0.5, 0.25):
        stated = dataset_pb2.Preprocessing(height=28, width=28, channels=1, mean=[mean])
        assert client.upload_dataset(tmp_path / "data.npz", dataset_pb2.Dataset.NPZ, stated).preprocessing.mean == [mean]
    assert len(importer.received) == 2


class _SlowImporter(FakeImporter):
    """Opens a file when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.began, self.may_end = threading.Event(), threading.Event()

    def model(self, path: Path, request: ModelUpload) -> Mapping[str, Any]:
        self.began.set()
        assert self.may_end.wait(10)
        return super().model(path, request)


def test_a_model_that_is_being_opened_is_opened_once_though_its_stream_broke_off(tmp_path: Path) -> None:
    importer = _SlowImporter()
    with InProcessServer(tmp_path / "data", importer) as server, server.client() as client:
        broken = client._models.UploadModel.future(messages(DATA, 0, DATA))
        assert importer.began.wait(10)
        broken.cancel()
        resumed = client._models.UploadModel.future(messages(DATA, len(DATA), b""))
        threading.Timer(0.2, importer.may_end.set).start()
        model = resumed.result(10)
        assert client.get_model(model.name) == model
        assert importer.received == [DATA]
        assert [m.name for m in client.list_models()] == [model.name]


class SlowFile:
    """Notes when blocks begin and end; fails at those that say so."""

    size_bytes = 0

    def __init__(self) -> None:
        self.notes: list[str] = []

    def append(self, block: memoryview) -> None:
        letter = bytes(block[:1])
        self.notes.append(f"begin {letter!r}")
        time.sleep(0.1)
        if letter == b"!":
            raise StoreUnavailableError("the disk is full")
        self.notes.append(f"end {letter!r}")

    def hash(self, block: memoryview) -> None:
        pass

    def sync(self) -> None:
        self.notes.append("sync")


async def add_all(blocks: Blocks, letters: bytes) -> None:
    for place in range(len(letters)):
        await blocks.add(letters[place : place + 1] * _BLOCK_BYTES)


async def test_blocks_are_written_one_behind_the_other_though_the_caller_goes() -> None:
    file = SlowFile()
    blocks = Blocks(file)  # type: ignore[arg-type]
    letters = b"abcdefghijkl"
    adding = asyncio.create_task(add_all(blocks, letters))
    await asyncio.sleep(0.05)
    assert not adding.done(), "it waits when too many blocks are under way"
    adding.cancel()
    await asyncio.gather(adding, return_exceptions=True)
    await blocks.close()
    begun = [note for note in file.notes if note.startswith("begin")]
    assert len(begun) >= _BLOCKS
    assert file.notes == [f"{what} {letters[i : i + 1]!r}" for i in range(len(begun)) for what in ("begin", "end")] + ["sync"]


async def test_nothing_is_written_behind_a_block_that_could_not_be() -> None:
    file = SlowFile()
    blocks = Blocks(file)  # type: ignore[arg-type]
    with pytest.raises(StoreUnavailableError):
        await add_all(blocks, b"!" + b"b" * (_BLOCKS + 1))
    with pytest.raises(StoreUnavailableError):
        await blocks.close()
    assert file.notes == ["begin b'!'"]
