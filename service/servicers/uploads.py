"""What both upload rpcs do: take the metadata, append the chunks to the partial file, check the digest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from service.errors import InvalidRequestError, TooLargeError
from service.store.upload_store import UploadSpec, UploadStore

MAX_CHUNK_BYTES = 4 << 20


async def first_metadata(requests: AsyncIterator[Any]) -> Any:
    """The metadata of the first message.

    Raises:
        InvalidRequestError: there is no message, or it is a chunk.
    """
    async for request in requests:
        if request.WhichOneof("payload") == "metadata":
            return request.metadata
        break
    raise InvalidRequestError.of("metadata", "the first message must carry the metadata")


async def receive(store: UploadStore, spec: UploadSpec, offset: int, requests: AsyncIterator[Any], path: Path) -> None:
    """Append every chunk; what has arrived stays when the stream breaks off.

    Raises:
        InvalidRequestError: metadata again, or an empty or too large chunk.
        TooLargeError: more bytes than were announced.
    """
    received = offset
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.seek(offset)
        file.truncate()
        async for request in requests:
            if request.WhichOneof("payload") != "chunk" or not 0 < len(request.chunk) <= MAX_CHUNK_BYTES:
                raise InvalidRequestError.of("chunk", f"only chunks of 1 to {MAX_CHUNK_BYTES} bytes may follow the metadata")
            received += len(request.chunk)
            if received > spec.size_bytes:
                raise TooLargeError(f"more than the announced {spec.size_bytes} bytes have arrived")
            await asyncio.to_thread(file.write, request.chunk)
    await asyncio.to_thread(store.verify, spec, path)
