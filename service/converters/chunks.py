"""Chunks of uploads, taken out of their messages without a copy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

UPLOADS = frozenset({"/paretopress.v1.ModelService/UploadModel", "/paretopress.v1.DatasetService/UploadDataset"})
"""Methods whose messages hold metadata, or a chunk in field 2."""
_TAG = 2 << 3 | 2
_LONGEST_SIZE = 5


@dataclass(frozen=True)
class Chunk:
    """Stands for a message that holds this chunk and nothing else."""

    chunk: memoryview


def chunk_or(decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Decodes chunks without the two copies that parsing a message and reading its field make, and leaves the rest to another."""

    def decoded(data: bytes) -> Any:
        chunk = _chunk_of(data)
        return decode(data) if chunk is None else Chunk(chunk)

    return decoded


def _chunk_of(data: bytes) -> memoryview | None:
    """The chunk, if the bytes are the tag of its field, its size, and so many bytes."""
    if not data or data[0] != _TAG:
        return None
    size = 0
    for place, byte in enumerate(data[1 : 1 + _LONGEST_SIZE]):
        size |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            chunk = memoryview(data)[place + 2 :]
            return chunk if len(chunk) == size else None
    return None
