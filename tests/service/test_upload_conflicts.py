from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest

from paretopress.client import Client
from paretopress.errors import RequestRefusedError
from paretopress.v1 import model_pb2
from service.errors import UploadConflictError
from service.store.upload_store import UploadStore


def test_the_client_goes_on_when_the_broken_stream_is_let_go_of(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, refusals = UploadStore.begin, [1, 2]

    def begin(store: UploadStore, *arguments: Any) -> Any:
        if refusals.pop() if refusals else None:
            raise UploadConflictError("another stream writes this upload")
        return real(store, *arguments)

    monkeypatch.setattr(UploadStore, "begin", begin)
    (tmp_path / "net.onnx").write_bytes(b"network")
    assert client.upload_model(tmp_path / "net.onnx", model_pb2.Model.ONNX).size_bytes == 7
    assert not refusals


def test_but_not_for_ever(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(*arguments: Any) -> Any:
        raise UploadConflictError("another stream writes this upload")

    monkeypatch.setattr(UploadStore, "begin", begin)
    monkeypatch.setattr(client, "_retry_s", 0.5)
    (tmp_path / "net.onnx").write_bytes(b"network")
    with pytest.raises(RequestRefusedError) as refused:
        client.upload_model(tmp_path / "net.onnx", model_pb2.Model.ONNX)
    assert refused.value.code is grpc.StatusCode.ABORTED
