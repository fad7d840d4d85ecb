"""Between the network and the disk: chunks are gathered in a few blocks, written by one thread and hashed by another one."""

from __future__ import annotations

import asyncio
import mmap
from collections import deque
from concurrent.futures import ThreadPoolExecutor

from service.store.partial_file import PartialFile

_BLOCK_BYTES = 2 << 20
_BLOCKS = 5


class Blocks:
    """The memory of an upload, whatever its size. Blocks begin at multiples of their size in the file, and at pages in memory."""

    def __init__(self, file: PartialFile) -> None:
        self._file = file
        self._free = [memoryview(mmap.mmap(-1, _BLOCK_BYTES)) for _ in range(_BLOCKS)]
        self._block = self._free.pop()
        self._begin = self._end = file.size_bytes % _BLOCK_BYTES
        # One thread each, so that blocks stay in their order.
        self._writer, self._hasher = ThreadPoolExecutor(1, "upload-writer"), ThreadPoolExecutor(1, "upload-hasher")
        self._under_way: deque[asyncio.Task[None]] = deque()
        self._has_failed = False

    async def add(self, chunk: bytes | memoryview) -> None:
        """Take a chunk; waits when the disk is slower than the network."""
        rest = memoryview(chunk)
        while rest:
            taken = min(len(rest), _BLOCK_BYTES - self._end)
            self._block[self._end : self._end + taken] = rest[:taken]
            self._end += taken
            rest = rest[taken:]
            if self._end == _BLOCK_BYTES:
                await self._next_block()

    async def close(self) -> None:
        """Write what is left, unless something before it could not be written, and make it safe."""
        try:
            self._start()
            while self._under_way:
                await self._oldest_done()
        finally:
            for threads in (self._writer, self._hasher):
                await asyncio.to_thread(threads.shutdown)
        await asyncio.to_thread(self._file.sync)

    async def _next_block(self) -> None:
        self._start()
        while not self._free:
            await self._oldest_done()
        self._block = self._free.pop()  # the one that was used last is still in the processor's cache

    def _start(self) -> None:
        if self._end > self._begin:
            self._under_way.append(asyncio.ensure_future(self._run(self._block, self._block[self._begin : self._end])))
        self._begin = self._end = 0

    async def _run(self, block: memoryview, filled: memoryview) -> None:
        run = asyncio.get_running_loop().run_in_executor
        await asyncio.gather(run(self._writer, self._append, filled), run(self._hasher, self._file.hash, filled))
        self._free.append(block)

    def _append(self, filled: memoryview) -> None:
        """In the writer's thread. Behind a block that could not be written there must be no other one."""
        if self._has_failed:
            return
        try:
            self._file.append(filled)
        except BaseException:
            self._has_failed = True
            raise

    async def _oldest_done(self) -> None:
        # Shielded, and kept until it is done: when the caller goes meanwhile, it is waited for all the same.
        await asyncio.shield(self._under_way[0])
        self._under_way.popleft()
