from __future__ import annotations

import pytest

from paretopress.v1 import dataset_pb2, model_pb2
from service.converters.chunks import Chunk, chunk_or

METADATA = model_pb2.UploadModelRequest(metadata=model_pb2.UploadModelMetadata(parent="projects/p"))
decode = chunk_or(model_pb2.UploadModelRequest.FromString)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 3 << 20])
@pytest.mark.parametrize("message", [model_pb2.UploadModelRequest, dataset_pb2.UploadDatasetRequest], ids=["model", "dataset"])
def test_a_chunk_is_what_the_message_holds(size: int, message: type) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    found = chunk_or(message.FromString)(message(chunk=data[:size]).SerializeToString())  # type: ignore[attr-defined]
    assert isinstance(found, Chunk)
    assert found.chunk == data[:size]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        METADATA.SerializeToString(),
        METADATA.SerializeToString() + b"\x12\x01a",
        b"\x12\x01a" + METADATA.SerializeToString(),
        b"\x12\x01a\x12\x01b",
        b"\x12\x81\x00a\x12\x01b",
    ],
    ids=["empty", "metadata", "metadata first", "metadata behind", "two chunks", "a long size"],
)
def test_everything_else_is_a_message(data: bytes) -> None:
    assert decode(data) == model_pb2.UploadModelRequest.FromString(data)


@pytest.mark.parametrize("data", [b"\x12", b"\x12\x05abc", b"\x12\xff\xff\xff\xff\xff\xff"], ids=["no size", "too short", "no end"])
def test_what_is_no_message_is_refused_as_before(data: bytes) -> None:
    with pytest.raises(Exception, match="parsing"):
        decode(data)
