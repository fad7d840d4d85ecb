"""What both upload rpcs do: take the metadata, append the chunks to the partial file, check the digest, open it once."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from service.calls import current_call
from service.converters.chunks import Chunk
from service.errors import InvalidRequestError, TooLargeError
from service.monitoring.metrics import UPLOAD_BYTES
from service.servicers.blocks import Blocks
from service.store.input_store import StoredInput
from service.store.partial_file import PartialFile
from service.store.upload_store import UploadSpec, UploadStore

MAX_CHUNK_BYTES = 4 << 20


async def first_metadata(requests: AsyncIterator[Any]) -> Any:
    """The metadata of the first message.

    Raises:
        InvalidRequestError: there is no message, or it is a chunk.
    """
    async for request in requests:
        if not isinstance(request, Chunk) and request.WhichOneof("payload") == "metadata":
            return request.metadata
        break
    raise InvalidRequestError.of("metadata", "the first message must carry the metadata")


async def receive(store: UploadStore, spec: UploadSpec, offset: int, requests: AsyncIterator[Any], path: Path) -> None:
    """Append every chunk; what has arrived stays when the stream breaks off. Takes a few blocks of memory, whatever the size.

    Raises:
        InvalidRequestError: metadata again, or an empty or too large chunk.
        TooLargeError: more bytes than were announced.
        UploadConflictError: fewer.
        DigestMismatchError: others.
    """
    file = await asyncio.to_thread(PartialFile, path, offset)
    blocks = Blocks(file)
    received = offset
    try:
        async for request in requests:
            chunk = request.chunk
            if not 0 < len(chunk) <= MAX_CHUNK_BYTES:
                raise InvalidRequestError.of("chunk", f"only chunks of 1 to {MAX_CHUNK_BYTES} bytes may follow the metadata")
            received += len(chunk)
            if received > spec.size_bytes:
                raise TooLargeError(f"more than the announced {spec.size_bytes} bytes have arrived")
            await blocks.add(chunk)
    finally:
        try:
            await blocks.close()
        finally:
            await asyncio.to_thread(file.close)
            UPLOAD_BYTES.labels(spec.kind).inc(file.size_bytes - offset)
    await asyncio.to_thread(store.verify, spec, path, file.sha256)


class Intakes:
    """Uploads that have arrived and are being opened; belongs to one event loop.

    Opening takes up to minutes and goes on when the caller has gone: the stream that resumes the upload gets the same answer.
    """

    def __init__(self) -> None:
        self._running: dict[Path, asyncio.Task[StoredInput]] = {}

    def is_running(self, path: Path) -> bool:
        """Whether the upload of that file is being opened."""
        return path in self._running

    async def join(self, path: Path) -> StoredInput:
        """What the upload becomes."""
        return await asyncio.shield(self._running[path])

    async def run(self, path: Path, function: Callable[..., StoredInput], *arguments: Any) -> StoredInput:
        """Open an upload in a thread."""
        context = contextvars.copy_context()
        context.run(current_call.set, None)  # nobody's deadline ends it
        task = asyncio.create_task(asyncio.to_thread(function, *arguments), context=context)
        self._running[path] = task
        task.add_done_callback(lambda _: self._running.pop(path))
        return await self.join(path)
