"""What both upload rpcs do: take the metadata, append the chunks to the partial file, check the digest, open it once."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from service.calls import current_call
from service.converters.chunks import Chunk
from service.errors import InvalidRequestError, TooLargeError
from service.metrics import UPLOAD_BYTES
from service.store.input_store import StoredInput
from service.store.partial_file import PartialFile
from service.store.upload_store import UploadSpec, UploadStore

MAX_CHUNK_BYTES = 4 << 20
_BLOCK_BYTES = 1 << 20
_BLOCKS_UNDER_WAY = 8
_SYNC_BYTES = 64 << 20


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
    blocks = _Blocks(file)
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


class _Blocks:
    """Collects chunks into blocks; one thread writes them and another one hashes them, while the next ones arrive."""

    def __init__(self, file: PartialFile) -> None:
        self._file = file
        self._chunks: list[bytes | memoryview] = []
        self._size_bytes = 0
        # One thread each, so that blocks stay in their order.
        self._writer, self._hasher = ThreadPoolExecutor(1, "upload-writer"), ThreadPoolExecutor(1, "upload-hasher")
        self._under_way: deque[asyncio.Future[Any]] = deque()
        self._has_failed = False
        self._syncing: asyncio.Future[None] | None = None
        self._unsynced_bytes = 0

    async def add(self, chunk: bytes | memoryview) -> None:
        """Take a chunk; waits when the disk is slower than the network."""
        self._chunks.append(chunk)
        self._size_bytes += len(chunk)
        if self._size_bytes >= _BLOCK_BYTES:
            self._start()
            while len(self._under_way) > _BLOCKS_UNDER_WAY:
                await self._oldest_done()

    async def close(self) -> None:
        """Write what is left, unless something before it could not be written, and make it safe."""
        try:
            self._start()
            while self._under_way:
                await self._oldest_done()
        finally:
            for threads in (self._writer, self._hasher):
                await asyncio.to_thread(threads.shutdown)
            if self._syncing is not None:
                await asyncio.shield(self._syncing)
        await asyncio.to_thread(self._file.sync)

    def _start(self) -> None:
        if not self._chunks:
            return
        self._unsynced_bytes += self._size_bytes
        if self._unsynced_bytes > _SYNC_BYTES and (self._syncing is None or self._syncing.done()):
            # The disk works while the rest arrives, so that the end need not wait for all of it.
            self._syncing, self._unsynced_bytes = asyncio.ensure_future(asyncio.to_thread(self._file.sync)), 0
        chunks, self._chunks, self._size_bytes = self._chunks, [], 0
        run = asyncio.get_running_loop().run_in_executor
        self._under_way.append(asyncio.gather(run(self._writer, self._append, chunks), run(self._hasher, self._file.hash, chunks)))

    def _append(self, chunks: list[bytes | memoryview]) -> None:
        """In the writer's thread. Behind a block that could not be written there must be no other one."""
        if self._has_failed:
            return
        try:
            self._file.append(chunks)
        except BaseException:
            self._has_failed = True
            raise

    async def _oldest_done(self) -> None:
        # Shielded, and kept until it is done: when the caller goes meanwhile, it is waited for all the same.
        await asyncio.shield(self._under_way[0])
        self._under_way.popleft()


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
