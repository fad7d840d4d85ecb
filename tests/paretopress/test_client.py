from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from paretopress import Client
from paretopress.errors import ServerUnavailableError, TransferError
from paretopress.transfer import Download
from paretopress.v1 import model_pb2, search_pb2, upload_pb2
from service.testing import InProcessServer
from tests.service.fakes import FakeImporter
from tests.service.ports import free_port


def download_messages(data: bytes, sha256: str) -> Iterator[search_pb2.DownloadArtifactResponse]:
    yield search_pb2.DownloadArtifactResponse(header=search_pb2.DownloadHeader(size_bytes=len(data), sha256=sha256))
    yield search_pb2.DownloadArtifactResponse(chunk=data)


def test_nobody_at_the_address_is_told_with_a_hint() -> None:
    with Client(f"127.0.0.1:{free_port()}", retry_s=0.3) as client, pytest.raises(ServerUnavailableError) as error:
        client.get_search("projects/default/searches/x")
    assert "paretopress serve" in error.value.hint


def test_a_call_waits_for_a_server_that_is_starting(tmp_path: Path) -> None:
    port = free_port()

    def call() -> None:
        with Client(f"127.0.0.1:{port}", retry_s=20) as client:
            found.extend(client.list_models())
            done.set()

    found: list[model_pb2.Model] = []
    done = threading.Event()
    thread = threading.Thread(target=call)
    thread.start()
    time.sleep(0.5)
    with InProcessServer(tmp_path / "data", FakeImporter(), port=port):
        assert done.wait(20)
    thread.join()


def test_a_download_with_another_digest_leaves_nothing_behind(tmp_path: Path) -> None:
    download = Download(tmp_path / "model.onnx")
    with pytest.raises(TransferError, match="sha256"):
        download.receive(download_messages(b"changed", "0" * 64), None)
    assert list(tmp_path.iterdir()) == []


def test_an_upload_that_broke_off_is_resumed_by_the_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytes(range(256)) * 8192
    (tmp_path / "net.onnx").write_bytes(data)
    importer = FakeImporter()
    offsets: list[int] = []
    with InProcessServer(tmp_path / "data", importer) as server, server.client() as client:
        real = client._models.UploadModel

        class BrokenConnectionError(grpc.RpcError):
            def code(self) -> grpc.StatusCode:
                return grpc.StatusCode.UNAVAILABLE

            def details(self) -> str:
                return "connection reset"

            def trailing_metadata(self) -> tuple[()]:
                return ()

        def breaks_once(messages: Iterator[model_pb2.UploadModelRequest]) -> model_pb2.Model:
            sent = list(messages)
            offsets.append(sent[0].metadata.upload.offset)
            if len(offsets) == 1:
                with pytest.raises(grpc.RpcError):
                    real(iter(sent[:3]))
                raise BrokenConnectionError
            return real(iter(sent))

        monkeypatch.setattr(client._models, "UploadModel", breaks_once)
        model = client.upload_model(tmp_path / "net.onnx", model_pb2.Model.ONNX)
    assert offsets == [0, 2 * (512 << 10)]
    assert importer.received == [data]
    assert model.size_bytes == len(data)


def test_an_unknown_upload_is_begun_from_the_start(tmp_path: Path) -> None:
    with InProcessServer(tmp_path / "data", FakeImporter()) as server, server.client() as client:
        assert client._committed(client._models.QueryModelUpload, "unknown") == 0
        with pytest.raises(grpc.RpcError):
            client._models.QueryModelUpload(upload_pb2.QueryUploadRequest(parent=client.project, upload_id="unknown"))
