"""Watching searches: one poller reads each new event once, however many streams wait for it (ADR 0008).

Each watched search has a window of its newest events. A stream keeps only the number of the last event that it has sent, and
takes the next one from the window; where that has moved on without it (it has just begun, or its reader is slow) it reads pages
from the store at its own pace. So nothing is queued per stream, nothing is dropped, and memory is bounded by the windows.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from paretopress.v1 import search_pb2
from service.converters.searches import event_to_proto
from service.errors import NotFoundError, ServerStoppingError
from service.monitoring.metrics import WATCH_EVENTS, WATCH_STREAMS
from service.store.event_reader import EventReader, SearchHead

_LOG = logging.getLogger("paretopress.watching")
POLL_S = 0.1
WINDOW_EVENTS = 256
PAGE_EVENTS = 64
_UNDER_WAY, _MOST_TURNS = 2, 16
_READERS = 2
_AFTER_FAILURE_S = 1.0
Answer = TypeVar("Answer")


class _Watched:
    """One search that streams follow."""

    def __init__(self, head: SearchHead) -> None:
        self.search_id = head.search_id
        self.last_sequence = head.last_sequence
        self.has_ended = head.has_ended
        self.is_gone = False
        self.streams = 0
        self.waiting: set[asyncio.Future[None]] = set()
        self.window: deque[search_pb2.SearchEvent] = deque(maxlen=WINDOW_EVENTS)

    def next_after(self, sequence: int) -> search_pb2.SearchEvent | None:
        """The event behind a number, if the window has it."""
        index = sequence + 1 - (self.last_sequence + 1 - len(self.window))
        return self.window[index] if 0 <= index < len(self.window) else None

    async def news(self) -> None:
        """Until there are more events, or there will be none."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.add(waiter)
        try:
            await waiter
        finally:
            self.waiting.discard(waiter)


class EventHub:
    """Follows searches for all streams of one server; belongs to one event loop.

    Args:
        poll_s: seconds between two looks at the store while somebody watches.
    """

    def __init__(self, reader: EventReader, poll_s: float = POLL_S) -> None:
        self._reader = reader
        self._poll_s = poll_s
        self._watched: dict[int, _Watched] = {}
        self._poller: asyncio.Task[None] | None = None
        # Its own threads: watchers must not wait behind intake and other slow calls in asyncio's.
        self._threads = ThreadPoolExecutor(_READERS, "watching")
        self._stopping = False

    async def follow(self, name: str, sequence: int) -> AsyncGenerator[search_pb2.SearchEvent, None]:
        """Every event behind a number, once and in order, until the search has ended.

        Raises:
            NotFoundError: there is no such search, or no longer.
            ServerStoppingError: the server stops; another one goes on from the last number.
        """
        self._check_stopping()
        watched = self._join(await self._read(self._reader.head, name))
        try:
            while True:
                self._check_stopping()
                if sequence < watched.last_sequence:
                    for event in await self._due(watched, name, sequence):
                        yield event
                        WATCH_EVENTS.inc()
                        sequence = event.sequence
                elif watched.is_gone:
                    raise NotFoundError(f"{name} was deleted")
                elif watched.has_ended:
                    return
                else:
                    await watched.news()
        finally:
            self._leave(watched)

    async def _due(self, watched: _Watched, name: str, sequence: int) -> Iterable[search_pb2.SearchEvent]:
        event = watched.next_after(sequence)
        if event is not None:
            return (event,)
        page = await self._read(self._reader.after, watched.search_id, sequence, PAGE_EVENTS)
        if not page:
            raise NotFoundError(f"{name} was deleted")
        return map(event_to_proto, page)

    def _check_stopping(self) -> None:
        if self._stopping:
            raise ServerStoppingError("the server is stopping; watch again from the last event that has arrived")

    async def close(self) -> None:
        """Tell every stream to go on elsewhere, and read no more."""
        self._stopping = True
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.gather(self._poller, return_exceptions=True)
        for watched in list(self._watched.values()):
            await _wake(watched)
        self._threads.shutdown(wait=False)

    def _join(self, head: SearchHead) -> _Watched:
        watched = self._watched.setdefault(head.search_id, _Watched(head))
        if not head.has_ended:
            watched.has_ended = False  # extended since the last look, which will tell
        watched.streams += 1
        WATCH_STREAMS.inc()
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll())
        return watched

    def _leave(self, watched: _Watched) -> None:
        watched.streams -= 1
        WATCH_STREAMS.dec()
        if not watched.streams and self._watched.get(watched.search_id) is watched:
            del self._watched[watched.search_id]

    async def _poll(self) -> None:
        """Look for news as long as somebody watches."""
        while self._watched and not self._stopping:
            try:
                await self._look()
                await asyncio.sleep(self._poll_s)
            except Exception:
                # The streams wait: a store that comes back is gone on with where it was.
                _LOG.exception("the store could not be read; trying again in %.0f s", _AFTER_FAILURE_S)
                await asyncio.sleep(_AFTER_FAILURE_S)

    async def _look(self) -> None:
        known = list(self._watched.values())
        heads = await self._read(self._reader.heads, [watched.search_id for watched in known])
        for watched in known:
            head = heads.get(watched.search_id)
            if head is None:
                watched.is_gone = True
                self._watched.pop(watched.search_id, None)
            elif (head.last_sequence, head.has_ended) != (watched.last_sequence, watched.has_ended):
                await self._take(watched, head)
            else:
                continue
            await _wake(watched)

    async def _take(self, watched: _Watched, head: SearchHead) -> None:
        """Bring the window up to a head; what lies more than a window behind is left to the store."""
        first = max(watched.last_sequence, head.last_sequence - WINDOW_EVENTS)
        events = await self._read(self._events, watched.search_id, first, head.last_sequence - first)
        if events and events[0].sequence != watched.last_sequence + 1:
            watched.window.clear()
        watched.window.extend(events)
        # The state comes from the same row as the number: whatever it announces is among the events.
        watched.last_sequence = events[-1].sequence if events else watched.last_sequence
        watched.has_ended = head.has_ended

    def _events(self, search_id: int, sequence: int, limit: int) -> list[search_pb2.SearchEvent]:
        return [event_to_proto(event) for event in self._reader.after(search_id, sequence, limit)] if limit > 0 else []

    async def _read(self, query: Callable[..., Answer], *arguments: Any) -> Answer:
        return await asyncio.get_running_loop().run_in_executor(self._threads, query, *arguments)


async def _wake(watched: _Watched) -> None:
    """Wake its streams, a few under way at a time, so that calls come in between; slow readers are not waited for for long."""
    busy = watched.streams - len(watched.waiting)
    for waiter in list(watched.waiting):
        with contextlib.suppress(asyncio.InvalidStateError):
            waiter.set_result(None)
        for _ in range(_MOST_TURNS):
            await asyncio.sleep(0)
            if watched.streams - len(watched.waiting) - busy < _UNDER_WAY:
                break
